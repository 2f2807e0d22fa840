//! Terminals that come back all at once to messages that wait for them.

use std::time::Duration;

use clap::Args;
use clarion_protocol::http::TARGETS_MAX;
use clarion_sdk::Push;
use tokio::time::Instant;

use super::Common;
use super::load::{Client, Loads, identity};
use super::report::{Reach, Report};
use super::stage::{Stage, float, pipelined};
use super::tally::{Payload, monotonic_ns};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench resume`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Terminals
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Messages that wait for each
    #[arg(long, default_value_t = 20)]
    pub(super) waiting: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Pushes on their way at the same time.
const IN_FLIGHT: usize = 16;

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("resume", common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let (mut loads, mut terminals) = stage.connected(client, options.terminals).await?;
    loads.disconnect().await?;
    stage.progress(&format!("{} messages for each, while they are away", options.waiting));
    push_all(&stage, &options).await?;
    stage.node.settled().await;

    stage.progress("all come back");
    let total = options.waiting * u64::from(options.terminals);
    loads.reset(false).await?;
    // All at once: nobody waits for a turn.
    terminals.concurrency = usize::try_from(options.terminals).unwrap_or(1);
    let (before, start, start_ns) = (stage.cpu(), Instant::now(), monotonic_ns());
    loads.connect(&terminals, options.terminals).await?;
    let connected = start.elapsed().as_secs_f64();
    let counts = loads.received(total, Duration::from_secs(60)).await?;
    let seconds = float(counts.newest_ns.saturating_sub(start_ns)) / 1e9;
    let cpu = stage.cpu_since(before);
    let counts = late(&mut loads, counts.received).await?;
    let mut report = Report::new(
        "resume",
        format!(
            "{} terminals with {} messages of {} bytes waiting for each, {client}",
            options.terminals, options.waiting, options.bytes
        ),
    );
    report.figure("until all messages were received", seconds, "s", Reach::AtMost(2.0));
    report.figure("until all terminals were connected", connected, "s", None);
    report.figure("lost", float(total.saturating_sub(counts.received)), "", Reach::AtMost(0.0));
    report.figure("received again", float(counts.duplicates), "", None);
    report.figure("gaps", float(counts.gaps), "", Reach::AtMost(0.0));
    report.figure("server CPU", cpu, "s", None);
    loads.disconnect().await?;
    stage.strike().await?;
    Ok(report)
}

/// The counts a moment after the last message was due: what comes twice comes then.
async fn late(loads: &mut Loads, received: u64) -> Result<super::tally::Counts, Failure> {
    loads.received(received + 1, Duration::from_secs(2)).await
}

/// Pushes every message to every terminal, a hundred terminals at a time.
async fn push_all(stage: &Stage, options: &Options) -> Result<(), Failure> {
    let backend = stage.backend()?;
    let all: Vec<String> = (0..options.terminals).map(|index| identity(index).0).collect();
    let jobs =
        (0..options.waiting).flat_map(|n| all.chunks(TARGETS_MAX).map(move |chunk| (n, chunk)));
    let push = |(n, chunk): (u64, &[String])| {
        let (backend, to) = (&backend, Push::to_terminals(chunk));
        async move { backend.push(to, Payload::json(n, options.bytes)).await }
    };
    pipelined(jobs, IN_FLIGHT, push).await
}
