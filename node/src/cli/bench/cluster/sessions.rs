//! What an idle session costs in clusters of one node and of more, the same number of sessions on each
//! node. The machine always does the same work: eight clusters of one node, four of two, one of eight,
//! and load processes of its own for each node. Otherwise the figures would be about how busy cores
//! are and how much comes in together: the more is done at each wake-up, the less each costs.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;

use super::super::Common;
use super::super::load::{Client, Loads};
use super::super::report::{Reach, Report};
use super::ground::{Ground, Plan};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster sessions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of nodes of a cluster, one after the other; of the smaller ones as many run at a time as
    /// have the nodes of the largest
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) nodes: Vec<u16>,
    /// Terminals on each node, each with four logs: inbox, user, broadcast and one topic
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(super) terminals: u32,
    /// How often each terminal is heard of, in seconds. What heartbeats cost is measured; rare ones
    /// would drown in what a node does by itself
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
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
    /// Microseconds a second of a node whose sessions have ended.
    idle_cpu: f64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let client = common.client.unwrap_or(Client::Raw);
    let most = options.nodes.iter().copied().max().unwrap_or(1);
    let mut costs = Vec::new();
    for nodes in &options.nodes {
        let grounds = Grounds::set(*nodes, most / nodes, &options, common, output).await?;
        costs.push(Box::pin(grounds.measure(*nodes, &options, client)).await?);
    }
    let mut report = Report::new(
        "sessions",
        format!(
            "{most} nodes as clusters of different sizes, {} terminals with four logs on each node, \
             {client}; heartbeat {} s; what the nodes use without sessions, CPU when all have left, is taken off",
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

/// Clusters of one size that run at a time.
struct Grounds(Vec<Ground>);

impl Grounds {
    async fn set(
        nodes: u16,
        clusters: u16,
        options: &Options,
        common: &Common,
        output: Output,
    ) -> Result<Self, Failure> {
        let plan = Plan { heartbeat_s: options.heartbeat_s, ..Plan::new(nodes, REPLICAS) };
        let mut grounds = Vec::new();
        for _ in 0..clusters.max(1) {
            grounds.push(Box::pin(Ground::set("sessions", plan, common, output)).await?);
        }
        Ok(Self(grounds))
    }

    async fn measure(self, nodes: u16, options: &Options, client: Client) -> Result<Cost, Failure> {
        for loads in &mut self.connected(client, WARM_UP).await? {
            loads.disconnect().await?;
        }
        let empty = self.settled().await;
        let mut loads = self.connected(client, options.terminals).await?;
        let full = self.settled().await;
        let cpu = self.cpu_per_s(options.seconds).await;
        for loads in &mut loads {
            loads.disconnect().await?;
        }
        // Known terminals cost something whether they are there or not: each cluster goes over its
        // store for what is over, up to 2,000 records a second.
        self.settled().await;
        let idle_cpu = self.cpu_per_s(options.seconds).await;
        #[allow(clippy::cast_precision_loss)] // some nodes
        let all = (usize::from(nodes) * self.0.len()) as f64;
        for ground in self.0 {
            ground.strike().await?;
        }
        let sessions = f64::from(options.terminals) * all;
        Ok(Cost {
            nodes,
            memory: (full - empty) / sessions,
            cpu: (cpu - idle_cpu) * 1e6 / sessions,
            empty: empty / all,
            idle_cpu: idle_cpu * 1e6 / all,
        })
    }

    /// Terminals at each of the nodes, `count` at each.
    async fn connected(&self, client: Client, count: u32) -> Result<Vec<Loads>, Failure> {
        let mut all = Vec::new();
        for ground in &self.0 {
            let mut first = 0;
            for node in ground.all() {
                let mut loads = Loads::start(count)?;
                let terminals = ground.terminals(client, &[node])?;
                loads.connect_from(&terminals, first, count).await?;
                all.push(loads);
                first += count;
            }
            ground.progress(&format!("{first} terminals are live"));
        }
        Ok(all)
    }

    /// Resident bytes of all nodes when they have stopped moving.
    async fn settled(&self) -> f64 {
        join_all(self.0.iter().map(Ground::settled)).await;
        self.0.iter().map(Ground::resident).sum()
    }

    /// CPU seconds of all nodes in a second.
    async fn cpu_per_s(&self, seconds: u64) -> f64 {
        let used = || self.0.iter().map(|ground| ground.used().nodes).sum::<f64>();
        if let Some(ground) = self.0.first() {
            ground.progress(&format!("measuring CPU for {seconds} s"));
        }
        let (before, start) = (used(), tokio::time::Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        (used() - before) / start.elapsed().as_secs_f64()
    }
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
