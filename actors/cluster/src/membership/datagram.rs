//! What gossip looks like on the wire: a message is cut into datagrams that fit any path's MTU, each
//! signed with the cookie. Pure; time comes in.
//!
//! ```text
//! 0   "CLG1"
//! 4   session   random, one per gossip socket ever opened
//! 12  number    of this datagram in its session, from 1
//! 20  sent      sender's clock, milliseconds since 1970
//! 28  index     of this part of the message
//! 29  count     of parts: 1 to 64
//! 30  payload   all parts but the last are full
//! …   tag       first 16 bytes of HMAC-SHA256 over all before it
//! ```
//! Integers are big-endian. The key is made of the cookie and the cluster's name, so another
//! cluster's gossip is as foreign as noise. A datagram counts once per session (a window of 256
//! numbers) and only near its time: recorded gossip cannot keep a dead node alive.

use std::collections::{HashMap, VecDeque};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::cookie::keyed;

const MAGIC: &[u8; 4] = b"CLG1";
const HEADER: usize = 30;
const TAG: usize = 16;
/// Most bytes of a datagram: the least MTU of IPv6 less the headers of IPv6 and UDP.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1_232;
const PART: usize = DATAGRAM_BYTES_MAX - HEADER - TAG;
const PARTS_MAX: usize = 64;
/// Most bytes of a message: more than chitchat ever makes of one.
pub(super) const MESSAGE_BYTES_MAX: usize = PART * PARTS_MAX;
/// Farthest the sender's clock may be from ours. Nodes more than 2 s off are not ready anyway (I11).
pub(super) const CLOCK_MS_MAX: u64 = 300_000;
/// Sessions whose numbers are remembered; the longest silent one is forgotten first.
const SENDERS_MAX: usize = 1_024;
/// Messages waiting for their other parts, and for how long.
const PARTIALS_MAX: usize = 16;
const PARTIAL_MS_MAX: u64 = 2_000;
const WINDOW_WORDS: usize = 4;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dropped {
    /// Not of this protocol: told by length and first bytes, without any hashing.
    Foreign,
    /// Not signed with this cookie for this cluster.
    Unsigned,
    /// Signed, but its sender's clock is this many milliseconds ahead of ours (behind if negative).
    Clock(i64),
    /// Seen before.
    Repeated,
}

impl Dropped {
    /// The metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Unsigned => "unsigned",
            Self::Clock(_) => "clock",
            Self::Repeated => "repeated",
        }
    }
}

/// Signs and cuts.
pub(super) struct Sealer {
    mac: Hmac<Sha256>,
    session: u64,
    next: u64,
    buffer: Vec<u8>,
}

impl Sealer {
    /// `session` must never have been used before.
    pub(super) fn new(key: &[u8; 32], session: u64) -> Self {
        let buffer = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        Self { mac: keyed(key), session, next: 1, buffer }
    }

    /// How many datagrams this message takes; none if it is too long.
    pub(super) fn parts(message: &[u8]) -> Option<u8> {
        if message.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        u8::try_from(message.len().div_ceil(PART).max(1)).ok()
    }

    /// The datagram of part `index` of `count`. Parts of a message are sealed in order, nothing
    /// between them.
    pub(super) fn seal(&mut self, message: &[u8], index: u8, count: u8, now_ms: u64) -> &[u8] {
        let start = (usize::from(index) * PART).min(message.len());
        let payload = &message[start..message.len().min(start + PART)];
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(&self.session.to_be_bytes());
        buffer.extend_from_slice(&self.next.to_be_bytes());
        buffer.extend_from_slice(&now_ms.to_be_bytes());
        buffer.extend_from_slice(&[index, count]);
        buffer.extend_from_slice(payload);
        let tag = self.mac.clone().chain_update(&*buffer).finalize().into_bytes();
        buffer.extend_from_slice(&tag[..TAG]);
        self.next += 1;
        buffer
    }
}

/// The numbers of one session that were seen.
#[derive(Default)]
struct Window {
    highest: u64,
    /// Bit `n` stands for `highest - n`.
    seen: [u64; WINDOW_WORDS],
    last_ms: u64,
}

impl Window {
    /// Notes `number`; false if it was seen before or is too old to tell.
    fn note(&mut self, number: u64) -> bool {
        if number > self.highest {
            self.shift(number - self.highest);
            self.highest = number;
            self.seen[0] |= 1;
            return true;
        }
        let back = self.highest - number;
        let (Ok(word), bit) = (usize::try_from(back / 64), back % 64) else { return false };
        let Some(word) = self.seen.get_mut(word) else { return false };
        let fresh = *word & (1 << bit) == 0;
        *word |= 1 << bit;
        fresh
    }

    fn shift(&mut self, by: u64) {
        let old = self.seen;
        self.seen = [0; WINDOW_WORDS];
        let Ok(words) = usize::try_from(by / 64) else { return };
        let bits = by % 64;
        for (index, word) in old.into_iter().enumerate() {
            if let Some(into) = self.seen.get_mut(index + words) {
                *into |= word << bits;
            }
            if bits > 0
                && let Some(into) = self.seen.get_mut(index + words + 1)
            {
                *into |= word >> (64 - bits);
            }
        }
    }
}

/// A message of which parts are missing.
struct Partial {
    session: u64,
    first: u64,
    count: u8,
    /// Bit per part that is here.
    here: u64,
    bytes: Vec<u8>,
    length: usize,
    since_ms: u64,
}

/// Checks and joins. Holds at most `SENDERS_MAX` windows and `PARTIALS_MAX` messages.
pub(super) struct Opener {
    mac: Hmac<Sha256>,
    senders: HashMap<u64, Window>,
    partials: VecDeque<Partial>,
}

impl Opener {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self { mac: keyed(key), senders: HashMap::new(), partials: VecDeque::new() }
    }

    /// The message that this datagram completes, if it does.
    pub(super) fn open(
        &mut self,
        datagram: &[u8],
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, Dropped> {
        let part = Part::of(datagram).ok_or(Dropped::Foreign)?;
        let mac = self.mac.clone().chain_update(part.signed);
        mac.verify_truncated_left(part.tag).map_err(|_| Dropped::Unsigned)?;
        if part.sent_ms.abs_diff(now_ms) > CLOCK_MS_MAX {
            return Err(Dropped::Clock(part.sent_ms.wrapping_sub(now_ms).cast_signed()));
        }
        if !self.window(part.session, now_ms).note(part.number) {
            return Err(Dropped::Repeated);
        }
        if part.count == 1 {
            return Ok(Some(part.payload.to_vec()));
        }
        Ok(self.join(&part, now_ms))
    }

    fn window(&mut self, session: u64, now_ms: u64) -> &mut Window {
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(&session) {
            let silent = self.senders.iter().min_by_key(|(_, window)| window.last_ms);
            if let Some(silent) = silent.map(|(session, _)| *session) {
                self.senders.remove(&silent);
            }
        }
        let window = self.senders.entry(session).or_default();
        window.last_ms = now_ms;
        window
    }

    fn join(&mut self, part: &Part<'_>, now_ms: u64) -> Option<Vec<u8>> {
        self.partials.retain(|partial| now_ms.saturating_sub(partial.since_ms) < PARTIAL_MS_MAX);
        let first = part.number.wrapping_sub(u64::from(part.index));
        let same = |partial: &Partial| {
            (partial.session, partial.first, partial.count) == (part.session, first, part.count)
        };
        let at = self.partials.iter().position(same).unwrap_or_else(|| {
            if self.partials.len() >= PARTIALS_MAX {
                self.partials.pop_front();
            }
            let bytes = vec![0; usize::from(part.count) * PART];
            let (session, count) = (part.session, part.count);
            let (here, length, since_ms) = (0, 0, now_ms);
            self.partials.push_back(Partial {
                session,
                first,
                count,
                here,
                bytes,
                length,
                since_ms,
            });
            self.partials.len() - 1
        });
        let partial = self.partials.get_mut(at)?;
        let start = usize::from(part.index) * PART;
        partial.bytes.get_mut(start..start + part.payload.len())?.copy_from_slice(part.payload);
        partial.here |= 1 << part.index;
        partial.length = partial.length.max(start + part.payload.len());
        if partial.here.count_ones() < u32::from(partial.count) {
            return None;
        }
        let mut whole = self.partials.remove(at)?;
        whole.bytes.truncate(whole.length);
        Some(whole.bytes)
    }
}

/// A datagram's fields, of the right form but not trusted yet.
struct Part<'a> {
    session: u64,
    number: u64,
    sent_ms: u64,
    index: u8,
    count: u8,
    payload: &'a [u8],
    signed: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Part<'a> {
    fn of(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > DATAGRAM_BYTES_MAX || datagram.len() < HEADER + TAG {
            return None;
        }
        let (signed, tag) = datagram.split_at_checked(datagram.len() - TAG)?;
        let (header, payload) = signed.split_first_chunk::<HEADER>()?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let number_at = |at: usize| {
            header[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let (index, count) = (header[28], header[29]);
        let formed = index < count && usize::from(count) <= PARTS_MAX;
        let full = index + 1 == count || payload.len() == PART;
        (formed && full).then(|| Self {
            session: number_at(4),
            number: number_at(12),
            sent_ms: number_at(20),
            index,
            count,
            payload,
            signed,
            tag,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const NOW: u64 = 1_800_000_000_000;

    fn sealed(sealer: &mut Sealer, message: &[u8], now_ms: u64) -> Vec<Vec<u8>> {
        let count = Sealer::parts(message).unwrap();
        (0..count).map(|index| sealer.seal(message, index, count, now_ms).to_vec()).collect()
    }

    #[test]
    fn a_short_message_is_one_datagram() {
        let datagrams = sealed(&mut Sealer::new(&KEY, 1), b"hello", NOW);
        assert_eq!(datagrams.len(), 1);
        assert_eq!(datagrams[0].len(), HEADER + 5 + TAG);
        assert_eq!(Opener::new(&KEY).open(&datagrams[0], NOW), Ok(Some(b"hello".to_vec())));
    }

    #[test]
    fn another_key_is_unsigned_and_noise_is_foreign() {
        let datagram = sealed(&mut Sealer::new(&KEY, 1), b"hello", NOW).remove(0);
        let mut opener = Opener::new(&[8; 32]);
        assert_eq!(opener.open(&datagram, NOW), Err(Dropped::Unsigned));
        assert_eq!(opener.open(b"noise", NOW), Err(Dropped::Foreign));
        assert_eq!(opener.open(&[0; 2_000], NOW), Err(Dropped::Foreign));
        assert!(opener.senders.is_empty(), "what is not signed leaves nothing behind");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let datagram = sealed(&mut Sealer::new(&KEY, 1), b"hello", NOW).remove(0);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert!(Opener::new(&KEY).open(&changed, NOW).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_datagram_counts_once_and_near_its_time() {
        let datagram = sealed(&mut Sealer::new(&KEY, 1), b"hello", NOW).remove(0);
        let mut opener = Opener::new(&KEY);
        let late = NOW + CLOCK_MS_MAX + 1;
        assert_eq!(opener.open(&datagram, late), Err(Dropped::Clock(-300_001)));
        assert!(opener.open(&datagram, NOW).is_ok());
        assert_eq!(opener.open(&datagram, NOW), Err(Dropped::Repeated));
    }

    #[test]
    fn memory_is_bounded_whatever_a_peer_sends() {
        let mut opener = Opener::new(&KEY);
        let message = vec![1; MESSAGE_BYTES_MAX];
        for session in 0..SENDERS_MAX as u64 + 50 {
            let mut sealer = Sealer::new(&KEY, session);
            // Only ever the first part of the longest message.
            let first = sealer.seal(&message, 0, 64, NOW + session).to_vec();
            assert_eq!(opener.open(&first, NOW + session), Ok(None));
            assert!(opener.partials.len() <= PARTIALS_MAX);
        }
        assert_eq!(opener.senders.len(), SENDERS_MAX);
        assert_eq!(Sealer::parts(&vec![0; MESSAGE_BYTES_MAX + 1]), None);
    }

    #[test]
    fn parts_that_never_come_are_given_up() {
        let mut opener = Opener::new(&KEY);
        let mut sealer = Sealer::new(&KEY, 1);
        let message = vec![1; PART + 1];
        let datagrams = sealed(&mut sealer, &message, NOW);
        assert_eq!(opener.open(&datagrams[0], NOW), Ok(None));
        assert_eq!(opener.open(&datagrams[1], NOW + PARTIAL_MS_MAX), Ok(None));
        assert_eq!(opener.partials.len(), 1);
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_in_any_order_of_parts(
            length in 0_usize..20_000,
            order in any::<u64>(),
        ) {
            let message: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let mut datagrams = sealed(&mut Sealer::new(&KEY, 1), &message, NOW);
            prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM_BYTES_MAX));
            let mut random = fastrand::Rng::with_seed(order);
            random.shuffle(&mut datagrams);
            let mut opener = Opener::new(&KEY);
            let opened: Vec<_> =
                datagrams.iter().filter_map(|datagram| opener.open(datagram, NOW).unwrap()).collect();
            prop_assert_eq!(opened, vec![message]);
            prop_assert!(opener.partials.is_empty());
        }

        #[test]
        fn a_window_passes_each_number_once(numbers in proptest::collection::vec(1_u64..600, 1..200)) {
            let mut window = Window::default();
            let mut seen = std::collections::HashSet::new();
            let mut highest = 0;
            for number in numbers {
                let fresh = window.note(number);
                let in_reach = number > highest || highest - number < 256;
                prop_assert_eq!(fresh, in_reach && !seen.contains(&number));
                highest = highest.max(number);
                seen.insert(number);
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..1_300)) {
            prop_assert!(Opener::new(&KEY).open(&noise, NOW).is_err());
        }
    }
}
