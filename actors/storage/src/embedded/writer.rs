//! The writer: one thread that alone changes the tables. It takes whatever waits, executes it in
//! the order it came, makes one batch of it, syncs once and answers. A crash loses the groups whose
//! sync was not over: their callers were not answered.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clarion_core::fault::{Mutant, mutated};
use fjall::{Database, OwnedWriteBatch, PersistMode};
use tokio::sync::oneshot;

use super::health::{FreeSpaceProbe, Health, Watermark, tell_watermark};
use super::marker::Marker;
use super::queue::{Queue, Taken};
use super::tables::{Keyspaces, Newest};
use crate::engine::tables::{Slice, Table};
use crate::engine::{Deliveries, Engine};
use crate::{
    Append, Appended, Claim, ClaimOutcome, CursorSave, Finish, OpenSession, OpenedSession,
    ProductRecord, SaveOutcome, StoreError, StoreResult, Subscribe, SubscribeOutcome, Unsubscribe,
    UnsubscribeOutcome, Upkeep,
};

/// How often free space is looked at and a failed background task is noticed.
const TICK: Duration = Duration::from_secs(1);

/// How long nonces wait for an operation to ride with before they are written alone.
const NONCES_WAIT: Duration = Duration::from_millis(5);

/// Bytes written after which free space is looked at early.
const MEASURE_BYTES: u64 = 16 << 20;

/// How often the size of the store is measured.
const SIZE_EVERY: Duration = Duration::from_secs(10);

/// Answers to items, in their order.
pub(super) type Answers<T> = oneshot::Sender<Vec<StoreResult<T>>>;

/// What the writer is asked for.
pub(super) enum Op {
    Append(Vec<Append>, Answers<Appended>),
    Open(Vec<OpenSession>, Answers<OpenedSession>),
    Save(Vec<CursorSave>, Answers<SaveOutcome>),
    Subscribe(Vec<Subscribe>, Answers<SubscribeOutcome>),
    Unsubscribe(Vec<Unsubscribe>, Answers<UnsubscribeOutcome>),
    Claim(Vec<Claim>, Answers<ClaimOutcome>),
    Finish(Vec<Finish>, Answers<()>),
    Product(Box<ProductRecord>, bool, Answers<bool>),
    Delivered(Deliveries),
    Touch(Vec<Slice>),
    Upkeep(usize, Answers<Upkeep>),
}

/// Answers an operation once its group is durable, or tells that it failed.
type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

fn answer<T: Send + 'static>(reply: Answers<T>, mut answers: Vec<StoreResult<T>>) -> Answer {
    Box::new(move |failed| {
        if let Some(error) = failed {
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(error.clone());
            }
        }
        let _ = reply.send(answers);
    })
}

/// Answers an operation that is not executed.
pub(super) fn refuse(op: Op, error: &StoreError) {
    fn all<T>(count: usize, reply: Answers<T>, error: &StoreError) {
        let _ = reply.send((0..count).map(|_| Err(error.clone())).collect());
    }
    match op {
        Op::Append(items, reply) => all(items.len(), reply, error),
        Op::Open(items, reply) => all(items.len(), reply, error),
        Op::Save(items, reply) => all(items.len(), reply, error),
        Op::Subscribe(items, reply) => all(items.len(), reply, error),
        Op::Unsubscribe(items, reply) => all(items.len(), reply, error),
        Op::Claim(items, reply) => all(items.len(), reply, error),
        Op::Finish(_, reply) => all(1, reply, error),
        Op::Product(_, _, reply) => all(1, reply, error),
        Op::Upkeep(_, reply) => all(1, reply, error),
        Op::Delivered(_) | Op::Touch(_) => {}
    }
}

/// What the writer is made of.
pub(super) struct Writer {
    pub(super) db: Database,
    pub(super) keyspaces: Keyspaces,
    pub(super) engine: Engine<Newest>,
    pub(super) marker: Marker,
    /// Number of the boot that is durable.
    pub(super) boot: u64,
    pub(super) queue: Arc<Queue<Op>>,
    pub(super) health: Arc<Health>,
    pub(super) path: PathBuf,
    pub(super) probe: FreeSpaceProbe,
    pub(super) watermark: Watermark,
    pub(super) batch_max: usize,
}

/// Times the writer keeps.
struct Ticks {
    measured: Option<Instant>,
    sized: Option<Instant>,
    bytes: u64,
}

impl Writer {
    /// Runs until the queue is closed and drained, or the store fails.
    pub(super) fn run(mut self) -> StoreResult<()> {
        let mut ticks = Ticks { measured: None, sized: None, bytes: 0 };
        let mut ops = Vec::new();
        let outcome = loop {
            self.measure(&mut ticks);
            let taken = self.queue.take(self.batch_max, TICK, &mut ops);
            if taken == Taken::Nothing && self.engine.shared.nonces.has_unsaved() {
                self.queue.take(self.batch_max, NONCES_WAIT, &mut ops);
            }
            let done = match (ops.is_empty(), taken) {
                (true, Taken::Closed) => break self.finish(),
                (true, _) => self.idle(&mut ticks),
                (false, _) => self.group(&mut ops, &mut ticks),
            };
            if let Err(error) = done {
                break Err(error);
            }
        };
        if let Err(error) = &outcome {
            metrics::counter!("clarion_store_errors_total", "kind" => "fatal").increment(1);
            tracing::error!(%error, "the store failed");
            self.health.set(Err(error.clone()));
        }
        for op in ops.drain(..).chain(self.queue.close_and_drain()) {
            let closed = StoreError::Unavailable("the store is closed".into());
            refuse(op, outcome.as_ref().err().unwrap_or(&closed));
        }
        outcome
    }

    /// One group: executed, made durable, answered.
    fn group(&mut self, ops: &mut Vec<Op>, ticks: &mut Ticks) -> StoreResult<()> {
        metrics::gauge!("clarion_store_queue_items").set(self.queue.weight() as f64);
        metrics::histogram!("clarion_store_commit_batch_items").record(ops.len() as f64);
        self.engine.begin(self.watermark.full);
        let mut answers: Vec<Answer> = ops.drain(..).filter_map(|op| self.execute(op)).collect();
        if mutated(Mutant::AnswerBeforeCommit) {
            answers.drain(..).for_each(|answer| answer(None));
            #[allow(clippy::disallowed_methods, reason = "a disk that takes its time")]
            std::thread::sleep(Duration::from_millis(20));
        }
        let committed = self.commit(ticks);
        let failed = committed.as_ref().err().map(|error| {
            // The batch may have reached the disk although its sync failed.
            StoreError::Unknown(format!("the commit failed: {error}"))
        });
        for answer in answers {
            answer(failed.as_ref());
        }
        committed
    }

    fn execute(&mut self, op: Op) -> Option<Answer> {
        let engine = &mut self.engine;
        Some(match op {
            Op::Append(items, reply) => {
                answer(reply, items.iter().map(|item| engine.append(item)).collect())
            }
            Op::Open(items, reply) => {
                answer(reply, items.iter().map(|item| engine.open_session(item)).collect())
            }
            Op::Save(items, reply) => {
                answer(reply, items.iter().map(|item| engine.save_cursor(item)).collect())
            }
            Op::Subscribe(items, reply) => {
                answer(reply, items.iter().map(|item| engine.subscribe(item)).collect())
            }
            Op::Unsubscribe(items, reply) => {
                answer(reply, items.iter().map(|item| engine.unsubscribe(item)).collect())
            }
            Op::Claim(items, reply) => {
                answer(reply, items.iter().map(|item| engine.claim(item)).collect())
            }
            Op::Finish(items, reply) => answer(reply, vec![engine.finish(&items)]),
            Op::Product(product, expect_absent, reply) => {
                answer(reply, vec![engine.put_product(&product, expect_absent)])
            }
            Op::Upkeep(budget, reply) => answer(reply, vec![engine.upkeep(budget)]),
            Op::Delivered(counts) => {
                if let Err(error) = engine.add_delivered(&counts) {
                    tracing::warn!(%error, "deliveries were not counted");
                }
                return None;
            }
            Op::Touch(terminals) => {
                for terminal in terminals {
                    if let Err(error) = engine.touch(&terminal) {
                        tracing::warn!(%error, "a terminal's retention did not slide");
                    }
                }
                return None;
            }
        })
    }

    /// Makes the group's writes one batch. It syncs if anything in it was promised durable.
    fn commit(&mut self, ticks: &mut Ticks) -> StoreResult<()> {
        let sync = self.engine.end();
        let (tables, bytes) = self.engine.txn.take();
        let rows: usize = tables.iter().map(std::collections::BTreeMap::len).sum();
        if rows == 0 {
            return Ok(());
        }
        ticks.bytes += bytes;
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), rows + 1);
        for (keyspace, writes) in self.keyspaces.iter().zip(tables) {
            for (key, value) in writes {
                match value {
                    Some(value) => batch.insert(keyspace, key, value),
                    None => batch.remove(keyspace, key),
                }
            }
        }
        let (key, value) = self.marker.next();
        batch.insert(&self.keyspaces[Table::Meta as usize], key, value);
        let mode = if sync { PersistMode::SyncAll } else { PersistMode::Buffer };
        let start = Instant::now();
        let committed = batch.durability(Some(mode)).commit();
        if sync {
            metrics::histogram!("clarion_store_commit_seconds")
                .record(start.elapsed().as_secs_f64());
        }
        match committed {
            Ok(()) => {
                if sync {
                    self.marker.synced();
                }
                Ok(())
            }
            Err(error) => {
                self.engine.abandon();
                Err(StoreError::Fatal(format!("the commit failed: {error}")))
            }
        }
    }

    /// Nothing waits: nonces are written, the last group is vouched for, and a background task that
    /// failed is noticed.
    fn idle(&mut self, ticks: &mut Ticks) -> StoreResult<()> {
        if self.engine.shared.nonces.has_unsaved() {
            self.engine.begin(self.watermark.full);
            self.commit(ticks)?;
        } else if self.marker.is_open() {
            self.vouch(PersistMode::Buffer)?;
        }
        self.save_boot()?;
        self.db
            .persist(PersistMode::Buffer)
            .map_err(|error| StoreError::Fatal(format!("the database failed: {error}")))
    }

    /// I7: generations that ran over into the numbers of the next boot must not be given again.
    fn save_boot(&mut self) -> StoreResult<()> {
        let boot = self.engine.shared.generations.boot();
        if boot > self.boot {
            super::open::save_boot(&self.db, &self.keyspaces, boot, &mut self.marker)
                .map_err(|error| StoreError::Fatal(format!("the database failed: {error}")))?;
            self.boot = boot;
        }
        Ok(())
    }

    /// Writes a marker alone, which says that the last synced batch was synced.
    fn vouch(&mut self, mode: PersistMode) -> StoreResult<()> {
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), 1);
        let (key, value) = self.marker.next();
        batch.insert(&self.keyspaces[Table::Meta as usize], key, value);
        batch
            .durability(Some(mode))
            .commit()
            .map_err(|error| StoreError::Fatal(format!("the database failed: {error}")))
    }

    /// Everything is durable, and says so.
    fn finish(&mut self) -> StoreResult<()> {
        self.engine.begin(self.watermark.full);
        self.commit(&mut Ticks { measured: None, sized: None, bytes: 0 })?;
        self.save_boot()?;
        self.db
            .persist(PersistMode::SyncAll)
            .map_err(|error| StoreError::Fatal(format!("the database failed: {error}")))?;
        self.marker.synced();
        self.vouch(PersistMode::SyncAll)
    }

    fn measure(&mut self, ticks: &mut Ticks) {
        let due = ticks.measured.is_none_or(|at| at.elapsed() >= TICK);
        if !due && ticks.bytes < MEASURE_BYTES {
            return;
        }
        ticks.measured = Some(Instant::now());
        ticks.bytes = 0;
        metrics::gauge!("clarion_store_unwritten_bytes").set(self.db.write_buffer_size() as f64);
        match (self.probe)(&self.path) {
            Ok(free_bytes) => {
                self.health.free_bytes.store(free_bytes, Ordering::Relaxed);
                metrics::gauge!("clarion_store_free_bytes").set(free_bytes as f64);
                if self.watermark.measure(free_bytes) {
                    tell_watermark(&self.health, self.watermark.full);
                }
            }
            Err(error) => tracing::warn!(%error, "the free space cannot be measured"),
        }
        if ticks.sized.is_none_or(|at| at.elapsed() >= SIZE_EVERY) {
            ticks.sized = Some(Instant::now());
            if let Ok(used_bytes) = self.db.disk_space() {
                self.health.used_bytes.store(used_bytes, Ordering::Relaxed);
            }
        }
    }
}
