//! The packed formats that scripts share with us (`scripts/lib/`). All numbers little endian; offsets
//! and epochs seven bytes; times as short as they can be, mostly since 2025.

use clarion_core::{Body, Entry, Settled};
use clarion_protocol::http::{Counts, TerminalKind};
use clarion_protocol::ids::OFFSET_TIME_ORIGIN_MS as ORIGIN_MS;
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Epoch, LogName, MessageId, Offset, TopicName, UserId};

use super::leaving::Leaving;
use super::schema::kind_of;
use super::tickets::{Pending, Ticket};
use crate::engine::codec::{Outcome, Sub, TerminalRow, decode_kind, encode_kind};
use crate::engine::entries::{parse_body, put_body};
use crate::{StoreError, StoreResult};

/// The highest time that fits six bytes.
pub(super) const NEVER_MS: u64 = (1 << 48) - 1;

/// The highest expiry: five bytes of milliseconds, in 2059.
const EXPIRY_MS_MAX: u64 = ORIGIN_MS + (1 << 40) - 1;

const CRC_BYTES: usize = 4;
const NO_KIND: u8 = 15;
const HAS_USER: u8 = 16;
const BANNED: u8 = 4;
const OTHER_EPOCH: u8 = 8;
const COUNTED: u8 = 16;
const ATTEMPTS: u8 = 32;
const CURSOR: u8 = 64;
const PENDING: u8 = 128;
/// The own inbox, banned, is what no log is: a log that was left.
const LEFT: u8 = 4;

/// Tells of a record that cannot be read, once to the operator and once to the caller.
pub(super) fn damaged(record: &'static str, tag: &str, what: &str) -> StoreError {
    metrics::counter!("clarion_store_corrupt_records_total", "table" => record).increment(1);
    tracing::error!(record, tag, what, "a stored record is damaged");
    StoreError::Fatal(format!("a record of {record} is damaged: {what}"))
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        Some(self.take(len)?.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// Text with its length in a byte before it.
    fn text(&mut self) -> Option<&'a str> {
        let len = usize::from(self.byte()?);
        std::str::from_utf8(self.take(len)?).ok()
    }
}

fn checksum(message: MessageId, expires_at_ms: u64, body: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&message.0.to_be_bytes()), body);
    crc32c::crc32c_append(sum, &expires_at_ms.to_le_bytes())
}

/// What an entry holds besides what scripts look at: a checksum over it all, and the body.
pub(super) fn encode_rest(message: MessageId, expires_at_ms: u64, body: &Body) -> Vec<u8> {
    let mut rest = vec![0; CRC_BYTES];
    put_body(&mut rest, body);
    let sum = checksum(message, expires_at_ms.clamp(ORIGIN_MS, EXPIRY_MS_MAX), &rest[CRC_BYTES..]);
    rest[..CRC_BYTES].copy_from_slice(&sum.to_le_bytes());
    rest
}

/// An entry: predecessor, expiry, bytes and whether the rest is aside; message; rest. A rest that is
/// aside goes a day after the entry expired, whether upkeep came to the entry or not.
pub(super) fn decode_entry(
    tag: &str,
    offset: Offset,
    value: &[u8],
    aside: &[u8],
    now_ms: u64,
) -> StoreResult<Entry> {
    let mut fields = Fields(value);
    let parsed = (|| {
        let predecessor = fields.number(7)?;
        let expires_at_ms = ORIGIN_MS + fields.number(5)?;
        let is_aside = fields.number(3)? % 2 == 1;
        let message = MessageId(u128::from_be_bytes(fields.take(16)?.try_into().ok()?));
        let rest = if is_aside { aside } else { fields.0 };
        if is_aside && aside.is_empty() && expires_at_ms <= now_ms {
            let (predecessor, body) = (Offset(predecessor), Body::Tombstone);
            return Some(Entry::new(offset, predecessor, message, expires_at_ms, body));
        }
        let (sum, body) = rest.split_at_checked(CRC_BYTES)?;
        let intact = sum == checksum(message, expires_at_ms, body).to_le_bytes();
        let body = parse_body(body).filter(|_| intact)?;
        Some(Entry::new(offset, Offset(predecessor), message, expires_at_ms, body))
    })();
    parsed.ok_or_else(|| damaged("entries", tag, "its checksum does not match"))
}

/// A terminal's record, with what is not done yet (I13).
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Nothing of a terminal that is no more.
    pub(super) row: Option<TerminalRow>,
    /// What its cursors passed and is not known to be counted, by log.
    pub(super) all_pending: AllPending,
    /// What it left and is not known to be out of.
    pub(super) leaving: Vec<Leaving>,
}

pub(super) type AllPending = Vec<(LogName, Pending)>;

/// A terminal's record; nothing packed: there is none.
pub(super) fn decode_record(tag: &str, packed: &[u8]) -> StoreResult<Stored> {
    if packed.is_empty() {
        return Ok(Stored::default());
    }
    parse_record(packed).ok_or_else(|| damaged("terminals", tag, "it cannot be read"))
}

fn parse_record(packed: &[u8]) -> Option<Stored> {
    let mut fields = Fields(packed);
    let generation = fields.number(6)?;
    let last_seen_ms = ORIGIN_MS + fields.number(4)? * 1000;
    let registered_at_ms = ORIGIN_MS + fields.number(4)? * 1000;
    let heartbeat_ms = fields.number(3)?;
    let flags = fields.byte()?;
    let kind = flags % HAS_USER;
    let epoch = fields.number(7)?;
    let user = match flags >= HAS_USER {
        true => Some(UserId::new(fields.text()?).ok()?),
        false => None,
    };
    let (mut subs, mut all_pending, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    while !fields.0.is_empty() {
        if fields.0[0] == LEFT {
            leaving.push(take_leaving(&mut fields)?);
            continue;
        }
        let flags = fields.byte()?;
        let log = match flags % 4 {
            0 => LogName::Terminal,
            1 => LogName::User,
            2 => LogName::Broadcast,
            _ => LogName::Topic(TopicName::new(fields.text()?).ok()?),
        };
        let mut optional = |flag: u8, len: usize| match flags & flag {
            0 => Some(None),
            _ => fields.number(len).map(Some),
        };
        let cursor = Offset(optional(CURSOR, 7)?.unwrap_or(0));
        let attempts = u8::try_from(optional(ATTEMPTS, 1)?.unwrap_or(0)).ok()?;
        let epoch = optional(OTHER_EPOCH, 7)?.unwrap_or(epoch);
        let counted = optional(COUNTED, 7)?.unwrap_or(0);
        if flags & PENDING != 0 {
            let to = Offset(cursor.0.max(counted));
            all_pending.push((log.clone(), take_pending(&mut fields, to)?));
        }
        subs.push(Sub {
            log,
            banned: flags & BANNED != 0,
            epoch: Epoch(epoch),
            cursor,
            counted: Offset(counted),
            attempts,
        });
    }
    let row = TerminalRow {
        user,
        kind: if kind == NO_KIND { None } else { Some(decode_kind(kind)?) },
        registered_at_ms,
        last_seen_ms,
        generation,
        heartbeat_ms: (heartbeat_ms != 0).then_some(heartbeat_ms),
        subs,
    };
    Some(Stored { row: (!row.subs.is_empty()).then_some(row), all_pending, leaving })
}

fn take_ticket(fields: &mut Fields<'_>) -> Option<Ticket> {
    let (teller, batch) = (fields.number(5)?, fields.number(4)? as u32);
    Some(Ticket { teller, batch, index: fields.number(2)? as u16 })
}

fn take_leaving(fields: &mut Fields<'_>) -> Option<Leaving> {
    fields.byte().filter(|flags| *flags == LEFT)?;
    let (letter, name) = fields.text()?.split_at_checked(1)?;
    let kind = kind_of(letter.as_bytes()[0])?;
    let (name, ticket) = (name.to_owned(), take_ticket(fields)?);
    let settled = Offset(fields.number(7)?);
    Some(Leaving { kind, name, ticket, settled, at_ms: ORIGIN_MS + fields.number(5)? })
}

/// What a terminal left, as a script tells it.
pub(super) fn parse_leaving(tag: &str, packed: &[u8]) -> StoreResult<Leaving> {
    let leaving = take_leaving(&mut Fields(packed));
    leaving.ok_or_else(|| damaged("terminals", tag, "what it left cannot be read"))
}

fn take_pending(fields: &mut Fields<'_>, to: Offset) -> Option<Pending> {
    let ticket = take_ticket(fields)?;
    let from = Offset(fields.number(7)?);
    let at_ms = ORIGIN_MS + fields.number(5)?;
    let count = fields.byte()?;
    let mut settled = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let offset = Offset(fields.number(7)?);
        settled.push(Settled { offset, how: milestone_of(fields.byte()?)? });
    }
    Some(Pending { ticket, from, to, at_ms, settled })
}

/// What is pending, as a script tells it; it goes up to `to`.
pub(super) fn parse_pending(tag: &str, packed: &[u8], to: Offset) -> StoreResult<Pending> {
    let pending = take_pending(&mut Fields(packed), to);
    pending.ok_or_else(|| damaged("terminals", tag, "what is pending cannot be read"))
}

/// A ticket as records and scripts have it.
pub(super) fn encode_ticket(ticket: Ticket) -> Vec<u8> {
    let mut packed = ticket.teller.to_le_bytes()[..5].to_vec();
    packed.extend_from_slice(&ticket.batch.to_le_bytes());
    packed.extend_from_slice(&ticket.index.to_le_bytes());
    packed
}

/// The milestone that stands for a stored outcome.
const fn milestone_of(stored: u8) -> Option<Milestone> {
    Some(match stored {
        1 => Milestone::Acknowledged,
        2 => Milestone::Expired,
        3 => Milestone::Undeliverable,
        4 => Milestone::Suppressed,
        5 => Milestone::Evicted,
        _ => return None,
    })
}

pub(super) fn stored_kind(kind: Option<TerminalKind>) -> u8 {
    kind.map_or(NO_KIND, encode_kind)
}

/// How scripts number the outcomes in a terminal's inbox.
pub(super) const fn stored_outcome(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Acknowledged => 1,
        Outcome::Expired => 2,
        Outcome::Undeliverable => 3,
        Outcome::Suppressed => 4,
        Outcome::Evicted => 5,
    }
}

/// A message in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) offset: Offset,
    pub(super) expires_at_ms: u64,
    pub(super) counts: Counts,
}

/// The place of a message in a terminal's inbox. `there`: its entry is.
pub(super) fn decode_place(packed: &[u8], there: bool, now_ms: u64) -> Option<Placed> {
    let mut fields = Fields(packed);
    let offset = Offset(fields.number(7)?);
    let expires_at_ms = fields.number(6)?;
    let (outcome, delivered) = (fields.byte()?, fields.byte()?);
    let mut counts = Counts { audience: 1, delivered: u64::from(delivered), ..Counts::default() };
    match outcome {
        0 if there && expires_at_ms > now_ms => counts.pending = 1,
        0 if there => counts.expired = 1,
        // Gone without another outcome: it was acknowledged.
        0 | 1 => (counts.acknowledged, counts.delivered) = (1, 1),
        2 => counts.expired = 1,
        3 => counts.undeliverable = 1,
        4 => counts.suppressed = 1,
        5 => counts.evicted = 1,
        _ => return None,
    }
    Some(Placed { offset, expires_at_ms, counts })
}

/// The counts of a message in a log with many readers. `before`: readers that have yet to pass it;
/// `None` for those that are not counted yet.
pub(super) fn decode_counts(packed: &[u8], before: Option<u64>, now_ms: u64) -> Option<Placed> {
    let mut fields = Fields(packed);
    let offset = Offset(fields.number(7)?);
    let expires_at_ms = fields.number(6)?;
    let stay = fields.byte()?;
    let _bytes = fields.number(4)?;
    let mut counts = Counts {
        audience: fields.number(4)?,
        delivered: fields.number(4)?,
        acknowledged: fields.number(4)?,
        expired: fields.number(4)?,
        undeliverable: fields.number(4)?,
        suppressed: fields.number(4)?,
        evicted: fields.number(4)?,
        pending: 0,
    };
    let settled = counts.acknowledged
        + counts.expired
        + counts.undeliverable
        + counts.suppressed
        + counts.evicted;
    counts.delivered = counts.delivered.max(counts.acknowledged).min(counts.audience);
    let before = before.unwrap_or_else(|| counts.audience.saturating_sub(settled));
    match stay {
        1 => counts.expired += before,
        2 => counts.evicted += before,
        _ if expires_at_ms <= now_ms => counts.expired += before,
        _ => counts.pending += before,
    }
    Some(Placed { offset, expires_at_ms, counts })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// An entry as `append.lua` puts it together.
    fn stored(message: MessageId, expires_at_ms: u64, body: &Body, is_aside: bool) -> [Vec<u8>; 2] {
        let rest = encode_rest(message, expires_at_ms, body);
        let mut value = 77_u64.to_le_bytes()[..7].to_vec();
        let since = expires_at_ms.clamp(ORIGIN_MS, EXPIRY_MS_MAX) - ORIGIN_MS;
        value.extend_from_slice(&since.to_le_bytes()[..5]);
        let size = 2 * body.len() as u32 + u32::from(is_aside);
        value.extend_from_slice(&size.to_le_bytes()[..3]);
        value.extend_from_slice(&message.0.to_be_bytes());
        if is_aside {
            return [value, rest];
        }
        value.extend_from_slice(&rest);
        [value, Vec::new()]
    }

    proptest! {
        #[test]
        fn entries_come_back_and_no_flipped_bit_of_what_matters_goes_unnoticed(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            message: u128,
            expires_at_ms: u64,
            is_aside: bool,
            flip: prop::sample::Index,
        ) {
            let (message, body) = (MessageId(message), Body::Json(Bytes::from(data)));
            let [value, aside] = stored(message, expires_at_ms, &body, is_aside);
            let entry = decode_entry("tag", Offset(99), &value, &aside, 0).unwrap();
            prop_assert_eq!(&entry.body, &body);
            prop_assert_eq!((entry.message, entry.predecessor), (message, Offset(77)));
            prop_assert_eq!(entry.expires_at_ms, expires_at_ms.clamp(ORIGIN_MS, EXPIRY_MS_MAX));
            // Predecessor and size are the scripts' own, everything else is under the checksum.
            let mut damaged = [value, aside];
            let part = usize::from(is_aside && flip.index(2) == 1);
            let len = damaged[part].len();
            let at = flip.index(len * 8);
            prop_assume!(part == 1 || (56..96).contains(&at) || at >= 120);
            damaged[part][at / 8] ^= 1 << (at % 8);
            prop_assert!(decode_entry("tag", Offset(99), &damaged[0], &damaged[1], 0).is_err());
        }

        #[test]
        fn hostile_bytes_do_no_harm(hostile in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode_entry("tag", Offset(1), &hostile, &hostile, 5);
            let _ = decode_record("tag", &hostile);
            let _ = decode_place(&hostile, true, 5);
            let _ = decode_counts(&hostile, None, 5);
        }
    }
}
