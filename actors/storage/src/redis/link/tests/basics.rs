//! One server.

use clarion_launch::{Redis, RedisOptions};

use super::super::Lineage;
use super::*;
use crate::StoreError;

async fn standalone(directory: &tempfile::TempDir) -> (Redis, Arc<Shards>) {
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let shards = Shards::connect(&settings(RedisMode::Standalone, &[redis.addr()], 0)).await;
    let shards = shards.unwrap();
    writable(&shards).await;
    (redis, shards)
}

#[tokio::test]
async fn calls_of_a_tag_take_effect_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let (_redis, shards) = standalone(&directory).await;
    let mut writes = tokio::task::JoinSet::new();
    for tag in 0..20u32 {
        let shards = Arc::clone(&shards);
        writes.spawn(async move {
            let tag = tag.to_string();
            // All at once: they are queued in this order.
            let calls = (0..100).map(|item| {
                let (shards, tag) = (&shards, &tag);
                async move {
                    match item % 3 {
                        0 => shards.write_relaxed(tag, push(tag, item)).await,
                        _ => shards.write(tag, push(tag, item)).await,
                    }
                    .unwrap()
                }
            });
            let answers = futures_util::future::join_all(calls).await;
            let lengths: Vec<_> = (1..=100).map(Value::Int).collect();
            assert_eq!(answers, lengths);
            assert_eq!(shards.read(&tag, length(&tag)).await.unwrap(), Value::Int(100));
            shards.confirm(shards.term(&tag)).await.unwrap();
        });
    }
    while let Some(done) = writes.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = standalone(&directory).await;
    shards.write("a", push("a", 0)).await.unwrap();
    shards.read("a", length("a")).await.unwrap();
    redis.server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    let calls = (1..=50).map(|item| shards.write("a", push("a", item)));
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!(items(&shards, "a").await.unwrap(), (0..=50).collect::<Vec<_>>());
    redis.server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    assert_eq!(shards.read("a", length("a")).await.unwrap(), Value::Int(51));
}

#[tokio::test]
async fn a_read_has_no_effect() {
    let directory = tempfile::tempdir().unwrap();
    let (_redis, shards) = standalone(&directory).await;
    assert!(matches!(shards.read("a", push("a", 1)).await, Err(StoreError::Unavailable(_))));
    assert_eq!(shards.read("a", length("a")).await.unwrap(), Value::Int(0));
}

#[tokio::test]
async fn time_is_a_lower_bound_and_does_not_step_back() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = standalone(&directory).await;
    let mut last = 0;
    for _ in 0..200 {
        let told_ms = shards.time_ms();
        let time = redis.server.command(&["TIME"]).await.unwrap();
        let part = |index: usize| time.items()[index].number().unwrap() as u64;
        let server_ms = part(0) * 1000 + part(1) / 1000;
        assert!(told_ms <= server_ms, "{told_ms} was told before the server had {server_ms}");
        assert!(told_ms >= last && told_ms > 0);
        last = told_ms;
    }
}

#[tokio::test]
async fn a_missing_or_other_lineage_is_fatal_on_every_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = standalone(&directory).await;
    let key = |anchor: &str| format!("test:{{{anchor}}}:lineage").into_bytes();
    for anchor in shards.anchors().map(str::to_owned).collect::<Vec<_>>() {
        let set = Request::command([&b"SET"[..], &key(&anchor), b"7"]);
        shards.write(&anchor, set).await.unwrap();
    }
    let check = |value: &Value| match value {
        Value::BulkString(epoch) if epoch == b"7" => Ok(()),
        Value::Nil => Err("the lineage is missing".to_owned()),
        _ => Err("another lineage".to_owned()),
    };
    shards.guard(Lineage { key: Box::new(key), check: Box::new(check) });
    writable(&shards).await;
    shards.write("a", push("a", 1)).await.unwrap();
    // A server that lost its data and is there again at once.
    redis.server.command(&["FLUSHALL"]).await.unwrap();
    redis.server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    unwritable(&shards, "the lineage is missing").await;
    assert!(matches!(shards.health().writable, Err(StoreError::Fatal(_))));
    assert!(matches!(shards.write("a", push("a", 2)).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(shards.read("a", length("a")).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn after_close_nothing_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (redis, shards) = standalone(&directory).await;
    shards.close();
    assert!(matches!(shards.write("a", push("a", 1)).await, Err(StoreError::Unavailable(_))));
    let length = redis.server.command(&["LLEN", "test:{a}"]).await.unwrap();
    assert_eq!(length.number(), Some(0));
}

#[tokio::test]
async fn a_wrong_password_and_a_server_that_is_away_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let options = RedisOptions { password: Some("secret".into()), ..RedisOptions::default() };
    let mut redis = Redis::standalone_with(directory.path(), &options).await.unwrap();
    let mut settings = settings(RedisMode::Standalone, &[redis.addr()], 0);
    let error = Shards::connect(&settings).await.err().unwrap().to_string();
    assert!(error.contains("NOAUTH"), "{error}");
    settings.login.password = Some(super::super::Secret::new("wrong"));
    let error = Shards::connect(&settings).await.err().unwrap().to_string();
    assert!(error.contains("WRONGPASS"), "{error}");
    redis.server.kill().await.unwrap();
    let error = Shards::connect(&settings).await.err().unwrap().to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(!format!("{settings:?}").contains("wrong"));
}

/// A master that died while nobody wrote: the next write is not sent over the connection that died with
/// it, and no other is to be had. It has certainly not happened, and its caller is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_never_left_is_refused_and_not_unknown() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let (mut redis, shards) = standalone(&directory).await;
        let tags: Vec<String> = (0..16).map(|n| format!("t{n}")).collect();
        for tag in &tags {
            shards.write(tag, push(tag, 1)).await.unwrap();
        }
        redis.server.kill().await.unwrap();
        for tag in &tags {
            let answer = shards.write(tag, push(tag, 2)).await;
            assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        }
    }
}

/// I1: what was read from a master that is gone is not confirmed by its successor.
#[tokio::test]
async fn what_an_earlier_process_held_is_not_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut redis, shards) = standalone(&directory).await;
    shards.confirm(shards.term("a")).await.unwrap();
    let before = shards.term("a");
    shards.read("a", length("a")).await.unwrap();
    shards.confirm(before).await.unwrap();
    redis.server.kill().await.unwrap();
    redis.server.restart().await.unwrap();
    assert!(shards.confirm(before).await.is_err(), "the connection was to another process");
    let again =
        async || shards.confirm(shards.term("a")).await.map_err(LaunchError::of("a confirmation"));
    wait::until("confirmed", DEADLINE, again).await.unwrap();
    assert!(shards.confirm(before).await.is_err(), "and stays that");
}
