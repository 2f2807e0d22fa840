//! Several nodes with injected faults: hints that never come, owners that panic. Fault points belong
//! to the process: these tests run one at a time.
#![cfg(feature = "fault-hooks")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, unused_crate_dependencies, dead_code)]

#[path = "cluster/links.rs"]
mod links;
#[path = "cluster/store.rs"]
mod store;
#[path = "one_node/support.rs"]
mod support;
#[path = "cluster/world.rs"]
mod world;

use std::time::Duration;

use clarion_actors::fault;
use support::*;
use tokio::time::Instant;
use world::*;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_hint_the_slow_head_check_still_delivers_i12() {
    let _one = ONE_AT_A_TIME.lock().await;
    let world = World::with(&ABC, |config| config.actors.head_check_ms = 200).await;
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("a", &ABC));
    let (mut link, _) = world.node("c").open_in(terminal, &[news]).await;
    link.settle().await;
    fault::set_hints_off(true);
    for text in numbered("text", 3) {
        world.node("a").accepted(to_terminal(terminal), &text).await;
        world.node("b").accepted(to_topic(news), &format!("news {text}")).await;
    }
    let mut got = read_all(&mut link, 6).await;
    fault::set_hints_off(false);
    got.sort();
    assert_eq!(got, ["news text 0", "news text 1", "news text 2", "text 0", "text 1", "text 2"]);
}

/// On a clock that stands still while anything is left to do: how long the protocol waits.
#[tokio::test(start_paused = true)]
async fn without_any_hint_and_without_the_head_check_all_is_healed_3_s_after_detection_i12() {
    let _one = ONE_AT_A_TIME.lock().await;
    let mut world = World::of(&ABC).await;
    let store = std::sync::Arc::clone(&world.store);
    let time = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.advance_ms(1);
        }
    });
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("b", &ABC));
    let (mut link, _) = world.node("c").open_in(terminal, &[news]).await;
    link.settle().await;
    // The first look at the store, when the nodes met, is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fault::set_hints_off(true);
    world.node("b").accepted(to_terminal(terminal), "inbox").await;
    world.node("b").accepted(to_topic(news), "news").await;
    let known = Instant::now();
    world.kill("b");
    world.sees("a", &["a", "c"]);
    world.sees("c", &["a", "c"]);
    let mut got = read_all(&mut link, 2).await;
    let took = known.elapsed();
    fault::set_hints_off(false);
    got.sort();
    assert_eq!(got, ["inbox", "news"]);
    assert!(took <= Duration::from_secs(3), "{took:?}");
    time.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_panic_cost_nothing_on_other_nodes_i12() {
    let _one = ONE_AT_A_TIME.lock().await;
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("injected fault") {
            eprintln!("{text}");
        }
    }));
    let world = World::of(&ABC).await;
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("b", &ABC));
    let (mut link, _) = world.node("c").open_in(terminal, &[news]).await;
    link.settle().await;
    let mut all = Vec::new();
    for round in 0..8 {
        for point in ["inbox_shard", "topic"] {
            fault::arm(point, 1, 0);
        }
        for text in numbered(&round.to_string(), 5) {
            world.node("a").accepted(to_terminal(terminal), &text).await;
            let news_text = format!("news {text}");
            world.node("a").accepted(to_topic(news), &news_text).await;
            all.extend([text, news_text]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let mut got = read_all(&mut link, all.len()).await;
    for point in ["inbox_shard", "topic"] {
        fault::arm(point, 0, 0);
    }
    got.sort();
    all.sort();
    assert_eq!(got, all);
}
