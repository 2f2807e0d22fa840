//! Panics injected into every kind of actor, while pushes and deliveries are under way: no
//! accepted push is lost, nobody else is hurt, and all is healed by itself, without the slow head
//! check. Fault points belong to the process: these tests run one at a time.
#![cfg(feature = "fault-hooks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, unused_crate_dependencies)]

#[path = "one_node/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clarion_actors::fault;
use clarion_actors::kinds::Kind;
use clarion_actors::{Push, Turns};
use clarion_protocol::Code;
use clarion_protocol::http::Audience;
use clarion_protocol::terminal::NodeFrame;
use support::*;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const POINTS: [&str; 7] =
    ["lane", "inbox_shard", "topic", "product", "relay", "link_shard", "session"];

fn disarm() {
    for point in POINTS {
        fault::arm(point, 0, 0);
    }
}

/// A panic in an actor is reported by its supervisor; its backtrace helps nobody here.
fn quiet() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("injected fault") {
            eprintln!("{text}");
        }
    }));
}

/// Pushes in all modes at the same time; each log's in the order of one connection, and again with
/// the same key while it is refused as retryable.
async fn insist(node: &Node, audience: Audience, name: &str, count: usize) -> Vec<String> {
    let mut turns = Turns::default();
    let mut running = Vec::new();
    for number in 0..count {
        let text = format!("{name} {number}");
        let turn = turns.take();
        let first = Push {
            turn: Some(turn),
            idempotency: Some((text.as_str().into(), [7; 32])),
            ..push(audience.clone(), &text)
        };
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        let audience = audience.clone();
        running.push(tokio::spawn(async move {
            let mut next = first;
            loop {
                match system.push(&product, next).await {
                    Ok(_) => return text,
                    Err(failure) if failure.code.retryable() => {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        next = Push {
                            idempotency: Some((text.as_str().into(), [7; 32])),
                            ..push(audience.clone(), &text)
                        };
                    }
                    Err(failure) => panic!("{failure:?}"),
                }
            }
        }));
    }
    let mut accepted = Vec::new();
    for running in running {
        accepted.push(running.await.unwrap());
    }
    accepted
}

/// Reads and acknowledges until every text has come; returns what came first, by log, in order.
async fn read_all(link: &mut TestTerminal, count: usize) -> BTreeMap<u16, Vec<String>> {
    let mut got: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < count {
        let new = link.deliver().await;
        let (log, last) = (new[0].log, new.last().unwrap().offset);
        if new[0].text == "tick" {
            continue;
        }
        for message in new {
            if seen.insert((log, message.text.clone())) {
                got.entry(log).or_default().push(message.text);
            }
        }
        link.ack(log, last).await;
    }
    got
}

/// Everything at once, with `point` panicking now and then.
async fn nothing_is_lost(point: &str, panics: u32, in_order: bool) {
    let _one = ONE_AT_A_TIME.lock().await;
    quiet();
    let node = Node::with(|config| {
        config.session.crashes_max = 1000;
        config.session.window_entries = 32;
    })
    .await;
    let (mut link, opened) = node.open_in("t1", &["news"]).await;
    link.settle().await;
    let crashed = || match point {
        "lane" => Kind::Lane.figures().crashed.load(Ordering::Relaxed),
        "inbox_shard" => Kind::InboxShard.figures().crashed.load(Ordering::Relaxed),
        "topic" => Kind::Topic.figures().crashed.load(Ordering::Relaxed),
        "product" => Kind::Product.figures().crashed.load(Ordering::Relaxed),
        "relay" => Kind::Relay.figures().crashed.load(Ordering::Relaxed),
        "link_shard" => Kind::LinkShard.figures().crashed.load(Ordering::Relaxed),
        _ => u64::from(panics),
    };
    let before = if point == "session" { 0 } else { crashed() };
    let pushes = async {
        tokio::join!(
            insist(&node, to_terminals(&["t1"]), "terminal", 60),
            insist(&node, to_topic("news"), "news", 60),
            insist(&node, Audience::All, "all", 60),
            async {
                for _ in 0..panics {
                    fault::arm(point, 1, 0);
                    node.until("it panicked", async || {
                        // Something that visits every point, however fast the others are.
                        for audience in [to_terminals(&["t1"]), to_topic("news"), Audience::All] {
                            let tick = Push { ttl_s: 0, ..push(audience, "tick") };
                            drop(node.system.push(&node.product, tick).await);
                        }
                        !fault::armed(point)
                    })
                    .await;
                }
            }
        )
    };
    let (got, (terminal, news, all, ())) = tokio::join!(read_all(&mut link, 180), pushes);
    disarm();
    for (log, expected) in [("terminal", terminal), ("topic:news", news), ("broadcast", all)] {
        let mut got = got[&alias(&opened, log)].clone();
        let mut expected = expected;
        if !in_order {
            got.sort();
            expected.sort();
        }
        assert_eq!(got, expected, "{log}");
    }
    assert_eq!(crashed() - before, u64::from(panics), "each is counted");
    // And afterwards everything works as if nothing had happened.
    for audience in [to_terminals(&["t1"]), to_topic("news"), Audience::All] {
        node.accepted(audience, "after").await;
    }
    let mut after = 0;
    while after < 3 {
        after += link.deliver().await.iter().filter(|got| got.text == "after").count();
    }
    let twice = link.kept().iter().any(|frame| matches!(frame, NodeFrame::Opened(_)));
    assert!(!twice, "the terminal sees one session");
    assert!(node.system.alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_lane_loses_nothing() {
    // What a lane refuses is pushed again, behind what was pushed meanwhile.
    nothing_is_lost("lane", 5, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_an_inbox_shard_loses_nothing_and_keeps_order_i8() {
    nothing_is_lost("inbox_shard", 5, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_topic_loses_nothing_and_keeps_order_i8() {
    nothing_is_lost("topic", 5, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_product_loses_nothing_and_keeps_order_i8() {
    nothing_is_lost("product", 5, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_relay_loses_nothing_and_keeps_order_i8() {
    nothing_is_lost("relay", 5, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_link_shard_loses_nothing_and_closes_no_link() {
    nothing_is_lost("link_shard", 5, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_session_is_mended_in_place_and_loses_nothing() {
    nothing_is_lost("session", 5, true).await;
}

/// What a rebuilt session sends a second time is told as that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_session_sends_what_is_unacknowledged_again_and_says_so() {
    let _one = ONE_AT_A_TIME.lock().await;
    quiet();
    let node = Node::start().await;
    let (mut link, _) = node.open("t1").await;
    link.settle().await;
    node.accepted(to_terminals(&["t1"]), "x").await;
    assert!(!link.messages(1).await[0].again);
    fault::arm("session", 1, 0);
    while fault::armed("session") {
        link.ack(1, clarion_protocol::Offset(1)).await;
        tokio::task::yield_now().await;
    }
    disarm();
    assert!(link.messages(1).await[0].again);
    node.accepted(to_terminals(&["t1"]), "y").await;
    assert!(!link.messages(1).await[0].again, "new since the crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_session_beyond_its_budget_closes_its_link_only() {
    let _one = ONE_AT_A_TIME.lock().await;
    quiet();
    let node = Node::with(|config| config.session.crashes_max = 2).await;
    let (mut neighbour, _) = node.open("t2").await;
    neighbour.settle().await;
    let (mut link, _) = node.open("t1").await;
    link.settle().await;
    node.accepted(to_terminals(&["t1"]), "x").await;
    link.messages(1).await;
    // Any session of the process may meet the fault: it is armed until this link had enough.
    let code = loop {
        fault::arm("session", 1, 0);
        while fault::armed("session") {
            link.ack(1, clarion_protocol::Offset(1)).await;
            tokio::task::yield_now().await;
        }
        if let Ok(code) = tokio::time::timeout(Duration::from_millis(200), link.end()).await {
            break code;
        }
    };
    disarm();
    assert_eq!(code, Code::SessionCrashed.number());
    node.accepted(to_terminals(&["t2"]), "fine").await;
    assert_eq!(texts(&neighbour.messages(1).await), ["fine"]);
    let (mut link, _) = node.open("t1").await;
    assert_eq!(texts(&link.messages(1).await), ["x"], "it was not acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_topic_beyond_its_budget_stays_with_that_topic() {
    let _one = ONE_AT_A_TIME.lock().await;
    quiet();
    let node = Node::start().await;
    let (mut link, _) = node.open_in("t1", &["fine"]).await;
    link.settle().await;
    fault::arm("topic", 1000, 0);
    // Each push to it is a message to it; after its budget it is refused as retryable.
    node.until("it is quarantined", async || {
        let failure = node.push(to_topic("bad"), "x").await;
        failure.is_err_and(|failure| failure.code == Code::StoreUnavailable)
    })
    .await;
    disarm();
    assert!(node.system.alive(), "the node is");
    node.accepted(to_terminals(&["t1"]), "private").await;
    node.accepted(Audience::All, "all").await;
    let mut got = texts(&link.messages(2).await).join(" ");
    got.retain(|c| c != '"');
    assert!(got.contains("private") && got.contains("all"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_in_a_lane_gives_no_place_away_for_good() {
    let _one = ONE_AT_A_TIME.lock().await;
    quiet();
    let node = Node::with(|config| config.limits.pushes_in_flight_max = 2).await;
    node.accepted(to_terminals(&["t1"]), "first").await;
    fault::arm("lane", 1, 0);
    node.until("it panicked", async || {
        drop(node.push(to_terminals(&["t1"]), "x").await);
        !fault::armed("lane")
    })
    .await;
    disarm();
    // One after the other: a place that is not given back would be missed by the third.
    for number in 0..20 {
        node.accepted(to_terminals(&["t1"]), &format!("{number}")).await;
    }
}
