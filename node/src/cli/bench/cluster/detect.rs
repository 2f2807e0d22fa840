//! A node that owns logs is killed or hangs while pushes to those logs go on through the others: how
//! long until they are served elsewhere. The node that fails holds no terminals.

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

/// How long what was accepted may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Replicas of the Redis master.
const REPLICAS: u16 = 2;

/// What came out of the rounds of one kind.
#[derive(Default)]
struct Waits {
    longest_ns: Vec<u64>,
    usual_ns: Vec<u64>,
    not_accepted: u64,
    lost: u64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan { nodes: options.nodes, replicas: REPLICAS };
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
        round(&ground, &mut loads, &stay, signal, &options, waits).await?;
        let longest = waits.longest_ns.last().copied().unwrap_or(0);
        ground.progress(&format!("round {}: {signal:?}, {} ms", number + 1, longest / 1_000_000));
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
             terminals there whose inboxes the failing node owns; from the fault until a message \
             pushed about then is received, the longest of all messages; {} rounds of each kind; {client}",
            options.nodes, options.rate, options.rounds
        ),
    );
    figures(&mut report, "kill -9", &killed, 500.0);
    figures(&mut report, "SIGSTOP", &hung, 4000.0);
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

fn figures(report: &mut Report, how: &str, waits: &Waits, reach_ms: f64) {
    let ms = |ns: u64| float(ns) / 1e6;
    let most = waits.longest_ns.iter().copied().max().map(ms);
    let least = waits.longest_ns.iter().copied().min().map(ms);
    report.figure(format!("{how}: longest wait, worst round"), most, "ms", Reach::AtMost(reach_ms));
    report.figure(format!("{how}: longest wait, best round"), least, "ms", None);
    let usual = waits.usual_ns.iter().copied().max().map(ms);
    report.figure(format!("{how}: longest wait before the fault"), usual, "ms", None);
    report.figure(format!("{how}: not accepted"), float(waits.not_accepted), "", None);
    report.figure(format!("{how}: lost"), float(waits.lost), "", Reach::AtMost(0.0));
}

async fn round(
    ground: &Ground,
    loads: &mut Loads,
    stay: &[usize],
    signal: Signal,
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
    let (sent, fault_ns) =
        tokio::join!(pushers.at_rate(options.rate, length, 0, options.bytes, &aim), async {
            tokio::time::sleep(BEFORE).await;
            let now_ns = monotonic_ns();
            victim.signal(signal).map(|()| now_ns).map_err(launch)
        });
    let (sent, fault_ns) = (sent?, fault_ns?);
    all_in(loads, &[&sent], ARRIVAL).await?;
    let arrivals = Arrivals::of(loads.receipts().await?);
    let (usual, longest) = longest_waits(&sent, &arrivals, fault_ns);
    waits.usual_ns.push(usual);
    waits.longest_ns.push(longest);
    let accepted = count(&sent, Outcome::Accepted);
    waits.not_accepted += u64::try_from(sent.len()).unwrap_or(u64::MAX) - accepted;
    waits.lost += arrivals.lost(&sent);
    Ok(())
}

/// The longest wait of messages that came before the fault, from when they were due; and of those that
/// came after it, from the fault or when they were due, whichever was later.
fn longest_waits(sent: &[Sent], arrivals: &Arrivals, fault_ns: u64) -> (u64, u64) {
    let (mut before, mut after) = (0, 0);
    for sent in sent {
        let Some(at) = arrivals.get(sent.n) else { continue };
        if at < fault_ns {
            before = before.max(at.saturating_sub(sent.due_ns));
        } else {
            after = after.max(at - sent.due_ns.clamp(fault_ns, at));
        }
    }
    (before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_count_from_the_fault_or_from_when_a_push_was_due() {
        let sent: Vec<Sent> = [10, 90, 110, 200]
            .into_iter()
            .zip(0..)
            .map(|(due_ns, n)| {
                let outcome = Outcome::Accepted;
                Sent { n, terminal: 0, due_ns, answered_ns: due_ns, outcome }
            })
            .collect();
        let arrivals = Arrivals::of(vec![(0, 15), (1, 450), (2, 500), (3, 205)]);
        assert_eq!(longest_waits(&sent, &arrivals, 100), (5, 390));
        assert_eq!(longest_waits(&sent, &Arrivals::of(Vec::new()), 100), (0, 0));
    }
}
