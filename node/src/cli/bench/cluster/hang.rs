//! A node hangs (SIGSTOP) under full push load: memory of the others and what waits on their links to
//! it, and what becomes of its terminals when it goes on.

use std::time::Duration;

use clap::Args;
use clarion_launch::{Node, Signal};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Common;
use super::super::load::Client;
use super::super::report::{Reach, Report};
use super::super::stage::float;
use super::flow::{Outcome, Sent, all_in, count, everywhere};
use super::ground::{Ground, Plan, launch};
use super::usage::{resident_bytes, slope};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster hang`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Nodes; the last one hangs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub(super) nodes: u16,
    /// Terminals, which take turns on all nodes, the one that hangs included
    #[arg(id = "links", long = "links", value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub(super) terminals: u32,
    /// Callers that push through the other nodes, each as fast as it is answered
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) callers: u32,
    /// How long the node hangs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..=3600))]
    pub(super) seconds: u64,
    /// How long is pushed before, so that memory stands still, and after it goes on
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(super) around: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 200)]
    pub(super) bytes: usize,
}

/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(500);

/// How long what was accepted may take to arrive after the load has ended.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Replicas of the Redis master.
const REPLICAS: u16 = 1;

/// What a link to one node may hold by the defaults of the configuration: four lanes, of each 4 MiB
/// waiting (`cluster.lane_queue_bytes`) and 4 MiB on their way (`cluster.lane_credit_bytes`).
const LINK_BYTES: f64 = 4.0 * 2.0 * 4_194_304.0;

/// What frames refuse that are older than their sender's patience, and what full lanes refuse.
const COUNTERS: [(&str, &str); 2] = [
    ("clarion_peer_stale_frames_total", "stale frames that it refused"),
    ("clarion_peer_dropped_total", "messages that full lanes refused, all nodes"),
];

/// A look at a node.
#[derive(Debug, Clone, Copy)]
struct Look {
    node: usize,
    /// Since the load began.
    at_s: f64,
    resident: f64,
    /// Bytes that wait on the fullest of its links to other nodes; none when it does not tell.
    queued: Option<f64>,
}

/// When the node hung, in seconds since the load began.
#[derive(Debug, Clone, Copy)]
struct Hung {
    from_s: f64,
    to_s: f64,
}

pub(super) async fn run(
    options: Options,
    common: &Common,
    output: Output,
) -> Result<Report, Failure> {
    let plan = Plan::new(options.nodes, REPLICAS);
    let ground = Ground::set("hang", plan, common, output).await?;
    let client = common.client.unwrap_or(Client::Sdk);
    let all = ground.all();
    let others = &all[..all.len() - 1];
    let mut loads = ground.connected(client, options.terminals, &all).await?;
    let pushers = ground.pushers(others)?;
    let aim = everywhere(others.len(), options.terminals);
    ground.settled().await;
    loads.reset(true).await?;
    let stop = watch::Sender::new(false);
    let (sent, watched) =
        tokio::join!(pushers.closed_loop(options.callers, 0, options.bytes, &aim, &stop), async {
            let watched = hang(&ground, others.len(), &options).await;
            stop.send_replace(true);
            watched
        });
    let (sent, (looks, hung)) = (sent?, watched?);
    ground.progress("waiting for what is missing");
    let ended = Instant::now();
    let (counts, arrivals) = all_in(&mut loads, &[&sent], ARRIVAL).await?;
    let caught_up = ended.elapsed().as_secs_f64();

    let mut report = Report::new(
        "hang",
        format!(
            "{} nodes, {} terminals on all of them, {} callers through {} of them as fast as they are \
             answered; the other one is stopped for {} s; Redis with {REPLICAS} replica; {client}",
            options.nodes,
            options.terminals,
            options.callers,
            others.len(),
            options.seconds
        ),
    );
    pushed(&mut report, &sent, &options);
    for node in 0..others.len() {
        memory(&mut report, node, &looks, hung);
    }
    let queued = looks.iter().filter_map(|look| look.queued).reduce(f64::max);
    report.figure("most that waited on one link", queued, "bytes", Reach::AtMost(LINK_BYTES));
    let victim = ground.node(others.len())?;
    let (stale, full) = (COUNTERS[0], COUNTERS[1]);
    report.figure(
        format!("after it went on: {}", stale.1),
        metric(victim, stale.0).await,
        "",
        None,
    );
    let mut dropped = Some(0.0);
    for node in &ground.cluster.nodes {
        let own = metric(node, full.0).await;
        dropped = dropped.and_then(|sum| Some(sum + own?));
    }
    report.figure(full.1, dropped, "", None);
    report.figure("until everything was received, after the load", caught_up, "s", None);
    report.figure("lost", float(arrivals.lost(&sent)), "", Reach::AtMost(0.0));
    let again = float(counts.duplicates + arrivals.again());
    report.figure("received again", again, "", None);
    report.figure("gaps", float(counts.gaps), "", Reach::AtMost(0.0));
    loads.disconnect().await?;
    ground.strike().await?;
    Ok(report)
}

fn pushed(report: &mut Report, sent: &[Sent], options: &Options) {
    let seconds = float(options.seconds + 2 * options.around);
    let accepted = float(count(sent, Outcome::Accepted));
    report.figure("accepted, on average", accepted / seconds, "/s", None);
    report.figure("refused", float(count(sent, Outcome::Refused)), "", None);
    report.figure("outcome unknown", float(count(sent, Outcome::Unknown)), "", None);
}

/// Stops the last node for its time and looks at the others meanwhile.
async fn hang(
    ground: &Ground,
    others: usize,
    options: &Options,
) -> Result<(Vec<Look>, Hung), Failure> {
    let start = Instant::now();
    let mut looks = Vec::new();
    let (around, length) = (options.around, options.seconds);
    watch_nodes(ground, others, start, around, &mut looks).await?;
    let victim = ground.node(others)?;
    victim.signal(Signal::Stop).map_err(launch)?;
    let from_s = start.elapsed().as_secs_f64();
    ground.progress(&format!("{} hangs for {length} s", victim.name()));
    let watched = watch_nodes(ground, others, start, length, &mut looks).await;
    let to_s = start.elapsed().as_secs_f64();
    victim.signal(Signal::Continue).map_err(launch)?;
    ground.progress(&format!("{} goes on", victim.name()));
    watched?;
    watch_nodes(ground, others, start, around, &mut looks).await?;
    Ok((looks, Hung { from_s, to_s }))
}

async fn watch_nodes(
    ground: &Ground,
    others: usize,
    start: Instant,
    seconds: u64,
    looks: &mut Vec<Look>,
) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        tokio::time::sleep_until((Instant::now() + LOOK).min(end)).await;
        for index in 0..others {
            let node = ground.node(index)?;
            let resident = node.process().pid().and_then(resident_bytes);
            let at_s = start.elapsed().as_secs_f64();
            // A node under load may not answer; its memory is known all the same.
            let status = node.admin("GET", "/v1/status").await.ok();
            let queued = status.and_then(|answer| most_queued(&answer.json()));
            let resident = float(resident.unwrap_or(0));
            looks.push(Look { node: index, at_s, resident, queued });
        }
    }
    Ok(())
}

/// The most bytes that wait on one link, wherever in a status links tell of their lanes. Lanes of one
/// link stand side by side.
fn most_queued(status: &Value) -> Option<f64> {
    let inner: Vec<&Value> = match status {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    };
    let lane = |value: &&Value| value.get("queued_bytes").and_then(Value::as_f64);
    let own = inner.iter().filter_map(lane).reduce(|a, b| a + b);
    own.into_iter().chain(inner.into_iter().filter_map(most_queued)).reduce(f64::max)
}

async fn metric(node: &Node, name: &str) -> Option<f64> {
    node.metric(name).await.ok()
}

/// Figures of the memory of one node: before, while the other one hung, and whether it still grew then.
fn memory(report: &mut Report, node: usize, looks: &[Look], hung: Hung) {
    let own = || looks.iter().filter(move |look| look.node == node);
    let most = |from: f64, to: f64| {
        let within = own().filter(|look| look.at_s >= from && look.at_s <= to);
        within.map(|look| look.resident).reduce(f64::max)
    };
    let name = super::latency::name(node);
    let (before, during) = (most(0.0, hung.from_s), most(hung.from_s, hung.to_s));
    report.figure(format!("{name}: memory before, highest"), before, "bytes", None);
    report.figure(format!("{name}: memory meanwhile, highest"), during, "bytes", None);
    let growth = before.zip(during).map(|(before, during)| (during - before).max(0.0));
    report.figure(format!("{name}: growth"), growth, "bytes", Reach::AtMost(LINK_BYTES));
    let middle = f64::midpoint(hung.from_s, hung.to_s);
    let late: Vec<(f64, f64)> = own()
        .filter(|look| look.at_s >= middle && look.at_s <= hung.to_s)
        .map(|look| (look.at_s, look.resident))
        .collect();
    report.figure(format!("{name}: slope in the second half"), slope(&late), "bytes/s", None);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waits_is_found_wherever_the_status_has_it() {
        let lanes = json!([{"queued_bytes": 5}, {"queued_bytes": 7}]);
        let status =
            json!({"links": 3, "peers": [{"id": "a", "lanes": lanes}, {"id": "b", "lanes": []}]});
        assert_eq!(most_queued(&status), Some(12.0));
        assert_eq!(
            most_queued(&json!({"peers": {"a": {"unicast": {"queued_bytes": 9}}}})),
            Some(9.0)
        );
        assert_eq!(most_queued(&json!({"links": 3})), None);
    }

    #[test]
    fn growth_is_that_above_what_there_was_before() {
        let look = |at_s, resident| Look { node: 0, at_s, resident, queued: None };
        let other = Look { node: 1, ..look(1.0, 900.0) };
        let looks = [look(1.0, 100.0), look(2.0, 90.0), look(3.0, 120.0), look(4.0, 110.0), other];
        let mut report = Report::new("hang", String::new());
        memory(&mut report, 0, &looks, Hung { from_s: 2.5, to_s: 4.5 });
        let values: Vec<_> = report.figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values[..3], [Some(100.0), Some(120.0), Some(20.0)]);
    }
}
