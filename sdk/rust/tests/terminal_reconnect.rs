//! Losing the node and coming back, against a scripted node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::cursors::{CursorError, CursorStore, Snapshot};
use clarion_sdk::protocol::terminal::{NodeFrame, TerminalFrame};
use clarion_sdk::protocol::{Code, LogName, Offset};
use clarion_sdk::terminal::{Closed, RequestError, StartError, Why};
use clarion_sdk::{Event, Events, FileCursors, MemoryCursors, Terminal, TokenSource};
use common::*;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message as Ws;

async fn disconnected(events: &mut Events) -> (Why, Duration) {
    until(events, |event| match event {
        Event::Disconnected { why, retry_in } => Some((why, retry_in)),
        Event::Closed(closed) => panic!("closed: {closed}"),
        _ => None,
    })
    .await
}

async fn closed(events: &mut Events) -> Closed {
    let closed = until(events, |event| match event {
        Event::Closed(closed) => Some(closed),
        _ => None,
    })
    .await;
    assert!(events.next().await.is_none(), "nothing follows the end");
    closed
}

#[tokio::test(start_paused = true)]
async fn a_broken_link_is_made_again_and_goes_on_at_the_own_cursors() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, 1..=3).await;
    link.deliver(BROADCAST, [50]).await;
    for _ in 0..4 {
        next_message(&mut events).await.ack();
    }
    link.ack().await;
    drop(link);
    let (_, retry_in) = disconnected(&mut events).await;
    assert!(retry_in <= Backoff::RECONNECT.base);
    let (_link, open) = node.session().await;
    let cursors: Vec<(String, u64)> =
        open.cursors.iter().map(|(log, cursor)| (log.to_string(), cursor.1.0)).collect();
    let expected = [("terminal", 3), ("broadcast", 50), ("topic:news", 0)];
    assert_eq!(cursors, expected.map(|(log, offset)| (log.to_owned(), offset)));
}

#[tokio::test(start_paused = true)]
async fn a_message_held_over_a_reconnect_is_not_shown_twice_and_its_ack_counts() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2, 3]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    next_message(&mut events).await.ack();
    drop(link);
    let (mut link, _) = node.session().await;
    second.ack();
    link.deliver(TERMINAL, [1, 2, 3, 4]).await;
    assert_eq!(next_message(&mut events).await.offset, Some(Offset(4)));
    first.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 3)], "the fourth was let go");
}

#[tokio::test(start_paused = true)]
async fn i5_nothing_is_acknowledged_that_this_session_was_not_sent() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    drop(link);
    let mut link = node.link().await;
    let open = link.open().await;
    link.opened(&open, |_| {}).await;
    until(&mut events, |event| matches!(event, Event::Opened(_)).then_some(())).await;
    first.ack();
    second.ack();
    let early = timeout(Duration::from_secs(1), link.recv()).await;
    assert!(early.is_err(), "ahead of what was delivered: {early:?}");
    link.deliver(TERMINAL, [1]).await;
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
    link.deliver(TERMINAL, [2]).await;
    assert_eq!(link.ack().await, [(TERMINAL, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_node_built_anew_goes_on_without_showing_anything_twice() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, open) = node.session().await;
    link.deliver(TERMINAL, [1, 2]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    link.opened(&open, |opened| opened.generation = 2).await;
    link.deliver(TERMINAL, [1, 2, 3]).await;
    assert_eq!(next_message(&mut events).await.offset, Some(Offset(3)), "the others are held");
    first.ack();
    second.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 2)]);
    assert_eq!(node.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn entries_that_expired_meanwhile_do_not_hold_up_the_cursor() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2]).await;
    let held = next_message(&mut events).await;
    drop(next_message(&mut events).await);
    drop(link);
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [3]).await;
    next_message(&mut events).await.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 3)]);
    held.ack();
}

#[tokio::test(start_paused = true)]
async fn delays_grow_up_to_the_cap_and_start_over_after_a_stable_session() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let mut longest = Duration::ZERO;
    for failures in 0..12 {
        drop(node.stream().await);
        let (_, retry_in) = disconnected(&mut events).await;
        assert!(retry_in <= Backoff::RECONNECT.ceiling(failures), "{failures}: {retry_in:?}");
        longest = longest.max(retry_in);
    }
    assert!(longest > Backoff::RECONNECT.ceiling(1), "they never grew: {longest:?}");

    let (link, _) = node.session().await;
    let mut link = link;
    let stable = timeout(Duration::from_secs(61), link.recv()).await;
    assert!(stable.is_err(), "{stable:?}");
    drop(link);
    let (_, retry_in) = disconnected(&mut events).await;
    assert!(retry_in <= Backoff::RECONNECT.ceiling(0), "{retry_in:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_at_once_does_not_reset_the_delays() {
    let node = FakeNode::new();
    // A base that doubles from one second, no jitter to hide behind: the sum of many delays tells.
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let start = Instant::now();
    for _ in 0..40 {
        let (link, _) = node.session().await;
        drop(link);
        disconnected(&mut events).await;
    }
    assert!(start.elapsed() > Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn goaway_is_followed_at_the_named_moment_without_back_off() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    let start = Instant::now();
    link.send(&NodeFrame::Goaway { s: 0, after_ms: 700, to: vec![] }).await;
    link.deliver(TERMINAL, [1]).await;
    next_message(&mut events).await.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 1)], "until then it works");
    assert_eq!(link.recv().await, None);
    let waited = elapsed_ms(start);
    assert!((700..=720).contains(&waited), "{waited}");
    assert_eq!(disconnected(&mut events).await, (Why::GoingAway, Duration::ZERO));
    let (_link, open) = node.session().await;
    assert_eq!(open.cursors[0].1.1, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn codes_from_4200_are_final() {
    for by_frame in [true, false] {
        let node = FakeNode::new();
        let (handle, mut events) = node.terminal().connect().await.unwrap();
        let (mut link, _) = node.session().await;
        if by_frame {
            link.closed(4200, false).await;
        } else {
            link.close(4200).await;
        }
        assert_eq!(closed(&mut events).await.code, 4200);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(node.dials(), 1);
        assert_eq!(handle.subscribe("x").await, Err(RequestError::Ended));
    }
}

#[tokio::test(start_paused = true)]
async fn closed_says_whether_to_come_back() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.closed(4002, true).await;
    let (why, _) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Closed { code: 4002, .. }), "{why}");
    let (mut link, _) = node.session().await;
    link.close(4001).await;
    let (why, _) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Closed { code: 4001, .. }), "{why}");
    let (mut link, _) = node.session().await;
    link.closed(4099, false).await;
    assert_eq!(closed(&mut events).await.code, 4099);
}

#[tokio::test(start_paused = true)]
async fn codes_from_4100_ask_for_a_new_token() {
    let node = FakeNode::new();
    let asked = Arc::new(AtomicU64::new(0));
    let source = TokenSource::from_fn({
        let asked = Arc::clone(&asked);
        move || {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            async move { if n == 1 { Err("back-end is away") } else { Ok(format!("token-{n}")) } }
        }
    });
    let terminal = Terminal::builder("ws://node/", "demo", source).connector(node.dialler());
    let (_handle, mut events) = terminal.connect().await.unwrap();
    let (mut link, open) = node.session().await;
    assert_eq!(open.token, "token-0");
    drop(link);
    (link, _) = node.session().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "an old token is used as long as it is good");
    link.closed(4100, true).await;
    assert!(matches!(disconnected(&mut events).await.0, Why::Io(_)));
    assert!(matches!(disconnected(&mut events).await.0, Why::Closed { code: 4100, .. }));
    assert!(matches!(disconnected(&mut events).await.0, Why::Token(_)));
    let (_link, open) = node.session().await;
    assert_eq!(open.token, "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_token_that_is_used_up_is_the_end() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.closed(4100, true).await;
    assert_eq!(closed(&mut events).await.code, 4100);
}

fn jwt(terminal: &str, user: &str) -> String {
    let claims = format!(r#"{{"aud":"demo","sub":"{terminal}","user":"{user}"}}"#);
    format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test(start_paused = true)]
async fn cursors_serve_only_the_terminal_they_are_of() {
    let node = FakeNode::new();
    let store = Arc::new(MemoryCursors::new());
    let with = |token: String| {
        Terminal::builder("ws://node/", "demo", token)
            .connector(node.dialler())
            .cursor_store(store.clone())
    };
    let (handle, mut events) = with(jwt("t1", "u1")).connect().await.unwrap();
    let mut link = node.link().await;
    let open = link.open().await;
    link.opened(&open, |opened| opened.logs[1].log = LogName::User).await;
    link.deliver(BROADCAST, [5]).await;
    link.deliver(TERMINAL, [6]).await;
    next_message(&mut events).await.ack();
    next_message(&mut events).await.ack();
    link.ack().await;
    handle.close();
    drop(link);
    closed(&mut events).await;

    let foreign = with(jwt("t2", "u1")).connect().await;
    assert!(matches!(foreign, Err(StartError::Cursors(CursorError::Foreign { .. }))));
    let _terminal = with(jwt("t1", "u2")).connect().await.unwrap();
    let open = node.link().await.open().await;
    let logs: Vec<&LogName> = open.cursors.iter().map(|(log, _)| log).collect();
    assert!(logs.contains(&&LogName::Terminal));
    assert!(!logs.contains(&&LogName::User), "another user's inbox is another log");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_terminal_is_refused() {
    let node = FakeNode::new();
    let n = AtomicU64::new(0);
    let source = TokenSource::from_fn(move || {
        let n = n.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, String>(jwt(&format!("t{n}"), "u")) }
    });
    let terminal = Terminal::builder("ws://node/", "demo", source).connector(node.dialler());
    let (_handle, mut events) = terminal.connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.closed(4100, true).await;
    assert_eq!(closed(&mut events).await.code, Code::RefreshMismatch.number());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_goes_out_before_it_is_due_and_its_answer_keeps_the_link() {
    let node = FakeNode::new();
    let (_handle, _events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    for expected_ms in [60_000, 60_000, 5_000, 5_000] {
        if expected_ms == 5_000 {
            link.send(&NodeFrame::Heartbeat { s: 0, ms: 5_000 }).await;
        }
        let start = Instant::now();
        // Reading answers the ping.
        let heard = link.0.next().await.unwrap().unwrap();
        assert!(matches!(heard, Ws::Ping(_)), "{heard:?}");
        let waited = elapsed_ms(start);
        let bounds = expected_ms * 84 / 100..=expected_ms * 96 / 100;
        assert!(bounds.contains(&waited), "{waited} of {expected_ms}");
    }
    assert_eq!(node.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_link_is_noticed_within_a_heartbeat_and_ten_seconds() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (link, _) = node.session().await;
    let start = Instant::now();
    // Nobody reads: the ping goes unanswered.
    let (why, _) = disconnected(&mut events).await;
    assert_eq!(why, Why::Silent);
    let waited = elapsed_ms(start);
    assert!((60_000..=70_000).contains(&waited), "{waited}");
    drop(link);
    node.session().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_open_is_left() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let _silent = node.stream().await;
    assert_eq!(disconnected(&mut events).await.0, Why::ConnectTimeout);
    let mut mute = node.link().await;
    mute.open().await;
    assert_eq!(disconnected(&mut events).await.0, Why::ConnectTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_refused_upgrade_is_tried_again_no_sooner_than_it_says() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let mut stream = node.stream().await;
    stream.read_u8().await.unwrap();
    let answer = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (why, retry_in) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Refused { status: 503, .. }), "{why}");
    assert!(retry_in >= Duration::from_secs(7), "{retry_in:?}");
}

#[tokio::test(start_paused = true)]
async fn close_tells_what_was_acknowledged_and_waits_for_the_answer() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2]).await;
    next_message(&mut events).await.ack();
    let _held = next_message(&mut events).await;
    handle.close();
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
    assert_eq!(link.recv().await, Some(TerminalFrame::Close { s: 1 }));
    link.closed(4008, true).await;
    assert_eq!(closed(&mut events).await.code, 4008);
    assert_eq!(link.recv().await, None);
    assert_eq!(node.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_events_ends_the_terminal() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    until(&mut events, |event| matches!(event, Event::Opened(_)).then_some(())).await;
    drop(events);
    assert_eq!(link.recv().await, Some(TerminalFrame::Close { s: 1 }));
    assert_eq!(link.recv().await, None, "it does not wait for ever");
    assert_eq!(handle.subscribe("x").await, Err(RequestError::Ended));
}

#[tokio::test(start_paused = true)]
async fn closing_works_while_there_is_no_node() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    drop(node.stream().await);
    disconnected(&mut events).await;
    handle.close();
    assert_eq!(closed(&mut events).await.code, 4008);
}

/// A store that fails while it is told to.
#[derive(Default)]
struct Flaky {
    broken: AtomicBool,
    inner: MemoryCursors,
}

#[async_trait]
impl CursorStore for Flaky {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        self.inner.load().await
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(CursorError::Other("no space".into()));
        }
        self.inner.save(snapshot).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_saved_is_told_and_not_acknowledged_until_it_can() {
    let node = FakeNode::new();
    let store = Arc::new(Flaky::default());
    store.broken.store(true, Ordering::SeqCst);
    let terminal = node.terminal().cursor_store(store.clone());
    let (_handle, mut events) = terminal.connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1]).await;
    next_message(&mut events).await.ack();
    for _ in 0..3 {
        let told = |event| matches!(event, Event::CursorsNotSaved(_)).then_some(());
        until(&mut events, told).await;
    }
    let early = timeout(Duration::from_secs(2), link.recv()).await;
    assert!(early.is_err(), "{early:?}");
    store.broken.store(false, Ordering::SeqCst);
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
    assert_eq!(store.inner.snapshot().cursors[0].1.1, Offset(1));
}

#[tokio::test]
async fn a_damaged_cursor_file_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    std::fs::write(&path, "nonsense").unwrap();
    let node = FakeNode::new();
    let started = node.terminal().cursor_store(FileCursors::new(&path)).connect().await;
    assert!(matches!(started, Err(StartError::Cursors(CursorError::Damaged(_)))));
}

#[tokio::test]
async fn it_works_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let (_handle, mut events) = Terminal::builder(&url, "demo", "token").connect().await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut link = NodeLink::accept(Box::new(stream)).await;
    let open = link.open().await;
    link.opened(&open, |_| {}).await;
    link.deliver(TERMINAL, [1]).await;
    next_message(&mut events).await.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
}
