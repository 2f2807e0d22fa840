//! Sessions over real frames: opening, windows, acknowledgements, ends.

use crate::support::*;
use clarion_protocol::http::Audience;
use clarion_protocol::terminal::{Cursor, GapReason, NodeFrame, TerminalFrame};
use clarion_protocol::{Code, Epoch, LogName, Offset};
use clarion_storage::Store;

fn gap(frame: &NodeFrame) -> Option<(Offset, GapReason)> {
    match frame {
        NodeFrame::Gap { to, reason, .. } => Some((*to, *reason)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_another_epoch_or_above_the_head_is_told_as_a_gap_i5() {
    let node = Node::start().await;
    let accepted = node.accepted(to_terminals(&["t1"]), "x").await;
    let (epoch, offset) = (node.store.epoch(), offset_of(&accepted));
    let cases = [
        (Cursor(Epoch(epoch.0 ^ 1), offset), GapReason::Epoch),
        (Cursor(epoch, Offset(offset.0 + 1)), GapReason::Ahead),
    ];
    for (cursor, reason) in cases {
        let mut link = node.connect();
        let mut open = node.open_frame(Claims::default());
        open.cursors = vec![(LogName::Terminal, cursor)];
        link.send(TerminalFrame::Open(open)).await;
        link.opened().await;
        assert_eq!(link.expect(gap).await, (Offset::ZERO, reason));
        assert_eq!(link.messages(1).await[0].id, accepted.id, "from the oldest entry");
        link.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_evicted_before_it_was_read_is_told_as_a_gap_i6() {
    let node = Node::with(|config| config.logs.topic_entries_max = 5).await;
    let (link, _) = node.open_in("t1", &["news"]).await;
    link.cut().await;
    let mut ids = Vec::new();
    for number in 0..8 {
        ids.push(node.accepted(to_topic("news"), &format!("{number}")).await);
    }
    let (mut link, _) = node.open("t1").await;
    assert_eq!(link.expect(gap).await, (offset_of(&ids[2]), GapReason::Evicted));
    assert_eq!(texts(&link.messages(5).await), ["3", "4", "5", "6", "7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_replaces_the_older_one_exactly_once_i7() {
    let node = Node::start().await;
    let (mut old, first) = node.open("t1").await;
    node.accepted(to_terminals(&["t1"]), "x").await;
    old.messages(1).await;
    let (mut new, second) = node.open("t1").await;
    assert!(second.generation > first.generation);
    assert_eq!(old.closed().await, (1, Code::Replaced.number()));
    assert_eq!(old.end().await, Code::Replaced.number());
    assert!(old.kept().is_empty(), "told once: {:?}", old.kept());
    // What the old one had not acknowledged goes to the new one.
    assert_eq!(texts(&new.messages(1).await), ["x"]);
    new.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_generation_is_old_learns_it_from_its_cursor_i7() {
    let node = Node::start().await;
    let (mut old, opened) = node.open("t1").await;
    node.accepted(to_terminals(&["t1"]), "x").await;
    let got = old.messages(1).await;
    // A session of another node: this one's relays know nothing of it.
    let open = clarion_storage::OpenSession {
        product: product_id("demo"),
        terminal: terminal_id("t1"),
        user: None,
        kind: clarion_protocol::http::TerminalKind::Pc,
        topics: Vec::new(),
        topics_max: 64,
    };
    node.store.open_session(vec![open]).await.pop().unwrap().unwrap();
    old.ack(alias(&opened, "terminal"), got[0].offset).await;
    assert_eq!(old.closed().await, (1, Code::Replaced.number()));
    let info =
        node.system.terminal(&product_id("demo"), &terminal_id("t1")).await.unwrap().unwrap();
    let inbox = info.cursors.iter().find(|cursor| cursor.log == LogName::Terminal).unwrap();
    assert_eq!(inbox.offset, Offset::ZERO, "the stale cursor was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_acknowledged_does_not_hold_up_the_inbox_i9() {
    let node = Node::with(|config| config.session.window_entries = 4).await;
    let (mut link, opened) = node.open_in("t1", &["news"]).await;
    for number in 0..50 {
        node.accepted(to_topic("news"), &format!("{number}")).await;
    }
    assert_eq!(link.messages(4).await.len(), 4, "a window and no more");
    let inbox = alias(&opened, "terminal");
    for number in 0..50 {
        node.accepted(to_terminals(&["t1"]), &format!("{number}")).await;
    }
    let got = link.messages_acked(50).await;
    assert!(got.iter().all(|got| got.log == inbox));
    link.settle().await;
    assert!(!link.kept().iter().any(|frame| matches!(frame, NodeFrame::Deliver(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_messages_come_again_twice_and_then_the_session_ends_i10() {
    let node = Node::with(|config| config.session.ack_timeout_ms = 200).await;
    let (mut link, _) = node.open("t1").await;
    let accepted = node.accepted(to_terminals(&["t1"]), "x").await;
    let got = link.messages(3).await;
    assert!(got.iter().all(|got| got.id == accepted.id));
    let again: Vec<_> = got.iter().map(|got| got.again).collect();
    assert_eq!(again, [false, true, true]);
    assert_eq!(link.closed().await, (1, Code::AckTimeout.number()));
    assert_eq!(link.end().await, Code::AckTimeout.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_never_acknowledged_is_given_up_across_sessions_i10() {
    let node = Node::with(|config| config.session.attempts_max = 3).await;
    let accepted = node.accepted(to_terminals(&["t1"]), "poison").await;
    for stored in [Some(1), Some(2), None] {
        let (mut link, _) = node.open("t1").await;
        assert_eq!(link.messages(1).await[0].id, accepted.id);
        link.cut().await;
        // Its attempt is written down when the session has ended.
        let log = LogName::Terminal;
        node.until("the attempt is stored", async || node.attempts("t1", &log).await == stored)
            .await;
    }
    let next = node.accepted(to_terminals(&["t1"]), "next").await;
    let (mut link, _) = node.open("t1").await;
    assert_eq!(link.messages(1).await[0].id, next.id);
    let state = node.system.message(&product_id("demo"), accepted.id).await.unwrap().unwrap();
    assert_eq!((state.counts.undeliverable, state.counts.pending), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skip_gives_up_the_first_delivery_only() {
    let node = Node::start().await;
    let (mut link, opened) = node.open("t1").await;
    let inbox = alias(&opened, "terminal");
    let first = node.accepted(to_terminals(&["t1"]), "a").await;
    let second = node.accepted(to_terminals(&["t1"]), "b").await;
    link.messages(2).await;
    link.send(TerminalFrame::Skip { s: 1, l: inbox, o: offset_of(&first) }).await;
    node.until("it is counted", async || {
        let state = node.system.message(&product_id("demo"), first.id).await.unwrap().unwrap();
        state.counts.undeliverable == 1
    })
    .await;
    node.accepted(to_terminals(&["t1"]), "c").await;
    let third = link.messages(1).await;
    link.send(TerminalFrame::Skip { s: 1, l: inbox, o: third[0].offset }).await;
    assert_eq!(link.closed().await, (1, Code::FrameUnexpected.number()), "not the first");
    let _ = second;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_above_what_was_sent_ends_the_session_i5() {
    let node = Node::start().await;
    let (mut link, opened) = node.open("t1").await;
    link.ack(alias(&opened, "terminal"), Offset(7)).await;
    assert_eq!(link.closed().await, (1, Code::AckAhead.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_for_sessions_that_were_never_opened_end_the_link() {
    let node = Node::start().await;
    let frames = [
        TerminalFrame::Ack { s: 2, a: vec![(1, Offset(1))] },
        TerminalFrame::Skip { s: 2, l: 1, o: Offset(1) },
        TerminalFrame::Subscribe { s: 2, id: 1, topic: topic("a"), cursor: None },
        TerminalFrame::Unsubscribe { s: 2, id: 1, topic: topic("a") },
        TerminalFrame::Refresh { s: 2, token: String::new() },
        TerminalFrame::Close { s: 2 },
        TerminalFrame::Ack { s: 0, a: vec![(1, Offset(1))] },
        TerminalFrame::Open(node.open_frame(Claims::default())),
    ];
    for frame in frames {
        let (mut link, _) = node.open("t1").await;
        link.send(frame.clone()).await;
        assert_eq!(link.end().await, Code::FrameUnexpected.number(), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_the_link() {
    let node = Node::start().await;
    for text in ["", "{}", "[]", "{\"t\":\"open\"}", "{\"t\":\"what\",\"s\":1}"] {
        let (mut link, _) = node.open("t1").await;
        link.send_text(text.to_owned()).await;
        assert_eq!(link.end().await, Code::FrameMalformed.number(), "{text}");
    }
    let (mut link, _) = node.open("t1").await;
    let large = format!("{{\"t\":\"ping\",\"s\":0,\"x\":\"{}\"}}", "x".repeat(16 * 1024));
    link.send_text(large).await;
    assert_eq!(link.end().await, Code::FrameTooLarge.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_sessions_share_a_link_and_end_alone() {
    let node = Node::start().await;
    node.system.create_product(record("other")).await.unwrap();
    let other = node.system.product(&product_id("other")).await.unwrap().unwrap();
    let mut link = node.connect();
    let second = Claims { product: "other", terminal: "x1", session: 2, ..Claims::default() };
    for claims in [Claims::default(), second] {
        let frame = node.open_frame(claims);
        link.send(TerminalFrame::Open(frame)).await;
        link.opened().await;
    }
    node.accepted(to_terminals(&["t1"]), "demo").await;
    assert_eq!(texts(&link.messages(1).await), ["demo"]);
    link.send(TerminalFrame::Close { s: 1 }).await;
    assert_eq!(link.closed().await, (1, Code::SessionClosed.number()));
    // Frames that crossed the end are ignored.
    link.ack(1, Offset(1)).await;
    node.system.push(&other, push(to_terminals(&["x1"]), "other")).await.unwrap();
    assert_eq!(texts(&link.messages(1).await), ["other"]);
    let wrong = Claims { product: "demo", terminal: "t9", session: 3, ..Claims::default() };
    let mut open = node.open_frame(wrong);
    open.product = product_id("other");
    link.send(TerminalFrame::Open(open)).await;
    assert_eq!(link.closed().await, (3, Code::TokenInvalid.number()), "of another product");
    link.settle().await;
    assert!(node.system.kick(&product_id("other"), &terminal_id("x1")).await.unwrap());
    assert_eq!(link.closed().await, (2, Code::Kicked.number()));
    assert_eq!(link.end().await, Code::Kicked.number(), "the last one ends the link");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_so_many_sessions_and_no_more() {
    let node = Node::with(|config| config.terminals.sessions_per_link_max = 2).await;
    let mut link = node.connect();
    for session in 1..=3u32 {
        let terminal = format!("t{session}");
        let claims = Claims { session, terminal: &terminal, ..Claims::default() };
        link.send(TerminalFrame::Open(node.open_frame(claims))).await;
    }
    assert_eq!(link.closed().await, (3, Code::TooManySessions.number()));
    link.opened().await;
    link.opened().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token_and_lives_on_with_a_new_one() {
    let node = Node::start().await;
    let soon = Claims { ttl_s: 3, ..Claims::default() };
    let (mut refreshed, _) = node.open_as(soon, &[]).await;
    let (mut left, _) = node.open_as(Claims { terminal: "t2", ..soon }, &[]).await;
    let (mut mixed, _) = node.open_as(Claims { terminal: "t3", ..soon }, &[]).await;
    let token = node.token(Claims::default());
    refreshed.send(TerminalFrame::Refresh { s: 1, token: token.clone() }).await;
    let is_refreshed =
        |frame: &NodeFrame| matches!(frame, NodeFrame::Refreshed { .. }).then_some(());
    refreshed.expect(is_refreshed).await;
    mixed.send(TerminalFrame::Refresh { s: 1, token }).await;
    assert_eq!(mixed.closed().await, (1, Code::RefreshMismatch.number()));
    assert_eq!(left.closed().await, (1, Code::TokenExpired.number()));
    refreshed.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_messages_are_passed_silently_i11() {
    let node = Node::start().await;
    let mut short = push(to_terminals(&["t1"]), "short");
    short.ttl_s = 1;
    let short = node.system.push(&node.product, short).await.unwrap();
    node.until("it has expired", async || node.store.time_ms() >= short.expires_at_ms).await;
    node.accepted(to_terminals(&["t1"]), "long").await;
    let (mut link, _) = node.open("t1").await;
    assert_eq!(texts(&link.messages(1).await), ["long"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_sessions_stay_and_delivery_resumes_by_itself() {
    let node = Node::start().await;
    let (mut link, _) = node.open_in("t1", &["news"]).await;
    node.store.set_reads_fail(true);
    let (mut late, _) = node.open_in("t2", &["news"]).await;
    for number in 0..3 {
        node.accepted(to_topic("news"), &format!("{number}")).await;
    }
    node.store.set_reads_fail(false);
    assert_eq!(texts(&link.messages(3).await), ["0", "1", "2"]);
    assert_eq!(texts(&late.messages(3).await), ["0", "1", "2"]);
    node.accepted(Audience::All, "all").await;
    assert_eq!(texts(&link.messages(1).await), ["all"]);
}
