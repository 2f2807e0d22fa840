//! Nodes that die, hang, come back, join and leave, under load ("What may die", I2, I12): every
//! push answered 202 reaches everybody it is for, in order and once, and what the nodes held
//! they let go of. The slow head check is off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use clarion_chaos::run::Options;
use scenes::{lives_through, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_node_that_is_owner_gateway_and_push_node_loses_nothing() {
    lives_through("node-killed", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_a_node_that_is_owner_gateway_and_push_node_loses_nothing() {
    lives_through("node-hung", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_each_role_on_nodes_that_do_one_thing_loses_nothing() {
    lives_through("roles-killed", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_each_role_on_nodes_that_do_one_thing_loses_nothing() {
    lives_through("roles-hung", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_joins_with_a_seed_takes_its_share_and_another_leaves() {
    lives_through("node-joins", 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_every_node_is_drained_and_started_again_in_turn_and_nothing_is_lost() {
    let summary = lives_through("nodes-in-turn", 7).await;
    // Nobody was killed: also what was counted is complete (I13).
    assert_eq!(summary.counts_short, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_memory_of_the_others_stays_flat_while_a_node_hangs_under_load() {
    lives_through("memory", 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_node_with_all_hints_switched_off_loses_nothing_fault() {
    run("node-killed", Options { no_hints: true, ..Options::test(6) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_starts_under_its_name_while_the_old_one_hangs() {
    lives_through("node-twin", 9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nothing_a_node_that_lacks_descriptors_memory_or_time_loses_nothing() {
    lives_through("squeezed", 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_actors_again_and_again_loses_nothing_fault() {
    lives_through("panics", 15).await;
}
