//! Terminals connecting: upgrade, token, cursors, session. Once as new terminals, which are
//! registered durably, and once as known ones.

use clap::Args;
use tokio::time::Instant;

use super::Common;
use super::load::{Client, Loads};
use super::report::{Reach, Report};
use super::stage::Stage;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench connect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Terminals
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Terminals that connect at the same time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) concurrency: u32,
    /// Rounds of known terminals
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("connect", common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let mut loads = Loads::start(options.terminals)?;
    stage.progress(&format!("{} new terminals", options.terminals));
    let (new, new_cpu) = round(&stage, &mut loads, &options, client).await?;
    let (mut known, mut known_cpu) = (0.0, Some(0.0));
    for round_number in 1..=options.rounds {
        stage.progress(&format!("known terminals, round {round_number} of {}", options.rounds));
        let (seconds, cpu) = round(&stage, &mut loads, &options, client).await?;
        known += seconds;
        known_cpu = known_cpu.and_then(|sum| Some(sum + cpu?));
    }
    let count = f64::from(options.terminals);
    let known_count = count * f64::from(options.rounds);
    let mut report = Report::new(
        "connect",
        format!(
            "{} terminals, {} at the same time, plain WebSocket, {client}",
            options.terminals, options.concurrency
        ),
    );
    let reach = Reach::AtLeast(15_000.0);
    let per_cpu = known_cpu.map(|cpu| known_count / cpu);
    report.figure("known terminals per server CPU second", per_cpu, "/s", reach);
    report.figure(
        "new terminals per server CPU second",
        new_cpu.map(|cpu| count / cpu),
        "/s",
        None,
    );
    report.figure("known terminals per second", known_count / known, "/s", None);
    report.figure("new terminals per second", count / new, "/s", None);
    stage.strike().await?;
    Ok(report)
}

/// Connects everybody and lets them go again; seconds and server CPU of connecting.
async fn round(
    stage: &Stage,
    loads: &mut Loads,
    options: &Options,
    client: Client,
) -> Result<(f64, Option<f64>), Failure> {
    let mut terminals = stage.terminals(client)?;
    terminals.concurrency = usize::try_from(options.concurrency).unwrap_or(1);
    stage.node.settled().await;
    let (before, start) = (stage.cpu(), Instant::now());
    loads.connect(&terminals, options.terminals).await?;
    let measured = (start.elapsed().as_secs_f64(), stage.cpu_since(before));
    loads.disconnect().await?;
    Ok(measured)
}
