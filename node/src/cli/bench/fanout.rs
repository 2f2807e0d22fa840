//! One message to a topic with many terminals: one at a time, and as fast as the publisher can.

use std::time::Duration;

use clap::Args;
use clarion_sdk::Push;
use tokio::time::Instant;

use super::Common;
use super::load::{Client, Loads};
use super::report::{Reach, Report};
use super::stage::{Stage, TOPIC, float};
use super::tally::Payload;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench fanout`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Terminals in the topic
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Messages pushed one at a time, each when the one before has reached everybody
    #[arg(long, default_value_t = 20)]
    pub(super) paced: u64,
    /// Messages pushed at full speed
    #[arg(long, default_value_t = 200)]
    pub(super) burst: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// For what a terminal acknowledges last: it is written down within a second.
const ACKNOWLEDGED: Duration = Duration::from_millis(2500);

/// How long everything may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(180);

/// Pushes on their way at the same time.
const IN_FLIGHT: usize = 256;

struct Part {
    deliveries: u64,
    lost: u64,
    cpu: Option<f64>,
    seconds: f64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("fanout", common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let (mut loads, _) = stage.connected(client, options.terminals).await?;
    stage.node.settled().await;
    stage.progress(&format!("{} messages one at a time", options.paced));
    let paced = one_at_a_time(&stage, &mut loads, &options).await?;
    stage.progress(&format!("{} messages at full speed", options.burst));
    let burst = full_speed(&stage, &mut loads, &options).await?;
    let mut report = Report::new(
        "fanout",
        format!(
            "a topic message of {} bytes to {} terminals, acknowledged, {client}",
            options.bytes, options.terminals
        ),
    );
    figures(&mut report, "one at a time", &paced, 75_000.0);
    figures(&mut report, "full speed", &burst, 1_000_000.0);
    loads.disconnect().await?;
    stage.strike().await?;
    Ok(report)
}

fn figures(report: &mut Report, how: &str, part: &Part, reach: f64) {
    let deliveries = float(part.deliveries);
    report.figure(
        format!("{how}: deliveries per server CPU second"),
        part.cpu.map(|cpu| deliveries / cpu),
        "/s",
        Reach::AtLeast(reach),
    );
    report.figure(
        format!("{how}: server CPU per delivery"),
        part.cpu.map(|cpu| cpu * 1e6 / deliveries),
        "us",
        None,
    );
    report.figure(format!("{how}: deliveries per second"), deliveries / part.seconds, "/s", None);
    report.figure(format!("{how}: lost"), float(part.lost), "", Reach::AtMost(0.0));
}

async fn one_at_a_time(
    stage: &Stage,
    loads: &mut Loads,
    options: &Options,
) -> Result<Part, Failure> {
    loads.reset(false).await?;
    let backend = stage.backend()?;
    let (before, start) = (stage.cpu(), Instant::now());
    let mut counts = loads.counts().await?;
    for n in 0..options.paced {
        backend.push(Push::to_topic(TOPIC), Payload::json(n, options.bytes)).await?;
        let expected = (n + 1) * u64::from(options.terminals);
        counts = loads.received(expected, ARRIVAL).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    tokio::time::sleep(ACKNOWLEDGED).await;
    let expected = options.paced * u64::from(options.terminals);
    Ok(Part {
        deliveries: counts.received,
        lost: expected.saturating_sub(counts.received),
        cpu: stage.cpu_since(before),
        seconds,
    })
}

async fn full_speed(stage: &Stage, loads: &mut Loads, options: &Options) -> Result<Part, Failure> {
    loads.reset(false).await?;
    let backend = stage.backend()?;
    let (before, start) = (stage.cpu(), Instant::now());
    let numbers = 0..options.burst;
    let push = |n| {
        let backend = &backend;
        async move { backend.push(Push::to_topic(TOPIC), Payload::json(n, options.bytes)).await }
    };
    super::stage::pipelined(numbers, IN_FLIGHT, push).await?;
    let expected = options.burst * u64::from(options.terminals);
    let counts = loads.received(expected, ARRIVAL).await?;
    let seconds = start.elapsed().as_secs_f64();
    tokio::time::sleep(ACKNOWLEDGED).await;
    Ok(Part {
        deliveries: counts.received,
        lost: expected.saturating_sub(counts.received),
        cpu: stage.cpu_since(before),
        seconds,
    })
}
