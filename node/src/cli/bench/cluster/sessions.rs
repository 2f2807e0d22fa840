//! What an idle session costs with one node and with more, the same number of sessions on each.

use std::time::Duration;

use clap::Args;

use super::super::Common;
use super::super::load::Client;
use super::super::report::{Reach, Report};
use super::ground::{Ground, Plan};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster sessions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of nodes, one cluster after the other
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: Vec<u16>,
    /// Terminals on each node, each with four logs: inbox, user, broadcast and one topic
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(super) terminals: u32,
    /// How often each terminal is heard of, in seconds. What heartbeats cost is measured; rare ones
    /// would drown in what a node does by itself
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) heartbeat_s: u32,
    /// How long CPU is measured, once without terminals and once with them; whole heartbeats
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
}

/// Terminals on each node that come and go before anything counts, so that threads and pools are there.
const WARM_UP: u32 = 200;

/// Replicas of the Redis master; a second one would only take the cores from the nodes.
const REPLICAS: u16 = 1;

/// What a cluster of one size took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    nodes: u16,
    /// Bytes for a session.
    memory: f64,
    /// Microseconds a second for a session.
    cpu: f64,
    /// Bytes of a node without sessions.
    empty: f64,
    /// Microseconds a second of a node without sessions.
    idle_cpu: f64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let client = common.client.unwrap_or(Client::Raw);
    let mut costs = Vec::new();
    for nodes in &options.nodes {
        costs.push(Box::pin(measure(*nodes, &options, client, common, output)).await?);
    }
    let mut report = Report::new(
        "sessions",
        format!(
            "{} terminals with four logs on each node, {client}; heartbeat {} s; what the nodes use \
             without sessions is taken off",
            options.terminals, options.heartbeat_s
        ),
    );
    for cost in &costs {
        let with =
            if cost.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", cost.nodes) };
        report.figure(format!("{with}: memory per session"), cost.memory, "bytes", None);
        report.figure(format!("{with}: CPU per session"), cost.cpu, "us/s", None);
        report.figure(format!("{with}: memory of a node without"), cost.empty, "bytes", None);
        report.figure(format!("{with}: CPU of a node without"), cost.idle_cpu, "us/s", None);
    }
    let reach = Reach::AtMost(10.0);
    let memory = difference(costs.iter().map(|cost| cost.memory));
    report.figure("memory per session, largest difference", memory, "%", reach);
    let cpu = difference(costs.iter().map(|cost| cost.cpu));
    report.figure("CPU per session, largest difference", cpu, "%", reach);
    Ok(report)
}

async fn measure(
    nodes: u16,
    options: &Options,
    client: Client,
    common: &Common,
    output: Output,
) -> Result<Cost, Failure> {
    let plan = Plan { heartbeat_s: options.heartbeat_s, ..Plan::new(nodes, REPLICAS) };
    let ground = Ground::set("sessions", plan, common, output).await?;
    let all = ground.all();
    {
        let mut loads = ground.connected(client, WARM_UP * u32::from(nodes), &all).await?;
        loads.disconnect().await?;
    }
    let empty = ground.settled().await;
    let idle_cpu = cpu_per_s(&ground, options.seconds).await;
    let sessions = options.terminals * u32::from(nodes);
    let mut loads = ground.connected(client, sessions, &all).await?;
    let full = ground.settled().await;
    ground.progress(&format!("measuring CPU for {} s", options.seconds));
    let cpu = cpu_per_s(&ground, options.seconds).await;
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(Cost {
        nodes,
        memory: (full - empty) / f64::from(sessions),
        cpu: (cpu - idle_cpu) * 1e6 / f64::from(sessions),
        empty: empty / f64::from(nodes),
        idle_cpu: idle_cpu * 1e6 / f64::from(nodes),
    })
}

/// CPU seconds of all nodes in a second.
async fn cpu_per_s(ground: &Ground, seconds: u64) -> f64 {
    let before = ground.used();
    let start = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    ground.used().since(before).nodes / start.elapsed().as_secs_f64()
}

/// By how much the largest is above the smallest, in percent.
fn difference(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let least = values.clone().reduce(f64::min)?;
    let most = values.reduce(f64::max)?;
    (least > 0.0).then(|| (most - least) * 100.0 / least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_is_that_of_the_extremes() {
        assert_eq!(difference([100.0, 120.0, 110.0].into_iter()), Some(20.0));
        assert_eq!(difference([100.0].into_iter()), Some(0.0));
        assert_eq!(difference([0.0, 1.0].into_iter()), None);
        assert_eq!(difference(std::iter::empty::<f64>()), None);
    }
}
