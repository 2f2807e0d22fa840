//! Nonces that were used. The set in memory is authoritative; the writer persists what is added to
//! it in front of every later operation, so an accepted request's nonce survives with its effects.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::{ConsumeNonce, NonceUse};

const SHARDS: usize = 64;
const BUCKET_S: u64 = 60;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The nonces are keyed hashes already.
#[derive(Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 << 8) | u64::from(byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Bucket = HashSet<u64, BuildHasherDefault<Plain>>;

/// Sharded by hash; within a shard by the minute of the timestamp, so that a minute is dropped as a
/// whole. A nonce takes 9 to 18 bytes.
#[derive(Debug)]
pub(crate) struct Nonces {
    key: [u8; 16],
    max: usize,
    len: AtomicUsize,
    window_s: AtomicU64,
    shards: Vec<Mutex<BTreeMap<u64, Bucket>>>,
    unsaved: Mutex<Vec<(u64, u64)>>,
}

impl Nonces {
    pub(crate) fn new(key: [u8; 16], max: usize) -> Self {
        Self {
            key,
            max,
            len: AtomicUsize::new(0),
            window_s: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            unsaved: Mutex::default(),
        }
    }

    fn hash(&self, nonce: &ConsumeNonce) -> u64 {
        let mut sha = Sha256::new();
        sha.update(self.key);
        for part in [nonce.product.as_str(), nonce.key.as_str(), &nonce.nonce] {
            sha.update((part.len() as u64).to_le_bytes());
            sha.update(part);
        }
        sha.update(nonce.timestamp_s.to_le_bytes());
        let digest = sha.finalize();
        digest.iter().take(8).fold(0, |hash, &byte| (hash << 8) | u64::from(byte))
    }

    /// Adds one that was stored before.
    pub(crate) fn load(&self, minute: u64, hash: u64) {
        if lock(&self.shards[hash as usize % SHARDS]).entry(minute).or_default().insert(hash) {
            self.len.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn consume(&self, nonce: &ConsumeNonce, now_s: u64) -> NonceUse {
        self.window_s.fetch_max(nonce.window_s, Ordering::AcqRel);
        let (minute, hash) = (nonce.timestamp_s / BUCKET_S, self.hash(nonce));
        let shard = &self.shards[hash as usize % SHARDS];
        if lock(shard).get(&minute).is_some_and(|bucket| bucket.contains(&hash)) {
            return NonceUse::Replayed;
        }
        if self.len.load(Ordering::Acquire) >= self.max {
            self.purge(now_s);
            if self.len.load(Ordering::Acquire) >= self.max {
                metrics::counter!("clarion_store_nonces_full_total").increment(1);
                return NonceUse::Full;
            }
        }
        if !lock(shard).entry(minute).or_default().insert(hash) {
            return NonceUse::Replayed;
        }
        self.len.fetch_add(1, Ordering::AcqRel);
        lock(&self.unsaved).push((minute, hash));
        NonceUse::Fresh
    }

    /// Minutes below this are outside of every window.
    pub(crate) fn horizon(&self, now_s: u64) -> u64 {
        match self.window_s.load(Ordering::Acquire) {
            0 => 0,
            window_s => now_s.saturating_sub(window_s + BUCKET_S) / BUCKET_S,
        }
    }

    /// Drops what left the window.
    pub(crate) fn purge(&self, now_s: u64) {
        let horizon = self.horizon(now_s);
        for shard in &self.shards {
            let mut shard = lock(shard);
            let kept = shard.split_off(&horizon);
            let gone: usize = shard.values().map(HashSet::len).sum();
            *shard = kept;
            self.len.fetch_sub(gone, Ordering::AcqRel);
        }
    }

    /// What was added since the last call, by minute.
    pub(crate) fn take_unsaved(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut minutes: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (minute, hash) in std::mem::take(&mut *lock(&self.unsaved)) {
            minutes.entry(minute).or_default().extend_from_slice(&hash.to_le_bytes());
        }
        minutes
    }

    pub(crate) fn has_unsaved(&self) -> bool {
        !lock(&self.unsaved).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::{KeyId, ProductId};

    use super::*;

    fn nonce(number: u64, timestamp_s: u64) -> ConsumeNonce {
        ConsumeNonce {
            product: ProductId::new("p").unwrap(),
            key: KeyId::new("k").unwrap(),
            nonce: number.to_string().into(),
            timestamp_s,
            window_s: 300,
        }
    }

    #[test]
    fn nonces_are_bounded_and_make_room_when_they_leave_the_window() {
        let nonces = Nonces::new([1; 16], 100);
        for number in 0..100 {
            assert_eq!(nonces.consume(&nonce(number, 1_000_000), 1_000_000), NonceUse::Fresh);
        }
        assert_eq!(nonces.consume(&nonce(100, 1_000_000), 1_000_000), NonceUse::Full);
        assert_eq!(nonces.consume(&nonce(7, 1_000_000), 1_000_000), NonceUse::Replayed);
        assert_eq!(nonces.consume(&nonce(100, 1_000_300), 1_000_300), NonceUse::Full);
        // The window and the minute are over: all of them go, and no replay is inside the window.
        assert_eq!(nonces.consume(&nonce(100, 1_000_420), 1_000_420), NonceUse::Fresh);
        assert_eq!(nonces.len.load(Ordering::Acquire), 1);
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let nonces = Nonces::new([1; 16], 100);
        for number in 0..10 {
            nonces.consume(&nonce(number, 60 * number), 0);
        }
        let again = Nonces::new([1; 16], 100);
        for (minute, hashes) in nonces.take_unsaved() {
            for hash in hashes.as_chunks::<8>().0 {
                again.load(minute, u64::from_le_bytes(*hash));
            }
        }
        for number in 0..10 {
            assert_eq!(again.consume(&nonce(number, 60 * number), 0), NonceUse::Replayed);
        }
        assert!(!nonces.has_unsaved());
    }
}
