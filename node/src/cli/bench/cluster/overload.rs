//! Twice as many pushes as the cluster takes, then a normal rate: how long until latency is what it
//! was before.

use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Common;
use super::super::latency::quantiles;
use super::super::load::{Client, Loads};
use super::super::report::{Reach, Report};
use super::super::stage::float;
use super::flow::{Aim, Arrivals, Latencies, Outcome, Pushers, Sent, all_in, count, everywhere};
use super::ground::{Ground, Plan};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// `clarion bench cluster overload`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: u16,
    /// Terminals, which take turns on the nodes
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Pushes a second that count as the capacity; measured first when not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate: Option<u32>,
    /// Callers that wait for their answers, to measure the capacity
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) callers: u32,
    /// How many times the capacity is pushed
    #[arg(long, default_value_t = 2.0)]
    pub(super) times: f64,
    /// How long it is too much
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
    /// How long the normal rate, a quarter of the capacity, is measured before and after
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(super) normal: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// How long the capacity is measured.
const CAPACITY: Duration = Duration::from_secs(10);

/// How long what was accepted may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Replicas of the Redis master.
const REPLICAS: u16 = 2;

/// Latencies are judged second by second.
const STEP_NS: u64 = 1_000_000_000;

/// So soon latency is to be normal again, in seconds.
const AGAIN_S: u64 = 10;

/// So much slower than before is normal still, as a factor …
const SLOWER: u64 = 2;

/// … and below this a p99 is normal in any case, nanoseconds: what the latency bench is to reach.
const NORMAL_NS: u64 = 25_000_000;

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let ground = Ground::set("overload", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let all = ground.all();
    let mut loads = ground.connected(client, options.terminals, &all).await?;
    let pushers = ground.pushers(&all)?;
    let aim = everywhere(all.len(), options.terminals);
    ground.settled().await;
    let capacity = match options.rate {
        Some(rate) => f64::from(rate),
        None => capacity(&ground, &mut loads, &pushers, &options, &aim).await?,
    };
    let phases = phases(&ground, &mut loads, &pushers, &options, &aim, capacity).await?;
    let Phases { before, much, after, arrivals, counts } = &phases;
    let usual = Latencies::of(before, arrivals)?;
    let limit = (usual.due.value_at_quantile(0.99) * SLOWER).max(NORMAL_NS);
    let mut report = Report::new(
        "overload",
        format!(
            "{} nodes, {} terminals on them, Redis with {REPLICAS} replicas; normal is a quarter of \
             the capacity for {} s, then {} times the capacity for {} s, then normal again; HTTP, open \
             loop, {client}; normal latency: p99 of each second at most {} ms, from when a push is due",
            options.nodes,
            options.terminals,
            options.normal,
            options.times,
            options.seconds,
            limit / 1_000_000,
        ),
    );
    report.figure("capacity", capacity, "/s", None);
    let again = normal_again(after, arrivals, limit)?;
    report.figure("until latency was normal again", again, "s", Reach::AtMost(float(AGAIN_S)));
    if again.is_none() {
        // Shorter than what is asked for, it says nothing about that.
        let late = (options.normal > AGAIN_S).then_some(Reach::AtMost(float(AGAIN_S)));
        report.figure("it was not normal for at least", float(options.normal), "s", late);
    }
    let tried = float(u64::try_from(much.len()).unwrap_or(u64::MAX));
    let share = |outcome| float(count(much, outcome)) * 100.0 / tried;
    let sent = tried - float(count(much, Outcome::Held));
    let per_s = sent / float(options.seconds) / capacity;
    report.figure("too much: sent, times the capacity", per_s, "", None);
    report.figure("too much: accepted", share(Outcome::Accepted), "%", None);
    report.figure("too much: refused", share(Outcome::Refused), "%", None);
    report.figure("too much: outcome unknown", share(Outcome::Unknown), "%", None);
    report.figure("too much: held back by the load", share(Outcome::Held), "%", None);
    quantiles(&mut report, "before: push due to received", &usual.due, None);
    let excess = Latencies::of(much, arrivals)?;
    quantiles(&mut report, "too much: accepted to received", &excess.accepted, None);
    quantiles(
        &mut report,
        "after: push due to received",
        &Latencies::of(after, arrivals)?.due,
        None,
    );
    let lost = [before, much, after].into_iter().map(|sent| arrivals.lost(sent)).sum();
    report.figure("lost", float(lost), "", Reach::AtMost(0.0));
    let again = float(counts.duplicates + arrivals.again());
    report.figure("received again", again, "", None);
    report.figure("sessions that broke", float(counts.broken), "", None);
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

/// Pushes a second that are accepted and received when callers wait for their answers.
async fn capacity(
    ground: &Ground,
    loads: &mut Loads,
    pushers: &Pushers,
    options: &Options,
    aim: &Aim,
) -> Result<f64, Failure> {
    ground.progress(&format!("measuring the capacity with {} callers", options.callers));
    loads.reset(true).await?;
    let stop = watch::Sender::new(false);
    let start = Instant::now();
    let (sent, ()) = tokio::join!(
        pushers.closed_loop(options.callers, 1 << 42, options.bytes, aim, &stop),
        async {
            tokio::time::sleep(CAPACITY).await;
            stop.send_replace(true);
        }
    );
    let sent = sent?;
    all_in(loads, &[&sent], ARRIVAL).await?;
    let accepted = count(&sent, Outcome::Accepted);
    let capacity = float(accepted) / start.elapsed().as_secs_f64();
    ground.progress(&format!("{capacity:.0} pushes a second"));
    if accepted == 0 {
        return Err(Failure::new(Exit::Failed, "no push was accepted"));
    }
    Ok(capacity)
}

struct Phases {
    before: Vec<Sent>,
    much: Vec<Sent>,
    after: Vec<Sent>,
    arrivals: Arrivals,
    counts: super::super::tally::Counts,
}

async fn phases(
    ground: &Ground,
    loads: &mut Loads,
    pushers: &Pushers,
    options: &Options,
    aim: &Aim,
    capacity: f64,
) -> Result<Phases, Failure> {
    let normal = rate(capacity / 4.0);
    let (shorter, long) =
        (Duration::from_secs(options.normal), Duration::from_secs(options.seconds));
    loads.reset(true).await?;
    ground.progress(&format!("{normal} pushes a second for {} s", options.normal));
    let before = pushers.at_rate(normal, shorter, 0, options.bytes, aim).await?;
    let much = rate(capacity * options.times);
    ground.progress(&format!("{much} pushes a second for {} s", options.seconds));
    // The normal rate comes at once when the time is over, whatever is unanswered by then.
    let (much_first, after_first) = (1 << 40, 1 << 41);
    let (much, after) =
        tokio::join!(pushers.at_rate(much, long, much_first, options.bytes, aim), async {
            tokio::time::sleep(long).await;
            ground.progress(&format!("{normal} pushes a second for {} s", options.normal));
            pushers.at_rate(normal, shorter, after_first, options.bytes, aim).await
        });
    let (much, after) = (much?, after?);
    let (counts, arrivals) = all_in(loads, &[&before, &much, &after], ARRIVAL).await?;
    Ok(Phases { before, much, after, arrivals, counts })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far below 2^32
fn rate(per_s: f64) -> u32 {
    per_s.round().clamp(1.0, 1_000_000.0) as u32
}

/// Seconds from the first of these pushes until the first second from which on all are normal: every
/// push accepted, and the p99 at most `limit_ns`. None if the last second is not.
fn normal_again(
    after: &[Sent],
    arrivals: &Arrivals,
    limit_ns: u64,
) -> Result<Option<f64>, Failure> {
    let Some(start_ns) = after.first().map(|sent| sent.due_ns) else { return Ok(None) };
    let step = |sent: &Sent| (sent.due_ns - start_ns) / STEP_NS;
    let mut again = None;
    for steps in after.chunk_by(|a, b| step(a) == step(b)) {
        let first = steps.first().map_or(0, &step);
        let latencies = Latencies::of(steps, arrivals)?;
        let all = u64::try_from(steps.len()).unwrap_or(u64::MAX) == latencies.due.len();
        if all && latencies.due.value_at_quantile(0.99) <= limit_ns {
            again.get_or_insert(float(first * STEP_NS) / 1e9);
        } else {
            again = None;
        }
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten pushes a second, each received so many milliseconds after it was due.
    fn pushes(latencies_ms: &[&[u64]]) -> (Vec<Sent>, Arrivals) {
        let (mut all, mut receipts) = (Vec::new(), Vec::new());
        for (second, latencies) in (0_u64..).zip(latencies_ms) {
            for (turn, ms) in (0_u64..).zip(*latencies) {
                let due_ns = 5_000_000_000 + second * STEP_NS + turn * 100_000_000;
                let n = second * 10 + turn;
                let outcome = Outcome::Accepted;
                all.push(Sent { n, terminal: 0, due_ns, answered_ns: due_ns, outcome });
                receipts.push((n, due_ns + ms * 1_000_000));
            }
        }
        (all, Arrivals::of(receipts))
    }

    #[test]
    fn latency_is_normal_again_when_it_stays_so() {
        let limit = 25_000_000;
        let again = |latencies: &[&[u64]]| {
            let (sent, arrivals) = pushes(latencies);
            normal_again(&sent, &arrivals, limit).unwrap()
        };
        assert_eq!(again(&[&[1, 2], &[3, 4]]), Some(0.0));
        assert_eq!(again(&[&[900, 2], &[3, 4], &[5]]), Some(1.0));
        assert_eq!(again(&[&[900], &[3], &[800], &[4]]), Some(3.0), "it came back in between");
        assert_eq!(again(&[&[3], &[900]]), None);
        assert_eq!(again(&[]), None);
    }

    #[test]
    fn a_refused_push_is_not_normal() {
        let (mut sent, arrivals) = pushes(&[&[1, 1], &[1, 1]]);
        sent[0].outcome = Outcome::Refused;
        assert_eq!(normal_again(&sent, &arrivals, 25_000_000).unwrap(), Some(1.0));
    }
}
