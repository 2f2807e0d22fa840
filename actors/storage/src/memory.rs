//! A store in memory, for tests: the full semantics, no durability, and knobs that make it fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};
use tokio::sync::watch;

use crate::engine::clock::Clock;
use crate::engine::nonces::Nonces;
use crate::engine::query::Query;
use crate::engine::sessions::{Delivered, Generations};
use crate::engine::tables::MemoryTables;
use crate::engine::{Engine, EngineLimits, Shared};
use crate::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, MessageRecord,
    NonceUse, OpenSession, OpenedSession, ProductRecord, Read, SaveOutcome, Store, StoreError,
    StoreHealth, StoreResult, Subscribe, SubscribeOutcome, TerminalRecord, Unsubscribe,
    UnsubscribeOutcome, Upkeep,
};

/// What befalls appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendFault {
    /// Nothing.
    #[default]
    None,
    /// They are refused: nothing happened.
    Unavailable,
    /// They answer that the outcome is unknown, and it happened.
    UnknownDone,
    /// They answer that the outcome is unknown, and it did not happen.
    UnknownLost,
    /// They happen and hang before the answer, until the fault is another one.
    Hang,
}

/// A store in memory.
pub struct MemoryStore {
    engine: Mutex<Engine<MemoryTables>>,
    shared: Arc<Shared>,
    epoch: Epoch,
    append_fault: watch::Sender<AppendFault>,
    unavailable: AtomicBool,
    reads_fail: AtomicBool,
    full: AtomicBool,
    closed: AtomicBool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the system's time.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Clock::system())
    }

    /// An empty store whose time stands still but for [`MemoryStore::advance_ms`].
    #[must_use]
    pub fn frozen_at_ms(time_ms: u64) -> Self {
        Self::with(Clock::frozen_at(time_ms))
    }

    fn with(clock: Clock) -> Self {
        let epoch = Epoch(rand::random_range(1..(1 << 53)));
        let shared = Arc::new(Shared {
            clock,
            generations: Generations::new(1),
            delivered: Delivered::new(),
            nonces: Nonces::new(rand::random(), 100_000),
        });
        let limits = EngineLimits { logs_cached: 1024, terminal_retention_ms: 90 * 86_400_000 };
        let engine = Engine::new(MemoryTables::default(), Arc::clone(&shared), epoch, limits);
        Self {
            engine: Mutex::new(engine),
            shared,
            epoch,
            append_fault: watch::Sender::new(AppendFault::None),
            unavailable: AtomicBool::new(false),
            reads_fail: AtomicBool::new(false),
            full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Moves the store's time forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.shared.clock.advance_ms(by_ms);
    }

    /// What befalls appends from now on. Appends that hang go on when this is called.
    pub fn set_append_fault(&self, fault: AppendFault) {
        self.append_fault.send_replace(fault);
    }

    /// Whether every method answers [`StoreError::Unavailable`].
    pub fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::Release);
    }

    /// Whether [`Store::read`] answers [`StoreError::Unavailable`].
    pub fn set_reads_fail(&self, fail: bool) {
        self.reads_fail.store(fail, Ordering::Release);
    }

    /// Whether the disk is below its watermark.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    /// Rows in all tables: what tests of retention look at.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.engine().txn.base.rows()
    }

    fn engine(&self) -> MutexGuard<'_, Engine<MemoryTables>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn available(&self) -> StoreResult<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        if self.unavailable.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the test says so".into()));
        }
        Ok(())
    }

    fn write<T>(&self, operation: impl FnOnce(&mut Engine<MemoryTables>) -> T) -> StoreResult<T> {
        self.available()?;
        let mut engine = self.engine();
        engine.begin(self.full.load(Ordering::Acquire));
        let answer = operation(&mut engine);
        engine.end();
        let (writes, _) = engine.txn.take();
        engine.txn.base.apply(writes);
        Ok(answer)
    }

    fn write_each<I, T>(
        &self,
        items: Vec<I>,
        mut operation: impl FnMut(&mut Engine<MemoryTables>, &I) -> StoreResult<T>,
    ) -> Vec<StoreResult<T>> {
        let count = items.len();
        self.write(|engine| items.iter().map(|item| operation(engine, item)).collect())
            .unwrap_or_else(|error| vec_of(count, &error))
    }

    fn query<T>(
        &self,
        query: impl FnOnce(&Query<'_, MemoryTables>) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.available()?;
        let engine = self.engine();
        query(&Query { view: &engine.txn.base, shared: &self.shared, epoch: self.epoch })
    }
}

fn vec_of<T>(count: usize, error: &StoreError) -> Vec<StoreResult<T>> {
    (0..count).map(|_| Err(error.clone())).collect()
}

#[async_trait]
impl Store for MemoryStore {
    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        let fault = *self.append_fault.borrow();
        let count = appends.len();
        let unknown = || vec_of(count, &StoreError::Unknown("the test says so".into()));
        match fault {
            AppendFault::Unavailable => {
                return vec_of(count, &StoreError::Unavailable("the test says so".into()));
            }
            AppendFault::UnknownLost => return unknown(),
            AppendFault::None | AppendFault::UnknownDone | AppendFault::Hang => {}
        }
        let answers = self.write_each(appends, |engine, append| engine.append(append));
        match fault {
            AppendFault::UnknownDone => return unknown(),
            AppendFault::Hang => {
                let mut fault = self.append_fault.subscribe();
                let _ = fault.wait_for(|fault| *fault != AppendFault::Hang).await;
            }
            AppendFault::None | AppendFault::Unavailable | AppendFault::UnknownLost => {}
        }
        answers
    }

    async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        if self.reads_fail.load(Ordering::Acquire) {
            return vec_of(reads.len(), &StoreError::Unavailable("the test says so".into()));
        }
        reads.iter().map(|read| self.query(|query| query.read(read))).collect()
    }

    async fn open_session(&self, opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>> {
        self.write_each(opens, |engine, open| engine.open_session(open))
    }

    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        self.write_each(saves, |engine, save| engine.save_cursor(save))
    }

    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>> {
        self.query(|query| {
            sessions
                .iter()
                .map(|(product, terminal, g)| query.verify(product, terminal, *g))
                .collect()
        })
    }

    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>> {
        self.write_each(requests, |engine, request| engine.subscribe(request))
    }

    async fn unsubscribe(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        self.write_each(requests, |engine, request| engine.unsubscribe(request))
    }

    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        self.write_each(claims, |engine, claim| engine.claim(claim))
    }

    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        self.write(|engine| engine.finish(&outcomes))?
    }

    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>> {
        self.available()?;
        let now_s = self.time_ms() / 1000;
        Ok(nonces.iter().map(|nonce| self.shared.nonces.consume(nonce, now_s)).collect())
    }

    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool> {
        self.write(|engine| engine.put_product(&product, expect_absent))?
    }

    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        self.query(|query| query.product(product))
    }

    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        self.query(|query| query.products(after.as_ref(), limit))
    }

    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        self.query(|query| query.terminal(product, terminal))
    }

    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        self.query(|query| query.terminals(product, user.as_ref(), after.as_ref(), limit))
    }

    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        self.query(|query| query.terminal_count(product))
    }

    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        self.query(|query| query.members(product, topic, after.as_ref(), limit))
    }

    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        self.query(|query| query.message(product, message))
    }

    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()> {
        self.write(|engine| engine.add_delivered(&self.shared.note_delivered(counts)))?
    }

    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep> {
        self.write(|engine| engine.upkeep(budget))?
    }

    fn time_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn health(&self) -> StoreHealth {
        let writable = self.available().and_then(|()| {
            if self.full.load(Ordering::Acquire) {
                return Err(StoreError::Full("the test says so".into()));
            }
            Ok(())
        });
        StoreHealth { epoch: self.epoch, writable, free_bytes: None, used_bytes: None, queued: 0 }
    }

    async fn close(&self) -> StoreResult<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
