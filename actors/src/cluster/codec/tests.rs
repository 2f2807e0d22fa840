use std::fmt::Write;

use proptest::prelude::*;

use clarion_core::placement::Slot;
use clarion_protocol::{Epoch, MessageId, ProductId, TerminalId, TopicName, UserId};
use clarion_storage::{Appended, LogLimits};

use super::*;

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn inbox() -> Arc<LogKey> {
    LogKey::terminal(&product(), &TerminalId::new("t1").unwrap())
}

fn topic() -> TopicName {
    TopicName::new("news").unwrap()
}

fn batch() -> Arc<Batch> {
    let bodies = [
        Body::Json(Bytes::from_static(b"{}")),
        Body::Bytes { content_type: "a/b".into(), data: Bytes::from_static(&[1, 2]) },
        Body::Control(Control::Subscribed(topic())),
        Body::Control(Control::Unsubscribed(topic())),
        Body::Tombstone,
    ];
    let entry = |(at, body): (usize, Body)| {
        let at = at as u64;
        Arc::new(Entry::new(Offset(at + 1), Offset(at), MessageId(7), 1000, body))
    };
    let entries = bodies.into_iter().enumerate().map(entry).collect();
    Arc::new(Batch::new(LogKey::topic(&product(), &topic()), Epoch(9), entries))
}

fn append() -> NewEntry {
    NewEntry {
        log: inbox(),
        message: MessageId(7),
        expires_at_ms: 1000,
        body: Body::Json(Bytes::from_static(b"1")),
        limits: LogLimits { entries_max: 256, bytes_max: 4096, evict: false },
        first_attempt_ms: Some(5),
        begun_ms: 0,
        deadline_ms: 900,
    }
}

/// One of each kind, in the order of their numbers.
fn all() -> Vec<PeerMessage> {
    let slots: SlotSet = [Slot(0), Slot(4095)].into_iter().collect();
    let appended = Appended {
        epoch: Epoch(9),
        offset: Offset(300),
        predecessor: Offset(2),
        duplicate: true,
        audience: 3,
        evicted: 1,
    };
    let results = vec![
        AppendResult::Done(appended),
        AppendResult::NotTried,
        AppendResult::Unavailable("u".into()),
        AppendResult::Unknown("k".into()),
        AppendResult::LogFull,
        AppendResult::Full("f".into()),
    ];
    let heads = || vec![(inbox(), Offset(300))];
    let user = LogKey::user(&product(), &UserId::new("u1").unwrap());
    let read = Read { log: inbox(), after: Offset(300), entries_max: 64, bytes_max: 65_536 };
    let head = Read { log: Arc::clone(&user), ..read.clone() };
    let (epoch, entries) = (Epoch(9), batch().entries.clone());
    let page = Page { epoch, entries, head: Offset(300), evicted_to: Offset(1), more: true };
    vec![
        PeerMessage::Append { request: 1, entries: vec![append()] },
        PeerMessage::Appended { request: 1, results },
        PeerMessage::Ephemeral { batch: batch() },
        PeerMessage::Hint { batch: batch(), ephemeral: false, listed: true },
        PeerMessage::Grew { heads: heads() },
        PeerMessage::Heads { heads: heads() },
        PeerMessage::Confirm { heads: heads() },
        PeerMessage::Interest {
            logs: vec![Announced { log: inbox(), generation: 8 }],
            since_ms: 77,
        },
        PeerMessage::NoInterest { logs: vec![user, LogKey::broadcast(&product())] },
        PeerMessage::Complete { slots: slots.clone() },
        PeerMessage::Leave { slots: slots.clone() },
        PeerMessage::AnnounceAgain { slots: slots.clone() },
        PeerMessage::OwnerChanged { log: inbox() },
        PeerMessage::Dropped { slots },
        PeerMessage::Superseded { log: inbox(), generation: 8 },
        PeerMessage::Ask { request: 2, question: Question::Online(vec![inbox()]) },
        PeerMessage::Ask { request: 2, question: Question::FlushCursors(inbox()) },
        PeerMessage::Ask { request: 2, question: Question::Kick(inbox()) },
        PeerMessage::Ask { request: 2, question: Question::Reload(inbox()) },
        PeerMessage::Ask { request: 2, question: Question::Status },
        PeerMessage::Ask { request: 2, question: Question::Drain },
        PeerMessage::Ask { request: 2, question: Question::Read(vec![read, head]) },
        PeerMessage::Answer { request: 2, reply: Reply::Each(vec![true, false]) },
        PeerMessage::Answer { request: 2, reply: Reply::Is(true) },
        PeerMessage::Answer { request: 2, reply: Reply::Text("{}".into()) },
        PeerMessage::Answer { request: 2, reply: Reply::Pages(vec![Some(page), None]) },
        PeerMessage::ProductChanged { product: product() },
        PeerMessage::Hello,
    ]
}

/// Runs of zeros, as in sets of slots, are written short.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if zeros > 8 {
            let _ = write!(text, "(00 x {zeros})");
            rest = &rest[zeros..];
        } else {
            let _ = write!(text, "{first:02x}");
            rest = &rest[1..];
        }
    }
    text
}

#[test]
fn the_bytes_of_every_message_stay_what_they_are() {
    for version in [1, 2] {
        let mut golden = String::new();
        for message in all() {
            let name = format!("{message:?}");
            let name = name.split([' ', '{']).next().unwrap_or_default();
            let bytes = encode(&message, version, 1_234);
            let _ = writeln!(golden, "{name} {}", hex(&bytes));
        }
        insta::assert_snapshot!(format!("version_{version}"), golden);
    }
}

#[test]
fn every_message_comes_back_as_it_was() {
    for message in all() {
        let bytes = encode(&message, 1, 0);
        assert_eq!(format!("{:?}", decode(&bytes, 0).unwrap()), format!("{message:?}"));
    }
}

#[test]
fn the_next_version_adds_behind_what_the_former_one_has() {
    for message in all() {
        let bytes = encode(&message, 2, 5);
        assert_eq!(format!("{:?}", decode_up_to(2, &bytes, 9).unwrap()), format!("{message:?}"));
        assert!(decode_up_to(1, &bytes, 9).is_err(), "one that speaks only 1 is never sent 2");
        let former = encode(&message, 1, 5);
        assert_eq!(bytes[2..][..former.len() - 2], former[2..]);
        if matches!(message, PeerMessage::Hint { .. }) {
            let short = [&[2, 0], &former[2..]].concat();
            assert!(decode_up_to(2, &short, 9).is_err(), "what it adds is missing");
        }
    }
}

#[test]
fn what_a_former_owner_calls_unavailable_is_looked_for_in_either_version_i2() {
    let results = vec![WireResult::Unavailable("u"), WireResult::Away("a")];
    let former = WireMessage::Appended { request: 1, results };
    for version in [1u16, 2] {
        let mut bytes = version.to_le_bytes().to_vec();
        bincode::encode_into_std_write(&former, &mut bytes, CONFIG).unwrap();
        let Ok(PeerMessage::Appended { results, .. }) = decode_up_to(2, &bytes, 0) else {
            panic!("version {version}");
        };
        let here = [AppendResult::Unknown("u".into()), AppendResult::Unavailable("a".into())];
        assert_eq!(results, here, "version {version}");
        // What a former release does not know it drops, as if it were lost.
        let away = vec![AppendResult::Unavailable("a".into())];
        let bytes = encode(&PeerMessage::Appended { request: 1, results: away }, version, 0);
        assert_eq!(bytes[2..6], [1, 1, 1, 6], "kind, request, how many, which");
    }
}

#[test]
fn what_is_cut_short_too_long_or_of_another_version_is_no_message() {
    for message in all() {
        let bytes = encode(&message, 1, 0);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], 0).is_err(), "{message:?} cut at {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer, 0).unwrap_err(), Unreadable("longer than it says"));
        let later = [&[9, 0], &bytes[2..]].concat();
        assert_eq!(decode(&later, 0).unwrap_err(), Unreadable("an unknown version"));
    }
    let unknown = [1, 0, 250, 0, 0];
    assert!(decode(&unknown, 0).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_are_an_error_and_allocate_nothing_of_their_own(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0u8..24,
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let _ = decode(&body, 0);
        let _ = decode(&[&[1, 0, kind], &body[..]].concat(), 0);
        let messages = all();
        let mut bytes = encode(&messages[usize::from(kind) % messages.len()], 1, 0).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = decode(&bytes, 0);
    }
}
