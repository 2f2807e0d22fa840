//! How far the logs that are read here go, when no hint says so: the slow check that finds what
//! everything else missed, and the comparisons that are made when something is known to have cost
//! hints (I12): an owner that cannot be heard, one that died, a notice that hints were dropped.
//! All are reads of heads, paced, so that a fault of many nodes is no storm on the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarion_core::LogKey;
use clarion_core::placement::{self, SlotSet};
use clarion_protocol::Offset;

use super::{RelayMessage, RelayState};
use crate::cluster::heals::Heal;
use crate::nodes::Nodes;
use crate::owner::head_read;
use crate::supervisor::Slot;
use crate::task;

/// How long a hint may take before the head check counts it as lost.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// Logs whose heads are read at once.
const HEAD_CHECK_SLICE: usize = 256;
/// The pause between such reads of one relay.
const COMPARE_PAUSE: Duration = Duration::from_millis(20);

/// Changes that one comparison heals, as far as they are followed: more come together only while the
/// store is away.
const HEALS_MAX: usize = 64;

/// Who says how far a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The slow check; `sure` once a hint had the time to come.
    Check { sure: bool },
    /// An owner, or a comparison that was made for a reason.
    Told,
}

/// Comparisons of one relay: one runs at a time, what is asked for meanwhile comes next.
#[derive(Default)]
pub(super) struct Comparing {
    /// Its number, which no other has, and what it compares.
    running: Option<(u64, Wanted)>,
    wanted: Wanted,
    /// Logs that a comparison could not read, the one that failed last at the front: they come after
    /// all others, with the next request or tidying. So a part of the store that is away holds up
    /// nothing of the rest. At most the logs that were read here when one began.
    failed: Arc<Mutex<Vec<Arc<LogKey>>>>,
}

/// What is to be compared.
#[derive(Default)]
struct Wanted {
    slots: SlotSet,
    /// What it heals. At most [`HEALS_MAX`].
    heals: Vec<Arc<Heal>>,
}

impl Wanted {
    fn add(&mut self, slots: &SlotSet, heals: impl IntoIterator<Item = Arc<Heal>>) {
        self.slots.insert_all(slots);
        for heal in heals {
            if self.heals.len() < HEALS_MAX {
                self.heals.push(heal);
            } else {
                heal.lose_sight();
            }
        }
    }
}

/// Says that a comparison ended, however it does.
struct Running {
    relay: Arc<Slot<RelayMessage>>,
    failed: Arc<Mutex<Vec<Arc<LogKey>>>>,
    number: u64,
    whole: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (number, whole) = (self.number, self.whole);
        let _ = self.relay.cast(RelayMessage::Compared { number, whole });
    }
}

impl RelayState {
    pub(super) fn check_heads(&mut self) {
        if self.unchecked.is_empty() {
            self.unchecked = self.logs.keys().cloned().collect();
        }
        let ticks_left = 16;
        let slice =
            (self.logs.len() / ticks_left + 1).max(HEAD_CHECK_SLICE.min(self.unchecked.len()));
        let rest = self.unchecked.len().saturating_sub(slice);
        let logs = self.unchecked.split_off(rest);
        if logs.is_empty() {
            return;
        }
        let (nodes, slot) = (self.nodes(), Arc::clone(&self.arguments.slot));
        task::spawn(async move {
            let Some(nodes) = nodes else { return };
            for logs in logs.chunks(HEAD_CHECK_SLICE) {
                let pages = nodes.read(logs.iter().cloned().map(head_read).collect()).await;
                let heads = logs.iter().cloned().zip(pages);
                let heads = heads.filter_map(|(log, page)| Some((log, page.ok()?.head))).collect();
                let found = Found::Check { sure: false };
                let _ = slot.cast(RelayMessage::Heads { heads, found, queued: None });
            }
        });
    }

    /// Some owner cannot be heard, so nothing that it appends is hinted.
    pub(super) fn poll(&mut self) {
        let deaf =
            self.arguments.router.upgrade().is_some_and(|router| router.nodes.ownership.is_deaf());
        if deaf && self.comparing.running.is_none() {
            self.compare(&SlotSet::full(), None);
        }
    }

    /// Compares, now or when the comparison that runs is through.
    pub(super) fn compare(&mut self, slots: &SlotSet, heal: Option<Arc<Heal>>) {
        self.comparing.wanted.add(slots, heal);
        self.compare_rest();
    }

    /// A comparison ended. One that panicked is made again, with the next request or tidying: not at
    /// once, or it could do so without end. The same goes for logs that could not be read.
    pub(super) fn compared(&mut self, number: u64, whole: bool) {
        let ended = self.comparing.running.take_if(|(running, _)| *running == number);
        match ended {
            Some((_, Wanted { slots, heals })) if !whole => {
                self.comparing.wanted.add(&slots, heals);
            }
            Some((_, Wanted { heals, .. })) => {
                // Healed, unless logs are left that could not be read.
                if !lock(&self.comparing.failed).is_empty() {
                    self.comparing.wanted.add(&SlotSet::new(), heals);
                }
                if !self.comparing.wanted.slots.is_empty() {
                    self.compare_wanted();
                }
            }
            None => {} // it was a former incarnation's
        }
    }

    /// Compares what is wanted, unless a comparison runs.
    pub(super) fn compare_rest(&mut self) {
        if self.comparing.running.is_none() {
            self.compare_wanted();
        }
    }

    fn compare_wanted(&mut self) {
        let Wanted { mut slots, heals } = std::mem::take(&mut self.comparing.wanted);
        // Read from the end: what failed before comes last.
        let mut logs = std::mem::take(&mut *lock(&self.comparing.failed));
        logs.retain(|log| self.logs.contains_key(log) && !slots.contains(placement::slot_of(log)));
        let failed = logs.len();
        let wanted = self.logs.keys().filter(|log| slots.contains(placement::slot_of(log)));
        logs.extend(wanted.cloned());
        if logs.is_empty() {
            return;
        }
        // Should it panic, they are wanted again.
        slots.extend(logs[..failed].iter().map(|log| placement::slot_of(log)));
        let number = fastrand::u64(..);
        self.comparing.running = Some((number, Wanted { slots, heals }));
        let (relay, failed) =
            (Arc::clone(&self.arguments.slot), Arc::clone(&self.comparing.failed));
        let running = Running { relay, failed, number, whole: false };
        if let Some(nodes) = self.nodes() {
            task::spawn(compare_with_store(nodes, running, logs));
        }
    }

    pub(super) async fn heads_found(&mut self, heads: Vec<(Arc<LogKey>, Offset)>, found: Found) {
        let mut ahead = Vec::new();
        for (log, head) in heads {
            let away = found == Found::Told && self.owner_is_away(&log);
            let Some(readers) = self.logs.get_mut(&log) else { continue };
            match (readers.head(), found) {
                // Its hint may still be on the way: looked at again in a moment.
                (Some(known), Found::Check { sure: false }) if head > known => {
                    ahead.push((log, head));
                }
                (Some(known), _) if head > known => {
                    // I12: only this check found it. Zero is no head: the owner confirmed that
                    // nothing came since the readers read, and no hint told the head since.
                    if known > Offset::ZERO && found != Found::Told {
                        metrics::counter!("clarion_head_check_found_total").increment(1);
                    }
                    readers.grow_head(head);
                    readers.missed(head);
                    tokio::task::yield_now().await;
                }
                (Some(_), _) => {}
                // No owner will confirm; or the confirmation was lost.
                (None, Found::Told) if away => {
                    self.confirm(&log, head, None).await;
                }
                (None, Found::Check { .. }) => self.confirm(&log, head, None).await,
                // The confirmation was lost, or is on its way: interest is told once more.
                (None, Found::Told) => self.interest_again(log),
            }
        }
        if !ahead.is_empty() {
            let slot = Arc::clone(&self.arguments.slot);
            task::spawn(async move {
                tokio::time::sleep(HINT_PATIENCE).await;
                let found = Found::Check { sure: true };
                let _ = slot.cast(RelayMessage::Heads { heads: ahead, found, queued: None });
            });
        }
    }

    fn interest_again(&self, log: Arc<LogKey>) {
        if let Some(router) = self.arguments.router.upgrade() {
            router.interest(log, 0, 0);
        }
    }

    fn owner_is_away(&self, log: &LogKey) -> bool {
        let Some(router) = self.arguments.router.upgrade() else { return false };
        router.nodes.ownership.target(placement::slot_of(log)).is_none()
    }
}

/// Reads heads, some at a time, and each log once. A read that brings nothing ends it: the store is
/// away, and the rest is read first the next time.
async fn compare_with_store(nodes: Arc<Nodes>, mut running: Running, mut logs: Vec<Arc<LogKey>>) {
    while !logs.is_empty() {
        let some = logs.split_off(logs.len().saturating_sub(HEAD_CHECK_SLICE));
        let pages = nodes.read(some.iter().cloned().map(head_read).collect()).await;
        let mut heads = Vec::with_capacity(some.len());
        let mut failed = Vec::new();
        for (log, page) in some.into_iter().zip(pages) {
            match page {
                Ok(page) => heads.push((log, page.head)),
                Err(_) => failed.push(log),
            }
        }
        if !failed.is_empty() {
            let mut known = lock(&running.failed);
            failed.append(&mut known);
            if heads.is_empty() {
                failed.append(&mut logs);
            }
            *known = failed;
        }
        let heads = RelayMessage::Heads { heads, found: Found::Told, queued: None };
        if running.relay.cast(heads).is_err() {
            return; // its successor starts with what its sessions register, and that is read anew
        }
        if !logs.is_empty() {
            tokio::time::sleep(COMPARE_PAUSE).await;
        }
    }
    running.whole = true;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
