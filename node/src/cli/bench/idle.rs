//! Terminals that only wait: what their sessions cost in memory, and their heartbeats in CPU.

use std::time::Duration;

use clap::Args;
use clarion_sdk::Push;

use super::Common;
use super::load::Client;
use super::report::{Reach, Report};
use super::stage::{Stage, TOPIC, float};
use super::tally::Payload;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench idle`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Terminals, each with four logs: inbox, user, broadcast and one topic
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// How long CPU is measured; two heartbeats of 30 s by default
    #[arg(long, default_value_t = 60)]
    pub(super) seconds: u64,
    /// Messages each terminal receives before it is idle again
    #[arg(long, default_value_t = 20)]
    pub(super) messages: u64,
}

/// Terminals that come and go before anything counts, so that threads and pools are there.
const WARM_UP: u32 = 200;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 100;

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let mut stage = Stage::set("idle", common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    // Terminals are registered once in their life: that is not what one costs that waits.
    stage.progress("registering the terminals");
    let (mut loads, _) = stage.connected(client, options.terminals).await?;
    loads.disconnect().await?;
    stage.node.restart().await?;
    stage.progress("the node is started again");
    {
        let (mut loads, _) = stage.connected(client, WARM_UP).await?;
        loads.disconnect().await?;
    }
    let bytes = |usage: Option<crate::telemetry::ProcessUsage>| {
        usage.map(|usage| float(usage.resident_bytes))
    };
    let empty = bytes(stage.node.settled().await);
    let (mut loads, _) = stage.connected(client, options.terminals).await?;
    let idle = bytes(stage.node.settled().await);

    stage.progress(&format!("measuring CPU for {} s", options.seconds));
    let before = stage.cpu();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let cpu = stage.cpu_since(before);

    stage.progress(&format!("{} messages for each", options.messages));
    loads.reset(false).await?;
    let backend = stage.backend()?;
    for n in 0..options.messages {
        backend.push(Push::to_topic(TOPIC), Payload::json(n, PAYLOAD_BYTES)).await?;
    }
    let expected = u64::from(options.terminals) * options.messages;
    let counts = loads.received(expected, Duration::from_secs(120)).await?;
    let after = bytes(stage.node.settled().await);

    let each = |now: Option<f64>| Some((now? - empty?) / f64::from(options.terminals));
    let mut report = Report::new(
        "idle",
        format!("{} terminals with four logs each, {client}; heartbeat 30 s", options.terminals),
    );
    report.figure("server memory per terminal", each(idle), "bytes", Reach::AtMost(3072.0));
    report.figure(
        format!("the same after {} messages each", options.messages),
        each(after),
        "bytes",
        Reach::AtMost(4096.0),
    );
    #[allow(clippy::cast_precision_loss)]
    let seconds = options.seconds as f64;
    let per_terminal = cpu.map(|cpu| cpu * 1e6 / seconds / f64::from(options.terminals));
    report.figure("server CPU per terminal", per_terminal, "us/s", Reach::AtMost(0.6));
    report.figure("server memory before", empty, "bytes", None);
    report.figure(
        "messages lost",
        float(expected.saturating_sub(counts.received)),
        "",
        Reach::AtMost(0.0),
    );
    loads.disconnect().await?;
    stage.strike().await?;
    Ok(report)
}
