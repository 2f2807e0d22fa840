//! Nodes that join, leave and are replaced.

use serde_json::{Value, json};

use super::SOME;
use super::nodes::reachable;
use crate::Failure;
use crate::fault::{Act, Fault};
use crate::run::{Run, Setting, says};
use crate::world::Component;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

fn node(name: &str) -> Component {
    Component::Node(name.to_owned())
}

pub(super) async fn joins_and_leaves(run: &mut Run) -> Result<(), Failure> {
    run.with(Fault::new(node("node-4"), Act::Grow), async |run| {
        run.sees("node-1", "node-4 with its share", |state| {
            let slots = says(state, "node-4", "slots").as_u64().unwrap_or(0);
            // 4096 slots by 4 nodes; a tenth above the mean at most, and the others, too.
            (700..=1127).contains(&slots)
        })
        .await?;
        run.pushes(2 * SOME).await
    })
    .await?;
    run.pushes(SOME).await?;
    // It left again; another one follows it, and there are two.
    run.with(Fault::new(node("node-3"), Act::Shrink), async |run| {
        run.pushes(SOME).await?;
        let gone = |state: &Value| !reachable(state, "node-3");
        run.sees("node-1", "node-3 gone", gone).await?;
        run.pushes(SOME).await
    })
    .await
}

pub(super) async fn in_turn(run: &mut Run) -> Result<(), Failure> {
    for name in NODES {
        let stopped = Fault::new(node(name), Act::Stop);
        run.with(stopped, async |run| run.pushes(SOME / 2).await).await?;
        run.pushes(SOME / 2).await?;
    }
    run.pushes(SOME).await
}

/// The program with `fault-hooks`, of which no point is armed.
pub(super) fn with_hooks(mut setting: Setting) -> Result<Setting, Failure> {
    setting.plan.fault_hooks = true;
    Ok(setting)
}

pub(super) async fn upgrade(run: &mut Run) -> Result<(), Failure> {
    shows(run, 0).await?;
    for (done, name) in NODES.into_iter().enumerate() {
        run.with(Fault::new(node(name), Act::Upgrade), async |run| run.pushes(SOME / 2).await)
            .await?;
        shows(run, done + 1).await?;
        run.pushes(SOME).await?;
    }
    // No terminal has a reason to come to the last one yet. Those with the SDK knock at one node
    // after the other when they start, so some rounds of coming and going bring it readers.
    let mut rounds = 0;
    while !all_got_hints_of_version_2(run).await? {
        if rounds == 6 {
            return Err(Failure::new("a node got no hint of version 2"));
        }
        run.come_and_go(rounds % 3).await?;
        run.pushes(SOME).await?;
        rounds += 1;
    }
    for name in NODES {
        let unreadable = run.metric(name, "clarion_peer_messages_unreadable_total").await?;
        if unreadable > 0.5 {
            return Err(Failure::new(format!("{name} could not read {unreadable} messages")));
        }
    }
    Ok(())
}

/// Waits until the status shows the first so many nodes as upgraded and the others not, and every
/// two speak the highest version that both know.
async fn shows(run: &mut Run, upgraded: usize) -> Result<(), Failure> {
    let newest = |name: &str| {
        let at = NODES.iter().position(|known| *known == name);
        if at.is_some_and(|at| at < upgraded) { 2 } else { 1 }
    };
    let each_as_it_should = |status: &Value| {
        let Some(name) = status["node"].as_str() else { return false };
        let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let spoken = |peer: &Value| {
            let other = peer["node"].as_str().unwrap_or(name);
            peer["wire"] == newest(name).min(newest(other))
        };
        status["wire"] == json!([1, newest(name)]) && peers.len() == 2 && peers.iter().all(spoken)
    };
    for asked in NODES {
        let all = |state: &Value| {
            let nodes = state["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.len() == 3 && nodes.iter().all(|node| each_as_it_should(&node["status"]))
        };
        run.sees(asked, &format!("{upgraded} of 3 upgraded"), all).await?;
    }
    Ok(())
}

/// Only version 2 of a hint tells how long it was on its way. Where every hint is dropped there is
/// nothing to wait for.
async fn all_got_hints_of_version_2(run: &mut Run) -> Result<bool, Failure> {
    if run.options().no_hints {
        return Ok(true);
    }
    for name in NODES {
        if run.metric(name, "clarion_hint_way_ms_count").await? < 0.5 {
            return Ok(false);
        }
    }
    Ok(true)
}
