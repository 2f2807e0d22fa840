//! Assembling `deliver` frames from parts that many sessions share: a head that is the session's,
//! the messages joined by commas, and a tail. Head + messages + tail are byte for byte what
//! [`NodeFrame::to_json`](super::NodeFrame::to_json) writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{CONTENT_TYPE_DEFAULT, LogAlias, SessionNumber};
use crate::ids::{MessageId, Offset};

/// A payload as the node keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadRef<'a> {
    /// The text of one JSON value. It is written as it is: the caller checked it when it came.
    Json(&'a [u8]),
    /// Bytes.
    Bytes {
        /// Their content type; left out on the wire when it is [`CONTENT_TYPE_DEFAULT`].
        content_type: &'a str,
        /// The bytes.
        data: &'a [u8],
    },
}

/// Writes the part of a `deliver` frame before its messages.
pub fn write_deliver_head(out: &mut Vec<u8>, s: SessionNumber, l: LogAlias, again: bool) {
    out.extend_from_slice(b"{\"t\":\"deliver\",\"s\":");
    write_number(out, u64::from(s));
    out.extend_from_slice(b",\"l\":");
    write_number(out, u64::from(l));
    out.extend_from_slice(if again { b",\"again\":true,\"m\":[" } else { b",\"m\":[" });
}

/// Writes one element of `m`. Elements are joined by commas, which the caller writes. `offset` is
/// absent for ttl 0.
pub fn write_message(
    out: &mut Vec<u8>,
    offset: Option<Offset>,
    id: MessageId,
    payload: PayloadRef<'_>,
) {
    match payload {
        PayloadRef::Json(text) => out.reserve(text.len() + 80),
        PayloadRef::Bytes { content_type, data } => {
            out.reserve(data.len().div_ceil(3) * 4 + content_type.len() + 96);
        }
    }
    out.push(b'{');
    if let Some(offset) = offset {
        out.extend_from_slice(b"\"o\":");
        write_number(out, offset.0);
        out.push(b',');
    }
    out.extend_from_slice(b"\"id\":\"");
    let mut text = [0; ulid::ULID_LEN];
    out.extend_from_slice(ulid::Ulid(id.0).array_to_str(&mut text).as_bytes());
    match payload {
        PayloadRef::Json(text) => {
            out.extend_from_slice(b"\",\"d\":");
            out.extend_from_slice(text);
        }
        PayloadRef::Bytes { content_type, data } => {
            out.extend_from_slice(b"\",\"b\":\"");
            write_base64(out, data);
            out.push(b'"');
            if content_type != CONTENT_TYPE_DEFAULT {
                out.extend_from_slice(b",\"ct\":");
                // A text into a vector: neither can fail.
                let _ = serde_json::to_writer(&mut *out, content_type);
            }
        }
    }
    out.push(b'}');
}

/// Writes the part of a `deliver` frame after its messages.
pub fn write_deliver_tail(out: &mut Vec<u8>) {
    out.extend_from_slice(b"]}");
}

fn write_base64(out: &mut Vec<u8>, data: &[u8]) {
    let start = out.len();
    out.resize(start + data.len().div_ceil(3) * 4, 0);
    // The room is exact, so nothing is left over and nothing fails.
    let written = STANDARD.encode_slice(data, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
