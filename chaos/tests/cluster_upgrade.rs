//! Rolling upgrade: nodes of wire version N and N + 1 live together under load, each is replaced in
//! turn, and nothing is lost, repeated or out of order. A program with the feature `fault-hooks`
//! stands for both releases: `CLARION_FAULT_WIRE=2` makes it the next one, which writes more into a
//! hint than the former can read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use clarion_chaos::scene::{Scene, Setting};
use clarion_launch::Node;
use scenes::{OrTold as _, SOME, finish, start};
use serde_json::{Value, json};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Pretends to be the next release from the next start on.
fn upgrade(node: &mut Node) {
    node.process_mut().set_environment("CLARION_FAULT_WIRE", Some("2"));
}

/// What every node says of itself, as `asked` shows it.
fn statuses(state: &Value) -> Vec<&Value> {
    let nodes = state["nodes"].as_array().into_iter().flatten();
    nodes.map(|node| &node["status"]).collect()
}

/// Waits until the status shows the first so many nodes as upgraded and the others not, and every
/// two speak the highest version that both know.
async fn shows(scene: &mut Scene, upgraded: usize) {
    let newest = |name: &str| {
        let at = NODES.iter().position(|known| *known == name).unwrap();
        if at < upgraded { 2 } else { 1 }
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
        let what = format!("{upgraded} of 3 upgraded");
        let all = |state: &Value| {
            let statuses = statuses(state);
            statuses.len() == 3 && statuses.into_iter().all(each_as_it_should)
        };
        scene.sees(asked, &what, all).await.or_told();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_upgrade_of_one_node_after_the_other_loses_nothing_fault() {
    let setting = Setting::shipped("three-nodes", 41).unwrap();
    // No point is armed: the hooks are only there for the version.
    let mut scene = start(Setting { faults: Some(String::new()), ..setting }).await;
    shows(&mut scene, 0).await;
    for (done, name) in NODES.into_iter().enumerate() {
        // No fault: a session that is closed in order has its cursors saved, counts stay complete.
        let node = scene.cluster.node(name).unwrap();
        node.stop().await.or_told();
        upgrade(node);
        scene.pushes(SOME / 2).await.or_told();
        scene.restart(name).await.or_told();
        scene.cluster.wait_joined().await.or_told();
        shows(&mut scene, done + 1).await;
        scene.pushes(SOME).await.or_told();
    }
    // No terminal has a reason to come to the last one yet. Those with the SDK knock at one node
    // after the other when they start, so some rounds of coming and going bring it readers.
    let mut rounds = 0;
    while !all_got_hints_of_version_2(&mut scene).await {
        assert!(rounds < 6, "a node got no hint of version 2");
        scene.come_and_go(rounds % 3).await.or_told();
        scene.pushes(SOME).await.or_told();
        rounds += 1;
    }
    for name in NODES {
        let node = scene.cluster.node(name).unwrap();
        let unreadable = node.metric("clarion_peer_messages_unreadable_total").await.or_told();
        assert!(unreadable < 0.5, "{name} could not read {unreadable} messages of the others");
    }
    finish(scene).await;
}

/// Only version 2 of a hint tells how long it was on its way.
async fn all_got_hints_of_version_2(scene: &mut Scene) -> bool {
    for name in NODES {
        let node = scene.cluster.node(name).unwrap();
        if node.metric("clarion_hint_way_ms_count").await.or_told() < 0.5 {
            return false;
        }
    }
    true
}
