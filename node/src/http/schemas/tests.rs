//! Each schema against the type it describes: one value with every field, one with none that may
//! be absent.

use std::collections::BTreeSet;

use clarion_protocol::http::{
    ApiKeyInfo, ClusterNode, ClusterStatus, Counts, CursorInfo, DrainStarted, Gateway, Gateways,
    KickOutcome, Load, MemberOutcome, MessageState, MintedToken, Position, ProductChange,
    ProductCreate, ProductInfo, PushAccepted, PushRequest, Target, TargetError, TargetOutcome,
    TargetState, TerminalInfo, TerminalKind, TokenAlgorithm, TokenKeyCreate, TokenKeyInfo,
    TokenRequest, TopicMember, TopicMembers, Where, WhereNode,
};
use clarion_protocol::{
    Code, Epoch, IsolationGroup, KeyId, LogName, MessageId, Offset, Problem, ProductId, TerminalId,
    UserId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::all;

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn declared(schema: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let required = schema["required"].as_array().unwrap().iter();
    let required = required.map(|name| name.as_str().unwrap().to_owned()).collect();
    (keys(&schema["properties"]), required)
}

/// `full` has every field, `bare` only those that are always there.
fn describes<T: Serialize>(name: &str, full: &T, bare: &T) {
    let schemas = all();
    let (properties, required) = declared(&schemas[name]);
    assert_eq!(keys(&serde_json::to_value(full).unwrap()), properties, "{name}: all fields");
    assert_eq!(keys(&serde_json::to_value(bare).unwrap()), required, "{name}: required fields");
}

/// A body with every field of the schema can be read, without any required one it cannot, and with
/// another one neither.
fn reads<T: DeserializeOwned>(name: &str, full: &Value) {
    let schemas = all();
    let (properties, required) = declared(&schemas[name]);
    assert_eq!(keys(full), properties, "{name}: the example has every field");
    serde_json::from_value::<T>(full.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    for field in &properties {
        let mut less = full.clone();
        less.as_object_mut().unwrap().remove(field);
        let read = serde_json::from_value::<T>(less).is_ok();
        assert_eq!(read, !required.contains(field), "{name} without {field}");
    }
    let mut more = full.clone();
    more["surplus"] = json!(1);
    assert!(serde_json::from_value::<T>(more).is_err(), "{name} takes no other field");
    assert_eq!(schemas[name]["additionalProperties"], false, "{name} says so");
}

fn terminal() -> TerminalId {
    TerminalId::new("t").unwrap()
}

fn key() -> KeyId {
    KeyId::new("k").unwrap()
}

#[test]
fn requests_are_read_as_the_schemas_say() {
    let push = json!({ "audience": "all", "payload": 1, "payload_base64": "", "content_type": "a/b",
        "ttl": 1, "idempotency_key": "k" });
    reads::<PushRequest>("PushRequest", &push);
    reads::<TopicMembers>("TopicMembers", &json!({ "terminals": ["t"] }));
    let product = json!({ "product": "p", "kinds": ["web"], "allow_sha1_body_hash": false,
        "pushes_per_s_max": 1, "isolation_group": "g", "token_public_key_pem": "x" });
    reads::<ProductCreate>("ProductCreate", &product);
    reads::<ProductChange>("ProductChange", &json!({ "isolation_group": "g" }));
    let token = json!({ "terminal": "t", "user": "u", "kind": "pc", "topics": ["a*"], "ttl_s": 1 });
    reads::<TokenRequest>("TokenRequest", &token);
    reads::<TokenKeyCreate>("TokenKeyCreate", &json!({ "token_public_key_pem": "x" }));
}

#[test]
fn answers_to_pushes_are_written_as_the_schemas_say() {
    let error = TargetError { code: Code::InboxFull, retryable: true, detail: Some("d".into()) };
    let bare_error = TargetError { detail: None, ..error.clone() };
    describes("TargetError", &error, &bare_error);
    let position = Position { epoch: Epoch(1), offset: Offset(2) };
    describes("Position", &position, &position);
    let outcome =
        TargetOutcome { target: Target::All, position: Some(position), error: Some(error) };
    let bare_outcome = TargetOutcome { position: None, error: None, ..outcome.clone() };
    describes("TargetOutcome", &outcome, &bare_outcome);
    let accepted = PushAccepted {
        id: MessageId(1),
        expires_at_ms: 1,
        replayed: true,
        targets: vec![outcome.clone()],
    };
    describes("PushAccepted", &accepted, &PushAccepted { replayed: false, ..accepted.clone() });
    let mut problem = Problem::new(Code::Overloaded, Some("d".to_owned()));
    problem.request_id = Some("r".into());
    problem.targets = vec![outcome];
    describes("Problem", &problem, &Problem::new(Code::BadRequest, None));
    let counts = Counts::default();
    describes("Counts", &counts, &counts);
    let target = TargetState { target: Target::All, position, counts };
    describes("TargetState", &target, &target);
    let state = MessageState {
        id: MessageId(1),
        accepted_at_ms: 1,
        expires_at_ms: 1,
        counts,
        targets: vec![target],
    };
    describes("MessageState", &state, &state);
}

#[test]
fn answers_about_terminals_are_written_as_the_schemas_say() {
    let error = TargetError { code: Code::TooManyTopics, retryable: false, detail: None };
    let outcome = MemberOutcome { terminal: terminal(), member: false, error: Some(error) };
    describes("MemberOutcome", &outcome, &MemberOutcome { error: None, ..outcome.clone() });
    let member = TopicMember { terminal: terminal() };
    describes("TopicMember", &member, &member);
    let cursor = CursorInfo { log: LogName::User, epoch: Epoch(1), offset: Offset(2) };
    describes("CursorInfo", &cursor, &cursor);
    let info = TerminalInfo {
        terminal: terminal(),
        user: Some(UserId::new("u").unwrap()),
        kind: Some(TerminalKind::Web),
        online: true,
        registered_at_ms: 1,
        last_seen_ms: 1,
        generation: 1,
        cursors: vec![cursor],
    };
    describes("TerminalInfo", &info, &TerminalInfo { user: None, kind: None, ..info.clone() });
    describes("KickOutcome", &KickOutcome { kicked: true }, &KickOutcome { kicked: true });
}

#[test]
fn answers_to_the_administrator_are_written_as_the_schemas_say() {
    let api_key = ApiKeyInfo {
        key: key(),
        secret: Some("s".into()),
        created_at_ms: 1,
        revoked_at_ms: Some(1),
    };
    let bare = ApiKeyInfo { secret: None, revoked_at_ms: None, ..api_key.clone() };
    describes("ApiKeyInfo", &api_key, &bare);
    let token_key = TokenKeyInfo {
        kid: key(),
        algorithm: TokenAlgorithm::HS256,
        secret: Some("s".into()),
        created_at_ms: 1,
        revoked_at_ms: Some(1),
    };
    let bare = TokenKeyInfo { secret: None, revoked_at_ms: None, ..token_key.clone() };
    describes("TokenKeyInfo", &token_key, &bare);
    let info = ProductInfo {
        product: ProductId::new("p").unwrap(),
        created_at_ms: 1,
        kinds: vec![TerminalKind::Pc],
        allow_sha1_body_hash: true,
        pushes_per_s_max: Some(1),
        isolation_group: IsolationGroup::default(),
        terminals: 1,
        api_keys: vec![api_key],
        token_keys: vec![token_key],
    };
    describes("ProductInfo", &info, &ProductInfo { pushes_per_s_max: None, ..info.clone() });
    let token = MintedToken { token: "t".into(), expires_at_s: 1 };
    describes("MintedToken", &token, &token);
}

#[test]
fn answers_about_the_cluster_are_written_as_the_schemas_say() {
    let gateway = Gateway { url: "ws://a".into(), node: "a".into() };
    describes("Gateway", &gateway, &gateway);
    let gateways = Gateways { gateways: vec![gateway], ttl_s: 1 };
    describes("Gateways", &gateways, &gateways);
    describes("Load", &Load::default(), &Load::default());
    let node = ClusterNode {
        node: "a".into(),
        boot: "b".into(),
        version: "1".into(),
        roles: vec![],
        isolation_group: IsolationGroup::default(),
        address: Some("a:1".into()),
        http_url: "http://a".into(),
        terminals_url: Some("ws://a".into()),
        reachable: true,
        owns: true,
        why: "fit".into(),
        draining: false,
        sick: false,
        quarantined_until_ms: Some(1),
        flaps: 0,
        slots: 1,
        load: Load::default(),
        status: Some(json!({})),
    };
    let bare = ClusterNode {
        address: None,
        terminals_url: None,
        quarantined_until_ms: None,
        status: None,
        ..node.clone()
    };
    describes("ClusterNode", &node, &bare);
    let status = ClusterStatus { node: "a".into(), cluster: Some("c".into()), nodes: vec![node] };
    describes("ClusterStatus", &status, &ClusterStatus { cluster: None, ..status.clone() });
    let drain = DrainStarted { node: "a".into(), started: true };
    describes("DrainStarted", &drain, &drain);
    let other = WhereNode { node: "a".into(), reachable: true };
    describes("WhereNode", &other, &other);
    let place = Where {
        log: "p/broadcast".into(),
        isolation_group: IsolationGroup::default(),
        slot: 1,
        owner: Some("a".into()),
        why: "w".into(),
        order: vec![other],
        readers: vec![],
    };
    describes("Where", &place, &Where { owner: None, ..place.clone() });
}

#[test]
fn names_of_kinds_and_algorithms_are_complete() {
    let schemas = all();
    let written = |values: &[TerminalKind]| serde_json::to_value(values).unwrap();
    let kinds = [
        TerminalKind::Android,
        TerminalKind::Ios,
        TerminalKind::Pc,
        TerminalKind::Web,
        TerminalKind::Device,
    ];
    assert_eq!(schemas["TerminalKind"]["enum"], written(&kinds));
    let algorithms = [TokenAlgorithm::HS256, TokenAlgorithm::EdDSA];
    let schema = &schemas["TokenKeyInfo"]["properties"]["algorithm"]["enum"];
    assert_eq!(*schema, serde_json::to_value(algorithms).unwrap());
}
