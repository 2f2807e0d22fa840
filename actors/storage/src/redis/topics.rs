//! Joining and leaving topics on request.

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{LogName, Offset};
use futures_util::future::join_all;

use super::reply::{Args, Parts};
use super::schema::tag_of;
use super::sessions::{Attach, ROUNDS_MAX};
use super::{RedisStore, codec, scripts};
use crate::{
    StoreError, StoreResult, Subscribe, SubscribeBy, SubscribeOutcome, Unsubscribe,
    UnsubscribeOutcome,
};

/// Bans a terminal's record holds; the oldest goes when there is one more.
const BANS_MAX: u32 = 1024;

impl RedisStore {
    pub(super) async fn subscribe_batch(
        &self,
        requests: Vec<Subscribe>,
    ) -> Vec<StoreResult<SubscribeOutcome>> {
        let same =
            |a: &Subscribe, b: &Subscribe| (&a.product, &a.terminal) == (&b.product, &b.terminal);
        // Requests of one terminal that follow each other take effect in their order.
        let runs: Vec<&[Subscribe]> = requests.chunk_by(same).collect();
        let outcomes = join_all(runs.into_iter().map(|run| async move {
            let mut outcomes = Vec::with_capacity(run.len());
            for request in run {
                outcomes.push(Box::pin(self.subscribe_one(request)).await);
            }
            outcomes
        }));
        outcomes.await.into_iter().flatten().collect()
    }

    async fn subscribe_one(&self, request: &Subscribe) -> StoreResult<SubscribeOutcome> {
        let Subscribe { product, terminal, topic, by, topics_max } = request;
        let name = LogName::Topic(topic.clone());
        let by_backend = *by == SubscribeBy::Backend;
        // What changes nothing writes nothing.
        let (row, _, _) = self.record(product, terminal).await?;
        if let Some(row) = &row {
            match row.sub(&name) {
                Some(sub) if !sub.banned => {
                    let log = LogKey::topic(product, topic);
                    let head = self.head(&log).await?;
                    return Ok(SubscribeOutcome::AlreadyIn(self.opened_log(log, sub, head)));
                }
                Some(_) if !by_backend => return Ok(SubscribeOutcome::Banned),
                _ if row.topics() >= *topics_max as usize => return Ok(SubscribeOutcome::TooMany),
                _ => {}
            }
        } else if *topics_max == 0 {
            return Ok(SubscribeOutcome::TooMany);
        }
        let attach = Attach {
            product,
            terminal,
            session: None,
            topics: std::slice::from_ref(topic),
            topics_max: *topics_max,
            lifts_bans: by_backend,
        };
        let attached = self.attach(&attach).await?;
        let was_in = attached.before.as_ref().and_then(|row| row.sub(&name));
        let log = LogKey::topic(product, topic);
        let head = self.head(&log).await?;
        Ok(match attached.after.sub(&name) {
            Some(sub) if sub.banned => SubscribeOutcome::Banned,
            Some(sub) => {
                let opened = self.opened_log(log, sub, head.max(sub.cursor));
                match was_in {
                    Some(before) if !before.banned => SubscribeOutcome::AlreadyIn(opened),
                    _ => SubscribeOutcome::Joined(opened),
                }
            }
            None => SubscribeOutcome::TooMany,
        })
    }

    pub(super) async fn unsubscribe_batch(
        &self,
        requests: Vec<Unsubscribe>,
    ) -> Vec<StoreResult<UnsubscribeOutcome>> {
        let same = |a: &Unsubscribe, b: &Unsubscribe| {
            (&a.product, &a.terminal) == (&b.product, &b.terminal)
        };
        let runs: Vec<&[Unsubscribe]> = requests.chunk_by(same).collect();
        let outcomes = join_all(runs.into_iter().map(|run| async move {
            let mut outcomes = Vec::with_capacity(run.len());
            for request in run {
                outcomes.push(self.unsubscribe_one(request).await);
            }
            outcomes
        }));
        outcomes.await.into_iter().flatten().collect()
    }

    /// The terminal's record first; then the topic's members and counts follow it.
    async fn unsubscribe_one(&self, request: &Unsubscribe) -> StoreResult<UnsubscribeOutcome> {
        let Unsubscribe { product, terminal, topic, by } = request;
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let (mut broadcast, mut known) = (None, Vec::new());
        for _ in 0..ROUNDS_MAX {
            let args = Args::new()
                .number(self.shift_ms())
                .number(self.retention_ms)
                .number(self.epoch.0)
                .bytes(topic.as_str())
                .flag(*by == SubscribeBy::Backend)
                .number(BANS_MAX)
                .maybe(broadcast)
                .bytes(self.tellers.told())
                .bytes(known.clone());
            let answer = self.shards.write(&tag, self.call(&scripts::DETACH, &tag, args)).await?;
            let mut parts = Parts::of(answer)?;
            let status = parts.number()?;
            if status == 2 {
                // Its cursor goes with the membership: what that passed is counted before.
                let (packed, to) = (parts.bytes()?, Offset(parts.number()?));
                let pending = codec::parse_pending(&tag, &packed, to)?;
                self.tellers.wait_for(pending.ticket).await;
                let log = LogKey::topic(product, topic);
                let counted = self.settle_pending(&log, terminal, &pending, true).await;
                let counted = counted.map_err(|error| {
                    StoreError::Unavailable(format!("what it passed is not counted: {error}"))
                })?;
                known = counted.map(codec::encode_ticket).unwrap_or_default();
                continue;
            }
            if status == 0 {
                if broadcast.is_some() {
                    return Err(StoreError::Fatal("a script asks for what it was given".into()));
                }
                broadcast = Some(self.register(product, terminal).await?);
                continue;
            }
            let reading = parts.number()? == 1;
            let settled = Offset(parts.number()?);
            if parts.number()? == 1 {
                tracing::warn!(%product, %terminal, "too many bans, the oldest was dropped");
            }
            if !reading {
                return Ok(UnsubscribeOutcome::NotIn);
            }
            let left = self.leave(product, LogKind::Topic, topic.as_str(), terminal, settled).await;
            if let Err(error) = left {
                super::index_failed(&error);
            }
            return Ok(UnsubscribeOutcome::Left);
        }
        Err(StoreError::Unavailable("the terminal's record changes all the time".into()))
    }
}
