//! What health says, and that it heals by itself.

use clarion_launch::{Redis, RedisSentinel, Signal};

use super::*;
use crate::StoreError;

#[tokio::test]
async fn a_read_only_server_is_told_and_healed() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let shards = Shards::connect(&settings(RedisMode::Standalone, &[redis.addr()], 0)).await;
    let shards = shards.unwrap();
    writable(&shards).await;
    redis.server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    unwritable(&shards, "").await;
    unwritable(&shards, "read-only").await;
    assert!(matches!(shards.write("a", push("a", 1)).await, Err(StoreError::Unavailable(_))));
    redis.server.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    writable(&shards).await;
    write_at_last(&shards, "a", 1).await;
}

#[tokio::test]
async fn too_few_and_lagging_replicas_are_told_and_healed() {
    let directory = tempfile::tempdir().unwrap();
    let mut redis = RedisSentinel::start(directory.path(), 1, 1, 0).await.unwrap();
    let master = redis.shards[0].servers[0].addr();
    let shards = Shards::connect(&settings(RedisMode::Standalone, &[master], 1)).await.unwrap();
    writable(&shards).await;
    let replica = &mut redis.shards[0].servers[1];
    replica.signal(Signal::Stop).unwrap();
    unwritable(&shards, "lag").await;
    assert!(matches!(shards.write("a", push("a", 1)).await, Err(StoreError::Unavailable(_))));
    replica.signal(Signal::Continue).unwrap();
    writable(&shards).await;
    replica.kill().await.unwrap();
    unwritable(&shards, "has 0 replicas and 1 must confirm").await;
    replica.restart().await.unwrap();
    writable(&shards).await;
    write_at_last(&shards, "a", 1).await;
}

#[tokio::test]
async fn a_full_server_is_told_as_full() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let shards = Shards::connect(&settings(RedisMode::Standalone, &[redis.addr()], 0)).await;
    let shards = shards.unwrap();
    writable(&shards).await;
    redis.server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let answer = shards.write("a", push("a", 1)).await;
    assert!(matches!(answer, Err(StoreError::Full(_))), "{answer:?}");
    unwritable(&shards, "maxmemory").await;
    assert!(matches!(shards.health().writable, Err(StoreError::Full(_))));
    redis.server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    writable(&shards).await;
    write_at_last(&shards, "a", 1).await;
}

#[tokio::test]
async fn servers_outside_of_the_fault_model_are_refused_with_what_to_change() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = clarion_launch::RedisOptions { aof: false, ..Default::default() };
    options.maxmemory_policy = "allkeys-lru".into();
    let redis = Redis::standalone_with(directory.path(), &options).await.unwrap();
    let mut settings = settings(RedisMode::Standalone, &[redis.addr()], 0);
    let error = Shards::connect(&settings).await.err().unwrap();
    assert!(matches!(error, StoreError::Fatal(_)));
    for change in ["`appendonly yes`", "`maxmemory-policy noeviction`"] {
        assert!(error.to_string().contains(change), "{error}");
    }
    let findings = Shards::examine(&settings).await.unwrap();
    let listpack = |finding: &&crate::redis::Finding| finding.text.contains("hash-max-listpack");
    assert_eq!(findings.iter().filter(listpack).count(), 1);
    settings.check = false;
    writable(&Shards::connect(&settings).await.unwrap()).await;
}

#[tokio::test]
async fn a_master_that_restarts_before_a_fail_over_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut redis = Redis::standalone(directory.path()).await.unwrap();
    let shards = Shards::connect(&settings(RedisMode::Standalone, &[redis.addr()], 0)).await;
    let shards = shards.unwrap();
    writable(&shards).await;
    shards.write("a", push("a", 1)).await.unwrap();
    redis.server.kill().await.unwrap();
    unwritable(&shards, "is away").await;
    redis.server.restart().await.unwrap();
    writable(&shards).await;
    assert_eq!(shards.restarts(), 1);
    assert_eq!(items(&shards, "a").await.unwrap(), [1]);
}
