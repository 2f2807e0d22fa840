//! Terminals that do not read, do not speak, or speak too much.

use crate::support::*;
use clarion_protocol::Code;
use clarion_protocol::terminal::{NodeFrame, TerminalFrame};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_stops_reading_gets_everything_in_order_when_it_reads_again() {
    let node = Node::with(|config| {
        config.session.inbox_items_max = 8;
        config.session.window_entries = 1000;
        config.session.window_bytes = 16 << 20;
    })
    .await;
    let mut link = node.connect_with(1024);
    let mut open = node.open_frame(Claims::default());
    open.topics = vec![topic("news")];
    link.send(TerminalFrame::Open(open)).await;
    let opened = link.opened().await;
    let text = |number: u32| format!("{number} {}", "x".repeat(3000));
    // More than it is sent before it reads: the rest is passed over and read from the store.
    for number in 0..400 {
        node.accepted(to_topic("news"), &text(number)).await;
    }
    let got = link.messages_acked(400).await;
    let expected: Vec<_> = (0..400).map(text).collect();
    assert_eq!(texts(&got), expected);
    assert_eq!(got[0].log, alias(&opened, "topic:news"));
    assert!(got.iter().all(|got| !got.again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_takes_nothing_is_closed_after_its_time_however_full_it_is() {
    let node = Node::with(|config| {
        config.terminals.flush_timeout_ms = 500;
        config.session.window_entries = 1000;
        config.session.window_bytes = 16 << 20;
    })
    .await;
    for number in 0..100 {
        node.accepted(to_topic("news"), &number.to_string()).await;
    }
    let mut link = node.connect_with(1024);
    let mut open = node.open_frame(Claims::default());
    open.topics = vec![topic("news")];
    link.send(TerminalFrame::Open(open)).await;
    link.opened().await;
    for _ in 0..100 {
        node.accepted(to_topic("news"), &"x".repeat(3000)).await;
    }
    // It reads no more: the node ends it by itself.
    let ended = &mut link.ended;
    tokio::time::timeout(PATIENCE, ended).await.expect("the link is ended").unwrap();
    assert_eq!(node.system.link_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_takes_nothing_can_be_replaced_and_kicked() {
    let node = Node::with(|config| {
        config.session.window_entries = 1000;
        config.session.window_bytes = 16 << 20;
    })
    .await;
    let mut link = node.connect_with(1024);
    let mut open = node.open_frame(Claims::default());
    open.topics = vec![topic("news")];
    link.send(TerminalFrame::Open(open)).await;
    link.opened().await;
    for _ in 0..100 {
        node.accepted(to_topic("news"), &"x".repeat(3000)).await;
    }
    let (_new, _) = node.open("t1").await;
    tokio::time::timeout(PATIENCE, &mut link.ended).await.expect("the link is ended").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_without_a_session_is_closed() {
    let node = Node::with(|config| config.terminals.open_timeout_ms = 300).await;
    let mut link = node.connect();
    assert_eq!(link.end().await, Code::OpenTimeout.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_terminal_is_closed_and_starts_with_the_shortest_heartbeat() {
    let node = Node::with(|config| {
        config.session.heartbeat_min_ms = 1000;
        config.session.heartbeat_grace_ms = 0;
    })
    .await;
    let (mut link, opened) = node.open("t1").await;
    assert_eq!(opened.heartbeat_ms, 1000);
    assert_eq!(link.end().await, Code::HeartbeatTimeout.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stable_link_is_told_a_longer_heartbeat_and_starts_with_it_next_time() {
    let node = Node::with(|config| {
        config.session.heartbeat_min_ms = 300;
        config.session.heartbeat_max_ms = 600;
    })
    .await;
    let (mut link, _) = node.open("t1").await;
    let longer = link
        .expect(|frame| match frame {
            NodeFrame::Heartbeat { ms, .. } => Some(*ms),
            _ => None,
        })
        .await;
    assert_eq!(longer, 600);
    link.cut().await;
    node.until("the heartbeat is stored", async || {
        use clarion_storage::Store;
        let record = node.store.terminal(&product_id("demo"), &terminal_id("t1")).await.unwrap();
        record.unwrap().heartbeat_ms == Some(600)
    })
    .await;
    let (_link, opened) = node.open("t1").await;
    assert_eq!(opened.heartbeat_ms, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_speaks_too_much_is_read_more_slowly_and_loses_nothing() {
    let node = Node::with(|config| config.terminals.frames_per_s_max = 20).await;
    let (mut link, _) = node.open("t1").await;
    for _ in 0..60 {
        link.send(TerminalFrame::Ping { s: 0 }).await;
    }
    for _ in 0..60 {
        link.expect(|frame| matches!(frame, NodeFrame::Pong { .. }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_the_store_are_bounded() {
    let node = Node::with(|config| config.session.topics_max = 1000).await;
    let (mut link, _) = node.open("t1").await;
    for id in 0..300 {
        link.subscribe(id, &format!("topic{id}")).await;
    }
    let mut answered = 0;
    while answered < 300 {
        let code = link
            .expect(|frame| match frame {
                NodeFrame::Subscribed { .. } => Some(None),
                NodeFrame::Error { code, .. } => Some(Some(*code)),
                _ => None,
            })
            .await;
        assert!(code.is_none_or(|code| code == Code::Overloaded.number()), "{code:?}");
        answered += 1;
    }
}
