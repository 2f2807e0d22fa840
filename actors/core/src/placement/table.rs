//! Which member owns which slot: rendezvous hashing with bounded load.
//!
//! # The rules, version 2
//! Every member has a *weight* for every slot, which depends on the two names alone. In the order of
//! falling weight each pair of slot and member is looked at once: a slot without an owner goes to the
//! member if that is below the bound, `ceil(1.1 * SLOTS / members)`. That is the one stable matching
//! of slots and members, and is computed as such: slots ask their members in turn, a member above
//! the bound sends its slot of least weight on to ask the next. The result depends on the set of
//! members only.
//!
//! # Why the weights are permutations
//! With independent weights a member's load varies like that of a coin toss, and at fifty members a
//! fifth of them meet the bound. Whenever members come and go, slots on the brink of the bound then
//! move between members that did nothing. So the weights of one member are the numbers 0 to 4095,
//! each once, in an order drawn from its name: the first half of the variance, that of the member's
//! own luck, is gone. Measured figures are in `README.md`, their bounds in the tests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;

use super::slot::{SLOT_BITS, SLOTS, Slot, SlotSet};
use super::{hash_of, mix};

/// The load of the busiest member is at most this many tenths of the mean, rounded up.
const BOUND_TENTHS: usize = 11;

/// Stands for no owner; there are fewer members than that.
const NOBODY: u32 = u32::MAX;

/// The owners of all slots among some members, and who serves when an owner cannot. Nodes that agree
/// on the members and [`super::PLACEMENT_VERSION`] have equal tables. Holds 16 KiB and the names.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable {
    /// Sorted by name, each once.
    members: Vec<Member>,
    /// Index into `members` by slot; all [`NOBODY`] if there is no member.
    owners: Box<[u32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    name: Arc<str>,
    hash: u64,
    load: usize,
}

impl SlotTable {
    /// Among these members; order and repetition do not matter. Takes about 4096 hashes a member.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut members: Vec<Member> = members
            .into_iter()
            .map(|name| Member { hash: hash_of(&name), name, load: 0 })
            .collect();
        members.sort_unstable();
        members.dedup();
        let owners = Matching::of(&members);
        for member in owners.iter() {
            if let Some(member) = members.get_mut(*member as usize) {
                member.load += 1;
            }
        }
        Self { members, owners }
    }

    /// The owner, if there is any member.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&Arc<str>> {
        let index = *self.owners.get(slot.index())?;
        self.members.get(index as usize).map(|member| &member.name)
    }

    /// Whether that member owns the slot.
    #[must_use]
    pub fn owns(&self, name: &str, slot: Slot) -> bool {
        self.owner(slot).is_some_and(|owner| **owner == *name)
    }

    /// Every member once, in the order in which they serve the slot when those before them cannot:
    /// the owner, then the others by falling weight, so that the second is who owns the slot once
    /// the first has gone (but for the few slots that the bound moves on).
    #[must_use]
    pub fn order(&self, slot: Slot) -> Vec<&Arc<str>> {
        let owner = self.owners.get(slot.index()).copied().unwrap_or(NOBODY);
        let mut order: Vec<_> = (0u32..).zip(&self.members).collect();
        order.sort_by_key(|(index, member)| {
            (*index != owner, Reverse((weight(member.hash, slot), *index)))
        });
        order.into_iter().map(|(_, member)| &member.name).collect()
    }

    /// How many slots that member owns; none if it is no member.
    #[must_use]
    pub fn load(&self, name: &str) -> usize {
        self.find(name).map_or(0, |member| member.load)
    }

    /// The slots that member owns.
    #[must_use]
    pub fn slots_of(&self, name: &str) -> SlotSet {
        Slot::all().filter(|slot| self.owns(name, *slot)).collect()
    }

    /// The members, sorted by name.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.members.iter().map(|member| &member.name)
    }

    /// Whether that name is a member.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// How many slots a member may own at most.
    #[must_use]
    pub fn load_max(&self) -> usize {
        load_max(self.members.len())
    }

    fn find(&self, name: &str) -> Option<&Member> {
        let index = self.members.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        self.members.get(index)
    }
}

impl Default for SlotTable {
    /// Without members: nobody owns anything.
    fn default() -> Self {
        Self::new([])
    }
}

/// Members and loads.
impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.members.iter().map(|member| (&member.name, member.load)))
            .finish()
    }
}

/// The slots that have another owner in the new table than in the old one; having none counts as
/// an owner of its own.
#[must_use]
pub fn moved(old: &SlotTable, new: &SlotTable) -> SlotSet {
    Slot::all().filter(|slot| old.owner(*slot) != new.owner(*slot)).collect()
}

fn load_max(members: usize) -> usize {
    (usize::from(SLOTS) * BOUND_TENTHS).div_ceil(10 * members.max(1))
}

/// What `slot` is worth to the member with this hash: its level there, then, between members of equal
/// level, a hash of both.
pub(super) fn weight(member: u64, slot: Slot) -> u64 {
    let tie = mix(mix(u64::from(slot.0)) ^ member) >> SLOT_BITS;
    (u64::from(level(member, slot)) << (u64::BITS - SLOT_BITS)) | tie
}

/// A permutation of the slots for each key: every step can be undone within 12 bits.
pub(super) fn level(key: u64, slot: Slot) -> u16 {
    const ROUNDS: u32 = 4;
    const MASK: u16 = SLOTS - 1;
    let mut key = key;
    let mut level = slot.0 & MASK;
    for _ in 0..ROUNDS {
        let [a, b, c, d, ..] = key.to_le_bytes();
        level ^= u16::from_le_bytes([a, b]) & MASK;
        level = level.wrapping_mul(u16::from_le_bytes([c, d]) | 1) & MASK;
        level ^= level >> (SLOT_BITS / 2);
        key = mix(key);
    }
    level
}

/// A slot at a member, ordered by what it is worth there.
type Claim = (u64, Slot);

/// The stable matching of slots and members with the bound as capacity.
struct Matching<'a> {
    members: &'a [Member],
    load_max: usize,
    /// By member, the least first.
    held: Vec<BinaryHeap<Reverse<Claim>>>,
    owners: Box<[u32]>,
}

impl<'a> Matching<'a> {
    fn of(members: &'a [Member]) -> Box<[u32]> {
        let mut matching = Self {
            members,
            load_max: load_max(members.len()),
            held: vec![BinaryHeap::new(); members.len()],
            owners: vec![NOBODY; usize::from(SLOTS)].into_boxed_slice(),
        };
        for slot in Slot::all() {
            matching.place(slot);
        }
        matching.owners
    }

    /// Finds a member for the slot, and for that which has to make room for it, and so on. Ends,
    /// because a slot never asks a member twice and all together have room for all.
    fn place(&mut self, slot: Slot) {
        let mut next = self.choice(slot, None);
        let mut slot = slot;
        while let Some((weight, index)) = next {
            let Some(held) = self.held.get_mut(index as usize) else { return };
            held.push(Reverse((weight, slot)));
            self.owners[slot.index()] = index;
            if held.len() <= self.load_max {
                return;
            }
            let Some(Reverse((weight, displaced))) = held.pop() else { return };
            slot = displaced;
            next = self.choice(slot, Some((weight, index)));
        }
    }

    /// The member of most weight for the slot, of those below `below`. Equal weights go by name.
    fn choice(&self, slot: Slot, below: Option<(u64, u32)>) -> Option<(u64, u32)> {
        (0u32..)
            .zip(self.members)
            .map(|(index, member)| (weight(member.hash, slot), index))
            .filter(|choice| below.is_none_or(|below| *choice < below))
            .max()
    }
}
