//! What owners and other nodes tell a relay and waits in its mailbox: counted, so that they cannot make
//! it grow without end. What finds no room is dropped, and its slot is compared with the store instead
//! (I12), or interest in it told anew, once the relay has handled what came before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_core::Batch;
use clarion_core::placement::{Slot, SlotSet};
use tokio::sync::Notify;

/// Bytes that may wait for one relay; above it further messages are dropped.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// What a message of one log costs that carries no entries.
pub(super) const WORD_COST_BYTES: usize = 128;
/// What a hint costs beside the bodies of its entries, and what each entry costs.
const HINT_COST_BYTES: usize = 128;

/// Registrations that may wait for the relays of a node before further sessions begin.
const REGISTRATIONS_MAX: usize = 16_384;

/// What waits for one relay. It outlives the relay's incarnations.
#[derive(Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    dropped: Mutex<Dropped>,
}

#[derive(Default)]
struct Dropped {
    /// Slots of what found no room. 512 bytes.
    slots: SlotSet,
    /// Slots of logs whose owner changed, of which the relay was not told. 512 bytes.
    unannounced: SlotSet,
    /// The relay has been told.
    told: bool,
}

/// A message that waits; its room is free again when this is dropped, handled or not.
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
        let queued =
            self.take_bytes(of(batch.entries.iter().map(|entry| of(entry.body.len())).sum()));
        if queued.is_none() {
            metrics::counter!("clarion_relay_hints_dropped_total").increment(1);
        }
        queued
    }

    /// Room for so many messages of one log each, without entries. `None`: there is none.
    pub(super) fn take_room_for_words(self: &Arc<Self>, count: usize) -> Option<Queued> {
        let queued = self.take_bytes(count * WORD_COST_BYTES);
        if queued.is_none() {
            metrics::counter!("clarion_relay_words_dropped_total").increment(count as u64);
        }
        queued
    }

    fn take_bytes(self: &Arc<Self>, bytes: usize) -> Option<Queued> {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) >= BACKLOG_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Queued { backlog: Arc::clone(self), bytes })
    }

    /// Something was dropped that told how far logs of these slots go. True if the relay is to be told.
    pub(super) fn note_dropped(&self, slots: &SlotSet) -> bool {
        let mut dropped = self.dropped();
        dropped.slots.insert_all(slots);
        !std::mem::replace(&mut dropped.told, true)
    }

    /// It was dropped that the owner of a log changed. True if the relay is to be told.
    pub(super) fn note_unannounced(&self, slot: Slot) -> bool {
        let mut dropped = self.dropped();
        dropped.unannounced.insert(slot);
        !std::mem::replace(&mut dropped.told, true)
    }

    /// The slots of what was dropped, and those of owners that changed unheard.
    pub(super) fn take_dropped(&self) -> (SlotSet, SlotSet) {
        let Dropped { slots, unannounced, .. } = std::mem::take(&mut *self.dropped());
        (slots, unannounced)
    }

    fn dropped(&self) -> MutexGuard<'_, Dropped> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registrations of sessions, and their ends, that wait for the relays of a node. None is dropped;
/// sessions begin, and join, only while few wait. So terminals that come and go faster than relays
/// take it in make these wait for no more than the sessions that live can leave.
#[derive(Default)]
pub(crate) struct Registrations {
    waiting: AtomicUsize,
    room: Notify,
}

/// A registration that waits, until this is dropped.
pub(crate) struct Registering(Arc<Registrations>);

impl Registrations {
    pub(super) fn take(self: &Arc<Self>) -> Registering {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Registering(Arc::clone(self))
    }

    /// Waits until there is room for those of another session.
    pub(super) async fn room(&self) {
        loop {
            let room = self.room.notified();
            if self.waiting.load(Ordering::Relaxed) < REGISTRATIONS_MAX {
                // Who is woken may come to nothing, and register nothing that would wake another.
                self.room.notify_one();
                return;
            }
            room.await;
        }
    }
}

impl Drop for Registering {
    fn drop(&mut self) {
        // One that is taken in lets one session begin.
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) <= REGISTRATIONS_MAX {
            self.0.room.notify_one();
        }
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
        let backlog = Backlog::default();
        let slots = [Slot(7)].into_iter().collect();
        assert!(backlog.note_dropped(&slots));
        assert!(!backlog.note_dropped(&slots) && !backlog.note_unannounced(Slot(9)));
        let (dropped, unannounced) = backlog.take_dropped();
        assert!(dropped.iter().eq([Slot(7)]) && unannounced.iter().eq([Slot(9)]));
        let (dropped, unannounced) = backlog.take_dropped();
        assert!(dropped.is_empty() && unannounced.is_empty());
        assert!(backlog.note_unannounced(Slot(9)), "anew");
    }

    #[tokio::test]
    async fn sessions_wait_while_registrations_do_and_begin_as_they_are_taken_in() {
        let registrations = Arc::new(Registrations::default());
        let mut waiting: Vec<_> = (0..REGISTRATIONS_MAX).map(|_| registrations.take()).collect();
        let begin = || {
            let registrations = Arc::clone(&registrations);
            async move { registrations.room().await }
        };
        let (mut first, mut second) = (Box::pin(begin()), Box::pin(begin()));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        waiting.pop();
        assert!(futures_util::poll!(&mut first).is_ready());
        waiting.push(registrations.take());
        assert!(futures_util::poll!(&mut second).is_pending(), "the first has taken the room");
        waiting.clear();
        assert!(futures_util::poll!(&mut second).is_ready());
        begin().await;
    }

    #[test]
    fn words_and_hints_share_the_room() {
        let (backlog, hint) = (Arc::new(Backlog::default()), batch(1));
        let words: Vec<_> = std::iter::from_fn(|| backlog.take_room_for_words(256)).collect();
        assert_eq!(words.len(), BACKLOG_BYTES_MAX / (256 * WORD_COST_BYTES));
        assert!(backlog.take_room(&hint).is_none());
        drop(words);
        assert!(backlog.take_room(&hint).is_some());
    }
}
