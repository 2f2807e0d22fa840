//! From push to message in the terminal at a steady rate. Pushes start when their time has come,
//! whether or not earlier ones are answered (open loop), and are timed from that moment: a pause of
//! the node counts for every push it delays.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Common;
use super::load::Client;
use super::report::{Reach, Report};
use super::stage::{Stage, float, to_terminal};
use super::tally::{Payload, monotonic_ns};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// `clarion bench latency`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Terminals
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Pushes a second, each to one terminal
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
    /// How long it is measured
    #[arg(long, default_value_t = 20)]
    pub(super) seconds: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Pushes on their way at most; more means that the node does not keep up with the rate.
const IN_FLIGHT_MAX: usize = 4096;

/// Before anything counts.
const WARM_UP_S: u64 = 2;

/// When a push was to start and when it was answered, monotonic nanoseconds.
#[derive(Clone, Copy, Default)]
struct Times {
    due: u64,
    accepted: u64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("latency", common, output).await?;
    let client = common.client.unwrap_or(Client::Sdk);
    let (mut loads, _) = stage.connected(client, options.terminals).await?;
    stage.node.settled().await;
    schedule(&stage, &options, WARM_UP_S).await?;
    stage.progress(&format!("{} pushes a second for {} s", options.rate, options.seconds));
    loads.reset(true).await?;
    let before = stage.cpu();
    let times = schedule(&stage, &options, options.seconds).await?;
    let pushed = u64::try_from(times.len()).unwrap_or(u64::MAX);
    let counts = loads.received(pushed, Duration::from_secs(30)).await?;
    let cpu = stage.cpu_since(before);

    let (mut from_due, mut from_accepted) =
        (super::stage::histogram()?, super::stage::histogram()?);
    for (n, received) in loads.receipts().await? {
        let Some(times) = usize::try_from(n).ok().and_then(|n| times.get(n)) else { continue };
        from_due.saturating_record(received.saturating_sub(times.due));
        from_accepted.saturating_record(received.saturating_sub(times.accepted));
    }
    let mut report = Report::new(
        "latency",
        format!(
            "{} pushes a second (HTTP, signed, fsynced) to {} terminals, open loop, {client}",
            options.rate, options.terminals
        ),
    );
    quantiles(&mut report, "accepted to received", &from_accepted, Some((1.0, 5.0)));
    quantiles(&mut report, "push due to received", &from_due, None);
    report.figure("server CPU per message", cpu.map(|cpu| cpu * 1e6 / float(pushed)), "us", None);
    report.figure("lost", float(pushed.saturating_sub(counts.received)), "", Reach::AtMost(0.0));
    loads.disconnect().await?;
    stage.strike().await?;
    Ok(report)
}

/// The figures of these times; `reach` is what p50 and p99 are to reach, in milliseconds.
pub(super) fn quantiles(
    report: &mut Report,
    what: &str,
    times: &Histogram<u64>,
    reach: Option<(f64, f64)>,
) {
    let ms = |quantile: f64| float(times.value_at_quantile(quantile)) / 1e6;
    report.figure(format!("{what} p50"), ms(0.5), "ms", reach.map(|(p50, _)| Reach::AtMost(p50)));
    report.figure(format!("{what} p99"), ms(0.99), "ms", reach.map(|(_, p99)| Reach::AtMost(p99)));
    report.figure(format!("{what} p99.9"), ms(0.999), "ms", None);
}

/// Pushes on schedule; answers with the times of each.
async fn schedule(stage: &Stage, options: &Options, seconds: u64) -> Result<Vec<Times>, Failure> {
    let count = u64::from(options.rate) * seconds;
    let mut times = vec![Times::default(); usize::try_from(count).unwrap_or(0)];
    let mut pushes: JoinSet<Result<(usize, Times), Failure>> = JoinSet::new();
    let (start, start_ns) = (Instant::now(), monotonic_ns());
    let mut note = |done: Result<(usize, Times), Failure>| -> Result<(), Failure> {
        let (n, taken) = done?;
        if let Some(slot) = times.get_mut(n) {
            *slot = taken;
        }
        Ok(())
    };
    let backend = std::sync::Arc::new(stage.backend()?);
    for n in 0..count {
        let due = Duration::from_nanos(n * 1_000_000_000 / u64::from(options.rate));
        tokio::time::sleep_until(start + due).await;
        while let Some(done) = pushes.try_join_next() {
            note(done.map_err(|error| Failure::local("push", error))?)?;
        }
        if pushes.len() >= IN_FLIGHT_MAX {
            return Err(Failure::new(
                Exit::Failed,
                format!("the node does not keep up: {IN_FLIGHT_MAX} pushes wait for an answer"),
            )
            .hint("lower --rate"));
        }
        let index = u32::try_from(n % u64::from(options.terminals)).unwrap_or(0);
        let (backend, bytes) = (backend.clone(), options.bytes);
        let due = start_ns + u64::try_from(due.as_nanos()).unwrap_or(0);
        pushes.spawn(async move {
            backend.push(to_terminal(index), Payload::json(n, bytes)).await?;
            let times = Times { due, accepted: monotonic_ns() };
            Ok((usize::try_from(n).unwrap_or(usize::MAX), times))
        });
    }
    while let Some(done) = pushes.join_next().await {
        note(done.map_err(|error| Failure::local("push", error))?)?;
    }
    Ok(times)
}
