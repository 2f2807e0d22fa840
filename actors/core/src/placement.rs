//! Who owns what (design: virtual actors live at their owner). Pure and versioned: nodes that
//! agree on members and version compute the same owners, and neighbouring releases must.
//!
//! # The hash, version 1
//! FNV-1a, 64 bits, over the UTF-8 bytes of the fields, each field followed by the byte `0xff`
//! (which UTF-8 never holds, so that no two lists of fields look alike), and then the finalizer of
//! SplitMix64, because FNV alone spreads short names badly. It is no secret and needs none: who
//! picks names to load one shard reaches its own product's quota first. Golden tests hold the
//! values; a change of any of them is a new [`PLACEMENT_VERSION`].

use std::sync::Arc;

use clarion_protocol::{ProductId, TopicName};

use crate::log::LogKind;

/// The version of everything in this file. Nodes of another version place differently.
pub const PLACEMENT_VERSION: u16 = 1;

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

/// The shard that owns the inbox of a terminal or user: below `shards`, and 0 if there are none.
#[must_use]
pub fn inbox_shard_of(product: &ProductId, kind: LogKind, name: &str, shards: u32) -> u32 {
    let hash = hash_fields(&[product.as_str().as_bytes(), &[kind as u8], name.as_bytes()]);
    // The high half times the count: even, and without the cost of a division.
    let scaled = (hash >> 32) * u64::from(shards);
    u32::try_from(scaled >> 32).unwrap_or(0)
}

/// What has an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed<'a> {
    /// The `Product` actor, owner of the product's broadcast.
    Product(&'a ProductId),
    /// The `Topic` actor.
    Topic(&'a ProductId, &'a TopicName),
    /// One `InboxShard` actor, see [`inbox_shard_of`].
    InboxShard(u32),
}

impl Placed<'_> {
    fn hash(self) -> u64 {
        match self {
            Self::Product(product) => hash_fields(&[b"product", product.as_str().as_bytes()]),
            Self::Topic(product, topic) => {
                hash_fields(&[b"topic", product.as_str().as_bytes(), topic.as_str().as_bytes()])
            }
            Self::InboxShard(shard) => hash_fields(&[b"inbox", &shard.to_be_bytes()]),
        }
    }
}

/// The members that may own things, and who owns what among them: rendezvous hashing. When a
/// member joins it takes from each of the others only what it now owns; when it leaves only its own
/// things move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Sorted, each once, with the hash of its name.
    members: Vec<(Arc<str>, u64)>,
}

impl Placement {
    /// Over these members; order and repetition do not matter.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Arc<str>>) -> Self {
        let with_hash = |member: Arc<str>| {
            let hash = hash_of(&member);
            (member, hash)
        };
        let mut members: Vec<_> = members.into_iter().map(with_hash).collect();
        members.sort_unstable();
        members.dedup();
        Self { members }
    }

    /// The owner, if there is any member.
    #[must_use]
    pub fn owner(&self, placed: Placed<'_>) -> Option<&Arc<str>> {
        self.owner_with_room(placed, |_| true)
    }

    /// The first in placement order that has room: the seam for bounded load. Whoever tracks load
    /// answers for a member whether it is below its bound; without room anywhere the first serves.
    #[must_use]
    pub fn owner_with_room(
        &self,
        placed: Placed<'_>,
        has_room: impl Fn(&str) -> bool,
    ) -> Option<&Arc<str>> {
        let key = placed.hash();
        let weighted = |(member, hash): &(Arc<str>, u64)| (has_room(member), mix(key ^ hash));
        // Equal weights go to the name that sorts last: `max_by_key` keeps the last of equals.
        self.members.iter().max_by_key(|entry| weighted(entry)).map(|(member, _)| member)
    }

    /// All members in the order in which they serve `placed` when those before them cannot.
    #[must_use]
    pub fn order(&self, placed: Placed<'_>) -> Vec<&Arc<str>> {
        let key = placed.hash();
        let mut order: Vec<_> = self.members.iter().rev().collect();
        order.sort_by_key(|(_, hash)| std::cmp::Reverse(mix(key ^ hash)));
        order.into_iter().map(|(member, _)| member).collect()
    }
}

#[cfg(test)]
mod tests;
