//! Masters that sentinels name.

use clarion_launch::{RedisSentinel, Signal};

use super::load::Load;
use super::*;

async fn start(directory: &tempfile::TempDir, shards: usize) -> (RedisSentinel, Arc<Shards>) {
    let redis = RedisSentinel::start(directory.path(), shards, 2, 3).await.unwrap();
    let mut settings = settings(RedisMode::Sentinel, &redis.sentinel_addrs(), 1);
    settings.masters = redis.names();
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    (redis, shards)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_no_acknowledged_write_is_lost_when_masters_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut redis, shards) = start(&directory, 1).await;
    let load = Load::start(&shards, 8);
    let mut old = 0;
    for _ in 0..2 {
        load.more(500).await;
        redis.shards[0].servers[old].kill().await.unwrap();
        let new = redis.wait_master_other_than(0, old).await.unwrap();
        load.more(500).await;
        redis.shards[0].servers[old].restart().await.unwrap();
        redis.wait_settled().await.unwrap();
        old = new;
    }
    writable(&shards).await;
    let total = load.stop_and_check(&shards).await;
    assert!(total >= 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_master_that_hangs_is_left_and_what_it_held_back_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = start(&directory, 1).await;
    let load = Load::start(&shards, 8);
    load.more(500).await;
    redis.shards[0].servers[0].signal(Signal::Stop).unwrap();
    unwritable(&shards, "").await;
    redis.wait_master_other_than(0, 0).await.unwrap();
    load.more(500).await;
    redis.shards[0].servers[0].signal(Signal::Continue).unwrap();
    redis.wait_settled().await.unwrap();
    load.more(500).await;
    load.stop_and_check(&shards).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_one_sentinel_may_die_a_majority_may_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut redis, shards) = start(&directory, 1).await;
    let load = Load::start(&shards, 4);
    load.more(200).await;
    redis.sentinels[0].kill().await.unwrap();
    load.more(2000).await;
    writable(&shards).await;
    redis.sentinels[1].signal(Signal::Stop).unwrap();
    unwritable(&shards, "no majority names").await;
    redis.sentinels[1].signal(Signal::Continue).unwrap();
    writable(&shards).await;
    load.more(200).await;
    redis.sentinels[0].restart().await.unwrap();
    load.stop_and_check(&shards).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_one_replica_may_die_and_both_may_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut redis, shards) = start(&directory, 1).await;
    let load = Load::start(&shards, 4);
    load.more(200).await;
    redis.shards[0].servers[1].kill().await.unwrap();
    load.more(2000).await;
    redis.shards[0].servers[2].kill().await.unwrap();
    unwritable(&shards, "").await;
    redis.shards[0].servers[1].restart().await.unwrap();
    writable(&shards).await;
    load.more(200).await;
    load.stop_and_check(&shards).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_one_sentinel_is_enough_to_find_the_others_and_shards_fail_over_alone() {
    let directory = tempfile::tempdir().unwrap();
    let redis = RedisSentinel::start(directory.path(), 2, 2, 3).await.unwrap();
    let mut settings = settings(RedisMode::Sentinel, &redis.sentinel_addrs()[..1], 1);
    settings.masters = redis.names();
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    assert_eq!(shards.shards().len(), 2);
    let load = Load::start(&shards, 8);
    load.more(200).await;
    redis.shards[1].servers[0].signal(Signal::Kill).unwrap();
    redis.wait_master_other_than(1, 0).await.unwrap();
    load.more(1000).await;
    writable(&shards).await;
    load.stop_and_check(&shards).await;
}

/// The trap: replicas of a master that is being replaced confirm to it until they are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nothing_is_lost_when_a_living_master_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = start(&directory, 1).await;
    let load = Load::start(&shards, 8);
    let mut old = 0;
    for _ in 0..3 {
        load.more(500).await;
        redis.sentinels[0].command(&["SENTINEL", "FAILOVER", "clarion"]).await.unwrap();
        old = redis.wait_master_other_than(0, old).await.unwrap();
        redis.wait_settled().await.unwrap();
    }
    load.more(500).await;
    load.stop_and_check(&shards).await;
}
