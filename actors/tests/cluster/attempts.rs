//! Attempts of an append that meet on two owners (I2), and their order (I8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use clarion_actors::cluster::{Lane, PeerPort, Refused};
use clarion_actors::{Push, Turns};
use clarion_protocol::Code;
use clarion_storage::DEFAULT_GROUP;
use clarion_storage::memory::{AppendFault, MemoryStore};

use crate::links::Flow;
use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_wakes_after_the_retry_changes_nothing_however_much_lies_between_i2() {
    let world = World::of(&ABC).await;
    let news = topic_of("b", &ABC);
    let (mut link, _) = world.node("c").open_in("t1", &[news]).await;
    link.settle().await;
    // b took the append and stands still before the store does it.
    world.node("b").store.hold_appends(true);
    let (system, product) = (world.node("a").system.clone(), Arc::clone(&world.node("a").product));
    let pushed =
        tokio::spawn(
            async move { system.push(&product, push(to_topic(news), "once")).await.unwrap() },
        );
    let mut waiting = world.node("b").store.waiting.subscribe();
    waiting.wait_for(|waiting| *waiting > 0).await.unwrap();
    let accepted = pushed.await.unwrap();
    // It is in through another owner; much more follows it there.
    let node = world.node("c");
    let topic = to_topic(news);
    world.link_of("b", "c").flow(Flow::Loses);
    let mut turns = Turns::default();
    let many = numbered("between", 1100);
    let pushes = many.iter().map(|text| {
        let push = Push { turn: Some(turns.take()), ..push(topic.clone(), text) };
        node.system.push(&node.product, push)
    });
    for outcome in futures_util::future::join_all(pushes).await {
        outcome.unwrap();
    }
    world.node("b").store.hold_appends(false);
    waiting.wait_for(|waiting| *waiting == 0).await.unwrap();
    let entries = world.node("a").entries_of(topic).await;
    let id = accepted.id;
    assert_eq!(entries.iter().filter(|entry| entry.message == id).count(), 1);
    assert_eq!(entries.len(), 1101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_in_which_the_store_panics_is_made_once_and_holds_its_log_no_longer_i2() {
    let world = World::of(&["a", "b"]).await;
    let (news, node) = (topic_of("a", &["a", "b"]), world.node("a"));
    let (mut link, _) = world.node("b").open_in("t1", &[news]).await;
    link.settle().await;
    // An owner is there, so that its crash is not what mends it.
    node.accepted(to_topic(news), "before").await;
    node.store.append_panics.store(1, Ordering::Release);
    let (panics, behind) =
        tokio::join!(node.push(to_topic(news), "panics"), node.push(to_topic(news), "behind"));
    panics.unwrap();
    behind.unwrap();
    node.accepted(to_topic(news), "after").await;
    let mut got = read_all(&mut link, 4).await;
    got[1..3].sort();
    assert_eq!(got, ["before", "behind", "panics", "after"]);
    assert_eq!(node.stored(to_topic(news)).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_made_is_found_behind_1000_others_i2() {
    let world = World::of(&ABC).await;
    let news = topic_of("b", &ABC);
    // b does what a asks, and a never hears of it.
    world.link_of("a", "b").way(1).flow.send_replace(Flow::Loses);
    let (system, product) = (world.node("a").system.clone(), Arc::clone(&world.node("a").product));
    let pushed =
        tokio::spawn(
            async move { system.push(&product, push(to_topic(news), "once")).await.unwrap() },
        );
    world
        .node("a")
        .until("it is in", async || world.node("a").stored(to_topic(news)).await == 1)
        .await;
    let node = world.node("c");
    let many = numbered("between", 1100);
    let pushes =
        many.iter().map(|text| node.system.push(&node.product, push(to_topic(news), text)));
    let (many, accepted) =
        tokio::join!(futures_util::future::join_all(pushes), async { pushed.await.unwrap() });
    many.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    let entries = world.node("a").entries_of(to_topic(news)).await;
    assert_eq!(entries.iter().filter(|entry| entry.message == accepted.id).count(), 1);
    assert_eq!(entries[0].message, accepted.id);
    assert_eq!(entries.len(), 1101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_of_one_connection_keep_their_order_across_owners_i8() {
    let world = World::of(&ABC).await;
    let news = topic_of("b", &ABC);
    let node = world.node("a");
    let mut turns = Turns::default();
    let texts = numbered("text", 300);
    let mut running = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        if at == 100 {
            world.link_of("a", "b").way(1).flow.send_replace(Flow::Loses);
        }
        if at == 200 {
            world.link_of("a", "b").flow(Flow::Runs);
        }
        let push = Push { turn: Some(turns.take()), ..push(to_topic(news), text) };
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        running.push(tokio::spawn(async move { system.push(&product, push).await }));
        if at % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for running in running {
        running.await.unwrap().unwrap();
    }
    let entries = node.entries_of(to_topic(news)).await;
    let got: Vec<String> = entries.iter().map(|entry| text_of(entry)).collect();
    assert_eq!(got, texts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_to_append_a_push_is_refused_as_retryable() {
    let mut world = World::with(&["a", "b"], |config| config.limits.request_timeout_ms = 600).await;
    world.cut("a", "b");
    world.sees("a", &["b"]);
    let failure = world.node("a").push(to_terminal("t1"), "text").await.unwrap_err();
    assert_eq!(failure.code, clarion_protocol::Code::OwnerUnreachable);
    assert!(failure.code.retryable());
    assert_eq!(world.node("a").stored(to_terminal("t1")).await, 0);
    // Nothing is left of it.
    world.sees("a", &["a", "b"]);
    world.node("a").accepted(to_terminal("t1"), "text").await;
    assert_eq!(world.node("a").stored(to_terminal("t1")).await, 1);
}

/// Nodes a, b and c, of which b alone has no way to the store.
async fn without_a_store_at_b() -> World {
    let mut world = World::of(&["a", "c"]).await;
    let everybodys = std::mem::replace(&mut world.store, Arc::new(MemoryStore::new()));
    world.add("b", DEFAULT_GROUP, &|_| {}).await;
    world.store.set_append_fault(AppendFault::Unavailable);
    world.store = everybodys;
    world.link_all();
    world.all_see(&ABC);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_without_a_store_cannot_append_another_node_does_in_order_i8() {
    let world = without_a_store_at_b().await;
    let (node, news) = (world.node("a"), topic_of("b", &ABC));
    let mut turns = Turns::default();
    let texts = numbered("text", 100);
    let pushes = texts.iter().map(|text| {
        let push = Push { turn: Some(turns.take()), ..push(to_topic(news), text) };
        node.system.push(&node.product, push)
    });
    for outcome in futures_util::future::join_all(pushes).await {
        outcome.unwrap();
    }
    let entries = node.entries_of(to_topic(news)).await;
    let got: Vec<String> = entries.iter().map(|entry| text_of(entry)).collect();
    assert_eq!(got, texts);
    // A node that is no owner of it either.
    world.node("c").accepted(to_terminal(terminal_of("b", &ABC)), "text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_for_everybody_is_told_before_the_time_is_over() {
    let world = World::of(&ABC).await;
    world.store.set_append_fault(AppendFault::Unavailable);
    for owner in ABC {
        let failure = world.node("a").push(to_topic(topic_of(owner, &ABC)), "text").await;
        assert_eq!(failure.unwrap_err().code, Code::StoreUnavailable, "{owner}");
    }
    world.store.set_append_fault(AppendFault::None);
    world.node("a").accepted(to_topic(topic_of("b", &ABC)), "text").await;
}

/// A link that takes nothing, and on which the first message about topics panics.
struct Panics {
    to: Arc<str>,
    boot: u64,
    done: AtomicBool,
}

impl PeerPort for Panics {
    fn id(&self) -> &Arc<str> {
        &self.to
    }
    fn boot(&self) -> u64 {
        self.boot
    }
    fn wire(&self) -> u16 {
        clarion_actors::cluster::wire_versions().1
    }
    fn send(&self, lane: Lane, _message: Bytes) -> Result<(), Refused> {
        let panics = lane == Lane::Multicast && !self.done.swap(true, Ordering::AcqRel);
        assert!(!panics, "as the test wants");
        Err(Refused::Down)
    }
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_panic_on_the_way_its_outcome_is_unknown_and_the_log_goes_on() {
    let mut world = World::of(&["a", "b"]).await;
    let news = topic_of("b", &["a", "b"]);
    world.cut("a", "b");
    let (to, boot) = (Arc::from("b"), world.node("b").boot);
    let port = Arc::new(Panics { to, boot, done: AtomicBool::new(false) });
    let node = world.node("a");
    node.system.cluster().up(Arc::<Panics>::clone(&port));
    let failure = node.push(to_topic(news), "lost").await.unwrap_err();
    assert_eq!(failure.code, Code::OutcomeUnknown);
    assert!(port.done.load(Ordering::Acquire));
    node.accepted(to_topic(news), "text").await;
    assert_eq!(node.stored(to_topic(news)).await, 1);
}
