//! Entries of logs as they are stored: sealed like every value, in a layout of their own. Message,
//! predecessor and expiry in fixed places, then the kind of body and the body.

use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Body, Control, Entry};
use clarion_protocol::{MessageId, Offset, TopicName};

use super::codec::{HEADER_BYTES, damaged, open, seal};
use super::keys;
use super::tables::{Slice, Table};
use crate::StoreResult;

const BODY_JSON: u8 = 1;
const BODY_BYTES: u8 = 2;
const BODY_SUBSCRIBED: u8 = 3;
const BODY_UNSUBSCRIBED: u8 = 4;
const BODY_TOMBSTONE: u8 = 5;

/// An entry: fixed part, then the body.
pub(crate) fn encode_entry(
    buffer: &mut Vec<u8>,
    key: &[u8],
    predecessor: Offset,
    message: MessageId,
    expires_at_ms: u64,
    body: &Body,
) -> Slice {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    buffer.extend_from_slice(&message.0.to_le_bytes());
    buffer.extend_from_slice(&predecessor.0.to_le_bytes());
    buffer.extend_from_slice(&expires_at_ms.to_le_bytes());
    put_body(buffer, body);
    seal(buffer, key);
    Slice::from(&buffer[..])
}

/// A body: its kind, then what it holds (a content type in front of bytes, its length first).
pub(crate) fn put_body(buffer: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Json(text) => {
            buffer.push(BODY_JSON);
            buffer.extend_from_slice(text);
        }
        Body::Bytes { content_type, data } => {
            buffer.push(BODY_BYTES);
            let len = u16::try_from(content_type.len()).unwrap_or(u16::MAX);
            buffer.extend_from_slice(&len.to_le_bytes());
            buffer.extend_from_slice(&content_type.as_bytes()[..usize::from(len)]);
            buffer.extend_from_slice(data);
        }
        Body::Control(Control::Subscribed(topic)) => {
            buffer.push(BODY_SUBSCRIBED);
            buffer.extend_from_slice(topic.as_str().as_bytes());
        }
        Body::Control(Control::Unsubscribed(topic)) => {
            buffer.push(BODY_UNSUBSCRIBED);
            buffer.extend_from_slice(topic.as_str().as_bytes());
        }
        Body::Tombstone => buffer.push(BODY_TOMBSTONE),
    }
}

pub(crate) fn decode_entry(key: &[u8], value: &[u8]) -> StoreResult<Entry> {
    let body = open(Table::Entries, key, value)?;
    parse_entry(key, body).ok_or_else(|| damaged(Table::Entries, key, "it cannot be read"))
}

fn parse_entry(key: &[u8], body: &[u8]) -> Option<Entry> {
    let offset = keys::offset_of(key)?;
    let (message, rest) = body.split_at_checked(16)?;
    let (predecessor, rest) = rest.split_at_checked(8)?;
    let (expires, rest) = rest.split_at_checked(8)?;
    Some(Entry::new(
        offset,
        Offset(u64::from_le_bytes(predecessor.try_into().ok()?)),
        MessageId(u128::from_le_bytes(message.try_into().ok()?)),
        u64::from_le_bytes(expires.try_into().ok()?),
        parse_body(rest)?,
    ))
}

/// What [`put_body`] wrote.
pub(crate) fn parse_body(stored: &[u8]) -> Option<Body> {
    let (&tag, rest) = stored.split_first()?;
    let text = || std::str::from_utf8(rest).ok();
    Some(match tag {
        BODY_JSON => Body::Json(Bytes::copy_from_slice(rest)),
        BODY_BYTES => {
            let (len, rest) = rest.split_at_checked(2)?;
            let len = usize::from(u16::from_le_bytes(len.try_into().ok()?));
            let (content_type, data) = rest.split_at_checked(len)?;
            Body::Bytes {
                content_type: Arc::from(std::str::from_utf8(content_type).ok()?),
                data: Bytes::copy_from_slice(data),
            }
        }
        BODY_SUBSCRIBED => Body::Control(Control::Subscribed(TopicName::new(text()?).ok()?)),
        BODY_UNSUBSCRIBED => Body::Control(Control::Unsubscribed(TopicName::new(text()?).ok()?)),
        BODY_TOMBSTONE => Body::Tombstone,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::StoreError;

    fn bodies() -> impl Strategy<Value = Body> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let topic = "[a-z:@~.]{1,64}".prop_map(|name| TopicName::new(&name).unwrap());
        prop_oneof![
            bytes().prop_map(Body::Json),
            ("[a-z/]{0,40}", bytes()).prop_map(|(content_type, data)| Body::Bytes {
                content_type: content_type.into(),
                data
            }),
            topic.prop_map(|topic| Body::Control(Control::Subscribed(topic))),
            Just(Body::Tombstone),
        ]
    }

    proptest! {
        #[test]
        fn entries_come_back_and_no_flipped_bit_goes_unnoticed(
            body in bodies(),
            message: u128,
            predecessor in 0..1_u64 << 53,
            expires_at_ms: u64,
            flip: prop::sample::Index,
        ) {
            let key = keys::entry(b"demo\0\x01a\0", Offset(77));
            let value = encode_entry(
                &mut Vec::new(), &key, Offset(predecessor), MessageId(message), expires_at_ms, &body,
            );
            let entry = decode_entry(&key, &value).unwrap();
            prop_assert_eq!(&entry.body, &body);
            prop_assert_eq!(
                (entry.offset, entry.predecessor, entry.message, entry.expires_at_ms),
                (Offset(77), Offset(predecessor), MessageId(message), expires_at_ms)
            );
            let mut damaged = value.to_vec();
            let bit = flip.index(damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(decode_entry(&key, &damaged), Err(StoreError::Fatal(_))));
            // Under another key it is damaged too.
            let other = keys::entry(b"demo\0\x01a\0", Offset(78));
            prop_assert!(decode_entry(&other, &value).is_err());
        }

        #[test]
        fn hostile_bytes_are_told(hostile in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut sealed = vec![0; HEADER_BYTES];
            sealed.extend_from_slice(&hostile);
            seal(&mut sealed, b"key01234567");
            let _ = decode_entry(b"key01234567", &sealed);
            prop_assert!(decode_entry(b"key01234567", &hostile).is_err());
        }
    }
}
