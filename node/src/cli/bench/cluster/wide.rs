//! One message to everybody, with as many terminals as fit on the machine: load processes and nodes
//! stay below the limit of open files each.

use std::time::Duration;

use clap::Args;
use clarion_sdk::Push;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::super::Common;
use super::super::latency::quantiles;
use super::super::load::{Client, Loads};
use super::super::report::{Reach, Report};
use super::super::stage::{float, histogram};
use super::super::tally::{Payload, monotonic_ns};
use super::ground::{Ground, Plan};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster wide`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: u16,
    /// Terminals, which take turns on the nodes
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 120_000, value_parser = clap::value_parser!(u32).range(1..=240_000))]
    pub(super) terminals: u32,
    /// Messages, each when the one before has reached everybody
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) messages: u64,
    /// How long one message may take until it counts as lost
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Terminals that connect at the same time, of one load process.
const CONCURRENCY: usize = 24;

/// For what a terminal acknowledges last: it is written down within a second.
const ACKNOWLEDGED: Duration = Duration::from_millis(2500);

/// Replicas of the Redis master.
const REPLICAS: u16 = 1;

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let ground = Ground::set("wide", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let all = ground.all();
    let mut terminals = ground.terminals(client, &all)?;
    terminals.concurrency = CONCURRENCY;
    terminals.topics.clear();
    let empty = ground.resident();
    let start = Instant::now();
    let mut loads = Loads::start(options.terminals)?;
    loads.connect(&terminals, options.terminals).await?;
    let connecting = start.elapsed().as_secs_f64();
    ground.progress(&format!("{} terminals are live", options.terminals));
    let full = ground.settled().await;
    let pushed = push_all(&ground, &mut loads, &options).await?;
    let counts = loads.counts().await?;

    let count = f64::from(options.terminals);
    let expected = options.messages * u64::from(options.terminals);
    let mut report = Report::new(
        "wide",
        format!(
            "a broadcast of {} bytes to {} terminals on {} nodes, acknowledged, {} messages one at \
             a time, {client}",
            options.bytes, options.terminals, options.nodes, options.messages
        ),
    );
    report.figure("live terminals", float(counts.live), "", Reach::AtLeast(count));
    report.figure("received", float(counts.received), "", Reach::AtLeast(float(expected)));
    report.figure("received again", float(counts.duplicates), "", Reach::AtMost(0.0));
    report.figure("sessions that broke", float(counts.broken), "", Reach::AtMost(0.0));
    report.figure("until the last terminal had it, worst", pushed.worst_s, "s", None);
    report.figure("until the last terminal had it, mean", pushed.mean_s, "s", None);
    quantiles(&mut report, "push to received, a terminal,", &pushed.each, None);
    report.figure(
        "deliveries per node CPU second",
        float(counts.received) / pushed.nodes,
        "/s",
        None,
    );
    report.figure("CPU per delivery, all nodes", pushed.nodes * 1e6 / float(expected), "us", None);
    report.figure(
        "CPU of Redis per message",
        pushed.redis * 1e3 / float(options.messages),
        "ms",
        None,
    );
    report.figure("terminals connected per second", count / connecting, "/s", None);
    report.figure("memory per terminal, all nodes", (full - empty) / count, "bytes", None);
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

struct Pushed {
    worst_s: f64,
    mean_s: f64,
    /// Of each terminal and message.
    each: Histogram<u64>,
    /// CPU seconds.
    nodes: f64,
    redis: f64,
}

async fn push_all(
    ground: &Ground,
    loads: &mut Loads,
    options: &Options,
) -> Result<Pushed, Failure> {
    let all = ground.all();
    let pushers = ground.pushers(&all)?;
    loads.reset(true).await?;
    let before = ground.used();
    let mut starts = Vec::new();
    let mut took = Vec::new();
    for n in 0..options.messages {
        let start_ns = monotonic_ns();
        starts.push(start_ns);
        let through = usize::try_from(n).unwrap_or(0) % all.len();
        pushers.must(through, Push::to_all(), Payload::json(n, options.bytes)).await?;
        let expected = (n + 1) * u64::from(options.terminals);
        let counts = loads.received(expected, Duration::from_secs(options.seconds)).await?;
        took.push(float(counts.newest_ns.saturating_sub(start_ns)) / 1e9);
        ground.progress(&format!("message {}: {} received", n + 1, counts.received));
    }
    tokio::time::sleep(ACKNOWLEDGED).await;
    let used = ground.used().since(before);
    let mut each = histogram()?;
    for (n, at) in loads.receipts().await? {
        if let Some(start) = usize::try_from(n).ok().and_then(|n| starts.get(n)) {
            each.saturating_record(at.saturating_sub(*start));
        }
    }
    Ok(Pushed {
        worst_s: took.iter().copied().fold(0.0, f64::max),
        mean_s: took.iter().sum::<f64>() / float(options.messages),
        each,
        nodes: used.nodes,
        redis: used.master + used.replicas,
    })
}
