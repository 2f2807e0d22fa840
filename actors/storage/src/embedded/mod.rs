//! The store of a single node: tables in a directory, one writer that syncs once per group, readers
//! on snapshots. See the README of this crate for what it promises and under which faults.

mod health;
mod journal;
mod marker;
mod open;
mod queue;
mod reader;
mod store;
mod tables;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use clarion_protocol::Epoch;
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
use crate::engine::{Engine, EngineLimits, Shared, load_nonces};
use crate::{StoreError, StoreResult};

/// Logs whose state the writer keeps in memory, at least (about 300 bytes each, more while an inbox
/// holds entries).
const LOGS_CACHED: usize = 131_072;

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
            threads.push(
                spawn(format!("store-read-{number}"), &health, &queue, || reader.run())
                    .map_err(failed)?,
            );
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
                metrics::counter!("clarion_store_errors_total", "kind" => "queue_full")
                    .increment(1);
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
