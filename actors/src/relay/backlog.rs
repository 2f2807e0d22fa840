//! The hints that wait in the mailbox of a relay: counted, so that neither owners nor other nodes can
//! make it grow without end. One that finds no room is dropped, and its slot is compared with the
//! store instead (I12), once the relay has handled what came before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_core::Batch;
use clarion_core::placement::{self, SlotSet};

/// Bytes of hints that may wait for one relay; above it further ones are dropped.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// What a hint costs beside the bodies of its entries, and what each entry costs.
const HINT_COST_BYTES: usize = 128;

/// What waits for one relay. It outlives the relay's incarnations.
#[derive(Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    dropped: Mutex<Dropped>,
}

#[derive(Default)]
struct Dropped {
    /// Slots of the hints that found no room. 512 bytes.
    slots: SlotSet,
    /// The relay has been told.
    told: bool,
}

/// A hint that waits; its room is free again when this is dropped, handled or not.
pub(crate) struct Queued {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.backlog.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Backlog {
    /// Room for a hint. `None`: there is none.
    pub(super) fn take_room(self: &Arc<Self>, batch: &Batch) -> Option<Queued> {
        let of = |bytes: usize| bytes + HINT_COST_BYTES;
        let bytes = of(batch.entries.iter().map(|entry| of(entry.body.len())).sum());
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) >= BACKLOG_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            metrics::counter!("clarion_relay_hints_dropped_total").increment(1);
            return None;
        }
        Some(Queued { backlog: Arc::clone(self), bytes })
    }

    /// A durable hint was dropped. True if the relay is to be told.
    pub(super) fn note_dropped(&self, batch: &Batch) -> bool {
        let mut dropped = self.dropped();
        dropped.slots.insert(placement::slot_of(&batch.log));
        !std::mem::replace(&mut dropped.told, true)
    }

    /// The slots of what was dropped.
    pub(super) fn take_dropped(&self) -> SlotSet {
        std::mem::take(&mut *self.dropped()).slots
    }

    fn dropped(&self) -> MutexGuard<'_, Dropped> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clarion_core::{Body, Entry, LogKey};
    use clarion_protocol::{Epoch, MessageId, Offset, ProductId};

    use super::*;

    fn batch(bytes: usize) -> Batch {
        let body = Body::Json(Bytes::from(vec![b'1'; bytes]));
        let entry = Entry::new(Offset(1), Offset(0), MessageId(1), u64::MAX, body);
        let log = LogKey::broadcast(&ProductId::new("demo").unwrap());
        Batch::new(log, Epoch(1), vec![Arc::new(entry)])
    }

    #[test]
    fn what_waits_is_bounded_and_room_comes_back_however_a_hint_ends() {
        let (backlog, hint) = (Arc::new(Backlog::default()), batch(1 << 20));
        let queued: Vec<_> = std::iter::from_fn(|| backlog.take_room(&hint)).collect();
        assert_eq!(queued.len(), 16);
        drop(queued);
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
        let small = batch(1);
        let queued: Vec<_> = std::iter::from_fn(|| backlog.take_room(&small)).collect();
        assert_eq!(queued.len(), BACKLOG_BYTES_MAX.div_ceil(2 * HINT_COST_BYTES + 1));
    }

    #[test]
    fn the_relay_is_told_once_of_all_that_was_dropped_until_it_looks() {
        let (backlog, hint) = (Backlog::default(), batch(1));
        assert!(backlog.note_dropped(&hint));
        assert!(!backlog.note_dropped(&hint));
        assert!(backlog.take_dropped().contains(placement::slot_of(&hint.log)));
        assert!(backlog.take_dropped().is_empty());
        assert!(backlog.note_dropped(&hint), "anew");
    }
}
