//! The paced sweep: one node at a time goes round all indexes and has every log remove what expired.
//! What Redis expires by itself (notes of messages, claims, nonces, long payloads) is not visited. It
//! also repairs indexes: a member, reader or terminal whose record does not know of it, in two rounds
//! a minute apart, goes.

use std::collections::HashSet;

use ::redis::Value;
use clarion_core::LogKind;
use clarion_protocol::{LogName, ProductId, TerminalId, TopicName, UserId};
use futures_util::future::join_all;

use super::codec::Stored;
use super::link::Request;
use super::registry::terminal_id;
use super::reply::{Args, Parts};
use super::schema::{BUCKETS, Index, UPKEEP_TAG, tag_of};
use super::{RedisStore, codec, scripts};
use crate::engine::terminals::shared_key;
use crate::engine::upkeep::EXPIRED_KEPT_MS;
use crate::{StoreResult, Upkeep};

/// Names in one step.
const PAGE: usize = 64;
/// Entries of a topic or broadcast that one script looks at.
const ENTRIES_MAX: u32 = 512;
/// How long the node that does upkeep may pause before another one goes on.
const LEASE_MS: u32 = 30_000;
/// Doubtful members and terminals that are remembered from one round to the next.
const DOUBTS_MAX: usize = 4096;
/// What is pending and was counted is taken out of the record of a terminal that did nothing for this
/// long; until then its next cursor takes its place.
const IDLE_MS: u64 = 3_600_000;
/// Time from the one round to the other, at the least: whoever joins something is in its index before
/// it is in the record, and is not to be taken out in between.
const DOUBTFUL_MS: u64 = 60_000;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    product: Option<ProductId>,
    /// 0 the broadcast, then every bucket of every index.
    step: usize,
    after: String,
    doubts: HashSet<String>,
    doubts_before: HashSet<String>,
    /// When `doubts_before` was complete.
    doubted_at_ms: u64,
    /// Whether that was long enough before this round.
    decides: bool,
}

const STEPS: usize = 1 + Index::ALL.len() * BUCKETS as usize;

/// What a log told of itself.
struct Swept {
    seen_ms: u64,
    exists: bool,
    /// A terminal with something that is not done yet.
    stored: Stored,
}

impl Sweep {
    /// Whether what is doubtful was so in a round long before too.
    fn doubt(&mut self, what: String) -> bool {
        if self.decides && self.doubts_before.contains(&what) {
            return true;
        }
        if self.doubts.len() < DOUBTS_MAX {
            self.doubts.insert(what);
        }
        false
    }

    fn begin(&mut self, now_ms: u64) {
        self.decides = self.doubted_at_ms.saturating_add(DOUBTFUL_MS) <= now_ms;
    }

    fn end(&mut self, now_ms: u64) {
        if self.decides {
            self.doubts_before = std::mem::take(&mut self.doubts);
            self.doubted_at_ms = now_ms;
        }
    }

    fn next_product(&mut self, next: Option<ProductId>) {
        (self.product, self.step) = (next, 0);
        self.after.clear();
    }
}

impl RedisStore {
    pub(super) async fn upkeep_round(&self, budget: usize) -> StoreResult<Upkeep> {
        let mut done = Upkeep::default();
        self.count_wide(Vec::new()).await;
        self.finish_parked().await;
        self.write_notes().await;
        if !self.hold_lease().await? {
            done.complete = true;
            return Ok(done);
        }
        let mut sweep = self.sweep.lock().await;
        for _ in 0..budget.max(STEPS + 1) {
            if done.examined as usize >= budget {
                break;
            }
            let Some(product) = sweep.product.clone() else {
                sweep.begin(self.now_ms());
                self.next_product(&mut sweep, "").await?;
                if sweep.product.is_none() {
                    done.complete = true;
                    break;
                }
                continue;
            };
            if sweep.step >= STEPS {
                self.next_product(&mut sweep, product.as_str()).await?;
                if sweep.product.is_none() {
                    sweep.end(self.now_ms());
                    done.complete = true;
                    break;
                }
                continue;
            }
            Box::pin(self.sweep_step(&mut sweep, &product, &mut done)).await?;
        }
        Ok(done)
    }

    async fn next_product(&self, sweep: &mut Sweep, after: &str) -> StoreResult<()> {
        let names = self.known_products(after, 1).await?;
        sweep.next_product(names.first().and_then(|name| ProductId::new(name).ok()));
        Ok(())
    }

    async fn sweep_step(
        &self,
        sweep: &mut Sweep,
        product: &ProductId,
        done: &mut Upkeep,
    ) -> StoreResult<()> {
        let Some(bucket) = sweep.step.checked_sub(1) else {
            self.sweep_log(product, LogKind::Broadcast, "", done).await?;
            done.examined += 1;
            sweep.step += 1;
            return Ok(());
        };
        let index = Index::ALL[bucket / usize::from(BUCKETS)];
        let bucket = (bucket % usize::from(BUCKETS)) as u8;
        let (_, names) = self.bucket(product, index, bucket, &sweep.after, PAGE).await?;
        let swept = names.iter().map(|name| async move {
            let mut done = Upkeep::default();
            let swept = self.sweep_log(product, index.kind(), name, &mut done).await;
            (swept, done)
        });
        for (name, (swept, of_log)) in names.iter().zip(join_all(swept).await) {
            done.examined += 1;
            done.expired_entries += of_log.expired_entries;
            done.expired_records += of_log.expired_records;
            let settled = match swept {
                Ok(swept) => self.settle_swept(sweep, product, index, name, &swept, done).await,
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::warn!(%error, %product, name, "upkeep skips a log");
            }
        }
        match names.last() {
            Some(last) if names.len() == PAGE => sweep.after.clone_from(last),
            _ => {
                sweep.step += 1;
                sweep.after.clear();
            }
        }
        Ok(())
    }

    /// Has a log remove what expired.
    async fn sweep_log(
        &self,
        product: &ProductId,
        kind: LogKind,
        name: &str,
        done: &mut Upkeep,
    ) -> StoreResult<Swept> {
        let tag = tag_of(product, kind, name);
        let (mut from, mut soonest, mut head) = (0, codec::NEVER_MS, 0);
        loop {
            let args = self
                .timed(kind)
                .number(EXPIRED_KEPT_MS)
                .number(self.retention_ms)
                .number(from)
                .number(soonest)
                .number(head)
                .number(ENTRIES_MAX);
            let call = self.call(&scripts::SWEEP, &tag, args);
            let mut parts = Parts::of(self.shards.write_relaxed(&tag, call).await?)?;
            done.expired_entries += parts.number()?;
            done.expired_records += parts.number()?;
            (from, soonest, head) = (parts.number()?, parts.number()?, parts.number()?);
            let (seen_ms, exists) = (parts.number()?, parts.number()? == 1);
            let record = parts.bytes()?;
            if from == 0 {
                let stored = codec::decode_record(&tag, &record)?;
                return Ok(Swept { seen_ms, exists, stored });
            }
        }
    }

    /// What a visit means for the index that led to it.
    async fn settle_swept(
        &self,
        sweep: &mut Sweep,
        product: &ProductId,
        index: Index,
        name: &str,
        swept: &Swept,
        done: &mut Upkeep,
    ) -> StoreResult<()> {
        match index {
            Index::Terminals => {
                let terminal = terminal_id(name)?;
                self.finish_found(product, &terminal, &swept.stored.leaving).await;
                let counted = self.sweep_all_pending(sweep, product, &terminal, swept).await;
                let over_ms = swept.seen_ms.saturating_add(self.terminal_retention_ms);
                if swept.seen_ms == 0 && swept.stored.leaving.is_empty() {
                    if sweep.doubt(format!("{product}/T/{name}")) {
                        self.depart(product, LogKind::Broadcast, "", &terminal).await?;
                    }
                } else if swept.seen_ms > 0
                    && over_ms <= self.now_ms()
                    && self.erase(product, &terminal, counted?).await?
                {
                    done.expired_records += 1;
                }
            }
            Index::Inboxes if !swept.exists || swept.seen_ms > 0 => {
                self.strike(product, index, name).await?;
            }
            Index::Topics if swept.exists => {
                if let Ok(topic) = TopicName::new(name) {
                    self.check_members(sweep, product, &topic, done).await?;
                }
            }
            Index::Users if swept.exists => {
                if let Ok(user) = UserId::new(name) {
                    self.check_readers(sweep, product, &user, done).await?;
                }
            }
            Index::Users | Index::Topics if !swept.exists => {
                self.strike(product, index, name).await?;
            }
            Index::Inboxes | Index::Users | Index::Topics => {}
        }
        Ok(())
    }

    /// Counts what the cursors of a terminal passed and nobody is going to count, and takes out what
    /// was counted of a terminal that has not been here for a while. The tickets that are counted.
    async fn sweep_all_pending(
        &self,
        sweep: &mut Sweep,
        product: &ProductId,
        terminal: &TerminalId,
        swept: &Swept,
    ) -> StoreResult<Vec<u8>> {
        let mut counted = Vec::new();
        let user = swept.stored.row.as_ref().and_then(|row| row.user.as_ref());
        for (name, pending) in &swept.stored.all_pending {
            let Some(log) = shared_key(product, terminal, user, name) else { continue };
            if self.tellers.is_under_way(pending.ticket) {
                continue;
            }
            let packed = codec::encode_ticket(pending.ticket);
            // Whoever has it under way is left to it for the time between two rounds.
            let mut late = || sweep.doubt(format!("{product}/{terminal}/{name:?}/{packed:?}"));
            let settled = match self.settle_pending(&log, terminal, pending, false).await? {
                Some(ticket) => Some(ticket),
                None if late() => self.settle_pending(&log, terminal, pending, true).await?,
                None => None,
            };
            let Some(ticket) = settled else { continue };
            counted.extend(codec::encode_ticket(ticket));
            if swept.seen_ms + IDLE_MS <= self.now_ms() {
                self.drop_pending(&log, terminal, ticket).await?;
            }
        }
        Ok(counted)
    }

    /// Removes a terminal at the end of its retention: it leaves everything it reads.
    async fn erase(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        counted: Vec<u8>,
    ) -> StoreResult<bool> {
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let batch = self.tellers.batch();
        let args = Args::new()
            .number(self.shift_ms())
            .number(self.terminal_retention_ms)
            .bytes(codec::encode_ticket(batch.ticket(0)))
            .bytes(counted);
        let answer = self.shards.write(&tag, self.call(&scripts::ERASE, &tag, args)).await?;
        let Value::BulkString(packed) = answer else {
            batch.of_logs(0);
            return Ok(false);
        };
        let stored = codec::decode_record(&tag, &packed)?;
        // What cannot be told now is found: its record stays until then.
        self.finish_all_leaving(product, terminal, &stored.leaving, &batch).await.map(|()| true)
    }

    /// Removes members whose record does not say that they are in the topic.
    async fn check_members(
        &self,
        sweep: &mut Sweep,
        product: &ProductId,
        topic: &TopicName,
        done: &mut Upkeep,
    ) -> StoreResult<()> {
        let name = LogName::Topic(topic.clone());
        let mut after = String::new();
        loop {
            let members = self.members_of(product, topic, &after, PAGE).await?;
            let records = members.iter().map(|terminal| self.record(product, terminal));
            for (terminal, record) in members.iter().zip(join_all(records).await) {
                done.examined += 1;
                let (row, _, _) = record?;
                let is_in = row.as_ref().and_then(|row| row.sub(&name)).is_some_and(|s| !s.banned);
                if !is_in && sweep.doubt(format!("{product}/{topic}/{terminal}")) {
                    self.depart(product, LogKind::Topic, topic.as_str(), terminal).await?;
                }
            }
            match members.last() {
                Some(last) if members.len() == PAGE => last.as_str().clone_into(&mut after),
                _ => return Ok(()),
            }
        }
    }

    /// Removes readers of a user's inbox whose record does not say that they are: they would keep its
    /// entries.
    async fn check_readers(
        &self,
        sweep: &mut Sweep,
        product: &ProductId,
        user: &UserId,
        done: &mut Upkeep,
    ) -> StoreResult<()> {
        let readers = self.readers_of(product, user, "", usize::MAX).await?;
        let readers: Vec<TerminalId> =
            readers.iter().map(|name| terminal_id(name)).collect::<StoreResult<_>>()?;
        let records = readers.iter().map(|terminal| self.record(product, terminal));
        for (terminal, record) in readers.iter().zip(join_all(records).await) {
            done.examined += 1;
            let (row, _, _) = record?;
            let is_reader = row.is_some_and(|row| row.user.as_ref() == Some(user));
            if !is_reader && sweep.doubt(format!("{product}/U/{user}/{terminal}")) {
                self.depart(product, LogKind::User, user.as_str(), terminal).await?;
            }
        }
        Ok(())
    }

    /// Whether this process is the one that does upkeep.
    async fn hold_lease(&self) -> StoreResult<bool> {
        let key = self.keys.main(UPKEEP_TAG);
        let how: &[u8] = match self.get(UPKEEP_TAG).await? {
            Value::BulkString(holder) if holder[..] == self.boot => b"XX",
            Value::Nil => b"NX",
            _ => return Ok(false),
        };
        let lease_ms = LEASE_MS.to_string();
        let command =
            Request::command([&b"SET"[..], &key, &self.boot, how, b"PX", lease_ms.as_bytes()]);
        Ok(self.shards.write_relaxed(UPKEEP_TAG, command).await? != Value::Nil)
    }

    /// Lets another process do upkeep at once.
    pub(super) async fn drop_lease(&self) -> StoreResult<()> {
        if self.get(UPKEEP_TAG).await? == Value::BulkString(self.boot.to_vec()) {
            let key = self.keys.main(UPKEEP_TAG);
            self.shards.write_relaxed(UPKEEP_TAG, Request::command([&b"DEL"[..], &key])).await?;
        }
        Ok(())
    }
}
