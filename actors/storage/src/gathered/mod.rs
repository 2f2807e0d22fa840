//! A store in front of a store: sessions read and open one by one, and thousands do when a node
//! has died and its terminals come to the others. Here such requests become batches, a few at a
//! time, and those that read the same get the same page: a storm costs the store little more than
//! what is in it, and what else goes on keeps its turn.

mod collector;

use std::sync::Arc;

use async_trait::async_trait;
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

use self::collector::Collector;
use crate::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, MessageRecord,
    NonceUse, OpenSession, OpenedSession, ProductRecord, Read, SaveOutcome, Store, StoreHealth,
    StoreResult, Subscribe, SubscribeOutcome, TerminalRecord, Unsubscribe, UnsubscribeOutcome,
    Upkeep,
};

/// Batches of each sort on their way at the same time, and requests of one.
const RUNNING_MAX: usize = 4;
const BATCH_MAX: usize = 128;

/// What makes two reads the same.
type SameRead = (Arc<LogKey>, Offset, u32, u32);

/// See the module.
pub struct GatheredStore {
    inner: Arc<dyn Store>,
    reads: Arc<Collector<SameRead, Read, Page>>,
    opens: Arc<Collector<(), OpenSession, OpenedSession>>,
}

impl GatheredStore {
    /// In front of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            reads: Collector::new("read", RUNNING_MAX, BATCH_MAX),
            opens: Collector::new("open", RUNNING_MAX, BATCH_MAX),
        }
    }
}

#[async_trait]
impl Store for GatheredStore {
    async fn read(&self, mut reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        match reads.pop() {
            Some(read) if reads.is_empty() => {
                let key = (Arc::clone(&read.log), read.after, read.entries_max, read.bytes_max);
                let inner = Arc::clone(&self.inner);
                let answer = move |reads| {
                    let inner = Arc::clone(&inner);
                    async move { inner.read(reads).await }
                };
                vec![self.reads.ask(Some(key), read, answer).await]
            }
            last => {
                reads.extend(last);
                self.inner.read(reads).await
            }
        }
    }

    async fn open_session(&self, mut opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>> {
        match opens.pop() {
            Some(open) if opens.is_empty() => {
                let inner = Arc::clone(&self.inner);
                let answer = move |opens| {
                    let inner = Arc::clone(&inner);
                    async move { inner.open_session(opens).await }
                };
                vec![self.opens.ask(None, open, answer).await]
            }
            last => {
                opens.extend(last);
                self.inner.open_session(opens).await
            }
        }
    }

    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        self.inner.append(appends).await
    }

    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        self.inner.save_cursors(saves).await
    }

    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>> {
        self.inner.verify_generations(sessions).await
    }

    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>> {
        self.inner.subscribe(requests).await
    }

    async fn unsubscribe(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        self.inner.unsubscribe(requests).await
    }

    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        self.inner.claim(claims).await
    }

    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        self.inner.finish(outcomes).await
    }

    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>> {
        self.inner.consume_nonces(nonces).await
    }

    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool> {
        self.inner.put_product(product, expect_absent).await
    }

    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        self.inner.product(product).await
    }

    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        self.inner.products(after, limit).await
    }

    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        self.inner.terminal(product, terminal).await
    }

    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        self.inner.terminals(product, user, after, limit).await
    }

    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        self.inner.terminal_count(product).await
    }

    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        self.inner.members(product, topic, after, limit).await
    }

    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        self.inner.message(product, message).await
    }

    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()> {
        self.inner.count_delivered(counts).await
    }

    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep> {
        self.inner.upkeep(budget).await
    }

    fn time_ms(&self) -> u64 {
        self.inner.time_ms()
    }

    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn close(&self) -> StoreResult<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests;
