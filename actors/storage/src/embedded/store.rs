//! The methods of the store: each hands its batch to the writer or to a reader and waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clarion_core::fault::{Mutant, mutated};
use clarion_core::{LogKey, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

use super::EmbeddedStore;
use super::writer::Op;
use crate::engine::keys;
use crate::engine::tables::Slice;
use crate::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, MessageRecord,
    NonceUse, OpenSession, OpenedSession, ProductRecord, Read, SaveOutcome, Store, StoreError,
    StoreHealth, StoreResult, Subscribe, SubscribeOutcome, TerminalRecord, Unsubscribe,
    UnsubscribeOutcome, Upkeep,
};

/// Records of one piece of upkeep: other operations go between the pieces.
const UPKEEP_PIECE: usize = 256;

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
        let mut changed =
            self.write(changes.len(), |reply| Op::Open(changes, reply)).await.into_iter();
        let missing = || Err(StoreError::Unknown("the writer gave no answer".into()));
        let answers = answers.into_iter();
        answers.map(|answer| answer.or_else(|| changed.next()).unwrap_or_else(missing)).collect()
    }

    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        if mutated(Mutant::StaleCursor) {
            self.save_later(saves.clone());
        }
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

impl EmbeddedStore {
    /// Some of the same once more, when another session of the terminal may be there.
    fn save_later(&self, mut saves: Vec<CursorSave>) {
        // Not all: else those of the newest session would make up for it.
        saves.retain(|_| fastrand::bool());
        let writes = Arc::clone(&self.writes);
        drop(crate::task::spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (reply, _) = tokio::sync::oneshot::channel();
            let _ = writes.push(Op::Save(saves, reply), 1);
        }));
    }
}
