//! The back-ends' WebSocket, over a store in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::large_futures)]

#[allow(dead_code)]
mod http_support;

use std::collections::BTreeSet;

use clarion_core::{Body, LogKey};
use clarion_protocol::push_link::{Confirmation, PushNodeFrame, SUBPROTOCOL_PUSH, Welcome};
use clarion_protocol::{Code, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::memory::AppendFault;
use clarion_storage::{Read, Store as _};
use futures_util::{SinkExt as _, StreamExt as _};
use http_support::{Connection, Key, Node, Request};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Bytes, Message};

type Socket = WebSocketStream<TcpStream>;

fn upgrade(node: &Node, key: &Key) -> Request {
    node.signed(key, "GET", &key.path("/push"), None)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", SUBPROTOCOL_PUSH)
}

async fn open(node: &Node, key: &Key) -> (Socket, Welcome) {
    let mut connection = node.connect().await;
    let reply = connection.send(upgrade(node, key)).await;
    assert_eq!(reply.status, 101, "{reply:?}");
    assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(reply.header("sec-websocket-protocol"), Some(SUBPROTOCOL_PUSH));
    let Connection(stream) = connection;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    match next(&mut socket).await {
        PushNodeFrame::Welcome(welcome) => (socket, welcome),
        other => panic!("{other:?} before the welcome"),
    }
}

/// The next frame of the protocol.
async fn next(socket: &mut Socket) -> PushNodeFrame {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return PushNodeFrame::parse(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// `count` confirmations, in the order in which they come, and in how many frames.
async fn confirmations(socket: &mut Socket, count: usize) -> (Vec<Confirmation>, usize) {
    let (mut all, mut frames) = (Vec::new(), 0);
    while all.len() < count {
        match next(socket).await {
            PushNodeFrame::Confirm { c } => all.extend(c),
            other => panic!("{other:?}"),
        }
        frames += 1;
    }
    assert_eq!(all.len(), count);
    (all, frames)
}

/// The code of the close frame, with everything before it read away.
async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn send(socket: &mut Socket, frame: Value) {
    socket.send(Message::from(frame.to_string())).await.unwrap();
}

fn push(id: u64, audience: Value, payload: Value) -> Value {
    json!({ "t": "push", "id": id, "push": { "audience": audience, "payload": payload } })
}

fn to_terminal(id: u64) -> Value {
    push(id, json!({ "terminals": [format!("t{id}")] }), json!(id))
}

async fn entries(node: &Node, log: std::sync::Arc<LogKey>) -> Vec<String> {
    let read = Read { log, after: Offset::ZERO, entries_max: 10_000, bytes_max: 1 << 20 };
    let page = node.store.read(vec![read]).await.remove(0).unwrap();
    let text = |body: &Body| match body {
        Body::Json(text) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    page.entries.iter().map(|entry| text(&entry.body)).collect()
}

#[tokio::test]
async fn pushes_are_confirmed_by_their_ids() {
    let node = Node::start().await;
    let key = node.demo().await;
    let (mut socket, welcome) = open(&node, &key).await;
    assert_eq!((welcome.window, welcome.frame_bytes_max), (1024, 262_144));
    for id in 0..100 {
        socket.feed(Message::from(to_terminal(id).to_string())).await.unwrap();
    }
    socket.flush().await.unwrap();
    let (confirmed, frames) = confirmations(&mut socket, 100).await;
    let ids: BTreeSet<u64> = confirmed.iter().map(|c| c.id).collect();
    assert_eq!(ids, (0..100).collect(), "each once");
    assert!(frames < 100, "confirmations share frames: {frames}");
    for confirmation in confirmed {
        let accepted = confirmation.accepted.expect("accepted");
        assert!(accepted.targets[0].position.is_some());
    }
}

/// I8: entries of one connection keep their order, and a topic's log shows it.
#[tokio::test]
async fn pushes_of_one_connection_keep_their_order() {
    let node = Node::start().await;
    let key = node.demo().await;
    let (mut socket, _) = open(&node, &key).await;
    for id in 0..500 {
        // Every third claims a key first: what is slower must not be overtaken.
        let mut frame = push(id, json!({ "topic": "news" }), json!(id));
        if id % 3 == 0 {
            frame["push"]["idempotency_key"] = json!(format!("k{id}"));
        }
        socket.feed(Message::from(frame.to_string())).await.unwrap();
    }
    socket.flush().await.unwrap();
    confirmations(&mut socket, 500).await;
    let topic = TopicName::new("news").unwrap();
    let found = entries(&node, LogKey::topic(&ProductId::new("demo").unwrap(), &topic)).await;
    let sent: Vec<String> = (0..500).map(|id: u32| id.to_string()).collect();
    assert_eq!(found, sent);
}

#[tokio::test]
async fn a_full_window_stops_the_reading() {
    let node = Node::with(|config| config.limits.push_window = 4).await;
    let key = node.demo().await;
    let (mut socket, welcome) = open(&node, &key).await;
    assert_eq!(welcome.window, 4);
    node.store.set_append_fault(AppendFault::Hang);
    for id in 0..8 {
        send(&mut socket, to_terminal(id)).await;
    }
    socket.send(Message::Ping(Bytes::from_static(b"behind"))).await.unwrap();
    let demo = ProductId::new("demo").unwrap();
    let inbox = |id: u64| LogKey::terminal(&demo, &TerminalId::new(&format!("t{id}")).unwrap());
    for id in 0..4 {
        while entries(&node, inbox(id)).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    assert!(entries(&node, inbox(4)).await.is_empty(), "the fifth is not even read");
    node.store.set_append_fault(AppendFault::None);
    let first = socket.next().await.unwrap().unwrap();
    assert!(first.is_text(), "confirmations come before the ping behind the window: {first:?}");
    let PushNodeFrame::Confirm { c } = PushNodeFrame::parse(first.to_text().unwrap()).unwrap()
    else {
        panic!("{first:?}")
    };
    let (rest, _) = confirmations(&mut socket, 8 - c.len()).await;
    let ids: BTreeSet<u64> = c.iter().chain(&rest).map(|c| c.id).collect();
    assert_eq!(ids, (0..8).collect());
}

#[tokio::test]
async fn a_bad_push_is_refused_by_its_id_and_the_connection_goes_on() {
    let node = Node::start().await;
    let key = node.demo().await;
    let (mut socket, _) = open(&node, &key).await;
    for (frame, code) in [
        (json!({ "t": "push", "id": 1, "push": { "audience": "all" } }), Code::InvalidField),
        (json!({ "t": "push", "id": 2, "push": { "audience": "some" } }), Code::InvalidField),
        (json!({ "t": "push", "id": 3 }), Code::InvalidField),
        (json!({ "t": "pull", "id": 4 }), Code::FrameMalformed),
        (push(5, json!("all"), json!("x".repeat(5000))), Code::PayloadTooLarge),
    ] {
        send(&mut socket, frame.clone()).await;
        let (confirmed, _) = confirmations(&mut socket, 1).await;
        assert_eq!(confirmed[0].id, frame["id"].as_u64().unwrap());
        let problem = confirmed[0].problem.as_ref().unwrap();
        assert_eq!(problem.code, code.as_str(), "{problem:?}");
        assert!(problem.request_id.is_some());
    }
    send(&mut socket, to_terminal(9)).await;
    assert!(confirmations(&mut socket, 1).await.0[0].accepted.is_some());
}

#[tokio::test]
async fn frames_that_cannot_be_understood_end_the_connection() {
    let node = Node::with(|config| config.limits.body_bytes_max = 2048).await;
    let key = node.demo().await;
    for (message, code) in [
        (Message::from("{"), Code::FrameMalformed.number()),
        (Message::from(r#"{"t":"push"}"#), Code::FrameMalformed.number()),
        (Message::Binary(Bytes::from_static(b"{}")), 1003),
        (Message::from("x".repeat(3000)), 1009),
    ] {
        let (mut socket, _) = open(&node, &key).await;
        send(&mut socket, to_terminal(1)).await;
        socket.send(message).await.unwrap();
        let (confirmed, _) = confirmations(&mut socket, 1).await;
        assert!(confirmed[0].accepted.is_some(), "what came before is still confirmed");
        assert_eq!(close_code(&mut socket).await, code);
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_ends_the_connection_with_1007() {
    use tokio::io::AsyncWriteExt as _;
    let node = Node::start().await;
    let key = node.demo().await;
    let (mut socket, _) = open(&node, &key).await;
    // One masked text frame (mask 0) of two bytes that are no UTF-8.
    socket.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]).await.unwrap();
    assert_eq!(close_code(&mut socket).await, 1007);
}

#[tokio::test]
async fn the_upgrade_is_signed_and_names_the_sub_protocol() {
    let node = Node::start().await;
    let key = node.demo().await;
    node.send(upgrade(&node, &key).without("authorization")).await.refuses(Code::SignatureMissing);
    let request = upgrade(&node, &key).without("sec-websocket-protocol");
    node.send(request).await.refuses(Code::SubprotocolMissing);
    node.send(upgrade(&node, &key).without("upgrade")).await.refuses(Code::BadRequest);
    let admin = upgrade(&node, &key).without("authorization");
    let admin = admin.header("authorization", &format!("Bearer {}", http_support::ADMIN));
    node.send(admin).await.refuses(Code::Forbidden);
}

#[tokio::test]
async fn a_product_has_a_bounded_number_of_connections() {
    let node = Node::with(|config| config.limits.push_connections_max = 1).await;
    let key = node.demo().await;
    let other = node.product(json!({ "product": "other" })).await;
    let (socket, _) = open(&node, &key).await;
    node.send(upgrade(&node, &key)).await.refuses(Code::LinkLimit);
    let (_other, _) = open(&node, &other).await;
    drop(socket);
    // The place is free once the node has seen the end of the connection.
    loop {
        let reply = node.send(upgrade(&node, &key)).await;
        if reply.status == 101 {
            break;
        }
        reply.refuses(Code::LinkLimit);
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_connections() {
    let node = Node::start().await;
    let key = node.demo().await;
    let (mut socket, _) = open(&node, &key).await;
    let revoke = format!("/v1/products/demo/keys/{}", key.key);
    assert_eq!(node.admin("DELETE", &revoke, None).await.status, 204);
    for id in 0.. {
        send(&mut socket, to_terminal(id)).await;
        let (confirmed, _) = confirmations(&mut socket, 1).await;
        if let Some(problem) = &confirmed[0].problem {
            assert_eq!(problem.code, Code::KeyRevoked.as_str());
            break;
        }
    }
    assert_eq!(close_code(&mut socket).await, 1008);
}

#[tokio::test]
async fn a_drain_tells_connections_to_go_and_confirms_what_is_in_flight() {
    let mut node = Node::with(|config| config.node.drain_timeout_ms = 2000).await;
    let key = node.demo().await;
    let (mut socket, _) = open(&node, &key).await;
    node.store.set_append_fault(AppendFault::Hang);
    send(&mut socket, to_terminal(1)).await;
    let demo = ProductId::new("demo").unwrap();
    let inbox = LogKey::terminal(&demo, &TerminalId::new("t1").unwrap());
    while entries(&node, inbox.clone()).await.is_empty() {
        tokio::task::yield_now().await;
    }
    node.shut_down();
    let PushNodeFrame::Goaway { after_ms } = next(&mut socket).await else { panic!("no goaway") };
    assert!(after_ms <= 1000, "jittered within half of the drain time-out");
    node.store.set_append_fault(AppendFault::None);
    assert!(confirmations(&mut socket, 1).await.0[0].accepted.is_some());
    assert_eq!(close_code(&mut socket).await, Code::GoingAway.number());
    drop(socket);
    node.stopped().await;
}
