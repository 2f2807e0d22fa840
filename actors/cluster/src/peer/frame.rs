//! A frame: the bytes that one lane hands to the other end at once. The remotable ports know one
//! message only, so that nothing about a frame depends on how ractor encodes it; the frame carries
//! its own version.
//!
//! Everything is little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | frame version, 1 |
//! | 1 | lane 0 to 3; 255: link control |
//! | 2 | number of messages |
//! | 4 | CRC32C of all other bytes |
//! | 8 | session: both ends made it from the handshake |
//! | 8 | boot of the sender |
//! | 8 | boot of the receiver |
//! | 8 | sequence in this lane and session, from 1 |
//! | 8 | highest sequence of the other direction that was handled |
//! | 8 | bytes of the other direction that may be sent in all |
//! | 8 | when it was sent, in microseconds by the sender's monotonic clock |
//! | 4 | how long it may be handled after that, in milliseconds |
//! | 4 + n | each message: length, bytes |

use bytes::Bytes;
use thiserror::Error;

use super::types::MESSAGE_COST_BYTES;

/// The version that this build writes and reads.
pub(super) const VERSION: u8 = 1;
/// Lane number of link control.
pub(super) const LINK_LANE: u8 = 255;
/// Bytes before the first message.
pub(super) const HEADER_BYTES: usize = 68;
/// Bytes before each message.
pub(super) const LENGTH_BYTES: usize = 4;
const CRC_AT: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum FrameError {
    #[error("too short")]
    Short,
    #[error("unknown frame version {0}")]
    Version(u8),
    #[error("checksum differs")]
    Checksum,
    #[error("lengths do not add up")]
    Lengths,
}

/// What stands before the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) lane: u8,
    pub(super) session: u64,
    pub(super) from_boot: u64,
    pub(super) to_boot: u64,
    pub(super) seq: u64,
    pub(super) ack: u64,
    pub(super) grant: u64,
    pub(super) sent_us: u64,
    pub(super) life_ms: u32,
}

/// What a message counts against queue and credit.
pub(super) const fn cost(message_bytes: usize) -> u64 {
    (message_bytes + MESSAGE_COST_BYTES) as u64
}

/// The frame of `messages`, of which there are at most 65,535.
pub(super) fn encode<'a>(
    header: &Header,
    messages: impl Iterator<Item = &'a [u8]>,
    bytes: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + bytes);
    out.extend_from_slice(&[VERSION, header.lane, 0, 0, 0, 0, 0, 0]);
    for field in [
        header.session,
        header.from_boot,
        header.to_boot,
        header.seq,
        header.ack,
        header.grant,
        header.sent_us,
    ] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&header.life_ms.to_le_bytes());
    let mut count = 0_u16;
    for message in messages {
        count = count.wrapping_add(1);
        out.extend_from_slice(&(message.len() as u32).to_le_bytes());
        out.extend_from_slice(message);
    }
    out[2..4].copy_from_slice(&count.to_le_bytes());
    let crc = checksum(&out);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..CRC_AT]), &frame[CRC_AT + 4..])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// The session that a frame claims, whether or not it is whole.
pub(super) fn claimed_session(frame: &[u8]) -> Option<u64> {
    (frame.len() >= HEADER_BYTES).then(|| u64_at(frame, 8))
}

/// Header and messages; the messages share the memory of `frame`.
pub(super) fn decode(frame: &Bytes) -> Result<(Header, Vec<Bytes>), FrameError> {
    if frame.len() < HEADER_BYTES {
        return Err(FrameError::Short);
    }
    if frame[0] != VERSION {
        return Err(FrameError::Version(frame[0]));
    }
    if checksum(frame) != u32_at(frame, CRC_AT) {
        return Err(FrameError::Checksum);
    }
    let header = Header {
        lane: frame[1],
        session: u64_at(frame, 8),
        from_boot: u64_at(frame, 16),
        to_boot: u64_at(frame, 24),
        seq: u64_at(frame, 32),
        ack: u64_at(frame, 40),
        grant: u64_at(frame, 48),
        sent_us: u64_at(frame, 56),
        life_ms: u32_at(frame, 64),
    };
    let count = usize::from(u16::from_le_bytes([frame[2], frame[3]]));
    let mut messages = Vec::with_capacity(count.min(frame.len() / LENGTH_BYTES));
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        if frame.len() - at < LENGTH_BYTES {
            return Err(FrameError::Lengths);
        }
        let length = u32_at(frame, at) as usize;
        at += LENGTH_BYTES;
        if frame.len() - at < length {
            return Err(FrameError::Lengths);
        }
        messages.push(frame.slice(at..at + length));
        at += length;
    }
    if at != frame.len() {
        return Err(FrameError::Lengths);
    }
    Ok((header, messages))
}

/// What a link control frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ControlKind {
    /// The sender has found the ports of the receiver: messages may follow.
    Hello = 1,
    /// Wants a [`Pong`](Self::Pong) with the same stamp.
    Ping = 2,
    /// The answer.
    Pong = 3,
    /// Credit only.
    Grant = 4,
}

/// Link control: its kind, a stamp, and for each lane what was handled and may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) kind: ControlKind,
    /// Ping: when it was sent, by its sender's clock. Pong: the same, given back.
    pub(super) stamp_us: u64,
    /// By lane: highest sequence handled, bytes that may be sent in all.
    pub(super) lanes: [(u64, u64); 4],
}

impl Control {
    const BYTES: usize = 1 + 8 + 4 * 16;

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = self.kind as u8;
        out[1..9].copy_from_slice(&self.stamp_us.to_le_bytes());
        for (index, (ack, grant)) in self.lanes.iter().enumerate() {
            let at = 9 + index * 16;
            out[at..at + 8].copy_from_slice(&ack.to_le_bytes());
            out[at + 8..at + 16].copy_from_slice(&grant.to_le_bytes());
        }
        out
    }

    /// `None`: too short, or of a kind that a later release has added, which is passed over. Bytes
    /// behind the known ones are passed over too.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::BYTES {
            return None;
        }
        let kind = match bytes[0] {
            1 => ControlKind::Hello,
            2 => ControlKind::Ping,
            3 => ControlKind::Pong,
            4 => ControlKind::Grant,
            _ => return None,
        };
        let lanes = std::array::from_fn(|index| {
            let at = 9 + index * 16;
            (u64_at(bytes, at), u64_at(bytes, at + 8))
        });
        Some(Self { kind, stamp_us: u64_at(bytes, 1), lanes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            lane: 2,
            session: 0x0102_0304_0506_0708,
            from_boot: 11,
            to_boot: 12,
            seq: 13,
            ack: 14,
            grant: 15,
            sent_us: 16,
            life_ms: 17,
        }
    }

    fn frame_of(messages: &[Vec<u8>]) -> Bytes {
        let bytes = messages.iter().map(|message| message.len() + LENGTH_BYTES).sum();
        Bytes::from(encode(&header(), messages.iter().map(Vec::as_slice), bytes))
    }

    #[test]
    fn the_layout_is_fixed() {
        let frame = frame_of(&[b"ab".to_vec(), Vec::new()]);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "01020200",
                "CRC_____",
                "0807060504030201",
                "0b00000000000000",
                "0c00000000000000",
                "0d00000000000000",
                "0e00000000000000",
                "0f00000000000000",
                "1000000000000000",
                "11000000",
                "020000006162",
                "00000000"
            )
            .replace("CRC_____", &hex[8..16])
        );
        assert_eq!(frame.len(), HEADER_BYTES + 10);
    }

    #[test]
    fn an_unknown_version_is_said() {
        let mut bytes = frame_of(&[]).to_vec();
        bytes[0] = 9;
        assert_eq!(decode(&bytes.into()), Err(FrameError::Version(9)));
        assert_eq!(decode(&Bytes::from_static(b"\x01")), Err(FrameError::Short));
    }

    #[test]
    fn control_of_a_later_release_is_passed_over() {
        let control = Control {
            kind: ControlKind::Pong,
            stamp_us: 7,
            lanes: [(1, 2), (3, 4), (5, 6), (7, 8)],
        };
        let mut bytes = control.encode().to_vec();
        bytes.extend_from_slice(b"more");
        assert_eq!(Control::decode(&bytes), Some(control));
        bytes[0] = 99;
        assert_eq!(Control::decode(&bytes), None);
        assert_eq!(Control::decode(&bytes[..20]), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            let frame = frame_of(&messages);
            let (decoded, got) = decode(&frame).unwrap();
            prop_assert_eq!(decoded, header());
            prop_assert_eq!(got.iter().map(|m| m.to_vec()).collect::<Vec<_>>(), messages);
        }

        #[test]
        fn one_changed_byte_is_noticed(
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            message in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = frame_of(&[message]).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes.into()).is_err());
        }

        #[test]
        fn noise_is_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes.into()).is_err());
        }
    }
}
