//! The whole path at full speed: pushes over push WebSockets, each to one terminal that receives
//! and acknowledges it.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::Common;
use super::load::Client;
use super::report::{Reach, Report};
use super::stage::{Stage, float, pipelined, to_terminal};
use super::tally::Payload;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench ws`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Push WebSockets
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) connections: u32,
    /// Terminals
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Messages over each connection
    #[arg(long, default_value_t = 100_000)]
    pub(super) messages: u64,
    /// Pushes that a connection has unconfirmed
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) in_flight: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// For what a terminal acknowledges last: it is written down within a second.
const ACKNOWLEDGED: Duration = Duration::from_millis(2500);

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("ws", common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let (mut loads, _) = stage.connected(client, options.terminals).await?;
    stage.node.settled().await;
    let total = options.messages * u64::from(options.connections);
    stage.progress(&format!("{total} messages over {} connections", options.connections));
    loads.reset(false).await?;
    let (before, start) = (stage.cpu(), Instant::now());
    let connections =
        (0..options.connections).map(|connection| connection_of(&stage, &options, connection));
    futures_util::future::try_join_all(connections).await?;
    let pushed = start.elapsed().as_secs_f64();
    let counts = loads.received(total, Duration::from_secs(60)).await?;
    let seconds = start.elapsed().as_secs_f64();
    tokio::time::sleep(ACKNOWLEDGED).await;
    let cpu = stage.cpu_since(before);
    let mut report = Report::new(
        "ws",
        format!(
            "{} push WebSockets at full speed, {} unconfirmed each, unicast of {} bytes to {} \
             terminals, fsynced, acknowledged, {client}",
            options.connections, options.in_flight, options.bytes, options.terminals
        ),
    );
    let per_message = cpu.map(|cpu| cpu * 1e6 / float(total));
    report.figure("server CPU per message", per_message, "us", Reach::AtMost(20.0));
    report.figure("accepted", float(total) / pushed, "/s", None);
    report.figure("received", float(counts.received) / seconds, "/s", None);
    report.figure("lost", float(total.saturating_sub(counts.received)), "", Reach::AtMost(0.0));
    loads.disconnect().await?;
    stage.strike().await?;
    Ok(report)
}

/// Pushes everything of one connection.
async fn connection_of(stage: &Stage, options: &Options, connection: u32) -> Result<(), Failure> {
    let link = stage.push_link().await?;
    let numbers = 0..options.messages;
    let push = |n: u64| {
        let link = &link;
        async move {
            // Connections start at different terminals and go round.
            let turn = n * u64::from(options.connections) + u64::from(connection);
            let index = u32::try_from(turn % u64::from(options.terminals)).unwrap_or(0);
            link.push(to_terminal(index), Payload::json(n, options.bytes)).await
        }
    };
    pipelined(numbers, usize::try_from(options.in_flight).unwrap_or(1), push).await
}
