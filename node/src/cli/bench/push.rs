//! Pushes over HTTP: signed, durable when answered.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::Common;
use super::report::{Reach, Report};
use super::stage::{Stage, float, pipelined, to_terminal};
use super::tally::Payload;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench push`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Callers, each with one push on its way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) callers: u32,
    /// How long it is measured
    #[arg(long, default_value_t = 10)]
    pub(super) seconds: u64,
    /// Inboxes that the pushes are spread over
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) inboxes: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Before anything counts: connections are made, caches filled.
const WARM_UP: Duration = Duration::from_secs(1);

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let stage = Stage::set("push", common, output).await?;
    phase(&stage, &options, WARM_UP).await?;
    stage.progress(&format!("pushing for {} s", options.seconds));
    let (before, start) = (stage.cpu(), Instant::now());
    let latencies = phase(&stage, &options, Duration::from_secs(options.seconds)).await?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), stage.cpu_since(before));
    let accepted = float(latencies.len());
    let ms = |quantile: f64| float(latencies.value_at_quantile(quantile)) / 1e6;
    let mut report = Report::new(
        "push",
        format!(
            "{} callers, HTTP, OAuth HMAC-SHA256, {} bytes, {} inboxes, fsync before each answer; \
             the load beside the node",
            options.callers, options.bytes, options.inboxes
        ),
    );
    report.figure("accepted pushes", accepted / seconds, "/s", Reach::AtLeast(20_000.0));
    report.figure("server CPU per push", cpu.map(|cpu| cpu * 1e6 / accepted), "us", None);
    report.figure("answer p50", ms(0.5), "ms", None);
    report.figure("answer p99", ms(0.99), "ms", None);
    stage.strike().await?;
    Ok(report)
}

/// Pushes until the time is over; answers with the time each took, in nanoseconds.
async fn phase(
    stage: &Stage,
    options: &Options,
    length: Duration,
) -> Result<Histogram<u64>, Failure> {
    let backend = stage.backend()?;
    let end = Instant::now() + length;
    let latencies = std::cell::RefCell::new(super::stage::histogram()?);
    let numbers = (0_u64..).take_while(|_| Instant::now() < end);
    let push = |n: u64| {
        let (backend, latencies) = (&backend, &latencies);
        async move {
            let index = u32::try_from(n % u64::from(options.inboxes)).unwrap_or(0);
            let start = Instant::now();
            backend.push(to_terminal(index), Payload::json(n, options.bytes)).await?;
            let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            latencies.borrow_mut().saturating_record(took);
            Ok(())
        }
    };
    pipelined(numbers, usize::try_from(options.callers).unwrap_or(1), push).await?;
    Ok(latencies.into_inner())
}
