//! What a push may ask for: every bound, on both sides of it, and the field each refusal names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clarion_protocol::Code;
use clarion_protocol::http::*;

const PAYLOAD_BYTES_MAX: usize = 16;

fn push(fields: &str) -> Result<ValidPush, (Code, String)> {
    let push: PushRequest = parse_body(format!("{{{fields}}}").as_bytes())?;
    push.validate(PAYLOAD_BYTES_MAX)
}

fn with(fields: &str) -> Result<ValidPush, (Code, String)> {
    push(&format!(r#""audience":"all","payload":1,{fields}"#))
}

#[track_caller]
fn refused(result: Result<ValidPush, (Code, String)>, code: Code, field: &str) {
    let (refused, detail) = result.expect_err(field);
    assert_eq!(refused, code, "{detail}");
    assert!(detail.starts_with(field), "{detail}");
}

fn terminals(count: usize) -> String {
    let names: Vec<String> = (0..count).map(|n| format!("\"t{n}\"")).collect();
    format!(r#""audience":{{"terminals":[{}]}},"payload":1"#, names.join(","))
}

#[test]
fn defaults_are_filled_in() {
    let valid = push(r#""audience":"all","payload":{ "a" : 1 }"#).unwrap();
    assert_eq!(valid.audience, Audience::All);
    assert_eq!(valid.payload, ValidPayload::Json(r#"{ "a" : 1 }"#.into()));
    assert_eq!((valid.ttl_s, valid.idempotency_key), (TTL_S_DEFAULT, None));

    let valid = push(r#""audience":{"topic":"news"},"payload_base64":"AAEC""#).unwrap();
    let data = vec![0, 1, 2].into();
    let content_type = "application/octet-stream".into();
    assert_eq!(valid.payload, ValidPayload::Bytes { content_type, data });
}

#[test]
fn targets_are_one_to_a_hundred_and_none_twice() {
    assert!(push(&terminals(1)).is_ok());
    assert!(push(&terminals(TARGETS_MAX)).is_ok());
    refused(push(&terminals(0)), Code::InvalidField, "audience.terminals: names none");
    refused(push(&terminals(101)), Code::TooManyTargets, "audience.terminals: names 101");
    let twice = r#""audience":{"users":["a","b","a"]},"payload":1"#;
    refused(push(twice), Code::InvalidField, "audience.users: names a twice");
    let bad = r#""audience":{"users":["a","b c"]},"payload":1"#;
    refused(push(bad), Code::InvalidField, "audience.users[1]: holds a character");
    let unknown = r#""audience":"everyone","payload":1"#;
    refused(push(unknown), Code::InvalidField, "audience");
    refused(push(r#""payload":1"#), Code::InvalidField, "missing field `audience`");
}

#[test]
fn ttl_has_a_bound() {
    assert_eq!(with(r#""ttl":0"#).unwrap().ttl_s, 0);
    assert_eq!(with(r#""ttl":2592000"#).unwrap().ttl_s, TTL_S_MAX);
    refused(with(r#""ttl":2592001"#), Code::InvalidField, "ttl:");
    refused(with(r#""ttl":-1"#), Code::InvalidField, "ttl:");
    refused(with(r#""ttl":"1h""#), Code::InvalidField, "ttl:");
}

#[test]
fn idempotency_keys_are_bounded() {
    let key = |key: &str| with(&format!(r#""idempotency_key":"{key}""#));
    assert_eq!(key("order-17").unwrap().idempotency_key.unwrap(), "order-17");
    assert!(key(&"k".repeat(128)).is_ok());
    for bad in [String::new(), "k".repeat(129), "a b".into(), "ü".into(), "\\n".into()] {
        refused(key(&bad), Code::InvalidField, "idempotency_key:");
    }
}

#[test]
fn exactly_one_payload() {
    refused(push(r#""audience":"all""#), Code::InvalidField, "payload: is missing");
    refused(with(r#""payload_base64":"AAEC""#), Code::InvalidField, "payload: give it or");
    refused(with(r#""content_type":"a/b""#), Code::InvalidField, "content_type: goes with");
    let null = push(r#""audience":"all","payload":null"#).unwrap();
    assert_eq!(null.payload, ValidPayload::Json("null".into()), "null is a payload");
}

#[test]
fn payloads_are_bounded() {
    let json = |text: &str| push(&format!(r#""audience":"all","payload":{text}"#));
    assert!(json(r#""sixteen bytes.""#).is_ok());
    refused(json(r#""sixteen bytes..""#), Code::PayloadTooLarge, "payload: exceeds 16");
    let bytes = |text: &str| push(&format!(r#""audience":"all","payload_base64":"{text}""#));
    assert!(bytes("AAAAAAAAAAAAAAAAAAAAAA==").is_ok(), "16 bytes");
    assert!(bytes("").is_ok(), "none at all");
    refused(bytes("AAAAAAAAAAAAAAAAAAAAAAA="), Code::PayloadTooLarge, "payload_base64: exceeds 16");
    refused(bytes(&"A".repeat(99_999)), Code::PayloadTooLarge, "payload_base64:");
    for bad in ["AAE", "AAE-", "A A=", "AAF="] {
        refused(bytes(bad), Code::InvalidField, "payload_base64: is not base64");
    }
}

#[test]
fn payloads_nest_no_deeper_than_readers_take() {
    let nested = |depth: usize| {
        let inner = format!("{}0{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        let payload = format!(r#"{{"a":[],"b":{inner}}}"#);
        let body = format!(r#"{{"audience":"all","payload":{payload}}}"#);
        parse_body::<PushRequest>(body.as_bytes()).unwrap().validate(1 << 20)
    };
    assert!(nested(PAYLOAD_DEPTH_MAX).is_ok());
    refused(nested(PAYLOAD_DEPTH_MAX + 1), Code::InvalidField, "payload: nests");
    let brackets = format!(r#"{{"audience":"all","payload":"\"\\{}"}}"#, "[".repeat(200));
    let text: PushRequest = parse_body(brackets.as_bytes()).unwrap();
    assert!(text.validate(1 << 20).is_ok(), "brackets in a text do not nest");
}

#[test]
fn content_types_are_checked() {
    let ct = |ct: &str| {
        push(&format!(r#""audience":"all","payload_base64":"AAEC","content_type":"{ct}""#))
    };
    for good in ["image/png", "application/ld+json", r#"text/plain; charset=\"utf-8\""#] {
        assert!(ct(good).is_ok(), "{good}");
    }
    let long = format!("a/{}", "b".repeat(127));
    for bad in ["", "png", "/", "a/", "/b", "a/b/c", "ä/b", "a b/c", "a/b\\n", &long] {
        refused(ct(bad), Code::InvalidField, "content_type:");
    }
}

#[test]
fn bodies_that_are_no_pushes() {
    refused(with(r#""tll":1"#), Code::InvalidField, "tll: unknown field");
    refused(push(r#""audience""#), Code::BadRequest, "");
    let trailing = parse_body::<PushRequest>(br#"{"audience":"all","payload":1} x"#);
    assert_eq!(trailing.unwrap_err().0, Code::BadRequest);
    assert_eq!(parse_body::<PushRequest>(b"\xff").unwrap_err().0, Code::BadRequest);
    assert_eq!(parse_body::<PushRequest>(b"").unwrap_err().0, Code::BadRequest);
}

/// An idempotency key is bound to what is asked, not to how it is spaced.
#[test]
fn fingerprints_tell_pushes_apart() {
    let print = |fields: &str| {
        parse_body::<PushRequest>(format!("{{{fields}}}").as_bytes()).unwrap().fingerprint()
    };
    let one = print(r#""audience":"all","payload":[1]"#);
    assert_eq!(one, print(r#" "payload" : [1] , "audience" : "all" "#));
    assert_ne!(one, print(r#""audience":"all","payload":[2]"#));
    assert_ne!(one, print(r#""audience":"all","payload":[1],"ttl":60"#));
    assert_ne!(one, print(r#""audience":{"topic":"all"},"payload":[1]"#));
}
