//! A node that stops.

use std::sync::Arc;

use crate::support::*;
use clarion_protocol::terminal::NodeFrame;
use clarion_protocol::{Code, LogName};
use clarion_storage::Store;
use clarion_storage::memory::AppendFault;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_sends_links_away_refuses_pushes_and_keeps_what_was_acknowledged() {
    let node = Node::with(|config| config.session.cursor_flush_ms = 3_600_000).await;
    let mut links = Vec::new();
    for number in 0..20 {
        links.push(node.open(&format!("t{number}")).await);
    }
    let accepted = node.accepted(to_terminals(&["t0"]), "x").await;
    let (link, opened) = &mut links[0];
    link.messages(1).await;
    link.ack(alias(opened, "terminal"), offset_of(&accepted)).await;
    link.settle().await;
    let system = node.system.clone();
    let drain = tokio::spawn(async move { system.drain().await });
    node.system.draining().await;
    let failure = node.push(to_terminals(&["t0"]), "late").await.unwrap_err();
    assert_eq!((failure.code, failure.retry_after_ms.is_some()), (Code::Draining, true));
    assert!(node.system.readiness().push.is_err() && node.system.readiness().terminals.is_err());
    let mut delays = Vec::new();
    for (link, _) in &mut links {
        let goaway = |frame: &NodeFrame| match frame {
            NodeFrame::Goaway { after_ms, .. } => Some(*after_ms),
            _ => None,
        };
        delays.push(link.expect(goaway).await);
        // Half of them go at once; the others stay and are closed with a code.
        if delays.len() <= 10 {
            futures_util::SinkExt::close(link.socket().await).await.unwrap();
        }
    }
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 10, "they differ from link to link: {delays:?}");
    // Only the end of its link can have written it.
    node.until_stored("t0", LogName::Terminal, offset_of(&accepted)).await;
    for (link, _) in &mut links[10..] {
        assert_eq!(link.end().await, Code::GoingAway.number());
    }
    tokio::time::timeout(PATIENCE, drain).await.expect("it ends").unwrap();
    assert!(node.store.product(&product_id("demo")).await.is_err(), "the store is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_in_time_although_the_store_hangs() {
    let node = Node::with(|config| config.node.drain_timeout_ms = 1_000).await;
    node.store.set_append_fault(AppendFault::Hang);
    let hung = {
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        tokio::spawn(async move { system.push(&product, push(to_terminals(&["t1"]), "x")).await })
    };
    node.until("it hangs", async || node.entries(to_terminals(&["t1"])).await == 1).await;
    node.store.set_unavailable(true);
    tokio::time::timeout(PATIENCE, node.system.drain()).await.expect("it ends");
    hung.abort();
}
