//! The protocol of Redis (RESP2): commands to bytes, bytes to replies. A reply is looked through
//! before anything is allocated for it, so a large one that arrives in pieces is built once.

use ::redis::Value;
use bytes::{Buf, BytesMut};

/// Longest reply that is taken; a longer one ends the connection.
pub(super) const REPLY_BYTES_MAX: usize = 64 << 20;
const DEPTH_MAX: usize = 16;

/// What a server says instead of an answer, such as `READONLY You can't write against a replica`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError(pub(crate) String);

impl ServerError {
    /// Its first word.
    pub(crate) fn code(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

/// One answer.
pub(crate) type Reply = Result<Value, ServerError>;

/// These bytes are not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol: {0}")]
pub(super) struct Malformed(&'static str);

/// Appends a command.
pub(super) fn command<'a>(
    out: &mut BytesMut,
    parts: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>,
) {
    let parts = parts.into_iter();
    head(out, b'*', parts.len());
    for part in parts {
        head(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn head(out: &mut BytesMut, kind: u8, mut number: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Takes replies off a buffer.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// No reply is complete below this many bytes.
    needed: usize,
}

impl Decoder {
    /// The next reply, if all of it is there.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, Malformed> {
        if buffer.is_empty() || buffer.len() < self.needed {
            return Ok(None);
        }
        let mut scan = Scan { bytes: buffer, at: 0 };
        match scan.skip(0) {
            Ok(()) => {}
            Err(Stop::Needs(bytes)) if bytes > REPLY_BYTES_MAX => {
                return Err(Malformed("a reply is too long"));
            }
            Err(Stop::Needs(bytes)) => {
                self.needed = bytes;
                return Ok(None);
            }
            Err(Stop::Malformed(what)) => return Err(Malformed(what)),
        }
        let end = scan.at;
        let mut scan = Scan { bytes: buffer, at: 0 };
        let reply = match scan.build() {
            Ok(reply) => reply,
            Err(Stop::Needs(_)) => return Err(Malformed("a reply ends early")),
            Err(Stop::Malformed(what)) => return Err(Malformed(what)),
        };
        buffer.advance(end);
        self.needed = 0;
        Ok(Some(reply))
    }
}

enum Stop {
    Needs(usize),
    Malformed(&'static str),
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn line(&mut self) -> Result<(u8, &'a [u8]), Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(Stop::Needs(self.bytes.len() + 1));
        };
        let Some([kind, text @ .., b'\r']) = rest.get(..end) else {
            return Err(Stop::Malformed("a line is too short"));
        };
        self.at += end + 1;
        Ok((*kind, text))
    }

    fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH_MAX {
            return Err(Stop::Malformed("a reply is nested too deeply"));
        }
        let (kind, text) = self.line()?;
        match kind {
            b'+' | b'-' | b':' => Ok(()),
            b'$' => match length(text)? {
                None => Ok(()),
                Some(len) => self.body(len).map(drop),
            },
            b'*' => {
                for _ in 0..length(text)?.unwrap_or(0) {
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Stop::Malformed("an unknown type")),
        }
    }

    fn body(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.saturating_add(len).saturating_add(2);
        let Some(body) = self.bytes.get(self.at..end) else {
            return Err(Stop::Needs(end));
        };
        self.at = end;
        body.strip_suffix(b"\r\n").ok_or(Stop::Malformed("a string does not end"))
    }

    /// An error anywhere inside an answer is the answer.
    fn build(&mut self) -> Result<Reply, Stop> {
        let (kind, text) = self.line()?;
        Ok(match kind {
            b'+' if text == b"OK" => Ok(Value::Okay),
            b'+' => Ok(Value::SimpleString(String::from_utf8_lossy(text).into_owned())),
            b'-' => Err(ServerError(String::from_utf8_lossy(text).into_owned())),
            b':' => Ok(Value::Int(integer(text)?)),
            b'$' => match length(text)? {
                None => Ok(Value::Nil),
                Some(len) => Ok(Value::BulkString(self.body(len)?.to_vec())),
            },
            _ => match length(text)? {
                None => Ok(Value::Nil),
                Some(len) => {
                    let mut items = Vec::with_capacity(len);
                    let mut error = None;
                    for _ in 0..len {
                        match self.build()? {
                            Ok(item) => items.push(item),
                            Err(found) => error = error.or(Some(found)),
                        }
                    }
                    error.map_or(Ok(Value::Array(items)), Err)
                }
            },
        })
    }
}

fn integer(text: &[u8]) -> Result<i64, Stop> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or(Stop::Malformed("not a number"))
}

fn length(text: &[u8]) -> Result<Option<usize>, Stop> {
    match integer(text)? {
        -1 => Ok(None),
        len => usize::try_from(len).map(Some).map_err(|_| Stop::Malformed("a negative length")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Option<Reply> {
        Decoder::default().next(&mut BytesMut::from(bytes)).unwrap()
    }

    #[test]
    fn replies_are_what_they_say() {
        assert_eq!(decode(b"+OK\r\n"), Some(Ok(Value::Okay)));
        assert_eq!(decode(b":-12\r\n"), Some(Ok(Value::Int(-12))));
        assert_eq!(decode(b"$-1\r\n"), Some(Ok(Value::Nil)));
        assert_eq!(decode(b"*-1\r\n"), Some(Ok(Value::Nil)));
        let error = decode(b"-READONLY You can't\r\n").unwrap().unwrap_err();
        assert_eq!(error.code(), "READONLY");
        assert_eq!(decode(b"*2\r\n:1\r\n-ERR x\r\n"), Some(Err(ServerError("ERR x".into()))));
        assert_eq!(decode(b"$5\r\na\r\nb"), None);
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"$-7\r\n", b"\n", b":x\r\n", b"$1\r\nabcd"] {
            assert!(Decoder::default().next(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 2);
        assert!(Decoder::default().next(&mut BytesMut::from(&deep[..])).is_err());
    }

    #[test]
    fn a_reply_has_a_longest_length() {
        let announced = format!("${}\r\n", REPLY_BYTES_MAX);
        let refused = Decoder::default().next(&mut BytesMut::from(announced.as_bytes()));
        assert_eq!(refused, Err(Malformed("a reply is too long")));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Value::Array)
        })
    }

    fn encode(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::BulkString(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(items) => {
                out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
                items.iter().for_each(|item| encode(item, out));
            }
            Value::Okay => out.extend_from_slice(b"+OK\r\n"),
            _ => out.extend_from_slice(b"$-1\r\n"),
        }
    }

    proptest! {
        #[test]
        fn replies_survive_arriving_in_pieces(
            values in proptest::collection::vec(value(), 1..6),
            piece in 1usize..30,
        ) {
            let mut wire = Vec::new();
            values.iter().for_each(|value| encode(value, &mut wire));
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
            let mut found = Vec::new();
            for chunk in wire.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(reply) = decoder.next(&mut buffer).unwrap() {
                    found.push(reply.unwrap());
                }
            }
            prop_assert_eq!(found, values);
        }

        #[test]
        fn the_client_library_reads_it_the_same(value in value()) {
            let mut wire = Vec::new();
            encode(&value, &mut wire);
            prop_assert_eq!(decode(&wire).unwrap().unwrap(), ::redis::parse_redis_value(&wire).unwrap());
        }

        #[test]
        fn commands_are_arrays_of_strings(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
        ) {
            let mut wire = BytesMut::new();
            command(&mut wire, parts.iter().map(Vec::as_slice));
            let array = parts.into_iter().map(Value::BulkString).collect();
            prop_assert_eq!(decode(&wire).unwrap().unwrap(), Value::Array(array));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Decoder::default().next(&mut BytesMut::from(&bytes[..])));
        }
    }
}
