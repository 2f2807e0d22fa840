//! The same push again: answered once, stored once (I2).

use std::sync::Arc;

use crate::support::*;
use clarion_actors::Push;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::Audience;
use clarion_protocol::{Code, MessageId};
use clarion_storage::memory::AppendFault;
use clarion_storage::{Append, LogLimits, Store};

fn keyed(key: &str, hash: u8, audience: Audience) -> Push {
    Push { idempotency: Some((key.into(), [hash; 32])), ..push(audience, "x") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_and_body_is_answered_again_and_another_body_refused() {
    let node = Node::start().await;
    let push = |hash| node.system.push(&node.product, keyed("k", hash, to_terminals(&["a", "b"])));
    let first = push(1).await.unwrap();
    let again = push(1).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((again.id, &again.targets), (first.id, &first.targets));
    assert_eq!(push(2).await.unwrap_err().code, Code::IdempotencyMismatch);
    assert_eq!(node.entries(to_terminals(&["a"])).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_duplicates_are_refused_while_the_first_is_in_progress() {
    let node = Node::start().await;
    node.store.set_append_fault(AppendFault::Hang);
    let running = {
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        let push = keyed("k", 1, to_terminals(&["a"]));
        tokio::spawn(async move { system.push(&product, push).await })
    };
    node.until("it is appended", async || node.entries(to_terminals(&["a"])).await == 1).await;
    let again = node.system.push(&node.product, keyed("k", 1, to_terminals(&["a"]))).await;
    let failure = again.unwrap_err();
    assert_eq!(failure.code, Code::IdempotencyInProgress);
    assert!(failure.retry_after_ms.is_some());
    node.store.set_append_fault(AppendFault::None);
    let first = running.await.unwrap().unwrap();
    let again = node.system.push(&node.product, keyed("k", 1, to_terminals(&["a"]))).await.unwrap();
    assert_eq!((again.id, again.replayed), (first.id, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_taken_over_after_its_deadline_with_the_same_id_and_nothing_stored_twice_i2() {
    let store = Arc::new(clarion_storage::memory::MemoryStore::frozen_at_ms(1_900_000_000_000));
    let node = Node::over(Arc::clone(&store), |_| {}).await;
    store.set_append_fault(AppendFault::Hang);
    let abandoned = {
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        let push = keyed("k", 1, to_terminals(&["a"]));
        tokio::spawn(async move { system.push(&product, push).await })
    };
    node.until("it is appended", async || node.entries(to_terminals(&["a"])).await == 1).await;
    // Its caller goes away; the append stays, the outcome is never recorded.
    abandoned.abort();
    store.set_append_fault(AppendFault::None);
    let push = || node.system.push(&node.product, keyed("k", 1, to_terminals(&["a"])));
    assert_eq!(push().await.unwrap_err().code, Code::IdempotencyInProgress);
    // Whoever worked on it had 2 s to begin and 1 s to end; a longer request looks for its message.
    // Half a second is for clocks that differ.
    store.advance_ms(3_600);
    let taken = push().await.unwrap();
    assert_eq!(node.entries(to_terminals(&["a"])).await, 1, "found, not appended again");
    assert_eq!(push().await.unwrap().id, taken.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_repeats_only_what_failed_as_retryable() {
    let node = Node::with(|config| config.logs.inbox_entries_max = 1).await;
    let (mut full, opened) = node.open("full").await;
    node.accepted(to_terminals(&["full"]), "in the way").await;
    let push = || node.system.push(&node.product, keyed("k", 1, to_terminals(&["ok", "full"])));
    let partial = push().await.unwrap();
    assert!(partial.targets[0].error.is_none() && partial.targets[1].error.is_some());
    let got = full.messages(1).await;
    full.ack(alias(&opened, "terminal"), got[0].offset).await;
    full.settle().await;
    let again = push().await.unwrap();
    assert_eq!((again.id, &again.targets[0]), (partial.id, &partial.targets[0]));
    assert!(again.targets[1].error.is_none(), "{again:?}");
    assert_eq!(full.messages(1).await[0].id, partial.id);
    assert_eq!(node.entries(to_terminals(&["ok"])).await, 1);
    assert!(push().await.unwrap().replayed, "now it is final");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_0_is_sent_at_most_once_also_when_repeated() {
    let node = Node::start().await;
    let (mut terminal, _) = node.open("t1").await;
    node.until("t1 is online", async || {
        node.system.terminal(&product_id("demo"), &terminal_id("t1")).await.unwrap().unwrap().online
    })
    .await;
    let now = || Push { ttl_s: 0, ..keyed("k", 1, to_terminals(&["t1"])) };
    let first = node.system.push(&node.product, now()).await.unwrap();
    assert!(node.system.push(&node.product, now()).await.unwrap().replayed);
    let marker = node.accepted(to_terminals(&["t1"]), "marker").await;
    let ids: Vec<MessageId> = terminal.messages(2).await.iter().map(|got| got.id).collect();
    assert_eq!(ids, [first.id, marker.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_retried_after_its_time_and_found_behind_1000_entries_i2() {
    let node = Node::with(|config| config.limits.append_timeout_ms = 300).await;
    node.store.set_append_fault(AppendFault::UnknownDone);
    let running = {
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        tokio::spawn(async move { system.push(&product, push(to_topic("news"), "x")).await })
    };
    node.until("it is appended", async || node.entries(to_topic("news")).await == 1).await;
    node.store.set_append_fault(AppendFault::None);
    // Another node's appends, while the outcome is open.
    let other = |number: u128| Append {
        log: LogKey::topic(&product_id("demo"), &topic("news")),
        message: MessageId(number),
        expires_at_ms: u64::MAX >> 12,
        body: Body::Json("0".into()),
        not_after_ms: u64::MAX,
        first_attempt_ms: None,
        limits: LogLimits { entries_max: 100_000, bytes_max: 1 << 30, evict: true },
    };
    for answer in node.store.append((1..=1500).map(other).collect()).await {
        answer.unwrap();
    }
    let accepted = running.await.unwrap().unwrap();
    assert_eq!(node.entries(to_topic("news")).await, 1501, "not stored twice");
    let state = node.system.message(&product_id("demo"), accepted.id).await.unwrap().unwrap();
    assert_eq!(state.targets[0].position.offset, offset_of(&accepted), "the first attempt's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_stays_unknown_is_told_after_the_last_attempt_is_over_i2() {
    let node = Node::with(|config| {
        config.limits.append_timeout_ms = 200;
        config.limits.request_timeout_ms = 500;
    })
    .await;
    node.store.set_append_fault(AppendFault::UnknownLost);
    let failure = node.push(to_terminals(&["t1"]), "x").await.unwrap_err();
    assert_eq!(failure.code, Code::OutcomeUnknown);
    node.store.set_append_fault(AppendFault::None);
    node.accepted(to_terminals(&["t1"]), "the log is free again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_or_full_refuses_at_once_and_pushes_resume_by_themselves() {
    let node = Node::start().await;
    node.store.set_append_fault(AppendFault::Unavailable);
    assert_eq!(
        node.push(to_terminals(&["t1"]), "x").await.unwrap_err().code,
        Code::StoreUnavailable
    );
    node.store.set_append_fault(AppendFault::None);
    node.store.set_full(true);
    assert_eq!(node.push(to_terminals(&["t1"]), "x").await.unwrap_err().code, Code::StoreFull);
    node.store.set_full(false);
    node.accepted(to_terminals(&["t1"]), "x").await;
}
