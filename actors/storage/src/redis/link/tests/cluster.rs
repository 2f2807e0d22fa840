//! Redis Cluster.

use clarion_launch::{RedisCluster, Signal};

use super::load::Load;
use super::*;

async fn start(directory: &tempfile::TempDir) -> (RedisCluster, Arc<Shards>) {
    let redis = RedisCluster::start(directory.path(), 3, 2).await.unwrap();
    let settings = settings(RedisMode::Cluster, &redis.addrs()[..1], 1);
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    (redis, shards)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_no_acknowledged_write_is_lost_when_a_master_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut redis, shards) = start(&directory).await;
    assert_eq!(shards.shards().len(), 3);
    let load = Load::start(&shards, 8);
    load.more(500).await;
    redis.servers[0].kill().await.unwrap();
    redis.wait_failed_over(0).await.unwrap();
    writable(&shards).await;
    load.more(500).await;
    assert_eq!(shards.shards().len(), 3, "the shard is the same under another master");
    redis.servers[0].restart().await.unwrap();
    redis.wait_settled().await.unwrap();
    load.more(500).await;
    load.stop_and_check(&shards).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_master_of_a_cluster_that_hangs_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = start(&directory).await;
    let load = Load::start(&shards, 8);
    load.more(500).await;
    redis.servers[1].signal(Signal::Stop).unwrap();
    redis.wait_failed_over(1).await.unwrap();
    writable(&shards).await;
    load.more(500).await;
    redis.servers[1].signal(Signal::Continue).unwrap();
    redis.wait_settled().await.unwrap();
    load.more(500).await;
    load.stop_and_check(&shards).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_slots_that_move_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = start(&directory).await;
    let tag = "moving";
    shards.write(tag, push(tag, 1)).await.unwrap();
    let slot = super::super::slot::slot_of(tag.as_bytes()).to_string();
    let before = shards.shard_of(tag);
    shards.confirm(shards.term(tag)).await.unwrap();
    let term = shards.term(tag);
    shards.confirm(term).await.unwrap();
    let masters = redis.masters().await.unwrap();
    let mut from = masters[0];
    for master in &masters {
        let keys = redis.servers[*master].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await;
        if keys.unwrap().number() == Some(1) {
            from = *master;
        }
    }
    let to = masters.iter().copied().find(|index| *index != from).unwrap();
    let id = async |index: usize| {
        let id = redis.servers[index].command(&["CLUSTER", "MYID"]).await.unwrap();
        id.text().to_owned()
    };
    let (source, target) = (&redis.servers[from], &redis.servers[to]);
    let (source_id, target_id) = (id(from).await, id(to).await);
    let to_target = ["CLUSTER", "SETSLOT", &slot, "NODE", &target_id];
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await.unwrap();
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await.unwrap();
    let (host, port) = (target.addr().ip().to_string(), target.addr().port().to_string());
    let migrate = ["MIGRATE", &host, &port, "test:{moving}", "0", "5000"];
    source.command(&migrate).await.unwrap();
    target.command(&to_target).await.unwrap();
    source.command(&to_target).await.unwrap();
    until("followed", || (shards.shard_of(tag) != before).then_some(()).ok_or("as before".into()))
        .await;
    writable(&shards).await;
    shards.write(tag, push(tag, 2)).await.unwrap();
    assert_eq!(items(&shards, tag).await.unwrap(), [1, 2]);
    // I1: what is read now is on another shard than the one that would confirm it.
    assert!(shards.confirm(term).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nothing_is_lost_when_a_living_master_of_a_cluster_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = start(&directory).await;
    let load = Load::start(&shards, 8);
    for _ in 0..3 {
        load.more(500).await;
        let masters = redis.masters().await.unwrap();
        let id = redis.servers[masters[0]].command(&["CLUSTER", "MYID"]).await.unwrap();
        let replicas = redis.servers[masters[0]].command(&["CLUSTER", "REPLICAS", id.text()]).await;
        let replicas = replicas.unwrap();
        let line = replicas.items()[0].text().to_owned();
        let is_it = |server: &&clarion_launch::RedisServer| {
            line.contains(&format!(":{}@", server.plain_addr().port()))
        };
        let replica = redis.servers.iter().find(is_it).unwrap();
        replica.command(&["CLUSTER", "FAILOVER"]).await.unwrap();
        redis.wait_failed_over(masters[0]).await.unwrap();
        redis.wait_settled().await.unwrap();
    }
    load.more(500).await;
    load.stop_and_check(&shards).await;
}
