//! Properties of identifiers, offsets, frames and signatures over inputs nobody thought of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clarion_protocol::http::{PushRequest, parse_body};
use clarion_protocol::ids::{OFFSET_END, OFFSET_TIME_ORIGIN_MS};
use clarion_protocol::oauth::{SignRequest, Signed, sign};
use clarion_protocol::push_link::{BackendFrame, PushNodeFrame};
use clarion_protocol::terminal::*;
use clarion_protocol::{
    Epoch, FrameError, LogName, MessageId, Offset, TerminalId, TopicName, TopicPattern,
};
use proptest::collection::vec;
use proptest::prelude::*;

const ID: &str = "[A-Za-z0-9._:@~-]{1,64}";
/// Store times from 2025 to 2090, in milliseconds.
fn time_ms() -> impl Strategy<Value = u64> {
    OFFSET_TIME_ORIGIN_MS..3_786_912_000_000_u64
}
fn offset() -> impl Strategy<Value = Offset> {
    (0..OFFSET_END).prop_map(Offset)
}
fn epoch() -> impl Strategy<Value = Epoch> {
    (0..OFFSET_END).prop_map(Epoch)
}
fn log_name() -> impl Strategy<Value = LogName> {
    prop_oneof![
        Just(LogName::Terminal),
        Just(LogName::User),
        Just(LogName::Broadcast),
        ID.prop_map(|id| LogName::Topic(TopicName::new(&id).unwrap())),
    ]
}
fn topic() -> impl Strategy<Value = TopicName> {
    ID.prop_map(|id| TopicName::new(&id).unwrap())
}
fn cursor() -> impl Strategy<Value = Cursor> {
    (epoch(), offset()).prop_map(|(epoch, offset)| Cursor(epoch, offset))
}
fn message_id() -> impl Strategy<Value = MessageId> {
    any::<u128>().prop_map(MessageId)
}

/// Any JSON, as text.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("-0.5e+300".to_owned()),
        ".*".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let key = prop_oneof![
            Just("t".to_owned()),
            Just("s".to_owned()),
            Just("m".to_owned()),
            Just("a".to_owned()),
            Just("id".to_owned()),
            Just("push".to_owned()),
            Just("audience".to_owned()),
            ".*",
        ];
        let pair = (key, inner.clone())
            .prop_map(|(key, value)| format!("{} : {value}", serde_json::to_string(&key).unwrap()));
        prop_oneof![
            vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            vec(pair, 0..5).prop_map(|pairs| format!("{{ {} }}", pairs.join(","))),
        ]
    })
}

fn terminal_frame() -> impl Strategy<Value = TerminalFrame> {
    let open = (
        any::<u32>(),
        ID,
        ".*",
        proptest::option::of(".*"),
        vec((log_name(), cursor()), 0..4),
        vec(topic(), 0..4),
    )
        .prop_map(|(s, product, token, agent, cursors, topics)| {
            TerminalFrame::Open(Open {
                s,
                product: product.parse().unwrap(),
                token,
                agent,
                cursors,
                topics,
            })
        });
    prop_oneof![
        open,
        (any::<u32>(), vec((any::<u16>(), offset()), 0..5))
            .prop_map(|(s, a)| TerminalFrame::Ack { s, a }),
        (any::<u32>(), any::<u16>(), offset()).prop_map(|(s, l, o)| TerminalFrame::Skip {
            s,
            l,
            o
        }),
        (any::<u32>(), any::<u64>(), topic(), proptest::option::of(cursor()))
            .prop_map(|(s, id, topic, cursor)| TerminalFrame::Subscribe { s, id, topic, cursor }),
        (any::<u32>(), any::<u64>(), topic())
            .prop_map(|(s, id, topic)| TerminalFrame::Unsubscribe { s, id, topic }),
        (any::<u32>(), ".*").prop_map(|(s, token)| TerminalFrame::Refresh { s, token }),
        any::<u32>().prop_map(|s| TerminalFrame::Close { s }),
        any::<u32>().prop_map(|s| TerminalFrame::Ping { s }),
    ]
}

fn every_parser(text: &str) -> [Option<FrameError>; 4] {
    [
        TerminalFrame::parse(text).err(),
        NodeFrame::parse(text).err(),
        BackendFrame::parse(text).err(),
        PushNodeFrame::parse(text).err(),
    ]
}

/// The same object with `t` last, spaced, and with a field that nobody knows.
fn rewritten(json: &str) -> String {
    let inner = &json[1..json.len() - 1];
    let (t, rest) = inner.split_once(',').expect("every frame has `s`");
    format!("\n{{ \"from_the_future\" : [1, {{}}] , {rest} , {} }}\t", t.replace(':', " : "))
}

proptest! {
    #[test]
    fn ids_are_what_they_were(id in ID, tail in "[^A-Za-z0-9._:@~-]") {
        let terminal: TerminalId = id.parse().unwrap();
        prop_assert_eq!(terminal.as_str(), &id);
        let json = serde_json::to_string(&terminal).unwrap();
        prop_assert_eq!(serde_json::from_str::<TerminalId>(&json).unwrap(), terminal);
        prop_assert!(TerminalId::new(&(id.clone() + &tail)).is_err());
        prop_assert!(TerminalId::new(&(tail + &id)).is_err());
        prop_assert!(TerminalId::new(&id.repeat(65)).is_err());
    }

    #[test]
    fn patterns_match_what_begins_like_them(topic in topic(), cut in 0_usize..64) {
        let cut = cut.min(topic.as_str().len());
        let pattern = TopicPattern::new(&format!("{}*", &topic.as_str()[..cut])).unwrap();
        prop_assert!(pattern.matches(&topic));
        prop_assert!(TopicPattern::new(topic.as_str()).unwrap().matches(&topic));
        let other = TopicName::new(&format!("!{topic}").replace('!', "x"));
        if let Ok(other) = other && other != topic {
            prop_assert!(!TopicPattern::new(topic.as_str()).unwrap().matches(&other));
        }
    }

    #[test]
    fn message_ids_sort_by_time_and_read_back(
        early in 0_u64..1 << 47, late in 1_u64..1 << 40, a in any::<u128>(), b in any::<u128>(),
    ) {
        let first = MessageId::from_parts(early, a);
        let second = MessageId::from_parts(early + late, b);
        prop_assert!(first < second && first.to_string() < second.to_string());
        prop_assert_eq!(first.to_string().parse::<MessageId>().unwrap(), first);
        prop_assert_eq!(first.time_ms(), early);
    }

    #[test]
    fn log_names_read_back(name in log_name()) {
        prop_assert_eq!(name.to_string().parse::<LogName>().unwrap(), name);
    }

    /// I2: an offset tells the store's time, grows strictly, and stays exact in every JSON reader.
    #[test]
    fn offsets_grow_and_tell_the_time(times in vec(time_ms(), 1..50)) {
        let mut last = Offset::ZERO;
        for time_ms in times {
            prop_assert_eq!(Offset::at_time_ms(time_ms).time_ms(), time_ms);
            let next = last.next(time_ms);
            prop_assert!(next > last);
            prop_assert!(next >= Offset::at_time_ms(time_ms), "never earlier than its append");
            prop_assert!(next.0 < OFFSET_END);
            prop_assert!(next.time_ms() == time_ms || next.0 == last.0 + 1);
            last = next;
        }
    }

    #[test]
    fn numbers_beyond_2_53_are_no_positions(beyond in OFFSET_END..) {
        prop_assert!(serde_json::from_str::<Offset>(&beyond.to_string()).is_err());
        prop_assert!(serde_json::from_str::<Epoch>(&beyond.to_string()).is_err());
    }

    #[test]
    fn no_text_panics(text in any::<String>(), tail in ".*", json in json()) {
        let type_and = |t| format!("{{\"t\":\"{t}\",{tail}");
        for text in [&text, &json, &type_and("ack"), &type_and("deliver"), &type_and("push")] {
            for error in every_parser(text).into_iter().flatten() {
                prop_assert!(error.to_string().len() <= 512);
            }
            let _ = BackendFrame::peek_id(text);
            if let Ok(push) = parse_body::<PushRequest>(text.as_bytes()) {
                let _ = push.validate(4096);
            }
        }
    }

    #[test]
    fn fields_of_any_kind_do_not_panic(t in "ack|open|deliver|gap|push|confirm|error", json in json()) {
        let text = format!("{{\"t\":\"{t}\",\"s\":1,\"m\":{json},\"a\":{json},\"push\":{json},\"c\":{json}}}");
        every_parser(&text);
    }

    #[test]
    fn terminal_frames_read_back(frame in terminal_frame()) {
        let json = frame.to_json();
        prop_assert_eq!(&TerminalFrame::parse(&json).unwrap(), &frame);
    }

    #[test]
    fn order_space_and_unknown_fields_do_not_matter(s in any::<u32>(), l in any::<u16>(), o in offset()) {
        for frame in [TerminalFrame::Skip { s, l, o }, TerminalFrame::Ping { s }, TerminalFrame::Ack { s, a: vec![(l, o)] }] {
            prop_assert_eq!(&TerminalFrame::parse(&rewritten(&frame.to_json())).unwrap(), &frame);
        }
    }

    #[test]
    fn unknown_types_are_named(t in "[a-z_]{1,20}x", json in json()) {
        let text = format!("{{\"t\":\"{t}\",\"a\":{json},\"s\":{json}}}");
        for error in every_parser(&text) {
            prop_assert_eq!(error, Some(FrameError::UnknownType { t: t.clone() }));
        }
    }

    /// What a node assembles from shared parts is what the frame would be as a whole.
    #[test]
    fn assembled_frames_are_frames(
        s in any::<u32>(), l in any::<u16>(), again in any::<bool>(),
        messages in vec((proptest::option::of(offset()), message_id(), payload()), 0..6),
    ) {
        let mut bytes = Vec::new();
        write_deliver_head(&mut bytes, s, l, again);
        for (at, (offset, id, payload)) in messages.iter().enumerate() {
            if at > 0 {
                bytes.push(b',');
            }
            write_message(&mut bytes, *offset, *id, payload.as_ref());
        }
        write_deliver_tail(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();

        let parsed = NodeFrame::parse(&text).unwrap();
        prop_assert_eq!(parsed.to_json(), text);
        let NodeFrame::Deliver(deliver) = parsed else { panic!("no deliver frame") };
        prop_assert_eq!((deliver.s, deliver.l, deliver.again), (s, l, again));
        prop_assert_eq!(deliver.m.len(), messages.len());
        for (message, (offset, id, written)) in deliver.m.iter().zip(&messages) {
            prop_assert_eq!((&message.o, &message.id), (offset, id));
            match (message.payload().unwrap(), written) {
                (Payload::Json(read), Owned::Json(text)) => prop_assert_eq!(read.get(), text),
                (Payload::Bytes { content_type, data }, Owned::Bytes(ct, bytes)) => {
                    prop_assert_eq!((content_type, &data), (ct.as_str(), bytes));
                }
                _ => prop_assert!(false, "another kind of payload"),
            }
        }
    }

    /// A payload reaches the terminal in the very text it was pushed in.
    #[test]
    fn payloads_pass_through_as_written(json in json()) {
        let body = format!("{{\"payload\": {json} ,\"audience\":\"all\"}}");
        let push: PushRequest = parse_body(body.as_bytes()).unwrap();
        prop_assert_eq!(push.payload.as_ref().unwrap().get(), &json);
        let again: PushRequest = parse_body(&serde_json::to_vec(&push).unwrap()).unwrap();
        prop_assert_eq!(again.fingerprint(), push.fingerprint());
        let valid = push.validate(usize::MAX).unwrap();
        prop_assert_eq!(valid.payload.as_payload_ref(), PayloadRef::Json(json.as_bytes()));
    }
}

#[derive(Debug, Clone)]
enum Owned {
    Json(String),
    Bytes(String, Vec<u8>),
}

impl Owned {
    fn as_ref(&self) -> PayloadRef<'_> {
        match self {
            Self::Json(text) => PayloadRef::Json(text.as_bytes()),
            Self::Bytes(content_type, data) => PayloadRef::Bytes { content_type, data },
        }
    }
}

fn payload() -> impl Strategy<Value = Owned> {
    let content_type = prop_oneof![Just(CONTENT_TYPE_DEFAULT.to_owned()), "[ -~]{0,40}"];
    prop_oneof![
        json().prop_map(Owned::Json),
        (content_type, vec(any::<u8>(), 0..80)).prop_map(|(ct, data)| Owned::Bytes(ct, data)),
    ]
}

#[derive(Debug, Clone)]
struct Request {
    method: String,
    url: String,
    body: Option<Vec<u8>>,
    key: String,
    secret: String,
    nonce: String,
    timestamp: u64,
}

impl Request {
    fn sign(&self) -> String {
        sign(&SignRequest {
            method: &self.method,
            url: &self.url,
            body: self.body.as_deref(),
            key: &self.key,
            secret: &self.secret,
            nonce: &self.nonce,
            timestamp: self.timestamp,
        })
    }

    fn accepts(&self, header: &str) -> bool {
        Signed::parse(header).is_ok_and(|signed| {
            let body = self.body.as_deref().unwrap_or_default();
            signed.verify(&self.method, &self.url, &self.secret).is_ok()
                && signed.check_body(body, false).is_ok()
        })
    }
}

fn form(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b' ' => "+".to_owned(),
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02x}"),
        })
        .collect()
}

fn request() -> impl Strategy<Value = Request> {
    let query = vec((".{1,8}", proptest::option::of(".{0,8}")), 0..5).prop_map(|pairs| {
        let pairs = pairs.iter().filter(|(name, _)| !name.starts_with("oauth_"));
        let pairs = pairs.map(|(name, value)| match value {
            Some(value) => format!("{}={}", form(name), form(value)),
            None => form(name),
        });
        pairs.collect::<Vec<_>>().join("&")
    });
    let url = ("https?://[a-z0-9.]{1,20}(:[1-9][0-9]{1,3})?", "(/[a-z0-9._~%-]{0,9}){1,5}", query)
        .prop_map(|(origin, path, query)| format!("{origin}{path}?{query}"));
    let body = proptest::option::of(vec(any::<u8>(), 1..200));
    ("GET|PUT|POST|DELETE", url, body, "[!-~]{1,64}", ".*", "[!-~]{1,128}", 0..999_999_999_999_u64)
        .prop_map(|(method, url, body, key, secret, nonce, timestamp)| Request {
            method,
            url,
            body,
            key,
            secret,
            nonce,
            timestamp,
        })
}

/// Another character of the same class, so that the text stays well formed but means another thing.
fn other(c: char) -> char {
    match c {
        'z' | '9' | 'Z' => {
            if c == '9' {
                '0'
            } else if c == 'z' {
                'a'
            } else {
                'A'
            }
        }
        c => char::from(c as u8 + 1),
    }
}

/// The text with the `pick`th of its letters and digits that `fits` changed.
fn tampered(text: &str, pick: usize, fits: impl Fn(usize) -> bool) -> Option<String> {
    let escapes: Vec<usize> = text.match_indices('%').map(|(at, _)| at).collect();
    let escaped = |at: usize| escapes.iter().any(|e| (*e..e + 3).contains(&at));
    let places: Vec<(usize, char)> = text
        .char_indices()
        .filter(|(at, c)| c.is_ascii_alphanumeric() && !escaped(*at) && fits(*at))
        .collect();
    let (at, c) = *places.get(pick % places.len().max(1))?;
    let mut text = text.to_owned();
    text.replace_range(at..=at, &other(c).to_string());
    Some(text)
}

proptest! {
    #[test]
    fn no_header_panics(header in any::<String>(), rest in ".*") {
        let _ = Signed::parse(&header);
        let _ = Signed::parse(&format!("OAuth {rest}"));
        let _ = Signed::parse(&format!("OAuth oauth_nonce=\"{rest}\", realm=\"{rest}"));
    }

    #[test]
    fn what_is_signed_verifies(request in request()) {
        let header = request.sign();
        prop_assert!(request.accepts(&header), "{header}");
        let signed = Signed::parse(&header).unwrap();
        prop_assert_eq!(signed.key(), &request.key);
        prop_assert_eq!(signed.nonce(), &request.nonce);
        prop_assert_eq!(signed.timestamp(), request.timestamp);
    }

    #[test]
    fn one_other_character_and_nothing_verifies(request in request(), pick in any::<usize>(), flip in 1_u8..) {
        let header = request.sign();
        // `realm` aside every character of the header counts, from the first value on.
        let values = header.find('"').unwrap();
        let change = tampered(&header, pick, |at| at > values).unwrap();
        prop_assert!(!request.accepts(&change), "header {change}");

        if let Some(method) = tampered(&request.method, pick, |_| true) {
            let other = Request { method, ..request.clone() };
            prop_assert!(!other.accepts(&header), "method {}", other.method);
        }
        let host = request.url.find("://").unwrap() + 3;
        if let Some(url) = tampered(&request.url, pick, |at| at >= host) {
            let other = Request { url, ..request.clone() };
            prop_assert!(!other.accepts(&header), "url {}", other.url);
        }
        let other = Request { secret: format!("{}x", request.secret), ..request.clone() };
        prop_assert!(!other.accepts(&header), "secret");
        let mut body = request.body.clone().unwrap_or_default();
        let at = pick % body.len().max(1);
        match body.get_mut(at) {
            Some(byte) => *byte ^= flip,
            None => body.push(flip),
        }
        prop_assert!(!Request { body: Some(body), ..request.clone() }.accepts(&header), "body");
    }
}
