//! One of every frame and every body, in the order of the specification.
#![allow(dead_code)] // Each test file uses its part.

use clarion_protocol::http::*;
use clarion_protocol::push_link::*;
use clarion_protocol::terminal::*;
use clarion_protocol::{Code, Epoch, LogName, MessageId, Offset, Problem, TopicName};
use serde_json::value::RawValue;

pub const EPOCH: Epoch = Epoch(3_402_823_669_209_384);
pub const OFFSET: Offset = Offset(60_139_008_000_000);

pub fn message_id() -> MessageId {
    "01JZ0W7Q6E8Y4V3N5T2R1KXH9D".parse().unwrap()
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

pub fn position(l: LogAlias, log: LogName) -> LogPosition {
    LogPosition { l, log, epoch: EPOCH, offset: OFFSET }
}

pub fn terminal_frames() -> Vec<TerminalFrame> {
    let cursor = Cursor(EPOCH, OFFSET);
    vec![
        TerminalFrame::Open(Open {
            s: 1,
            product: "demo".parse().unwrap(),
            token: "eyJh.eyJh.c2ln".to_owned(),
            agent: Some("example/1.0".to_owned()),
            cursors: vec![(LogName::Terminal, cursor), (LogName::Topic(topic("news")), cursor)],
            topics: vec![topic("news"), topic("weather:berlin")],
        }),
        TerminalFrame::Open(Open {
            s: 1,
            product: "demo".parse().unwrap(),
            token: "eyJh.eyJh.c2ln".to_owned(),
            agent: None,
            cursors: vec![],
            topics: vec![],
        }),
        TerminalFrame::Ack { s: 1, a: vec![(1, OFFSET), (3, Offset(OFFSET.0 + 1))] },
        TerminalFrame::Skip { s: 1, l: 1, o: OFFSET },
        TerminalFrame::Subscribe { s: 1, id: 7, topic: topic("news"), cursor: None },
        TerminalFrame::Subscribe { s: 1, id: 8, topic: topic("news"), cursor: Some(cursor) },
        TerminalFrame::Unsubscribe { s: 1, id: 9, topic: topic("news") },
        TerminalFrame::Refresh { s: 1, token: "eyJh.eyJh.c2ln".to_owned() },
        TerminalFrame::Close { s: 1 },
        TerminalFrame::Ping { s: 0 },
    ]
}

pub fn messages() -> Vec<Message> {
    let message = |o, d: Option<&str>, b: Option<&str>, ct: Option<&str>| Message {
        o,
        id: message_id(),
        d: d.map(raw),
        b: b.map(str::to_owned),
        ct: ct.map(str::to_owned),
    };
    vec![
        message(Some(OFFSET), Some(r#"{ "order" : 17, "state":"sent" }"#), None, None),
        message(Some(Offset(OFFSET.0 + 1)), Some("null"), None, None),
        message(Some(Offset(OFFSET.0 + 2)), None, Some("AAEC"), None),
        message(None, None, Some("R0lG"), Some("text/plain; charset=\"utf-8\"")),
    ]
}

pub fn node_frames() -> Vec<NodeFrame> {
    let deliver = |again, m| NodeFrame::Deliver(Deliver { s: 1, l: 2, again, m });
    let reason = |code: Code| (code.number(), code.as_str().to_owned());
    let (closed_code, closed_reason) = reason(Code::TokenExpired);
    let (error_code, error_reason) = reason(Code::TopicForbidden);
    vec![
        NodeFrame::Opened(Opened {
            s: 1,
            node: "node-1".to_owned(),
            generation: 12,
            time_ms: 1_750_372_515_625,
            heartbeat_ms: 30_000,
            window: 64,
            ack_timeout_ms: 30_000,
            exp: 1_750_376_115,
            logs: vec![
                position(1, LogName::Terminal),
                position(2, LogName::User),
                position(3, LogName::Broadcast),
                position(4, LogName::Topic(topic("news"))),
            ],
            refused: vec![(topic("secret"), Code::TopicForbidden.number())],
        }),
        deliver(false, messages()),
        deliver(true, messages().drain(..1).collect()),
        NodeFrame::Subscribed { s: 1, id: Some(7), log: position(5, LogName::Topic(topic("a"))) },
        NodeFrame::Subscribed { s: 1, id: None, log: position(6, LogName::Topic(topic("b"))) },
        NodeFrame::Unsubscribed { s: 1, id: Some(9), topic: topic("a") },
        NodeFrame::Unsubscribed { s: 1, id: None, topic: topic("b") },
        NodeFrame::Refreshed { s: 1, exp: 1_750_379_715 },
        gap(GapReason::Evicted),
        gap(GapReason::Epoch),
        gap(GapReason::Ahead),
        NodeFrame::Closed {
            s: 1,
            code: closed_code,
            reason: closed_reason,
            reconnect: true,
            detail: None,
        },
        NodeFrame::Error {
            s: 1,
            id: Some(8),
            code: error_code,
            reason: error_reason,
            detail: Some("secret".to_owned()),
        },
        NodeFrame::Goaway { s: 0, after_ms: 2750, to: vec![] },
        NodeFrame::Goaway {
            s: 0,
            after_ms: 2750,
            to: vec!["wss://b.example.com".to_owned(), "wss://c.example.com".to_owned()],
        },
        NodeFrame::Heartbeat { s: 0, ms: 60_000 },
        NodeFrame::Pong { s: 0 },
    ]
}

fn gap(reason: GapReason) -> NodeFrame {
    NodeFrame::Gap { s: 1, l: 4, epoch: EPOCH, from: Offset(17), to: OFFSET, reason }
}

pub fn push(audience: Audience) -> PushRequest {
    PushRequest {
        audience,
        payload: Some(raw(r#"{ "hello": "world" }"#)),
        payload_base64: None,
        content_type: None,
        ttl: None,
        idempotency_key: None,
    }
}

pub fn pushes() -> Vec<PushRequest> {
    let terminals = ["phone-1", "phone-2"].map(|id| id.parse().unwrap()).to_vec();
    vec![
        push(Audience::All),
        PushRequest { ttl: Some(0), ..push(Audience::Terminals(terminals)) },
        PushRequest {
            idempotency_key: Some("order-17-sent".to_owned()),
            ttl: Some(3600),
            ..push(Audience::Users(vec!["alice".parse().unwrap()]))
        },
        PushRequest {
            payload: None,
            payload_base64: Some("AAEC".to_owned()),
            content_type: Some("application/x-bitmap".to_owned()),
            ..push(Audience::Topic(topic("news")))
        },
    ]
}

pub fn problem() -> Problem {
    Problem {
        request_id: Some("01JZ0W7Q6E8Y4V3N5T2R1KXH9E".to_owned()),
        targets: vec![failed()],
        ..Problem::new(Code::AllTargetsFailedRetryable, "the inbox of phone-1 is full".to_owned())
    }
}

fn failed() -> TargetOutcome {
    TargetOutcome {
        target: Target::Terminal("phone-1".parse().unwrap()),
        position: None,
        error: Some(TargetError {
            code: Code::InboxFull,
            retryable: true,
            detail: Some("256 entries".to_owned()),
        }),
    }
}

pub fn accepted() -> PushAccepted {
    let position = Some(Position { epoch: EPOCH, offset: OFFSET });
    let done = |target| TargetOutcome { target, position, error: None };
    PushAccepted {
        id: message_id(),
        expires_at_ms: 1_750_631_715_625,
        replayed: false,
        targets: vec![
            done(Target::All),
            done(Target::Terminal("phone-2".parse().unwrap())),
            done(Target::User("alice".parse().unwrap())),
            done(Target::Topic(topic("news"))),
            failed(),
        ],
    }
}

pub fn backend_frames() -> Vec<BackendFrame> {
    (1..).zip(pushes()).map(|(id, push)| BackendFrame::Push { id, push }).collect()
}

pub fn push_node_frames() -> Vec<PushNodeFrame> {
    vec![
        PushNodeFrame::Welcome(Welcome {
            window: 1024,
            frame_bytes_max: 262_144,
            heartbeat_ms: 30_000,
        }),
        PushNodeFrame::Confirm {
            c: vec![
                Confirmation { id: 1, accepted: Some(accepted()), problem: None },
                Confirmation { id: 2, accepted: None, problem: Some(problem()) },
            ],
        },
        PushNodeFrame::Goaway { after_ms: 2750 },
    ]
}
