//! Redis servers that die and hang under load ("What may die", I1, I2, I5): pushes resume by
//! themselves after the fail-over, and every one that was answered 202 is delivered, once and in
//! order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::lives_through;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_redis_master_loses_nothing() {
    lives_through("redis-master-killed", 11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_the_redis_master_loses_nothing() {
    lives_through("redis-master-hung", 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_replica_and_of_a_sentinel_loses_nothing() {
    lives_through("redis-others", 13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_and_sigstop_of_redis_cluster_masters_lose_nothing() {
    lives_through("redis-cluster", 14).await;
}
