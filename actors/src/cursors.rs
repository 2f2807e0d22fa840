//! Write-behind of cursors (step 8 of the way of a push): sessions note where they stand, a flush
//! writes what is dirty in one call to the store. What is lost in a crash is delivered again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_core::{LogKey, Settled};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::SessionNumber;
use clarion_protocol::{Offset, ProductId, TerminalId};
use clarion_storage::{CursorSave, SaveOutcome, Seldom, Store, StoreError};
use tokio::sync::watch;

use crate::link::inbox::{Item, LinkInbox, SessionEvent};

/// Cursors that one call to the store carries at most.
const SAVE_BATCH_MAX: usize = 1024;
/// Dirty cursors that are kept while the store is away; beyond it they are dropped, and their
/// messages delivered again.
const DIRTY_MAX: usize = 250_000;
/// Messages whose first writes are counted at the same time.
const DELIVERED_MAX: usize = 100_000;

/// Dirty cursors of the sessions of one shard.
pub(crate) struct CursorBuffer {
    store: Arc<dyn Store>,
    dirty: Mutex<Dirty>,
    flushing: AtomicBool,
    /// Flushes that began; changed under the lock of `dirty`.
    begun: AtomicU64,
    /// The last flush that ended.
    ended: watch::Sender<u64>,
}

/// A session whose generation is to be verified, and where it is.
type Verify = ((ProductId, TerminalId, u64), Arc<LinkInbox>, SessionNumber);

/// A flush on its way; over however it ends.
struct Flushing<'a>(&'a AtomicBool);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct Dirty {
    saves: HashMap<(TerminalId, Arc<LogKey>), Pending>,
    delivered: HashMap<(Arc<LogKey>, Offset), u32>,
    verify: Vec<Verify>,
}

struct Pending {
    save: CursorSave,
    inbox: Arc<LinkInbox>,
    session: SessionNumber,
}

impl CursorBuffer {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            dirty: Mutex::default(),
            flushing: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        }
    }

    /// Notes a cursor; a later one of the same session and log takes its place.
    pub(crate) fn note(&self, save: CursorSave, inbox: &Arc<LinkInbox>, session: SessionNumber) {
        let mut dirty = self.lock();
        if !save.log.kind.is_wide() {
            // Acknowledged before its first write was reported: the cursor says it all.
            dirty.forget_delivered(&save);
        }
        let key = (save.terminal.clone(), Arc::clone(&save.log));
        let full = dirty.saves.len() >= DIRTY_MAX;
        match dirty.saves.get_mut(&key) {
            Some(pending) => pending.merge(save, inbox, session),
            None if full => {
                metrics::counter!("clarion_cursors_dropped_total").increment(1);
            }
            None => {
                let pending = Pending { save, inbox: Arc::clone(inbox), session };
                dirty.saves.insert(key, pending);
            }
        }
    }

    /// Notes just the heartbeat; a cursor that is dirty already carries it along.
    pub(crate) fn note_heartbeat(
        &self,
        save: CursorSave,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
    ) {
        let key = (save.terminal.clone(), Arc::clone(&save.log));
        let mut dirty = self.lock();
        let full = dirty.saves.len() >= DIRTY_MAX;
        match dirty.saves.get_mut(&key) {
            Some(pending) => pending.save.heartbeat_ms = save.heartbeat_ms,
            None if full => {}
            None => {
                let pending = Pending { save, inbox: Arc::clone(inbox), session };
                dirty.saves.insert(key, pending);
            }
        }
    }

    /// Counts a first write of messages to a terminal.
    pub(crate) fn count_delivered(&self, log: &Arc<LogKey>, offsets: impl Iterator<Item = Offset>) {
        let mut dirty = self.lock();
        for offset in offsets {
            if dirty.delivered.len() < DELIVERED_MAX {
                *dirty.delivered.entry((Arc::clone(log), offset)).or_default() += 1;
            }
        }
    }

    /// Asks whether a session is still its terminal's newest (I7).
    pub(crate) fn verify(
        &self,
        identity: (ProductId, TerminalId, u64),
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
    ) {
        self.lock().verify.push((identity, Arc::clone(inbox), session));
    }

    /// Writes what is dirty; nothing if a flush is on its way already.
    pub(crate) async fn flush(&self) {
        if self.flushing.swap(true, Ordering::AcqRel) {
            return;
        }
        let flushing = Flushing(&self.flushing);
        let (Dirty { saves, delivered, verify }, number) = {
            let mut dirty = self.lock();
            let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
            (std::mem::take(&mut *dirty), number)
        };
        self.flush_saves(saves.into_values().collect()).await;
        if !delivered.is_empty() {
            let counts = delivered.into_iter().map(|((log, offset), n)| (log, offset, n)).collect();
            let _ = self.store.count_delivered(counts).await;
        }
        if !verify.is_empty() {
            self.flush_verify(verify).await;
        }
        drop(flushing);
        self.ended.send_modify(|ended| *ended = number.max(*ended));
    }

    /// Returns once a flush has ended that took what was noted before, whether or not the store took
    /// it.
    pub(crate) async fn written(&self) {
        let number = {
            let _dirty = self.lock();
            self.begun.load(Ordering::Relaxed) + 1
        };
        let mut ended = self.ended.subscribe();
        while *ended.borrow_and_update() < number {
            // Nothing happens if one is on its way: its end is waited for, and this asked again.
            self.flush().await;
            if *self.ended.borrow() < number && ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Flushes until nothing is dirty, or the store refuses.
    pub(crate) async fn drain(&self) {
        for _ in 0..50 {
            self.flush().await;
            if self.lock().saves.is_empty() && !self.flushing.load(Ordering::Acquire) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn flush_saves(&self, mut pending: Vec<Pending>) {
        while !pending.is_empty() {
            let rest = pending.split_off(pending.len().min(SAVE_BATCH_MAX));
            let batch = std::mem::replace(&mut pending, rest);
            let saves = batch.iter().map(|pending| pending.save.clone()).collect();
            let outcomes = self.store.save_cursors(saves).await;
            let mut failed = None;
            for (pending, outcome) in batch.into_iter().zip(outcomes) {
                if let Err(error) = self.settle(pending, outcome) {
                    failed = Some(error);
                }
            }
            if let Some(error) = failed {
                static SAID: Seldom = Seldom::new();
                if let Some(unsaid) = SAID.turn() {
                    tracing::warn!(%error, unsaid, "cursors were not saved; they are tried again");
                }
            }
        }
    }

    fn settle(
        &self,
        pending: Pending,
        outcome: Result<SaveOutcome, StoreError>,
    ) -> Result<(), StoreError> {
        match outcome {
            Ok(SaveOutcome::Saved | SaveOutcome::NotSubscribed) => {}
            Ok(SaveOutcome::Stale) => pending
                .inbox
                .leave(Item::Session { session: pending.session, event: SessionEvent::Stale }),
            Ok(SaveOutcome::AboveHead) => {
                tracing::error!(log = %pending.save.log, "a cursor above the head was refused (I5)");
                let event = SessionEvent::AboveHead;
                pending.inbox.leave(Item::Session { session: pending.session, event });
            }
            Err(error) => {
                let mut dirty = self.lock();
                if dirty.saves.len() < DIRTY_MAX {
                    let key = (pending.save.terminal.clone(), Arc::clone(&pending.save.log));
                    dirty.put_back(key, pending);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn flush_verify(&self, verify: Vec<Verify>) {
        let identities = verify.iter().map(|(identity, _, _)| identity.clone()).collect();
        // While the store is away nobody is closed; the next round asks again.
        let Ok(newest) = self.store.verify_generations(identities).await else { return };
        for ((_, inbox, session), newest) in verify.into_iter().zip(newest) {
            if !newest {
                inbox.leave(Item::Session { session, event: SessionEvent::Stale });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dirty {
    fn forget_delivered(&mut self, save: &CursorSave) {
        if self.delivered.is_empty() {
            return;
        }
        // The window bounds how far back an acknowledgement can reach; what is older was flushed.
        let log = Arc::clone(&save.log);
        if self.delivered.len() <= 64 {
            self.delivered.retain(|(of, offset), _| *of != log || *offset > save.cursor);
        } else {
            self.delivered.remove(&(log, save.cursor));
        }
    }

    /// Puts back what could not be written, below what was noted meanwhile.
    fn put_back(&mut self, key: (TerminalId, Arc<LogKey>), mut old: Pending) {
        match self.saves.remove(&key) {
            Some(new) => {
                let (inbox, session) = (Arc::clone(&new.inbox), new.session);
                old.merge(new.save, &inbox, session);
                self.saves.insert(key, old);
            }
            None => {
                self.saves.insert(key, old);
            }
        }
    }
}

impl Pending {
    fn merge(&mut self, save: CursorSave, inbox: &Arc<LinkInbox>, session: SessionNumber) {
        if save.generation < self.save.generation {
            return;
        }
        let continues = save.generation == self.save.generation && save.epoch == self.save.epoch;
        let mut settled =
            if continues { std::mem::take(&mut self.save.settled) } else { Vec::new() };
        if save.settled.iter().any(|settled| settled.how == Milestone::Evicted) {
            // I13: the gap begins where the cursor was, not where the store knows it to be.
            settled.push(Settled { offset: self.save.cursor, how: Milestone::Acknowledged });
        }
        settled.extend(save.settled.iter().copied());
        let heartbeat_ms = save.heartbeat_ms.or(self.save.heartbeat_ms);
        self.save = CursorSave { settled, heartbeat_ms, ..save };
        self.inbox = Arc::clone(inbox);
        self.session = session;
    }
}
