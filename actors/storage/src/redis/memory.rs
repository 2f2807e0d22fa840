//! What this process remembers between calls; all of it may be lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_core::LogKey;
use clarion_protocol::{ProductId, TerminalId};

use super::leaving::Leaving;
use super::passed::Passed;
use super::tickets::Batch;

/// Counts that wait for Redis.
const UNCOUNTED_MAX: usize = 1024;
/// Terminals that left and wait for Redis.
const PARKED_MAX: usize = 4096;
/// Notes of messages that wait for Redis, some hundred bytes each.
const UNNOTED_MAX: usize = 16_384;
/// Products that were announced; beyond that the set begins anew.
const ANNOUNCED_MAX: usize = 65_536;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be counted in one log.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) log: Arc<LogKey>,
    pub(super) passed: Passed,
    pub(super) batch: Arc<Batch>,
    /// Saves in it that may not have happened.
    pub(super) left_out: Vec<u16>,
}

/// What could not be counted: Redis was away, or did not say.
#[derive(Debug, Default)]
pub(super) struct Uncounted(Mutex<Vec<Waiting>>);

impl Uncounted {
    pub(super) fn take(&self) -> Vec<Waiting> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// What finds no room is found in the records of its terminals.
    pub(super) fn add(&self, counts: Waiting) {
        let mut waiting = lock(&self.0);
        if waiting.len() < UNCOUNTED_MAX {
            waiting.push(counts);
        } else {
            metrics::counter!("clarion_redis_counts_lost_total").increment(1);
        }
    }
}

/// A log that a terminal left, and that could not be told.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) product: ProductId,
    pub(super) terminal: TerminalId,
    pub(super) leaving: Leaving,
    pub(super) batch: Arc<Batch>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct AllParked(Mutex<Vec<Parked>>);

impl AllParked {
    pub(super) fn take(&self) -> Vec<Parked> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// What finds no room is found in the terminal's record.
    pub(super) fn add(&self, parked: Parked) {
        let mut waiting = lock(&self.0);
        if waiting.len() < PARKED_MAX {
            waiting.push(parked);
        }
    }
}

/// Notes of messages that could not be written.
#[derive(Debug, Default)]
pub(super) struct Unnoted(Mutex<Vec<(String, Vec<Vec<u8>>)>>);

impl Unnoted {
    pub(super) fn take(&self) -> Vec<(String, Vec<Vec<u8>>)> {
        std::mem::take(&mut *lock(&self.0))
    }

    pub(super) fn add(&self, tag: String, args: Vec<Vec<u8>>) {
        let mut waiting = lock(&self.0);
        if waiting.len() < UNNOTED_MAX {
            waiting.push((tag, args));
        } else {
            metrics::counter!("clarion_redis_notes_lost_total").increment(1);
        }
    }
}

/// Products that upkeep was told of.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<HashSet<ProductId>>);

impl Announced {
    pub(super) fn contains(&self, product: &ProductId) -> bool {
        lock(&self.0).contains(product)
    }

    pub(super) fn add(&self, product: &ProductId) {
        let mut known = lock(&self.0);
        if known.len() >= ANNOUNCED_MAX {
            known.clear();
        }
        known.insert(product.clone());
    }
}
