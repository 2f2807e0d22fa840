//! From push to message in the terminal at a steady rate, where push node, owner and gateway differ
//! as they fall. Open loop, as `bench latency`.

use std::time::Duration;

use clap::Args;

use super::super::Common;
use super::super::latency::quantiles;
use super::super::load::Client;
use super::super::report::{Reach, Report};
use super::super::stage::float;
use super::flow::{Latencies, Outcome, Sent, all_in, count, everywhere};
use super::ground::{Ground, Plan};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster latency`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: u16,
    /// Terminals, which take turns on the nodes
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) terminals: u32,
    /// Pushes a second, each to one terminal
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
    /// How long it is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub(super) bytes: usize,
}

/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(5);

/// Replicas of the Redis master.
const REPLICAS: u16 = 2;

/// How long the last messages may take.
const ARRIVAL: Duration = Duration::from_secs(30);

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let ground = Ground::set("latency", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Sdk);
    let all = ground.all();
    let mut loads = ground.connected(client, options.terminals, &all).await?;
    let owners = ground.owners(options.terminals).await?;
    let pushers = ground.pushers(&all)?;
    let aim = everywhere(all.len(), options.terminals);
    ground.settled().await;
    loads.reset(true).await?;
    let warm_up = pushers.at_rate(options.rate, WARM_UP, 0, options.bytes, &aim).await?;
    all_in(&mut loads, &[&warm_up], ARRIVAL).await?;
    ground.progress(&format!("{} pushes a second for {} s", options.rate, options.seconds));
    loads.reset(true).await?;
    let before = ground.used();
    let length = Duration::from_secs(options.seconds);
    let first = u64::from(options.rate) * WARM_UP.as_secs();
    let sent = pushers.at_rate(options.rate, length, first, options.bytes, &aim).await?;
    let accepted = count(&sent, Outcome::Accepted);
    let (counts, arrivals) = all_in(&mut loads, &[&sent], ARRIVAL).await?;
    let used = ground.used().since(before);

    let three = |sent: &&Sent| {
        let (through, terminal) = aim(sent.n);
        let terminal = usize::try_from(terminal).unwrap_or(0);
        differ(&name(through), owners.get(terminal), &name(terminal % all.len()))
    };
    let differing = Latencies::of(sent.iter().filter(three), &arrivals)?;
    let every = Latencies::of(&sent, &arrivals)?;
    let mut report = Report::new(
        "latency",
        format!(
            "{} pushes a second (HTTP, signed) through {} nodes to {} terminals on them, one Redis \
             master with {REPLICAS} replicas of which one confirms, open loop, {client}",
            options.rate, options.nodes, options.terminals
        ),
    );
    quantiles(&mut report, "accepted to received", &every.accepted, Some((5.0, 25.0)));
    quantiles(&mut report, "push due to received", &every.due, None);
    let share = 100.0 * float(differing.due.len()) / float(every.due.len());
    report.figure("push node, owner and gateway all differ", share, "%", None);
    quantiles(&mut report, "those: accepted to received", &differing.accepted, Some((5.0, 25.0)));
    quantiles(&mut report, "those: push due to received", &differing.due, None);
    let each = |seconds: f64| seconds * 1e6 / float(accepted);
    report.figure("CPU per message, all nodes", each(used.nodes), "us", None);
    report.figure("CPU per message, Redis master", each(used.master), "us", None);
    report.figure("CPU per message, its replicas", each(used.replicas), "us", None);
    let refused = float(u64::try_from(sent.len()).unwrap_or(u64::MAX) - accepted);
    report.figure("not accepted", refused, "", Reach::AtMost(0.0));
    report.figure("lost", float(arrivals.lost(&sent)), "", Reach::AtMost(0.0));
    let again = float(counts.duplicates + arrivals.again());
    report.figure("received again", again, "", None);
    report.figure("sessions that broke", float(counts.broken), "", Reach::AtMost(0.0));
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

/// What the launcher calls node number `index`.
pub(super) fn name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// Whether a push went over three nodes.
fn differ(push: &str, owner: Option<&Option<String>>, gateway: &str) -> bool {
    match owner {
        Some(Some(owner)) => push != gateway && owner != push && owner != gateway,
        Some(None) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_over_three_nodes_is_told_from_others() {
        let owner = Some("node-2".to_owned());
        assert!(differ(&name(0), Some(&owner), &name(2)));
        assert!(!differ(&name(1), Some(&owner), &name(2)));
        assert!(!differ(&name(0), Some(&owner), &name(0)));
        assert!(!differ(&name(0), Some(&None), &name(2)));
    }
}
