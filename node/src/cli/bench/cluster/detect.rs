//! A node that owns logs is killed or hangs while pushes to those logs go on through the others: how
//! long until they are served elsewhere. The node that fails holds no terminals.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use clarion_launch::Signal;

use super::super::Common;
use super::super::load::{Client, Loads};
use super::super::report::{Reach, Report};
use super::super::stage::float;
use super::super::tally::monotonic_ns;
use super::flow::{Arrivals, Outcome, Sent, all_in, count, to_each};
use super::ground::{Ground, Plan, launch};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// `clarion bench cluster detect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes; one of them fails in each round and another takes its place
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub(super) nodes: u16,
    /// Terminals, on all nodes but the one that fails; those whose inbox it owns are pushed to
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(10..=15_000))]
    pub(super) terminals: u32,
    /// Pushes a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
    /// How long is pushed in each round; the node fails after two seconds
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=600))]
    pub(super) seconds: u64,
    /// Rounds with kill -9, and as many with SIGSTOP
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Pushes before the node fails.
const BEFORE: Duration = Duration::from_secs(2);

/// A push that is due so soon after the fault may have been sent to the node all the same. Its outcome
/// is unknown, and it holds up its log until its attempt has ended (I2, I8).
const UNDER_WAY_NS: u64 = 50_000_000;

/// How long what was accepted may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Replicas of the Redis master.
const REPLICAS: u16 = 2;

/// What a round does to the node.
#[derive(Debug, Clone, Copy)]
struct Fault {
    signal: Signal,
    /// Number of its first message: late ones of the round before are none of it.
    first: u64,
}

/// What came out of the rounds of one kind.
#[derive(Default)]
struct Waits {
    longest: Vec<Longest>,
    not_accepted: u64,
    lost: u64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let mut ground = Ground::set("detect", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Raw);
    let stay: Vec<usize> = (0..usize::from(options.nodes) - 1).collect();
    let mut loads = ground.connected(client, options.terminals, &stay).await?;
    let (mut killed, mut hung) = (Waits::default(), Waits::default());
    for number in 0..options.rounds * 2 {
        let (signal, waits) = match number % 2 {
            0 => (Signal::Kill, &mut killed),
            _ => (Signal::Stop, &mut hung),
        };
        let fault = Fault { signal, first: u64::from(number) << 32 };
        round(&ground, &mut loads, &stay, fault, &options, waits).await?;
        let longest = waits.longest.last().copied().unwrap_or_default();
        let ms = |ns: u64| ns / 1_000_000;
        ground.progress(&format!(
            "round {}: {signal:?}, {} ms (due {} ms after it, answered {} ms after it), with what was \
             under way {} ms",
            number + 1,
            ms(longest.clear),
            ms(longest.clear_due),
            ms(longest.clear_answered),
            ms(longest.all)
        ));
        if let Some(victim) = ground.cluster.nodes.last_mut() {
            victim.kill().await.map_err(launch)?;
        }
        if number + 1 < options.rounds * 2 {
            ground.add_node(&format!("spare-{}", number + 1)).await?;
        }
    }
    let mut report = Report::new(
        "detect",
        format!(
            "{} nodes, Redis with {REPLICAS} replicas; {} pushes a second through the others to \
             terminals there whose inboxes the failing node owns; a wait is from the fault, or from \
             when a push was due if that was later, until it was received; {} rounds of each kind; \
             {client}",
            options.nodes, options.rate, options.rounds
        ),
    );
    figures(&mut report, "kill -9", &killed, (Some(500.0), None));
    figures(&mut report, "SIGSTOP", &hung, (None, Some(4000.0)));
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

/// `reach` is for logs without a push under way, and for all, in milliseconds.
fn figures(
    report: &mut Report,
    how: &str,
    waits: &Waits,
    (clear_ms, all_ms): (Option<f64>, Option<f64>),
) {
    let of = |of: &dyn Fn(&Longest) -> u64| waits.longest.iter().map(of).collect::<Vec<_>>();
    let mut add = |what: &str, all: Vec<u64>, reach: Option<f64>| {
        let ms = |ns: u64| float(ns) / 1e6;
        let (worst, best) = (all.iter().copied().max().map(ms), all.iter().copied().min().map(ms));
        report.figure(format!("{how}: {what}, worst round"), worst, "ms", reach.map(Reach::AtMost));
        report.figure(format!("{how}: {what}, best round"), best, "ms", None);
    };
    add("longest wait, logs without a push under way", of(&|wait| wait.clear), clear_ms);
    add("longest wait, all logs", of(&|wait| wait.all), all_ms);
    add("longest wait before the fault", of(&|wait| wait.before), None);
    report.figure(format!("{how}: not accepted"), float(waits.not_accepted), "", None);
    report.figure(format!("{how}: lost"), float(waits.lost), "", Reach::AtMost(0.0));
}

async fn round(
    ground: &Ground,
    loads: &mut Loads,
    stay: &[usize],
    fault: Fault,
    options: &Options,
    waits: &mut Waits,
) -> Result<(), Failure> {
    let victim = ground.node(ground.cluster.nodes.len() - 1)?;
    let owners = ground.owners(options.terminals).await?;
    let owned: Vec<u32> = (0_u32..)
        .zip(&owners)
        .filter(|(_, owner)| owner.as_deref() == Some(victim.name()))
        .map(|(index, _)| index)
        .collect();
    if owned.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("{} owns no inbox", victim.name()))
            .hint("take more --links"));
    }
    let pushers = ground.pushers(stay)?;
    let aim = to_each(stay.len(), owned);
    loads.reset(true).await?;
    let length = Duration::from_secs(options.seconds);
    let (sent, fault_ns) = tokio::join!(
        pushers.at_rate(options.rate, length, fault.first, options.bytes, &aim),
        async {
            tokio::time::sleep(BEFORE).await;
            let now_ns = monotonic_ns();
            victim.signal(fault.signal).map(|()| now_ns).map_err(launch)
        }
    );
    let (sent, fault_ns) = (sent?, fault_ns?);
    let (_, arrivals) = all_in(loads, &[&sent], ARRIVAL).await?;
    waits.longest.push(longest_waits(&sent, &arrivals, fault_ns));
    let accepted = count(&sent, Outcome::Accepted);
    waits.not_accepted += u64::try_from(sent.len()).unwrap_or(u64::MAX) - accepted;
    waits.lost += arrivals.lost(&sent);
    Ok(())
}

/// The longest waits of a round, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Longest {
    /// Of messages that came before the fault, from when they were due.
    before: u64,
    /// Of those that came after it, from the fault or from when they were due, whichever was later.
    all: u64,
    /// Of those of them whose logs had no push under way when it happened.
    clear: u64,
    /// Of that one, since the fault: when it was due, and when it was answered.
    clear_due: u64,
    clear_answered: u64,
}

fn longest_waits(sent: &[Sent], arrivals: &Arrivals, fault_ns: u64) -> Longest {
    let unanswered = |sent: &&Sent| {
        sent.due_ns < fault_ns + UNDER_WAY_NS
            && arrivals.get(sent.n).is_none_or(|at| at >= fault_ns)
    };
    let unclear: HashSet<u32> = sent.iter().filter(unanswered).map(|sent| sent.terminal).collect();
    let mut longest = Longest::default();
    for sent in sent {
        let Some(at) = arrivals.get(sent.n) else { continue };
        if at < fault_ns {
            longest.before = longest.before.max(at.saturating_sub(sent.due_ns));
            continue;
        }
        let wait = at.saturating_sub(sent.due_ns.max(fault_ns));
        longest.all = longest.all.max(wait);
        if !unclear.contains(&sent.terminal) && wait > longest.clear {
            longest.clear = wait;
            longest.clear_due = sent.due_ns.saturating_sub(fault_ns);
            longest.clear_answered = sent.answered_ns.saturating_sub(fault_ns);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sent(n: u64, terminal: u32, due_ns: u64) -> Sent {
        Sent { n, terminal, due_ns, answered_ns: due_ns, outcome: Outcome::Accepted }
    }

    #[test]
    fn waits_count_from_the_fault_or_from_when_a_push_was_due() {
        let sent = [sent(0, 0, 10 * MS), sent(1, 1, 90 * MS), sent(2, 2, 200 * MS)];
        let arrivals = Arrivals::of(vec![(0, 15 * MS), (1, 450 * MS), (2, 205 * MS)]);
        let longest = longest_waits(&sent, &arrivals, 100 * MS);
        let expected = Longest {
            before: 5 * MS,
            all: 350 * MS,
            clear: 5 * MS,
            clear_due: 100 * MS,
            clear_answered: 100 * MS,
        };
        assert_eq!(longest, expected);
        let none = longest_waits(&sent, &Arrivals::of(Vec::new()), 100 * MS);
        assert_eq!(none, Longest::default());
    }

    #[test]
    fn what_waits_behind_a_push_that_was_under_way_is_not_clear() {
        let sent =
            [sent(0, 7, 90 * MS), sent(1, 7, 400 * MS), sent(2, 8, 120 * MS), sent(3, 9, 160 * MS)];
        let arrivals =
            Arrivals::of(vec![(0, 1100 * MS), (1, 1110 * MS), (2, 900 * MS), (3, 180 * MS)]);
        let longest = longest_waits(&sent, &arrivals, 100 * MS);
        assert_eq!((longest.all, longest.clear), (1000 * MS, 20 * MS));
    }
}
