//! Sessions that end and come back.

use std::sync::Arc;

use bytes::Bytes;

use crate::support::*;
use clarion_core::{Body, LogKey};
use clarion_protocol::terminal::{Cursor, TerminalFrame};
use clarion_protocol::{Code, LogName, MessageId};
use clarion_storage::memory::MemoryStore;
use clarion_storage::{Append, LogLimits, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_session_goes_on_where_it_was_acknowledged() {
    // Nothing but the end of the link writes cursors.
    let node = Node::with(|config| config.session.cursor_flush_ms = 3_600_000).await;
    let (mut link, opened) = node.open_in("t1", &["news"]).await;
    let inbox = alias(&opened, "terminal");
    for number in 0..3 {
        node.accepted(to_terminals(&["t1"]), &format!("{number}")).await;
    }
    let got = link.messages(3).await;
    link.ack(inbox, got[1].offset).await;
    link.settle().await;
    link.cut().await;
    node.until_stored("t1", LogName::Terminal, got[1].offset).await;
    node.accepted(to_topic("news"), "while away").await;
    let (mut link, opened) = node.open("t1").await;
    assert_eq!(opened.logs[0].offset, got[1].offset);
    let mut got = link.messages(2).await;
    got.sort_by_key(|got| got.log);
    assert_eq!(texts(&got), ["2", "while away"], "nothing lost, nothing twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminals_own_cursor_counts_when_it_is_higher() {
    let node = Node::start().await;
    let first = node.accepted(to_terminals(&["t1"]), "first").await;
    node.accepted(to_terminals(&["t1"]), "second").await;
    let mut link = node.connect();
    let mut open = node.open_frame(Claims::default());
    let own = Cursor(node.store.epoch(), offset_of(&first));
    open.cursors = vec![(LogName::Terminal, own)];
    link.send(TerminalFrame::Open(open)).await;
    let opened = link.opened().await;
    assert_eq!(opened.logs[0].offset, offset_of(&first));
    assert_eq!(texts(&link.messages(1).await), ["second"]);
    node.until_stored("t1", LogName::Terminal, offset_of(&first)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_far_behind_gets_everything_in_order_while_more_is_pushed() {
    let node = Node::with(|config| config.session.window_entries = 16).await;
    let (link, _) = node.open_in("t1", &["news"]).await;
    link.cut().await;
    for number in 0..300 {
        node.accepted(to_topic("news"), &format!("{number}")).await;
    }
    let (mut link, _) = node.open("t1").await;
    let more = async {
        for number in 300..600 {
            node.accepted(to_topic("news"), &format!("{number}")).await;
        }
    };
    let (got, ()) = tokio::join!(link.messages_acked(600), more);
    let expected: Vec<_> = (0..600).map(|number: u32| number.to_string()).collect();
    assert_eq!(texts(&got), expected);
}

/// The store tells a session that begins how far its logs go; hints of that may still be on their way to
/// its node, and what the node has in memory ends before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_of_more_than_is_in_memory_is_not_put_off() {
    // Nothing that is put off is ever done by its clock.
    let store = Arc::new(MemoryStore::frozen_at_ms(1_900_000_000_000));
    let node = Node::over(Arc::clone(&store), |_| {}).await;
    let (away, _) = node.open_in("away", &["news"]).await;
    away.cut().await;
    let (mut reader, _) = node.open_in("reader", &["news"]).await;
    node.accepted(to_topic("news"), "in memory").await;
    assert_eq!(texts(&reader.messages(1).await), ["in memory"]);
    let elsewhere = Append {
        log: LogKey::topic(&product_id("demo"), &topic("news")),
        message: MessageId(7),
        expires_at_ms: u64::MAX,
        body: Body::Json(Bytes::from_static(b"\"its hint is on its way\"")),
        limits: LogLimits { entries_max: 10, bytes_max: 1000, evict: true },
        first_attempt_ms: None,
        not_after_ms: u64::MAX,
    };
    store.append(vec![elsewhere]).await.pop().unwrap().unwrap();
    let (mut back, _) = node.open("away").await;
    assert_eq!(texts(&back.messages(2).await), ["in memory", "its hint is on its way"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_that_could_not_be_written_are_written_when_the_store_is_back() {
    let node = Node::start().await;
    let (mut link, opened) = node.open("t1").await;
    let accepted = node.accepted(to_terminals(&["t1"]), "x").await;
    link.messages(1).await;
    node.store.set_unavailable(true);
    link.ack(alias(&opened, "terminal"), offset_of(&accepted)).await;
    link.settle().await;
    link.cut().await;
    node.store.set_unavailable(false);
    node.until_stored("t1", LogName::Terminal, offset_of(&accepted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_is_told_once_what_was_acknowledged_is_written_down() {
    // Its next session may be on another node, which has nothing but the store to ask.
    let node = Node::with(|config| config.session.cursor_flush_ms = 3_600_000).await;
    for round in 0..20 {
        let (mut link, opened) = node.open("t1").await;
        let accepted = node.accepted(to_terminals(&["t1"]), &format!("{round}")).await;
        assert_eq!(texts(&link.messages(1).await), [format!("{round}")]);
        link.ack(alias(&opened, "terminal"), offset_of(&accepted)).await;
        link.send(TerminalFrame::Close { s: 1 }).await;
        assert_eq!(link.closed().await, (1, Code::SessionClosed.number()));
        assert_eq!(node.stored("t1", &LogName::Terminal).await, Some(offset_of(&accepted)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_does_not_keep_a_session_from_closing() {
    let node = Node::start().await;
    let (mut link, opened) = node.open("t1").await;
    let accepted = node.accepted(to_terminals(&["t1"]), "x").await;
    link.messages(1).await;
    node.store.set_unavailable(true);
    link.ack(alias(&opened, "terminal"), offset_of(&accepted)).await;
    link.send(TerminalFrame::Close { s: 1 }).await;
    assert_eq!(link.closed().await, (1, Code::SessionClosed.number()));
    node.store.set_unavailable(false);
    node.until_stored("t1", LogName::Terminal, offset_of(&accepted)).await;
}
