//! Slots: the unit of ownership, and sets of them.

use std::fmt;

use super::hash_fields;
use crate::log::LogKey;

/// How many slots there are. Part of the placement version and of stored and sent formats.
pub const SLOTS: u16 = 4096;

/// Bits of a slot's number.
pub(super) const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// What is owned: all logs whose names hash to the same number. Below [`SLOTS`] when it comes from
/// [`slot_of`] or [`Slot::new`]; a number above is nobody's and in no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of that number, if there is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOTS { Some(Self(number)) } else { None }
    }

    /// Every slot, ascending.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + DoubleEndedIterator {
        (0..SLOTS).map(Self)
    }

    /// Its number, as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The slot of a log: inboxes of terminals and users, topics and broadcasts alike.
#[must_use]
pub fn slot_of(log: &LogKey) -> Slot {
    let fields = [log.product.as_str().as_bytes(), &[log.kind as u8], log.name.as_bytes()];
    let high = hash_fields(&fields) >> (u64::BITS - SLOT_BITS);
    Slot(u16::try_from(high).unwrap_or(0))
}

const WORDS: usize = SLOTS as usize / 64;

/// A set of slots: a bitmap of 512 bytes, whatever it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    words: [u64; WORDS],
}

impl SlotSet {
    /// The length of [`SlotSet::to_bytes`].
    pub const BYTES: usize = SLOTS as usize / 8;

    /// No slot.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: [0; WORDS] }
    }

    /// Every slot.
    #[must_use]
    pub const fn full() -> Self {
        Self { words: [u64::MAX; WORDS] }
    }

    /// Puts a slot in; whether it was not in before. What is no slot is not put in.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let Some(word) = self.words.get_mut(slot.index() / 64) else { return false };
        let bit = 1u64 << (slot.0 % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Takes a slot out; whether it was in.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let Some(word) = self.words.get_mut(slot.index() / 64) else { return false };
        let bit = 1u64 << (slot.0 % 64);
        let held = *word & bit != 0;
        *word &= !bit;
        held
    }

    /// Whether the slot is in.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.words.get(slot.index() / 64).is_some_and(|word| word & (1u64 << (slot.0 % 64)) != 0)
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Those in, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        Slot::all().filter(|slot| self.contains(*slot))
    }

    /// Puts all of another set in.
    pub fn insert_all(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(other.words) {
            *word |= other;
        }
    }

    /// Takes all of another set out.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(other.words) {
            *word &= !other;
        }
    }

    /// For the wire: slot `s` is bit `s % 8` of byte `s / 8`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From the wire; nothing but exactly [`SlotSet::BYTES`] bytes is a set.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let mut set = Self::new();
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Some(set)
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::new();
        set.extend(slots);
        set
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<I: IntoIterator<Item = Slot>>(&mut self, slots: I) {
        for slot in slots {
            self.insert(slot);
        }
    }
}

/// The numbers, unless they are many.
impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len() > 32 {
            return write!(f, "{{{} slots}}", self.len());
        }
        f.debug_set().entries(self.iter().map(|slot| slot.0)).finish()
    }
}
