//! The newest session of every terminal that opened one in this boot (I7), and which entries of
//! terminal inboxes were written to their terminal. Both are in memory: shared by callers and writer.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_protocol::Offset;

const SHARDS: usize = 64;

/// Generations a boot may give before it runs into the numbers of the next one.
const PER_BOOT: u64 = 1 << 32;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    generation: u64,
    /// The newest one whose session changed the terminal's record as it opened.
    changed: u64,
    seen_min: u32,
}

/// Gives generations: the boot's number times 2^32, plus a counter. Every boot takes a number that
/// is durable before the first session, so generations rise across restarts without a write per
/// session. 40 bytes and a slot of overhead (about 60 in all) per terminal that opened a session in
/// this boot; terminals are told apart by a keyed 128-bit hash.
#[derive(Debug)]
pub(crate) struct Generations {
    next: AtomicU64,
    hash: (RandomState, RandomState),
    shards: Vec<Mutex<HashMap<u128, Newest>>>,
}

impl Generations {
    pub(crate) fn new(boot: u64) -> Self {
        Self {
            next: AtomicU64::new(boot.saturating_mul(PER_BOOT) + 1),
            hash: (RandomState::new(), RandomState::new()),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The number of the boot that the next generation belongs to.
    pub(crate) fn boot(&self) -> u64 {
        self.next.load(Ordering::Acquire) / PER_BOOT
    }

    fn slot(&self, terminal: &[u8]) -> (u128, &Mutex<HashMap<u128, Newest>>) {
        let low = self.hash.0.hash_one(terminal);
        let id = (u128::from(self.hash.1.hash_one(terminal)) << 64) | u128::from(low);
        (id, &self.shards[low as usize % SHARDS])
    }

    /// A generation above every earlier one of the terminal. `stored` is that of its record, and
    /// `changes` says that the record changes with it.
    pub(crate) fn take(&self, terminal: &[u8], stored: u64, changes: bool, now_ms: u64) -> u64 {
        self.next.fetch_max(stored + 1, Ordering::AcqRel);
        let (id, shard) = self.slot(terminal);
        let mut shard = lock(shard);
        // Inside the lock, so that the map never goes back to a lower one.
        let generation = self.next.fetch_add(1, Ordering::AcqRel);
        let newest = shard.entry(id).or_insert(Newest { generation: 0, changed: 0, seen_min: 0 });
        newest.generation = generation;
        newest.seen_min = minutes(now_ms);
        if changes {
            newest.changed = generation;
        }
        generation
    }

    /// As [`Generations::take`] for a record that does not change and was read before. `None` if
    /// it was read before a change of an earlier session: then it says something else by now.
    pub(crate) fn take_known(&self, terminal: &[u8], stored: u64, now_ms: u64) -> Option<u64> {
        let (id, shard) = self.slot(terminal);
        if lock(shard).get(&id).is_some_and(|newest| newest.changed > stored) {
            return None;
        }
        let generation = self.take(terminal, stored, false, now_ms);
        let changed = lock(shard).get(&id).map_or(0, |newest| newest.changed);
        // A change that came between has a lower generation, and is not in what was read.
        (changed <= stored || changed > generation).then_some(generation)
    }

    /// The newest generation, if a session was opened in this boot.
    pub(crate) fn newest(&self, terminal: &[u8]) -> Option<u64> {
        let (id, shard) = self.slot(terminal);
        lock(shard).get(&id).map(|newest| newest.generation)
    }

    /// Whether `generation` is the newest, if a session was opened in this boot; then the terminal
    /// counts as seen.
    pub(crate) fn verify(&self, terminal: &[u8], generation: u64, now_ms: u64) -> Option<bool> {
        let (id, shard) = self.slot(terminal);
        let mut shard = lock(shard);
        let newest = shard.get_mut(&id)?;
        if newest.generation == generation {
            newest.seen_min = minutes(now_ms);
        }
        Some(newest.generation == generation)
    }

    /// When a session of the terminal was last opened or verified in this boot.
    pub(crate) fn seen_ms(&self, terminal: &[u8]) -> Option<u64> {
        let (id, shard) = self.slot(terminal);
        lock(shard).get(&id).map(|newest| u64::from(newest.seen_min) * 60_000)
    }

    pub(crate) fn forget(&self, terminal: &[u8]) {
        let (id, shard) = self.slot(terminal);
        lock(shard).remove(&id);
    }
}

fn minutes(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 60_000).unwrap_or(u32::MAX)
}

/// Deliveries remembered per shard and half before the older half is dropped.
const DELIVERED_PER_SHARD: usize = 4096;

/// Entries of terminal inboxes that were written to their terminal and not yet settled. Bounded
/// (about 16 MiB): when full, the oldest are forgotten, and count as delivered again when they are
/// acknowledged.
#[derive(Debug)]
pub(crate) struct Delivered {
    hash: RandomState,
    shards: Vec<Mutex<[HashMap<u64, ()>; 2]>>,
}

impl Delivered {
    pub(crate) fn new() -> Self {
        Self { hash: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn slot(&self, log: &[u8], offset: Offset) -> (u64, &Mutex<[HashMap<u64, ()>; 2]>) {
        let id = self.hash.hash_one((log, offset.0));
        (id, &self.shards[id as usize % SHARDS])
    }

    pub(crate) fn add(&self, log: &[u8], offset: Offset) {
        let (id, shard) = self.slot(log, offset);
        let mut halves = lock(shard);
        if halves[0].len() >= DELIVERED_PER_SHARD {
            halves.swap(0, 1);
            halves[0].clear();
        }
        halves[0].insert(id, ());
    }

    pub(crate) fn contains(&self, log: &[u8], offset: Offset) -> bool {
        let (id, shard) = self.slot(log, offset);
        lock(shard).iter().any(|half| half.contains_key(&id))
    }

    pub(crate) fn remove(&self, log: &[u8], offset: Offset) {
        let (id, shard) = self.slot(log, offset);
        for half in lock(shard).iter_mut() {
            half.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_generations_rise_across_boots_and_above_stored_ones() {
        let first = Generations::new(3);
        let a = first.take(b"t", 0, false, 0);
        let b = first.take(b"t", 0, false, 0);
        assert!(b > a);
        assert_eq!(first.verify(b"t", a, 0), Some(false));
        assert_eq!(first.verify(b"t", b, 120_000), Some(true));
        assert_eq!(first.seen_ms(b"t"), Some(120_000));
        let second = Generations::new(4);
        assert_eq!(second.verify(b"t", b, 0), None);
        assert!(second.take(b"t", 0, false, 0) > b);
        let after_restore = Generations::new(1);
        assert!(after_restore.take(b"t", b, false, 0) > b);
    }

    #[test]
    fn i7_a_record_read_before_a_change_opens_no_session() {
        let generations = Generations::new(1);
        let known = generations.take_known(b"t", 0, 0).unwrap();
        let changed = generations.take(b"t", 0, true, 0);
        assert!(changed > known);
        assert_eq!(generations.take_known(b"t", 0, 0), None);
        assert_eq!(generations.take_known(b"t", known, 0), None);
        assert!(generations.take_known(b"t", changed, 0).unwrap() > changed);
        assert!(generations.take_known(b"t", changed, 0).is_some());
    }

    #[test]
    fn deliveries_are_bounded() {
        let delivered = Delivered::new();
        for n in 0..(SHARDS * DELIVERED_PER_SHARD * 4) as u64 {
            delivered.add(b"log", Offset(n));
        }
        let held: usize =
            delivered.shards.iter().flat_map(|s| lock(s).clone()).map(|h| h.len()).sum();
        assert!(held <= SHARDS * DELIVERED_PER_SHARD * 2);
        delivered.add(b"log", Offset(7));
        assert!(delivered.contains(b"log", Offset(7)));
        delivered.remove(b"log", Offset(7));
        assert!(!delivered.contains(b"log", Offset(7)));
    }
}
