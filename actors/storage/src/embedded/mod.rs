//! The store of a single node: tables in a directory, one writer that syncs once per group, readers
//! on snapshots. See the README of this crate for what it promises and under which faults.

mod health;
mod journal;
mod marker;
mod open;
mod queue;
mod reader;
mod tables;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};
use tokio::sync::oneshot;

pub use self::health::FreeSpaceProbe;
pub use self::open::{OpenError, init, new_epoch};

use self::health::{Health, Watermark};
use self::queue::{Queue, Refused};
use self::reader::{Job, Reader};
use self::tables::{AtOnce, Keyspaces, Newest};
use self::writer::{Answers, Op, Writer, refuse};
use crate::engine::clock::Clock;
use crate::engine::nonces::Nonces;
use crate::engine::query::Query;
use crate::engine::sessions::{Delivered, Generations};
use crate::engine::tables::Slice;
use crate::engine::{Engine, EngineLimits, Shared, keys, load_nonces};
use crate::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, MessageRecord,
    NonceUse, OpenSession, OpenedSession, ProductRecord, Read, SaveOutcome, Store, StoreError,
    StoreHealth, StoreResult, Subscribe, SubscribeOutcome, TerminalRecord, Unsubscribe,
    UnsubscribeOutcome, Upkeep,
};

/// Logs whose state the writer keeps in memory, at least (about 300 bytes each, more while an inbox
/// holds entries).
const LOGS_CACHED: usize = 131_072;

/// Records of one piece of upkeep: other operations go between the pieces.
const UPKEEP_PIECE: usize = 256;

/// Where the store is, and its bounds.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The directory that [`init`] made.
    pub path: PathBuf,
    /// Free bytes on its disk below which nothing new is accepted.
    pub free_bytes_min: u64,
    /// Cache of blocks that were read.
    pub cache_bytes: u64,
    /// Threads that read.
    pub readers: usize,
    /// Items that may wait for the writer, and reads that may wait for a reader.
    pub queue_max: usize,
    /// Items of one group.
    pub batch_max: usize,
    /// Nonces that are remembered.
    pub nonces_max: usize,
    /// Days that a terminal is kept after it was last seen.
    pub terminal_retention_days: u64,
}

impl EmbeddedConfig {
    /// The defaults, for a directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            free_bytes_min: 256 << 20,
            cache_bytes: 64 << 20,
            readers: 2,
            queue_max: 65_536,
            batch_max: 4096,
            nonces_max: 4_000_000,
            terminal_retention_days: 90,
        }
    }
}

/// The store of a single node.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    epoch: Epoch,
    writes: Arc<Queue<Op>>,
    reads: Arc<Queue<Job>>,
    health: Arc<Health>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens a directory that [`init`] made.
    ///
    /// # Errors
    /// See [`OpenError`]; each says what to do.
    pub fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        Self::open_with_probe(config, Arc::new(health::free_bytes_of))
    }

    /// As [`EmbeddedStore::open`], asking `probe` for the free bytes on the disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with_probe(
        config: EmbeddedConfig,
        probe: FreeSpaceProbe,
    ) -> Result<Self, OpenError> {
        let opened = open::open(&config.path, config.cache_bytes)?;
        let shared = Arc::new(Shared {
            clock: Clock::system(),
            generations: Generations::new(opened.boot),
            delivered: Delivered::new(),
            nonces: Nonces::new(opened.nonce_key, config.nonces_max),
        });
        let newest = Newest(Arc::clone(&opened.keyspaces));
        load_nonces(&newest, &shared.nonces).map_err(|error| OpenError::Corrupt {
            path: config.path.clone(),
            what: error.to_string(),
        })?;
        let limits = EngineLimits {
            logs_cached: LOGS_CACHED,
            terminal_retention_ms: config.terminal_retention_days.saturating_mul(86_400_000),
        };
        let store = Self {
            epoch: opened.epoch,
            writes: Arc::new(Queue::new(config.queue_max)),
            reads: Arc::new(Queue::new(config.queue_max)),
            health: Arc::new(Health::new()),
            threads: Mutex::default(),
            shared: Arc::clone(&shared),
        };
        let writer = Writer {
            engine: Engine::new(newest, Arc::clone(&shared), opened.epoch, limits),
            db: opened.db.clone(),
            keyspaces: Arc::clone(&opened.keyspaces),
            marker: opened.marker,
            boot: opened.boot,
            queue: Arc::clone(&store.writes),
            health: Arc::clone(&store.health),
            watermark: Watermark::new(config.free_bytes_min),
            probe,
            batch_max: config.batch_max.max(1),
            path: config.path.clone(),
        };
        store.start(&config, &opened.db, &opened.keyspaces, writer)?;
        Ok(store)
    }

    fn start(
        &self,
        config: &EmbeddedConfig,
        db: &fjall::Database,
        keyspaces: &Keyspaces,
        writer: Writer,
    ) -> Result<(), OpenError> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| OpenError::Io { path: config.path.clone(), source };
        for number in 0..config.readers.max(1) {
            let reader = Reader {
                db: db.clone(),
                keyspaces: Arc::clone(keyspaces),
                shared: Arc::clone(&self.shared),
                epoch: self.epoch,
                queue: Arc::clone(&self.reads),
            };
            let (health, queue) = (Arc::clone(&self.health), Arc::clone(&self.reads));
            threads.push(spawn(format!("store-read-{number}"), &health, &queue, || reader.run())
                .map_err(failed)?);
        }
        let (health, queue) = (Arc::clone(&self.health), Arc::clone(&self.writes));
        let run = move || drop(writer.run());
        threads.push(spawn("store-write".into(), &health, &queue, run).map_err(failed)?);
        Ok(())
    }

    /// Moves the store's time forward, for tests.
    #[cfg(any(test, feature = "conformance"))]
    pub fn advance_ms(&self, by_ms: u64) {
        self.shared.clock.advance_ms(by_ms);
    }

    fn closed(&self) -> StoreError {
        match self.health.state() {
            Err(StoreError::Fatal(what)) => StoreError::Fatal(what),
            _ => StoreError::Unavailable("the store is closed".into()),
        }
    }

    fn refused<T>(&self, refused: Refused<T>) -> (T, StoreError) {
        match refused {
            Refused::Closed(item) => (item, self.closed()),
            Refused::Full(item) => {
                metrics::counter!("clarion_store_errors_total", "kind" => "queue_full").increment(1);
                (item, StoreError::Unavailable("too many requests wait for the store".into()))
            }
        }
    }

    /// Has the writer do something with `count` items.
    async fn write<T>(
        &self,
        count: usize,
        op: impl FnOnce(Answers<T>) -> Op,
    ) -> Vec<StoreResult<T>> {
        if count == 0 {
            return Vec::new();
        }
        let (reply, answers) = oneshot::channel();
        if let Err(refused) = self.writes.push(op(reply), count) {
            let (op, error) = self.refused(refused);
            refuse(op, &error);
        }
        match answers.await {
            Ok(answers) => answers,
            Err(_) => {
                let error = StoreError::Unknown("the writer ended".into());
                (0..count).map(|_| Err(error.clone())).collect()
            }
        }
    }

    async fn write_one<T>(&self, op: impl FnOnce(Answers<T>) -> Op) -> StoreResult<T> {
        let answer = self.write(1, op).await.pop();
        answer.unwrap_or_else(|| Err(StoreError::Unknown("the writer gave no answer".into())))
    }

    /// Has a reader look something up.
    async fn query<T: Send + 'static>(
        &self,
        weight: usize,
        query: impl FnOnce(&Query<'_, AtOnce<'_>>) -> T + Send + 'static,
    ) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |view| {
            // Nobody waits any more: a time-out, or a session that is gone.
            if !reply.is_closed() {
                let _ = reply.send(query(view));
            }
        });
        if let Err(refused) = self.reads.push(job, weight) {
            return Err(self.refused(refused).1);
        }
        answer.await.map_err(|_| self.closed())
    }

    async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Query<'_, AtOnce<'_>>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        self.query(1, query).await?
    }
}

/// Starts a thread; if it panics, the store failed.
fn spawn<T: Send + 'static>(
    name: String,
    health: &Arc<Health>,
    queue: &Arc<Queue<T>>,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let (health, queue) = (Arc::clone(health), Arc::clone(queue));
    std::thread::Builder::new().name(name).spawn(move || {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            metrics::counter!("clarion_store_errors_total", "kind" => "panic").increment(1);
            tracing::error!("a thread of the store panicked");
            health.set(Err(StoreError::Fatal("a thread of the store panicked".into())));
            drop(queue.close_and_drain());
        }
    })
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        self.write(appends.len(), |reply| Op::Append(appends, reply)).await
    }

    async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        let count = reads.len();
        let answers = self
            .query(count, move |query| reads.iter().map(|read| query.read(read)).collect())
            .await;
        answers.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
    }

    async fn open_session(&self, opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>> {
        let count = opens.len();
        let looked_up = self
            .query(count, move |query| {
                let known: Vec<_> = opens.iter().map(|open| query.open_known(open)).collect();
                (opens, known)
            })
            .await;
        let (opens, known) = match looked_up {
            Ok(looked_up) => looked_up,
            Err(error) => return (0..count).map(|_| Err(error.clone())).collect(),
        };
        let mut touched = Vec::new();
        let mut changes = Vec::new();
        let mut answers = Vec::with_capacity(count);
        for (open, known) in opens.into_iter().zip(known) {
            match known {
                Ok(Some((opened, touch))) => {
                    if touch {
                        let key = keys::pair(open.product.as_str(), open.terminal.as_str());
                        touched.push(Slice::from(key));
                    }
                    answers.push(Some(Ok(opened)));
                }
                Ok(None) => {
                    changes.push(open);
                    answers.push(None);
                }
                Err(error) => answers.push(Some(Err(error))),
            }
        }
        if !touched.is_empty() {
            // If there is no room now, the next session does it.
            let weight = touched.len();
            let _ = self.writes.push(Op::Touch(touched), weight);
        }
        let mut changed = self
            .write(changes.len(), |reply| Op::Open(changes, reply))
            .await
            .into_iter();
        let missing = || Err(StoreError::Unknown("the writer gave no answer".into()));
        let answers = answers.into_iter();
        answers.map(|answer| answer.or_else(|| changed.next()).unwrap_or_else(missing)).collect()
    }

    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        self.write(saves.len(), |reply| Op::Save(saves, reply)).await
    }

    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>> {
        let now_ms = self.time_ms();
        let known: Option<Vec<bool>> = sessions
            .iter()
            .map(|(product, terminal, generation)| {
                let key = keys::pair(product.as_str(), terminal.as_str());
                self.shared.generations.verify(&key, *generation, now_ms)
            })
            .collect();
        match known {
            Some(known) => Ok(known),
            None => {
                self.ask(move |query| {
                    let verify = |(p, t, g): &(ProductId, TerminalId, u64)| query.verify(p, t, *g);
                    sessions.iter().map(verify).collect()
                })
                .await
            }
        }
    }

    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>> {
        self.write(requests.len(), |reply| Op::Subscribe(requests, reply)).await
    }

    async fn unsubscribe(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        self.write(requests.len(), |reply| Op::Unsubscribe(requests, reply)).await
    }

    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        self.write(claims.len(), |reply| Op::Claim(claims, reply)).await
    }

    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        self.write_one(|reply| Op::Finish(outcomes, reply)).await
    }

    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>> {
        if let Err(StoreError::Fatal(what)) = self.health.state() {
            return Err(StoreError::Fatal(what));
        }
        let now_s = self.time_ms() / 1000;
        let nudge = !self.shared.nonces.has_unsaved();
        let uses = nonces.iter().map(|nonce| self.shared.nonces.consume(nonce, now_s)).collect();
        if nudge {
            self.writes.nudge();
        }
        Ok(uses)
    }

    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool> {
        self.write_one(|reply| Op::Product(Box::new(product), expect_absent, reply)).await
    }

    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        let product = product.clone();
        self.ask(move |query| query.product(&product)).await
    }

    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        self.ask(move |query| query.products(after.as_ref(), limit)).await
    }

    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        let (product, terminal) = (product.clone(), terminal.clone());
        self.ask(move |query| query.terminal(&product, &terminal)).await
    }

    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        let product = product.clone();
        self.ask(move |query| query.terminals(&product, user.as_ref(), after.as_ref(), limit)).await
    }

    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        let product = product.clone();
        self.ask(move |query| query.terminal_count(&product)).await
    }

    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        let (product, topic) = (product.clone(), topic.clone());
        self.ask(move |query| query.members(&product, &topic, after.as_ref(), limit)).await
    }

    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        let product = product.clone();
        self.ask(move |query| query.message(&product, message)).await
    }

    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()> {
        let counts = self.shared.note_delivered(counts);
        let weight = counts.len();
        if weight > 0 {
            // Informative: what finds no room is made up for by acknowledgements.
            let _ = self.writes.push(Op::Delivered(counts), weight);
        }
        Ok(())
    }

    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep> {
        let mut done = Upkeep::default();
        while !done.complete && (done.examined as usize) < budget {
            let piece = UPKEEP_PIECE.min(budget - done.examined as usize);
            let next = self.write_one(|reply| Op::Upkeep(piece, reply)).await?;
            done.examined += next.examined;
            done.expired_entries += next.expired_entries;
            done.expired_records += next.expired_records;
            done.complete = next.complete;
        }
        Ok(done)
    }

    fn time_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn health(&self) -> StoreHealth {
        let free_bytes = self.health.free_bytes.load(Ordering::Relaxed);
        StoreHealth {
            epoch: self.epoch,
            writable: self.health.state(),
            free_bytes: (free_bytes != u64::MAX).then_some(free_bytes),
            used_bytes: Some(self.health.used_bytes.load(Ordering::Relaxed)),
            queued: self.writes.weight(),
        }
    }

    async fn close(&self) -> StoreResult<()> {
        self.writes.close();
        self.reads.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        let _ = joined.await;
        match self.health.state() {
            Err(StoreError::Fatal(what)) => Err(StoreError::Fatal(what)),
            _ => {
                self.health.set(Err(StoreError::Unavailable("the store is closed".into())));
                Ok(())
            }
        }
    }
}
