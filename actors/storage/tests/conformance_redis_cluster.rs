//! The Redis store passes the suite on a Redis Cluster of three masters with a replica each, every
//! write confirmed by one: everything that one operation touches is in one slot, or in steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod redis_support;

use std::sync::atomic::{AtomicUsize, Ordering};

use clarion_launch::{RedisCluster, RedisOptions};
use clarion_storage::conformance;
use clarion_storage::redis::{RedisMode, RedisSettings};
use redis_support::Fixture;

/// Each part of the suite has a prefix of its own.
async fn part(cluster: &RedisCluster) -> Fixture {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let nodes: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    Fixture::of(RedisSettings {
        prefix: format!("part{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        replicas_min: 1,
        check: false,
        timeout: std::time::Duration::from_secs(5),
        ..RedisSettings::new(RedisMode::Cluster, nodes)
    })
    .await
}

async fn servers(dir: &tempfile::TempDir) -> RedisCluster {
    // A busy machine must not look like a dead server: fail-over is not what is tested here.
    let options = RedisOptions { node_timeout_ms: 15_000, ..RedisOptions::default() }
        .setting("hash-max-listpack-value", "4096")
        .setting("hash-max-listpack-entries", "512");
    RedisCluster::start_with(dir.path(), 3, 1, &options).await.unwrap()
}

macro_rules! in_turn {
    ($($name:ident)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn the_suite_passes_on_a_cluster() {
            let dir = tempfile::tempdir().unwrap();
            let cluster = servers(&dir).await;
            $(
                println!("{}", stringify!($name));
                conformance::$name(&mut part(&cluster).await).await;
            )*
        }
    };
}

clarion_storage::conformance_tests!(@list in_turn);
