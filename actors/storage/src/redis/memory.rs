//! What this process remembers between calls; all of it may be lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_core::LogKey;
use clarion_protocol::ProductId;

use super::cursors::Passed;

/// Logs whose counts wait for Redis.
const UNCOUNTED_MAX: usize = 1024;
/// Products that were announced; beyond that the set begins anew.
const ANNOUNCED_MAX: usize = 65_536;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What could not be counted because Redis was away and certainly did not hear of it.
#[derive(Debug, Default)]
pub(super) struct Uncounted(Mutex<HashMap<Arc<LogKey>, Vec<Passed>>>);

impl Uncounted {
    pub(super) fn take(&self) -> Vec<(Arc<LogKey>, Passed)> {
        let waiting = std::mem::take(&mut *lock(&self.0));
        waiting
            .into_iter()
            .flat_map(|(log, passed)| passed.into_iter().map(move |p| (Arc::clone(&log), p)))
            .collect()
    }

    pub(super) fn add(&self, log: Arc<LogKey>, passed: Passed) {
        let mut waiting = lock(&self.0);
        if waiting.len() < UNCOUNTED_MAX || waiting.contains_key(&log) {
            let of_log = waiting.entry(log).or_default();
            if of_log.len() < 64 {
                of_log.push(passed);
                return;
            }
        }
        metrics::counter!("clarion_redis_counts_lost_total").increment(1);
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
