//! Nodes that die, hang, come back, join and leave, under load ("What may die", N1, I2, I12): every
//! push answered 202 reaches everybody it is for, in order and once, and what the nodes held
//! they let go of. The slow head check is off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::{OrTold as _, SOME, finish, shipped, start};

use clarion_chaos::kill_loop::HINTS_OFF;
use clarion_chaos::scene::Setting;

/// What `GET /v1/cluster` of the node that is asked says of another.
fn says(state: &serde_json::Value, of: &str, what: &str) -> serde_json::Value {
    let nodes = state["nodes"].as_array().into_iter().flatten();
    let mut nodes = nodes.filter(|node| node["node"] == of);
    nodes.next().map_or(serde_json::Value::Null, |node| node[what].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_node_that_is_owner_gateway_and_push_node_loses_nothing() {
    let mut scene = shipped("three-nodes", 1).await;
    let owner = scene.owner("node-1", "product-0").await.or_told();
    scene.kill(&owner).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    // It comes back under its name, another boot: nobody takes it for the one that was.
    scene.restart(&owner).await.or_told();
    scene.cluster.wait_joined().await.or_told();
    scene.pushes(SOME).await.or_told();
    // Again before it has proved stable.
    scene.kill(&owner).await.or_told();
    scene.restart(&owner).await.or_told();
    scene.pushes(SOME).await.or_told();
    scene.cluster.wait_joined().await.or_told();
    let asked = owner.clone();
    scene
        .sees(&asked, "itself owning again", |state| says(state, &owner, "owns") == true)
        .await
        .or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_a_node_that_is_owner_gateway_and_push_node_loses_nothing() {
    let mut scene = shipped("three-nodes", 2).await;
    let owner = scene.owner("node-1", "product-0").await.or_told();
    let other = ["node-1", "node-2", "node-3"].into_iter().find(|n| *n != owner).unwrap();
    scene.hang(&owner).or_told();
    scene.pushes(SOME).await.or_told();
    let hung = owner.clone();
    scene
        .sees(other, "that it hangs", |state| says(state, &hung, "reachable") != true)
        .await
        .or_told();
    scene.pushes(2 * SOME).await.or_told();
    // It wakes with everything it had in its hands: nothing of that may count any more.
    scene.wake(&owner).or_told();
    scene.pushes(SOME).await.or_told();
    scene.cluster.wait_joined().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_each_role_on_nodes_that_do_one_thing_loses_nothing() {
    let mut scene = shipped("roles-apart", 3).await;
    let broker = scene.owner("push-1", "product-0").await.or_told();
    for name in ["gateway-1", &broker, "push-2"] {
        scene.kill(name).await.or_told();
        scene.pushes(SOME).await.or_told();
        scene.restart(name).await.or_told();
        scene.pushes(SOME / 2).await.or_told();
    }
    scene.cluster.wait_joined().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_each_role_on_nodes_that_do_one_thing_loses_nothing() {
    let mut scene = shipped("roles-apart", 4).await;
    let broker = scene.owner("push-1", "product-0").await.or_told();
    for name in ["gateway-2", &broker, "push-2"] {
        scene.hang(name).or_told();
        scene
            .sees("push-1", "that it hangs", |state| says(state, name, "reachable") != true)
            .await
            .or_told();
        scene.pushes(SOME).await.or_told();
        scene.wake(name).or_told();
        scene.cluster.wait_joined().await.or_told();
    }
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_joins_with_a_seed_takes_its_share_and_another_leaves() {
    let mut scene = shipped("three-nodes", 5).await;
    scene.fault("node-4 joins");
    scene.cluster.add_node(0, "node-4").await.or_told();
    scene
        .sees("node-1", "node-4 with its share", |state| {
            let slots = says(state, "node-4", "slots").as_u64().unwrap_or(0);
            // 4096 slots by 4 nodes; a tenth above the mean at most, and the others, too.
            (700..=1127).contains(&slots)
        })
        .await
        .or_told();
    scene.pushes(2 * SOME).await.or_told();
    scene.fault("node-3 leaves");
    scene.cluster.node("node-3").unwrap().stop().await.or_told();
    scene.pushes(SOME).await.or_told();
    scene
        .sees("node-1", "node-3 gone", |state| says(state, "node-3", "reachable") != true)
        .await
        .or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_every_node_is_drained_and_started_again_in_turn_and_nothing_is_lost() {
    let mut scene = shipped("three-nodes", 7).await;
    for name in ["node-1", "node-2", "node-3"] {
        scene.fault(&format!("{name} is stopped in good order"));
        scene.cluster.node(name).unwrap().stop().await.or_told();
        scene.pushes(SOME / 2).await.or_told();
        scene.restart(name).await.or_told();
        scene.cluster.wait_joined().await.or_told();
        scene.pushes(SOME / 2).await.or_told();
    }
    let summary = finish(scene).await;
    // Nobody was killed: also what was counted is complete (I13).
    assert_eq!(summary.counts_short, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_memory_of_the_others_stays_flat_while_a_node_hangs_under_load() {
    /// What the queues to the hung node may hold (four lanes, 4 MiB each), with what is made of it
    /// on the way; and the allocator's slack.
    const GROWTH_KIB_MAX: u64 = 3 * 16 * 1024;
    let mut setting = Setting::shipped("three-nodes", 8).unwrap();
    setting.size.pushes_per_s = 300;
    let mut scene = start(setting).await;
    scene.pushes(1000).await.or_told();
    let owner = scene.owner("node-1", "product-0").await.or_told();
    let resident = |scene: &mut clarion_chaos::scene::Scene| -> Vec<u64> {
        let others = scene.cluster.nodes.iter().filter(|node| node.name() != owner);
        others.map(|node| node.process().resources().unwrap().rss_kib).collect()
    };
    let before = resident(&mut scene);
    scene.hang(&owner).or_told();
    for _ in 0..5 {
        scene.pushes(500).await.or_told();
        for (before, now) in before.iter().zip(resident(&mut scene)) {
            assert!(now < before + GROWTH_KIB_MAX, "{now} KiB after {before}");
        }
    }
    scene.wake(&owner).or_told();
    scene.cluster.wait_joined().await.or_told();
    scene.pushes(500).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_node_with_all_hints_switched_off_loses_nothing_fault() {
    let setting = Setting::shipped("three-nodes", 6).unwrap();
    let setting = setting.common("[actors]\nhead_check_ms = 300").unwrap();
    let mut scene = start(Setting { faults: Some(HINTS_OFF.to_owned()), ..setting }).await;
    let owner = scene.owner("node-1", "product-0").await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    scene.kill(&owner).await.or_told();
    scene.pushes(SOME).await.or_told();
    scene.restart(&owner).await.or_told();
    scene.cluster.wait_joined().await.or_told();
    // What else brings news in troubled times is over: now it is the head check alone.
    scene.pushes(4 * SOME).await.or_told();
    let summary = scene.finish().await.or_told();
    // The hints were off indeed.
    assert!(summary.head_check_found > 0);
}
