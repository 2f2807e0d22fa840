//! Redis servers that die and hang under load ("What may die", N1, I1, I2, I5): pushes resume by
//! themselves after the fail-over, and every one that was answered 202 is delivered, once and in
//! order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::{OrTold as _, SOME, finish, redis_cluster, sentinel, shipped};

use clarion_launch::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_redis_master_loses_nothing() {
    let mut scene = shipped("sentinel", 11).await;
    scene.fault("kill -9 of the Redis master");
    let redis = sentinel(&mut scene);
    let old = redis.master_index(0).await.or_told();
    redis.shards[0].servers[old].kill().await.or_told();
    redis.wait_master_other_than(0, old).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    // The next fault comes after resync: that is the fault model.
    let redis = sentinel(&mut scene);
    redis.shards[0].servers[old].restart().await.or_told();
    redis.wait_settled().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_sigstop_of_the_redis_master_loses_nothing() {
    let mut scene = shipped("sentinel", 12).await;
    scene.fault("SIGSTOP of the Redis master");
    let redis = sentinel(&mut scene);
    let old = redis.master_index(0).await.or_told();
    redis.shards[0].servers[old].signal(Signal::Stop).or_told();
    redis.wait_master_other_than(0, old).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    // It wakes believing it is master, with connections that nodes may have left open.
    sentinel(&mut scene).shards[0].servers[old].signal(Signal::Continue).or_told();
    scene.pushes(SOME).await.or_told();
    sentinel(&mut scene).wait_settled().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_replica_and_of_a_sentinel_loses_nothing() {
    let mut scene = shipped("sentinel", 13).await;
    scene.fault("kill -9 of a replica");
    sentinel(&mut scene).shards[0].servers[1].kill().await.or_told();
    scene.pushes(SOME).await.or_told();
    let redis = sentinel(&mut scene);
    redis.shards[0].servers[1].restart().await.or_told();
    redis.wait_settled().await.or_told();
    scene.fault("SIGSTOP of a replica");
    sentinel(&mut scene).shards[0].servers[2].signal(Signal::Stop).or_told();
    scene.pushes(SOME).await.or_told();
    sentinel(&mut scene).shards[0].servers[2].signal(Signal::Continue).or_told();
    scene.fault("kill -9 of a sentinel");
    sentinel(&mut scene).sentinels[0].kill().await.or_told();
    scene.pushes(SOME).await.or_told();
    scene.fault("SIGSTOP of a sentinel");
    let redis = sentinel(&mut scene);
    redis.sentinels[0].restart().await.or_told();
    redis.wait_settled().await.or_told();
    redis.sentinels[1].signal(Signal::Stop).or_told();
    scene.pushes(SOME).await.or_told();
    sentinel(&mut scene).sentinels[1].signal(Signal::Continue).or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_and_sigstop_of_redis_cluster_masters_lose_nothing() {
    let mut scene = shipped("redis-cluster", 14).await;
    scene.fault("kill -9 of a Redis Cluster master");
    let redis = redis_cluster(&mut scene);
    redis.servers[0].kill().await.or_told();
    redis.wait_failed_over(0).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    let redis = redis_cluster(&mut scene);
    redis.servers[0].restart().await.or_told();
    redis.wait_settled().await.or_told();
    scene.pushes(SOME).await.or_told();
    scene.fault("SIGSTOP of a Redis Cluster master");
    let redis = redis_cluster(&mut scene);
    let master = *redis.masters().await.or_told().last().unwrap();
    redis.servers[master].signal(Signal::Stop).or_told();
    redis.wait_failed_over(master).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    let redis = redis_cluster(&mut scene);
    redis.servers[master].signal(Signal::Continue).or_told();
    redis.wait_settled().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}
