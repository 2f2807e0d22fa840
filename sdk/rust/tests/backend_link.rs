//! Pushes over the WebSocket, against a scripted node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use clarion_sdk::backend::LinkTuning;
use clarion_sdk::protocol::http::{PushAccepted, PushRequest};
use clarion_sdk::protocol::push_link::{BackendFrame, Confirmation, PushNodeFrame, Welcome};
use clarion_sdk::protocol::{Code, MessageId, Problem};
use clarion_sdk::{Backend, Push, PushLink};
use common::{NO_DELAY, NodeLink};
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Ws;

struct PushNode {
    listener: TcpListener,
    link: PushLink,
}

impl PushNode {
    async fn new(change: impl FnOnce(&mut LinkTuning)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let backend = Backend::builder(&url, "demo", "key", "secret").build().unwrap();
        let mut tuning = LinkTuning::default();
        tuning.reconnect = NO_DELAY;
        tuning.retry = NO_DELAY;
        change(&mut tuning);
        let link = backend.connect_with(tuning).unwrap();
        Self { listener, link }
    }

    async fn accept(&self, window: u32) -> Connection {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut connection = Connection(NodeLink::accept(Box::new(stream)).await);
        let welcome = Welcome { window, frame_bytes_max: 1 << 20, heartbeat_ms: 30_000 };
        connection.send(PushNodeFrame::Welcome(welcome)).await;
        connection
    }

    /// Pushes in flight whose payloads are the numbers.
    fn send(
        &self,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Vec<tokio::task::JoinHandle<Result<PushAccepted, clarion_sdk::PushError>>> {
        let push = |n: u64| Push::to_topic("news").json(&n).unwrap();
        numbers.into_iter().map(|n| tokio::spawn(self.link.send(push(n)))).collect()
    }
}

struct Connection(NodeLink);

impl Connection {
    async fn send(&mut self, frame: PushNodeFrame) {
        self.0.send_text(frame.to_json()).await;
    }

    async fn recv(&mut self) -> (u64, PushRequest) {
        loop {
            match self.0.0.next().await.unwrap().unwrap() {
                Ws::Text(text) => {
                    let BackendFrame::Push { id, push } = BackendFrame::parse(&text).unwrap();
                    return (id, push);
                }
                Ws::Close(_) => panic!("closed"),
                _ => {}
            }
        }
    }

    async fn confirm(&mut self, ids: impl IntoIterator<Item = u64>) {
        let accepted = |id| PushAccepted {
            id: MessageId(u128::from(id)),
            expires_at_ms: 1,
            replayed: false,
            targets: Vec::new(),
        };
        let one = |id| Confirmation { id, accepted: Some(accepted(id)), problem: None };
        let c = ids.into_iter().map(one).collect();
        self.send(PushNodeFrame::Confirm { c }).await;
    }

    async fn refuse(&mut self, id: u64, code: Code) {
        let problem = Problem { retry_after_s: None, ..Problem::new(code, None) };
        let c = vec![Confirmation { id, accepted: None, problem: Some(problem) }];
        self.send(PushNodeFrame::Confirm { c }).await;
    }
}

fn number(push: &PushRequest) -> u64 {
    push.payload.as_ref().unwrap().get().parse().unwrap()
}

#[tokio::test]
async fn many_are_in_flight_and_confirmed_in_any_order() {
    let node = PushNode::new(|_| {}).await;
    let mut connection = node.accept(100).await;
    let pushes = node.send(0..50);
    let mut ids = Vec::new();
    for expected in 0..50 {
        let (id, push) = connection.recv().await;
        assert_eq!(number(&push), expected, "in the order they were sent");
        assert!(push.idempotency_key.unwrap().starts_with("sdk-"));
        ids.push(id);
    }
    ids.reverse();
    connection.confirm(ids.split_off(25)).await;
    connection.confirm(ids).await;
    for (n, outcome) in join_all(pushes).await.into_iter().enumerate() {
        let accepted = outcome.unwrap().unwrap();
        assert_eq!(accepted.id, MessageId(n as u128 + 1), "each its own confirmation");
    }
}

#[tokio::test]
async fn the_window_is_not_exceeded() {
    let node = PushNode::new(|_| {}).await;
    let mut connection = node.accept(4).await;
    let pushes = node.send(0..10);
    let mut confirmed = 0;
    let mut received = 0;
    while confirmed < 10 {
        while received < (confirmed + 4).min(10) {
            assert_eq!(connection.recv().await.0, received + 1);
            received += 1;
        }
        // A full window: nothing more may be on the way. The ping travels behind whatever is.
        connection.0.0.send(Ws::Ping(vec![1].into())).await.unwrap();
        let next = connection.0.0.next().await.unwrap().unwrap();
        assert!(matches!(next, Ws::Pong(_)), "more than the window: {next:?}");
        confirmed += 1;
        connection.confirm([confirmed]).await;
    }
    assert!(join_all(pushes).await.into_iter().all(|outcome| outcome.unwrap().is_ok()));
}

#[tokio::test]
async fn what_was_not_confirmed_is_sent_again_under_its_key_and_in_order() {
    let node = PushNode::new(|_| {}).await;
    let mut first = node.accept(100).await;
    let pushes = node.send(0..5);
    let mut keys = Vec::new();
    for _ in 0..5 {
        keys.push(first.recv().await.1.idempotency_key.unwrap());
    }
    first.confirm([1, 3]).await;
    let mut unconfirmed = Vec::new();
    for (n, push) in pushes.into_iter().enumerate() {
        match n {
            0 | 2 => drop(push.await.unwrap().unwrap()),
            _ => unconfirmed.push(push),
        }
    }
    drop(first);
    let mut second = node.accept(100).await;
    let mut ids = Vec::new();
    for expected in [1, 3, 4] {
        let (id, push) = second.recv().await;
        assert_eq!(push.idempotency_key.as_ref(), Some(&keys[expected]));
        ids.push(id);
    }
    second.confirm(ids).await;
    for push in unconfirmed {
        push.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn goaway_is_followed_at_its_moment_and_nothing_new_is_sent_before() {
    let node = PushNode::new(|_| {}).await;
    let mut first = node.accept(100).await;
    let before = node.send([0]);
    let (id, _) = first.recv().await;
    first.send(PushNodeFrame::Goaway { after_ms: 200 }).await;
    first.0.0.send(Ws::Ping(vec![1].into())).await.unwrap();
    while !matches!(first.0.0.next().await, Some(Ok(Ws::Pong(_)))) {}
    let after = node.send([1]);
    first.confirm([id]).await;
    let mut second = node.accept(100).await;
    let (id, push) = second.recv().await;
    assert_eq!(number(&push), 1, "nothing new went to the node that drains");
    second.confirm([id]).await;
    for push in before.into_iter().chain(after) {
        push.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_refusal_for_now_is_repeated_and_one_for_good_is_told() {
    let node = PushNode::new(|_| {}).await;
    let mut connection = node.accept(100).await;
    let pushes = node.send([0]);
    let (id, first) = connection.recv().await;
    connection.refuse(id, Code::LaneFull).await;
    let (id, second) = connection.recv().await;
    assert_eq!(first.idempotency_key, second.idempotency_key);
    connection.refuse(id, Code::PayloadTooLarge).await;
    let error = pushes.into_iter().next().unwrap().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.attempts), (Some(Code::PayloadTooLarge), 2));
    assert!(!error.retryable && !error.outcome_unknown);
}

#[tokio::test]
async fn a_push_that_no_frame_can_hold_is_refused_here_and_hurts_no_other() {
    let node = PushNode::new(|_| {}).await;
    let mut connection = node.accept(100).await;
    let huge = Push::to_topic("news").json(&"x".repeat(1 << 20)).unwrap();
    let error = node.link.send(huge).await.unwrap_err();
    assert_eq!((error.code(), error.outcome_unknown), (Some(Code::BodyTooLarge), false));
    let pushes = node.send([0]);
    let (id, _) = connection.recv().await;
    connection.confirm([id]).await;
    pushes.into_iter().next().unwrap().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_push_that_is_not_confirmed_in_time_is_unknown() {
    let node = PushNode::new(|tuning| tuning.deadline = Duration::from_millis(100)).await;
    let mut connection = node.accept(100).await;
    let pushes = node.send([0]);
    connection.recv().await;
    let error = pushes.into_iter().next().unwrap().await.unwrap().unwrap_err();
    assert!(error.outcome_unknown && error.retryable, "{error}");
}

#[tokio::test]
async fn what_its_sender_gave_up_before_there_was_a_link_is_not_sent() {
    let node = PushNode::new(|tuning| tuning.deadline = Duration::from_millis(100)).await;
    for push in node.send(0..3) {
        push.await.unwrap().unwrap_err();
    }
    let mut connection = node.accept(100).await;
    let _alive = node.send([3]);
    let (_, first) = connection.recv().await;
    assert_eq!(number(&first), 3, "the others may be on their way at another node by now");
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let node = PushNode::new(|tuning| tuning.silence_max = Duration::from_millis(50)).await;
    let mut silent = node.accept(100).await;
    let pushes = node.send([0]);
    silent.recv().await;
    let mut second = node.accept(100).await;
    let (id, _) = second.recv().await;
    second.confirm([id]).await;
    pushes.into_iter().next().unwrap().await.unwrap().unwrap();
    drop(silent);
}

#[tokio::test]
async fn bad_credentials_are_told_at_once() {
    let node = PushNode::new(|_| {}).await;
    let pushes = node.send([0]);
    let (mut stream, _) = node.listener.accept().await.unwrap();
    let body = serde_json::to_string(&Problem::new(Code::KeyRevoked, None)).unwrap();
    let answer = format!("HTTP/1.1 401 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
    let error = pushes.into_iter().next().unwrap().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::KeyRevoked), "{error}");
}

#[tokio::test]
async fn the_last_handle_closes_the_connection() {
    let node = PushNode::new(|_| {}).await;
    let mut connection = node.accept(100).await;
    drop(node.link);
    let end = timeout(Duration::from_secs(20), connection.0.recv()).await.unwrap();
    assert_eq!(end, None);
}
