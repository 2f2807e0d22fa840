//! Bytes in Redis for a push, by kind of record, and how long each kind stays: every key of a real run
//! is weighed (`MEMORY USAGE`) before and after.

use std::time::Duration;

use clap::Args;
use clarion_sdk::Push;
use futures_util::{StreamExt, TryStreamExt};

use super::super::Common;
use super::super::load::{Client, Loads};
use super::super::report::{Reach, Report};
use super::super::stage::{float, payload, to_terminal};
use super::super::tally::Payload;
use super::census::{Census, DAY_S};
use super::flow::{Outcome, Pushers};
use super::ground::{Ground, Plan};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// `clarion bench cluster redis`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: u16,
    /// Terminals that receive
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Messages to each of them
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=250))]
    pub(super) messages: u64,
    /// Pushes unanswered at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) callers: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=4000))]
    pub(super) bytes: u32,
}

/// Replicas of the Redis master; what they hold is not counted.
const REPLICAS: u16 = 1;

/// How long the last messages may take.
const ARRIVAL: Duration = Duration::from_secs(60);

/// For what a terminal acknowledges last: it is written down within a second.
const ACKNOWLEDGED: Duration = Duration::from_millis(2500);

/// A day, as messages are kept by default for longer than that.
const TTL_S: u64 = 86_400;

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let ground = Ground::set("redis", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let all = ground.all();
    let mut loads = ground.connected(client, options.terminals, &all).await?;
    let mut report = Report::new(
        "redis",
        format!(
            "{} messages of {} bytes to each of {} terminals over HTTP, delivered and acknowledged, \
             TTL a day; one Redis server (every copy holds the same); {client}",
            options.messages, options.bytes, options.terminals
        ),
    );
    let work = Work { pushers: ground.pushers(&all)?, options: &options };
    delivered(&ground, &mut loads, &work, &mut report).await?;
    own_keys(&ground, &mut loads, &work, &mut report).await?;
    loads.disconnect().await?;
    waiting(&ground, &work, &mut report).await?;
    ground.strike().await?;
    Ok(report)
}

/// Pushes that were received and acknowledged.
async fn delivered(
    ground: &Ground,
    loads: &mut Loads,
    work: &Work<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    ground.progress("weighing what is there before");
    let before = Census::take(ground.redis()?).await?;
    let total = u64::from(work.options.terminals) * work.options.messages;
    ground.progress(&format!("{total} pushes"));
    work.received(loads, 0..total, None).await?;
    let after = Census::take(ground.redis()?).await?;
    let mut held = 0.0;
    for (kind, grown) in after.since(&before) {
        let each = grown.bytes / float(total);
        let day = each * (grown.kept_s / DAY_S).min(1.0);
        held += day;
        report.figure(format!("{kind}: bytes per push"), each, "bytes", None);
        report.figure(format!("{kind}: kept for"), grown.kept_s / 3600.0, "h", None);
        report.figure(format!("{kind}: bytes per push over 24 h"), day, "bytes", None);
    }
    report.figure("all records: bytes per push over 24 h", held, "bytes", None);
    let used = (after.used_bytes - before.used_bytes) / float(total);
    report.figure("all of Redis's memory, at once: bytes per push", used, "bytes", None);
    Ok(())
}

/// The same with idempotency keys of the caller's, which live longer than those that SDKs make.
async fn own_keys(
    ground: &Ground,
    loads: &mut Loads,
    work: &Work<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    let before = Census::take(ground.redis()?).await?;
    let (first, count) = (1 << 40, u64::from(work.options.terminals));
    ground.progress(&format!("{count} pushes with keys of the caller's"));
    work.received(loads, first..first + count, Some("bench")).await?;
    let after = Census::take(ground.redis()?).await?;
    let kind = super::census::IDEMPOTENCY;
    let grown = after.since(&before).into_iter().find(|(found, _)| *found == kind);
    let each = grown.map(|(_, grown)| grown.bytes / float(count));
    report.figure(format!("{kind}, key of the caller's: bytes per push"), each, "bytes", None);
    let kept = grown.map(|(_, grown)| grown.kept_s / 3600.0);
    report.figure(format!("{kind}, key of the caller's: kept for"), kept, "h", None);
    Ok(())
}

/// One message for each of as many terminals that never connected.
async fn waiting(ground: &Ground, work: &Work<'_>, report: &mut Report) -> Result<(), Failure> {
    let before = Census::take(ground.redis()?).await?;
    let count = u64::from(work.options.terminals);
    ground.progress(&format!("{count} pushes to terminals that never came"));
    let first = 1 << 41;
    let to = |n: u64| u32::try_from(n - first + count).unwrap_or(0);
    work.push(first..first + count, to, None).await?;
    let after = Census::take(ground.redis()?).await?;
    let kind = super::census::INBOXES;
    let grown = after.since(&before).into_iter().find(|(found, _)| *found == kind);
    let each = grown.map(|(_, grown)| grown.bytes / float(count));
    // What is asked for is asked for 200 bytes.
    let reach = (work.options.bytes == 200).then_some(Reach::AtMost(450.0));
    report.figure("an inbox with one message waiting", each, "bytes", reach);
    Ok(())
}

struct Work<'a> {
    pushers: Pushers,
    options: &'a Options,
}

impl Work<'_> {
    /// Pushes these numbers to the live terminals in turn and waits until all is received and what was
    /// acknowledged is written down.
    async fn received(
        &self,
        loads: &mut Loads,
        numbers: std::ops::Range<u64>,
        key: Option<&str>,
    ) -> Result<(), Failure> {
        loads.reset(false).await?;
        let count = numbers.end - numbers.start;
        let terminals = u64::from(self.options.terminals);
        self.push(numbers, |n| u32::try_from(n % terminals).unwrap_or(0), key).await?;
        let counts = loads.received(count, ARRIVAL).await?;
        if counts.received < count {
            let text = format!("{} of {count} messages were received", counts.received);
            return Err(Failure::new(Exit::Failed, text));
        }
        tokio::time::sleep(ACKNOWLEDGED).await;
        Ok(())
    }

    async fn push(
        &self,
        numbers: std::ops::Range<u64>,
        to: impl Fn(u64) -> u32,
        key: Option<&str>,
    ) -> Result<(), Failure> {
        let at_once = usize::try_from(self.options.callers).unwrap_or(1);
        let bytes = usize::try_from(self.options.bytes).unwrap_or(0);
        let one = |n: u64| {
            let push = payload(to_terminal(to(n)), Payload::json(n, bytes));
            async move {
                let mut push: Push = push?.ttl(TTL_S);
                if let Some(key) = key {
                    push = push.idempotency_key(format!("{key}-{n:024}"));
                }
                let through = usize::try_from(n).unwrap_or(0) % self.pushers.len();
                match self.pushers.push(through, push).await {
                    Outcome::Accepted => Ok(()),
                    other => {
                        let text = format!("a push was not accepted: {other:?}");
                        Err(Failure::new(Exit::Failed, text))
                    }
                }
            }
        };
        futures_util::stream::iter(numbers.map(one))
            .buffer_unordered(at_once)
            .try_for_each(|()| async { Ok(()) })
            .await
    }
}
