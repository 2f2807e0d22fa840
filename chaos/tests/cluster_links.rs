//! Broken ways between nodes ("any link between nodes, one way or both"), made with network
//! namespaces (root): the next in placement order serves, gateways that hear nothing of an owner
//! look for themselves, and when the way is mended all is as before. The slow head check is off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::lives_through;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_way_between_two_nodes_loses_nothing_in_both_directions_or_one() {
    lives_through("links", 31).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_ways_of_one_node_to_all_others_and_to_redis_loses_nothing() {
    lives_through("node-alone", 32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_frames_on_the_way_between_two_nodes_loses_nothing() {
    lives_through("links-weather", 33).await;
}
