//! The trait, each method handed to the file that knows.

use std::sync::Arc;

use async_trait::async_trait;
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

use super::RedisStore;
use super::schema::Index;
use crate::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, MessageRecord,
    NonceUse, OpenSession, OpenedSession, ProductRecord, Read, SaveOutcome, Store, StoreHealth,
    StoreResult, Subscribe, SubscribeOutcome, TerminalRecord, Unsubscribe, UnsubscribeOutcome,
    Upkeep,
};

#[async_trait]
impl Store for RedisStore {
    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        self.append_batch(appends).await
    }

    async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        self.read_batch(reads).await
    }

    async fn open_session(&self, opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>> {
        self.open_batch(opens).await
    }

    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        self.save_batch(saves).await
    }

    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>> {
        self.verify_batch(&sessions).await
    }

    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>> {
        self.subscribe_batch(requests).await
    }

    async fn unsubscribe(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        self.unsubscribe_batch(requests).await
    }

    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        self.claim_batch(claims).await
    }

    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        self.finish_batch(outcomes).await
    }

    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>> {
        self.consume_batch(nonces).await
    }

    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool> {
        self.put_product_record(&product, expect_absent).await
    }

    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        Ok(self.product_records(product.as_str(), "", 1).await?.pop())
    }

    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        let after = after.as_ref().map_or("", ProductId::as_str);
        self.product_records("", after, limit).await
    }

    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        self.terminal_record(product, terminal).await
    }

    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        let after = after.as_ref().map_or("", TerminalId::as_str);
        self.terminal_records(product, user.as_ref(), after, limit).await
    }

    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        self.count_of(product, Index::Terminals).await
    }

    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        let after = after.as_ref().map_or("", TerminalId::as_str);
        self.members_of(product, topic, after, limit).await
    }

    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        self.message_record(product, message).await
    }

    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()> {
        self.count_deliveries(counts).await
    }

    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep> {
        self.upkeep_round(budget).await
    }

    fn time_ms(&self) -> u64 {
        self.now_ms()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn health(&self) -> StoreHealth {
        let link = self.shards.health();
        StoreHealth {
            epoch: self.epoch,
            writable: link.writable,
            free_bytes: None,
            used_bytes: Some(link.used_bytes),
            queued: link.queued,
        }
    }

    async fn close(&self) -> StoreResult<()> {
        // What the others would else find one by one, or wait for; nothing is lost without.
        self.count_wide(Vec::new()).await;
        self.finish_parked().await;
        self.write_notes().await;
        let _ = self.say_gone().await;
        let _ = self.drop_lease().await;
        self.shards.close();
        Ok(())
    }
}
