//! Servers that do not answer, queues that fill up.

use clarion_launch::{Redis, RedisSentinel, Signal};

use super::super::connection::Dialer;
use super::super::settings::RedisLogin;
use super::*;
use crate::StoreError;

#[tokio::test]
async fn what_was_sent_is_unknown_what_waited_is_unavailable_and_the_rest_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let mut settings = settings(RedisMode::Standalone, &[redis.addr()], 0);
    (settings.lanes, settings.queue_max, settings.batch_max) = (1, 20, 10);
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    shards.write("a", push("a", 0)).await.unwrap();
    redis.server.signal(Signal::Stop).unwrap();
    // All are queued before the lane has its turn, and the first ten of them are one round.
    let calls = (1..=101).map(|item| shards.write("a", push("a", item)));
    let answers = futures_util::future::join_all(calls).await;
    let count = |wanted: fn(&StoreError) -> bool| {
        answers.iter().filter(|answer| answer.as_ref().is_err_and(wanted)).count()
    };
    assert_eq!(count(|error| matches!(error, StoreError::Unknown(_))), 10);
    assert_eq!(count(|error| error.to_string().contains("too many")), 81, "the queue holds 20");
    assert_eq!(count(|error| matches!(error, StoreError::Unavailable(_))), 91);
    redis.server.signal(Signal::Continue).unwrap();
    writable(&shards).await;
    write_at_last(&shards, "a", 200).await;
    let items = items(&shards, "a").await.unwrap();
    let sent = |item: &u64| *item <= 10 || *item == 200;
    assert!(items.iter().all(sent), "nothing unsent arrived: {items:?}");
}

#[tokio::test]
async fn bytes_that_wait_are_bounded_too() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let mut settings = settings(RedisMode::Standalone, &[redis.addr()], 0);
    (settings.lanes, settings.queue_bytes_max) = (1, 100_000);
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    redis.server.signal(Signal::Stop).unwrap();
    let call = || {
        let set = Request::command([&b"SET"[..], &key("a"), &[0; 10_000]]);
        shards.write("a", set)
    };
    let answers = futures_util::future::join_all((0..50).map(|_| call())).await;
    let full = |answer: &&StoreResult<Value>| matches!(answer, Err(StoreError::Unavailable(why)) if why.contains("too many"));
    assert_eq!(answers.iter().filter(full).count(), 41, "nine calls of 10,224 bytes fit");
    redis.server.signal(Signal::Continue).unwrap();
    let room = async || call().await.map_err(LaunchError::of("a call"));
    wait::until("room for another", DEADLINE, room).await.unwrap();
}

#[tokio::test]
async fn bytes_of_a_round_are_bounded_and_nothing_is_left_over() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::standalone(directory.path()).await.unwrap();
    let mut settings = settings(RedisMode::Standalone, &[redis.addr()], 0);
    (settings.lanes, settings.batch_bytes_max) = (1, 6000);
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    let call = || shards.write("a", Request::command([&b"SET"[..], &key("a"), &[0; 1000]]));
    let answers = futures_util::future::join_all((0..50).map(|_| call())).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    redis.server.signal(Signal::Stop).unwrap();
    let answers = futures_util::future::join_all((0..50).map(|_| call())).await;
    let sent = |answer: &&StoreResult<Value>| matches!(answer, Err(StoreError::Unknown(_)));
    assert_eq!(answers.iter().filter(sent).count(), 4, "four calls of 1,233 bytes fit");
    redis.server.signal(Signal::Continue).unwrap();
}

/// The trap: WAIT on a connection that wrote nothing says yes at once.
#[tokio::test]
async fn wait_without_a_write_lies_and_the_fence_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let redis = RedisSentinel::start(directory.path(), 1, 1, 0).await.unwrap();
    let [master, replica] = &redis.shards[0].servers[..] else { panic!() };
    let settings = settings(RedisMode::Standalone, &[master.addr()], 1);
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    shards.write("a", push("a", 1)).await.unwrap();
    replica.signal(Signal::Stop).unwrap();
    master.command(&["RPUSH", "test:{a}", "2"]).await.unwrap();

    let dialer =
        Dialer { login: RedisLogin::default(), tls: None, timeout: Duration::from_secs(5) };
    let mut fresh = dialer.dial(&master.addr().to_string()).await.unwrap();
    fresh.push(&[b"WAIT", b"1", b"100"]);
    assert_eq!(fresh.one().await.unwrap(), Value::Int(1), "the replica has nothing of it");

    // A call that writes nothing (a repeated append) and a confirmation are not fooled.
    let again = shards.write("a", length("a")).await;
    assert!(matches!(again, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{again:?}");
    assert!(shards.confirm(shards.term("a")).await.is_err());
    unwritable(&shards, "").await;
    replica.signal(Signal::Continue).unwrap();
    writable(&shards).await;
    shards.confirm(shards.term("a")).await.unwrap();
    assert_eq!(items(&shards, "a").await.unwrap(), [1, 2]);
}
