//! A slot of a Redis Cluster on its way to another server: some keys of one log are here, some there,
//! and no script does half of its work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod redis_support;

use std::time::Duration;

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_launch::{RedisCluster, RedisOptions};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::conformance::Harness;
use clarion_storage::redis::{RedisMode, RedisSettings};
use clarion_storage::{Append, LogLimits, OpenSession, Read, StoreError};
use redis_support::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_nothing_is_half_appended_while_a_slot_moves() {
    let dir = tempfile::tempdir().unwrap();
    let options = RedisOptions { node_timeout_ms: 15_000, ..RedisOptions::default() };
    let cluster = RedisCluster::start_with(dir.path(), 3, 0, &options).await.unwrap();
    let nodes: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    let fixture = Fixture::of(RedisSettings {
        replicas_min: 0,
        check: false,
        timeout: Duration::from_secs(5),
        ..RedisSettings::new(RedisMode::Cluster, nodes)
    })
    .await;
    let store = fixture.store();
    let news = LogKey::topic(&ProductId::new("demo").unwrap(), &TopicName::new("news").unwrap());
    let now_ms = store.time_ms();
    let append = |id: u128, first_attempt_ms: Option<u64>| Append {
        log: news.clone(),
        message: MessageId(id),
        expires_at_ms: now_ms + 3_600_000,
        body: Body::Json(Bytes::from_static(b"1")),
        not_after_ms: now_ms + 60_000,
        first_attempt_ms,
        limits: LogLimits { entries_max: 256, bytes_max: 1 << 20, evict: true },
    };
    // With a member, all keys that an append needs are there.
    let open = OpenSession {
        product: news.product.clone(),
        terminal: TerminalId::new("a").unwrap(),
        user: None,
        kind: TerminalKind::Android,
        topics: vec![TopicName::new("news").unwrap()],
        topics_max: 8,
    };
    store.open_session(vec![open]).await.remove(0).unwrap();
    store.append(vec![append(1, None)]).await.remove(0).unwrap();

    let key = "clarion:{demo/s/news}";
    let masters = cluster.masters().await.unwrap();
    let mut found = None;
    for master in &masters {
        let server = &cluster.servers[*master];
        if server.command(&["EXISTS", key]).await.is_ok_and(|answer| answer.number() == Some(1)) {
            found = Some(*master);
        }
    }
    let from = found.unwrap();
    let to = masters.iter().copied().find(|index| *index != from).unwrap();
    let (source, target) = (&cluster.servers[from], &cluster.servers[to]);
    let slot = source.command(&["CLUSTER", "KEYSLOT", key]).await.unwrap().number().unwrap();
    let slot = slot.to_string();
    let source_id = source.command(&["CLUSTER", "MYID"]).await.unwrap().text().to_owned();
    let target_id = target.command(&["CLUSTER", "MYID"]).await.unwrap().text().to_owned();
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await.unwrap();
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await.unwrap();
    let (host, port) = (target.addr().ip().to_string(), target.addr().port().to_string());
    let migrate = async |key: &str| {
        source.command(&["MIGRATE", &host, &port, key, "0", "5000"]).await.unwrap();
    };
    // The entries are gone already, state and counts are not.
    migrate(&format!("{key}:e")).await;
    for first in [None, Some(now_ms)] {
        let answer = store.append(vec![append(2, first)]).await.remove(0);
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    for suffix in ["", ":c", ":o", ":m"] {
        migrate(&format!("{key}{suffix}")).await;
    }
    // All is there now and the map does not say so yet (ASK): still nothing, neither here nor there.
    let answer = store.append(vec![append(2, Some(now_ms))]).await.remove(0);
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    target.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await.unwrap();
    source.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await.unwrap();
    // When the move is over, so is the refusal.
    let mut tries = 0;
    let appended = loop {
        match store.append(vec![append(2, Some(now_ms))]).await.remove(0) {
            Ok(appended) => break appended,
            Err(error) => assert!(tries < 200, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!appended.duplicate);
    let read = Read { log: news.clone(), after: Offset::ZERO, entries_max: 9, bytes_max: 1 << 20 };
    let page = store.read(vec![read]).await.remove(0).unwrap();
    let ids: Vec<u128> = page.entries.iter().map(|entry| entry.message.0).collect();
    assert_eq!(ids, [1, 2]);
}
