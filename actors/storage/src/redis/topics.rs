//! Joining and leaving topics on request.

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{LogName, Offset};
use futures_util::future::join_all;

use super::breaks::Step;
use super::leaving::half_done;
use super::reply::{Args, Parts};
use super::schema::tag_of;
use super::sessions::{Attach, ROUNDS_MAX};
use super::{RedisStore, codec, scripts};
use crate::{
    StoreError, StoreResult, Subscribe, SubscribeBy, SubscribeOutcome, Unsubscribe,
    UnsubscribeOutcome,
};

/// What DETACH answers while something else comes first.
const NEEDS_HEAD: u64 = 0;
const NEEDS_COUNT: u64 = 2;
const LEFT_BEFORE: u64 = 3;

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

    /// The terminal's record first, then the topic's members and counts. Asked again after an answer
    /// was lost it does what was left undone.
    async fn unsubscribe_one(&self, request: &Unsubscribe) -> StoreResult<UnsubscribeOutcome> {
        let Unsubscribe { product, terminal, topic, by } = request;
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let (mut broadcast, mut known, batch) = (None, Vec::new(), self.tellers.batch());
        let mut left = UnsubscribeOutcome::NotIn;
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
                .bytes(known.clone())
                .bytes(codec::encode_ticket(batch.ticket(0)));
            let call = self.call(&scripts::DETACH, &tag, args);
            let mut parts = Parts::of(self.broken(Step::Detach, &tag, call).await?)?;
            match parts.number()? {
                NEEDS_HEAD if broadcast.is_some() => {
                    return Err(StoreError::Fatal("a script asks for what it was given".into()));
                }
                NEEDS_HEAD => broadcast = Some(self.register(product, terminal).await?),
                NEEDS_COUNT => {
                    // Its cursor goes with the membership: what that passed is counted before.
                    let (packed, to) = (parts.bytes()?, Offset(parts.number()?));
                    let pending = codec::parse_pending(&tag, &packed, to)?;
                    let log = LogKey::topic(product, topic);
                    let counted = self.settle_pending(&log, terminal, &pending, true).await;
                    let counted = counted.map_err(|error| {
                        StoreError::Unavailable(format!("what it passed is not counted: {error}"))
                    })?;
                    known = counted.map(codec::encode_ticket).unwrap_or_default();
                }
                LEFT_BEFORE => {
                    let leaving = codec::parse_leaving(&tag, &parts.bytes()?)?;
                    let finished = self.finish_leaving(product, terminal, &leaving).await;
                    finished.map_err(|error| half_done(&error))?;
                    if leaving.name == topic.as_str() {
                        left = UnsubscribeOutcome::Left;
                    }
                }
                _ => {
                    let packed = parts.bytes()?;
                    if parts.number()? == 1 {
                        tracing::warn!(%product, %terminal, "too many bans, the oldest was dropped");
                    }
                    let leaving = match packed.is_empty() {
                        true => Vec::new(),
                        false => vec![codec::parse_leaving(&tag, &packed)?],
                    };
                    self.finish_all_leaving(product, terminal, &leaving, &batch).await?;
                    return Ok(if leaving.is_empty() { left } else { UnsubscribeOutcome::Left });
                }
            }
        }
        batch.of_logs(0);
        Err(StoreError::Unavailable("the terminal's record changes all the time".into()))
    }
}
