//! Who owns what (design: virtual actors live at their owner). Pure and versioned: nodes that
//! agree on members and version compute the same owners, and neighbouring releases must.
//!
//! A log belongs to a [`Slot`] ([`slot_of`]), a slot to a member ([`SlotTable`]); one table per
//! isolation group.
//!
//! # The hash
//! FNV-1a, 64 bits, over the UTF-8 bytes of the fields, each field followed by the byte `0xff`
//! (which UTF-8 never holds, so that no two lists of fields look alike), and then the finalizer of
//! SplitMix64, because FNV alone spreads short names badly. It is no secret and needs none: who
//! picks names to load one slot reaches its own product's quota first. Golden tests hold the
//! values; a change of any of them is a new [`PLACEMENT_VERSION`].

mod slot;
mod table;

pub use slot::{SLOTS, Slot, SlotSet, slot_of};
pub use table::{SlotTable, moved};

/// The version of the hash, the slots and the table. Nodes of another version place differently;
/// [`crate::membership`] says who owns while two versions live together.
pub const PLACEMENT_VERSION: u16 = 2;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The finalizer of SplitMix64.
#[must_use]
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn fnv(state: u64, bytes: &[u8]) -> u64 {
    let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    step(bytes.iter().fold(state, step), &0xff)
}

fn hash_fields(fields: &[&[u8]]) -> u64 {
    mix(fields.iter().fold(FNV_OFFSET, |state, field| fnv(state, field)))
}

/// The hash of one text.
#[must_use]
pub(crate) fn hash_of(text: &str) -> u64 {
    hash_fields(&[text.as_bytes()])
}

#[cfg(test)]
mod tests;
