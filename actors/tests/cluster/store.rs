//! One store for all nodes, as each node sees it: a node can lose it, have its appends held before
//! they reach it, have sessions wait, reads or appends panic, or close its own end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};
use clarion_storage::memory::MemoryStore;
use clarion_storage::*;
use tokio::sync::watch;

/// Which logs.
pub type Fails = fn(&LogKey) -> bool;

pub struct NodeStore {
    pub shared: Arc<MemoryStore>,
    /// The process is dead: nothing it asks for happens, nothing is answered.
    dead: AtomicBool,
    /// Appends wait here before they reach the store.
    held: watch::Sender<bool>,
    /// Appends that wait.
    pub waiting: watch::Sender<usize>,
    /// Sessions are opened, but nobody is told yet.
    pub opens_held: watch::Sender<bool>,
    /// Such sessions.
    pub opened: watch::Sender<usize>,
    /// Reads of several logs that will panic.
    pub panics: AtomicUsize,
    /// Appends that will panic once they have happened.
    pub append_panics: AtomicUsize,
    /// Reads of these logs fail: the part of the store that holds them is away.
    pub fails: Mutex<Option<Fails>>,
}

impl NodeStore {
    pub fn new(shared: Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            dead: AtomicBool::new(false),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            opens_held: watch::Sender::new(false),
            opened: watch::Sender::new(0),
            panics: AtomicUsize::new(0),
            append_panics: AtomicUsize::new(0),
            fails: Mutex::new(None),
        })
    }

    pub fn die(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub fn hold_appends(&self, held: bool) {
        self.held.send_replace(held);
    }

    async fn alive(&self) {
        if self.dead.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

fn takes_one(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.try_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
}

#[async_trait]
impl Store for NodeStore {
    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        self.alive().await;
        if takes_one(&self.append_panics) {
            drop(self.shared.append(appends).await);
            panic!("an append panics, as the test wants");
        }
        let mut held = self.held.subscribe();
        if !*held.borrow() {
            return self.shared.append(appends).await;
        }
        // Whoever stops waiting for it does not stop it.
        let (shared, waiting) = (Arc::clone(&self.shared), self.waiting.clone());
        waiting.send_modify(|waiting| *waiting += 1);
        let append = tokio::spawn(async move {
            let _ = held.wait_for(|held| !held).await;
            let answers = shared.append(appends).await;
            waiting.send_modify(|waiting| *waiting -= 1);
            answers
        });
        append.await.unwrap()
    }
    async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        self.alive().await;
        if reads.len() > 1 && takes_one(&self.panics) {
            panic!("a read of several logs panics, as the test wants");
        }
        let fails = *self.fails.lock().unwrap();
        let away: Vec<bool> =
            reads.iter().map(|read| fails.is_some_and(|fails| fails(&read.log))).collect();
        let pages = self.shared.read(reads).await.into_iter().zip(away);
        let page = |(page, away): (_, bool)| {
            if away { Err(StoreError::Unavailable("as the test wants".into())) } else { page }
        };
        pages.map(page).collect()
    }
    async fn open_session(&self, opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>> {
        self.alive().await;
        let opened = self.shared.open_session(opens).await;
        self.opened.send_modify(|opened| *opened += 1);
        let _ = self.opens_held.subscribe().wait_for(|held| !held).await;
        opened
    }
    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        self.alive().await;
        self.shared.save_cursors(saves).await
    }
    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>> {
        self.alive().await;
        self.shared.verify_generations(sessions).await
    }
    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>> {
        self.alive().await;
        self.shared.subscribe(requests).await
    }
    async fn unsubscribe(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        self.alive().await;
        self.shared.unsubscribe(requests).await
    }
    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        self.alive().await;
        self.shared.claim(claims).await
    }
    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        self.alive().await;
        self.shared.finish(outcomes).await
    }
    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>> {
        self.alive().await;
        self.shared.consume_nonces(nonces).await
    }
    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool> {
        self.alive().await;
        self.shared.put_product(product, expect_absent).await
    }
    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        self.alive().await;
        self.shared.product(product).await
    }
    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        self.shared.products(after, limit).await
    }
    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        self.alive().await;
        self.shared.terminal(product, terminal).await
    }
    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        self.shared.terminals(product, user, after, limit).await
    }
    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        self.shared.terminal_count(product).await
    }
    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        self.shared.members(product, topic, after, limit).await
    }
    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        self.shared.message(product, message).await
    }
    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()> {
        self.alive().await;
        self.shared.count_delivered(counts).await
    }
    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep> {
        self.alive().await;
        self.shared.upkeep(budget).await
    }
    fn time_ms(&self) -> u64 {
        self.shared.time_ms()
    }
    fn epoch(&self) -> Epoch {
        self.shared.epoch()
    }
    fn health(&self) -> StoreHealth {
        self.shared.health()
    }
    async fn close(&self) -> StoreResult<()> {
        self.die();
        Ok(())
    }
}
