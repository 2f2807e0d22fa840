//! The words on the wires, as they are, so that a change of them is seen. Every frame and body is
//! also read back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Debug;

use clarion_protocol::http::*;
use clarion_protocol::push_link::{BackendFrame, PushNodeFrame};
use clarion_protocol::terminal::{NodeFrame, TerminalFrame};
use clarion_protocol::{FrameError, IsolationGroup, LogName};
use common::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn lines(jsons: impl IntoIterator<Item = String>) -> String {
    jsons.into_iter().collect::<Vec<_>>().join("\n")
}

/// Writes a body and reads it back.
fn body<T: Serialize + DeserializeOwned>(value: &T) -> String {
    let json = serde_json::to_string(value).unwrap();
    let back: T = parse_body(json.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), json);
    json
}

#[test]
fn terminal_link_from_terminals() {
    for frame in terminal_frames() {
        assert_eq!(TerminalFrame::parse(&frame.to_json()).unwrap(), frame);
    }
    let text = lines(terminal_frames().iter().map(TerminalFrame::to_json));
    insta::assert_snapshot!(text);
}

#[test]
fn terminal_link_from_nodes() {
    for frame in node_frames() {
        assert_eq!(NodeFrame::parse(&frame.to_json()).unwrap(), frame);
    }
    let text = lines(node_frames().iter().map(NodeFrame::to_json));
    insta::assert_snapshot!(text);
}

#[test]
fn push_link_from_back_ends() {
    for frame in backend_frames() {
        let json = frame.to_json();
        assert_eq!(BackendFrame::parse(&json).unwrap().to_json(), json);
    }
    let text = lines(backend_frames().iter().map(BackendFrame::to_json));
    insta::assert_snapshot!(text);
}

#[test]
fn push_link_from_nodes() {
    for frame in push_node_frames() {
        assert_eq!(PushNodeFrame::parse(&frame.to_json()).unwrap(), frame);
    }
    let text = lines(push_node_frames().iter().map(PushNodeFrame::to_json));
    insta::assert_snapshot!(text);
}

#[test]
fn http_pushes() {
    let counts = Counts {
        audience: 8,
        delivered: 6,
        acknowledged: 5,
        expired: 0,
        undeliverable: 1,
        suppressed: 0,
        evicted: 0,
        pending: 2,
    };
    let state = MessageState {
        id: message_id(),
        accepted_at_ms: 1_750_372_515_625,
        expires_at_ms: 1_750_631_715_625,
        counts,
        targets: vec![TargetState {
            target: Target::Topic(topic("news")),
            position: Position { epoch: EPOCH, offset: OFFSET },
            counts,
        }],
    };
    let replayed = PushAccepted { replayed: true, ..accepted() };
    let mut jsons: Vec<String> = pushes().iter().map(body).collect();
    jsons.extend([body(&accepted()), body(&replayed), body(&state)]);
    let text = lines(jsons);
    insta::assert_snapshot!(text);
}

#[test]
fn http_problem() {
    let text = body(&problem());
    insta::assert_snapshot!(text);
}

#[test]
fn http_topics_and_terminals() {
    let terminal = |id: &str| id.parse::<clarion_protocol::TerminalId>().unwrap();
    let members = TopicMembers { terminals: vec![terminal("phone-1"), terminal("phone-2")] };
    let outcomes = Page {
        next: None,
        items: vec![
            MemberOutcome { terminal: terminal("phone-1"), member: true, error: None },
            MemberOutcome {
                terminal: terminal("phone-2"),
                member: false,
                error: Some(TargetError {
                    code: clarion_protocol::Code::TooManyTopics,
                    retryable: false,
                    detail: None,
                }),
            },
        ],
    };
    let page = Page {
        items: vec![TopicMember { terminal: terminal("phone-1") }],
        next: Some("phone-1".to_owned()),
    };
    let info = TerminalInfo {
        terminal: terminal("phone-1"),
        user: Some("alice".parse().unwrap()),
        kind: Some(TerminalKind::Android),
        online: true,
        registered_at_ms: 1_750_000_000_000,
        last_seen_ms: 1_750_372_515_625,
        generation: 12,
        cursors: vec![CursorInfo { log: LogName::Terminal, epoch: EPOCH, offset: OFFSET }],
    };
    let unseen = TerminalInfo {
        user: None,
        kind: None,
        online: false,
        generation: 0,
        cursors: vec![],
        ..info.clone()
    };
    let last: Page<TerminalInfo> = Page { items: vec![info.clone(), unseen], next: None };
    let text = lines([body(&members), body(&outcomes), body(&page), body(&info), body(&last)]);
    insta::assert_snapshot!(text);
}

#[test]
fn http_products_and_tokens() {
    let create = ProductCreate {
        product: "demo".parse().unwrap(),
        kinds: Some(vec![
            TerminalKind::Android,
            TerminalKind::Ios,
            TerminalKind::Pc,
            TerminalKind::Web,
            TerminalKind::Device,
        ]),
        allow_sha1_body_hash: Some(false),
        pushes_per_s_max: Some(1000),
        isolation_group: Some("gold".parse().unwrap()),
        token_public_key_pem: Some("-----BEGIN PUBLIC KEY-----\n…".to_owned()),
    };
    let least = ProductCreate {
        kinds: None,
        allow_sha1_body_hash: None,
        pushes_per_s_max: None,
        isolation_group: None,
        token_public_key_pem: None,
        ..create.clone()
    };
    let key = ApiKeyInfo {
        key: "key-1".parse().unwrap(),
        secret: Some("c2VjcmV0".to_owned()),
        created_at_ms: 1_750_000_000_000,
        revoked_at_ms: None,
    };
    let token_key = TokenKeyInfo {
        kid: "token-1".parse().unwrap(),
        algorithm: TokenAlgorithm::HS256,
        secret: Some("c2VjcmV0".to_owned()),
        created_at_ms: 1_750_000_000_000,
        revoked_at_ms: None,
    };
    let revoked =
        ApiKeyInfo { secret: None, revoked_at_ms: Some(1_750_000_001_000), ..key.clone() };
    let public =
        TokenKeyInfo { algorithm: TokenAlgorithm::EdDSA, secret: None, ..token_key.clone() };
    let info = ProductInfo {
        product: "demo".parse().unwrap(),
        created_at_ms: 1_750_000_000_000,
        kinds: vec![TerminalKind::Android],
        allow_sha1_body_hash: true,
        pushes_per_s_max: None,
        isolation_group: IsolationGroup::default(),
        terminals: 2,
        api_keys: vec![key, revoked],
        token_keys: vec![token_key, public],
    };
    let claims = TokenClaims {
        aud: "demo".to_owned(),
        sub: "phone-1".to_owned(),
        user: Some("alice".to_owned()),
        kind: TerminalKind::Android,
        topics: vec!["news".to_owned(), "weather:*".to_owned()],
        exp: 1_750_376_115,
        jti: Some("t-1".to_owned()),
    };
    let least_claims = TokenClaims { user: None, topics: vec![], jti: None, ..claims.clone() };
    let token_request = TokenRequest {
        terminal: "phone-1".parse().unwrap(),
        user: Some("alice".parse().unwrap()),
        kind: Some(TerminalKind::Android),
        topics: vec![clarion_protocol::TopicPattern::new("weather:*").unwrap()],
        ttl_s: Some(3600),
    };
    let token = MintedToken { token: "eyJh.eyJh.c2ln".to_owned(), expires_at_s: 1_750_376_115 };
    let pem = TokenKeyCreate { token_public_key_pem: create.token_public_key_pem.clone() };
    let text = lines([
        body(&create),
        body(&least),
        body(&ProductChange { isolation_group: create.isolation_group.clone() }),
        body(&pem),
        body(&token_request),
        body(&token),
        body(&KickOutcome { kicked: true }),
        body(&info),
        body(&claims),
        body(&least_claims),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn http_clusters() {
    let gateway =
        |node: &str| Gateway { url: format!("wss://{node}.example.com"), node: node.to_owned() };
    let gateways = Gateways { gateways: vec![gateway("b"), gateway("a")], ttl_s: 57 };
    let node = ClusterNode {
        node: "a".to_owned(),
        boot: "00000000deadbeef".to_owned(),
        version: "0.1.0".to_owned(),
        roles: vec!["gateway".to_owned(), "broker".to_owned()],
        isolation_group: IsolationGroup::default(),
        address: Some("10.0.0.1:7946".to_owned()),
        http_url: "http://10.0.0.1:8080".to_owned(),
        terminals_url: Some("wss://a.example.com".to_owned()),
        reachable: true,
        owns: false,
        why: "came back 3 s ago".to_owned(),
        draining: false,
        sick: false,
        quarantined_until_ms: Some(1_750_000_007_000),
        flaps: 1,
        slots: 0,
        load: Load { links: 2, links_max: 100, sessions: 3, cpu_permille: 250 },
        status: Some(serde_json::json!({ "store": { "writable": true } })),
    };
    let alone = ClusterNode {
        address: None,
        terminals_url: None,
        quarantined_until_ms: None,
        status: None,
        ..node.clone()
    };
    let status = |cluster: Option<&str>, nodes| ClusterStatus {
        node: "a".to_owned(),
        cluster: cluster.map(str::to_owned),
        nodes,
    };
    let place = Where {
        log: "terminal:phone-1".to_owned(),
        isolation_group: IsolationGroup::default(),
        slot: 1234,
        owner: Some("b".to_owned()),
        why: "first in placement order".to_owned(),
        order: vec![
            WhereNode { node: "b".to_owned(), reachable: true },
            WhereNode { node: "a".to_owned(), reachable: false },
        ],
        readers: vec!["a".to_owned()],
    };
    let text = lines([
        body(&gateways),
        body(&status(Some("clarion"), vec![node])),
        body(&status(None, vec![alone])),
        body(&DrainStarted { node: "a".to_owned(), started: true }),
        body(&place),
        body(&Where { owner: None, ..place.clone() }),
    ]);
    insta::assert_snapshot!(text);
}

fn refused<F: Debug>(result: Result<F, FrameError>) -> String {
    result.expect_err("must be refused").to_string()
}

/// A refusal says which field is wrong and why.
#[test]
fn refused_frames() {
    let terminal = |text: &str| format!("{text}\n    {}", refused(TerminalFrame::parse(text)));
    let node = |text: &str| format!("{text}\n    {}", refused(NodeFrame::parse(text)));
    let push = |text: &str| format!("{text}\n    {}", refused(BackendFrame::parse(text)));
    let text = lines([
        terminal(""),
        terminal("ping"),
        terminal("[]"),
        terminal("{}"),
        terminal(r#"{"t":7,"s":0}"#),
        terminal(r#"{"t":"report","s":1,"a":{"os":"x"}}"#),
        terminal(r#"{"t":"report","s":1,"#),
        terminal(r#"{"t":"ping","s":0} {}"#),
        terminal(r#"{"t":"ping","s":-1}"#),
        terminal(r#"{"t":"ping"}"#),
        terminal(r#"{"t":"ack","s":1,"a":[[1,9007199254740992]]}"#),
        terminal(r#"{"t":"ack","s":1,"a":[[1,5],[70000,5]]}"#),
        terminal(r#"{"t":"ack","s":1,"s":2,"a":[]}"#),
        terminal(r#"{"t":"subscribe","s":1,"id":1,"topic":"a b"}"#),
        terminal(r#"{"s":1,"product":"demo","token":"x","cursors":[["inbox",[1,1]]],"t":"open"}"#),
        node(r#"{"t":"deliver","s":1,"l":1,"m":[{"id":"short"}]}"#),
        node(r#"{"t":"gap","s":1,"l":1,"epoch":1,"from":1,"to":2,"reason":"bored"}"#),
        push(r#"{"t":"push","id":4,"push":{"audience":{"terminals":["ok","n k"]},"payload":1}}"#),
        push(r#"{"t":"push","id":4,"push":{"audience":"all","payload":1,"tll":3}}"#),
    ]);
    insta::assert_snapshot!(text);
    let long = format!("{{\"t\":\"{}\"}}", "ü".repeat(1000));
    assert_eq!(
        TerminalFrame::parse(&long),
        Err(FrameError::UnknownType { t: "ü".repeat(16) }),
        "what a peer wrote is repeated in short"
    );
    assert_eq!(BackendFrame::peek_id(r#"{"t":"push","push":{"audience":1},"id":4}"#), Some(4));
    assert_eq!(BackendFrame::peek_id(r#"{"t":"push","id":"x"}"#), None);
}

/// The first `t` decides, wherever it stands and however it is escaped.
#[test]
fn the_first_type_decides() {
    for text in [
        r#"{"t":"ping","s":3}"#,
        r#" { "t" : "ping" , "s" : 3 } "#,
        r#"{"s":3,"t":"ping"}"#,
        r#"{"\u0074":"\u0070ing","s":3}"#,
        r#"{"t":"ping","s":3,"t":"close"}"#,
        r#"{"s":3,"t":"ping","t":"close"}"#,
    ] {
        assert_eq!(TerminalFrame::parse(text).unwrap(), TerminalFrame::Ping { s: 3 }, "{text}");
    }
}

/// A message is JSON or bytes.
#[test]
fn payloads_of_messages() {
    let parse = |m: &str| {
        let NodeFrame::Deliver(deliver) =
            NodeFrame::parse(&format!(r#"{{"t":"deliver","s":1,"l":1,"m":[{m}]}}"#)).unwrap()
        else {
            panic!("not a delivery")
        };
        deliver.m.into_iter().next().unwrap().payload().map(|payload| format!("{payload:?}"))
    };
    let id = message_id();
    assert!(parse(&format!(r#"{{"id":"{id}","d":null}}"#)).unwrap().contains("null"));
    assert!(parse(&format!(r#"{{"id":"{id}","b":"AAE="}}"#)).unwrap().contains("[0, 1]"));
    assert!(parse(&format!(r#"{{"id":"{id}","b":"AAE"}}"#)).is_err());
    assert!(parse(&format!(r#"{{"id":"{id}"}}"#)).is_err());
    assert!(parse(&format!(r#"{{"id":"{id}","d":1,"b":""}}"#)).is_err());
}
