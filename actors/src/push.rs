//! The way of a push on the node that takes it (steps 1, 2 and 4): admission, the claim of its
//! idempotency key, its id, the owners of its targets, and the answer when all of it is durable.

mod lanes;
mod outcome;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use clarion_core::{Batch, Body, Entry, Mode};
use clarion_protocol::http::{Audience, PushAccepted, SDK_KEY_PREFIX, Target, TargetOutcome};
use clarion_protocol::{Code, MessageId, Offset, ProductId};
use clarion_storage::{
    Appended, Claim, ClaimOutcome, Finish, LogLimits, ProductRecord, Store, StoreError,
};

use crate::cluster::pending::{NotAppended, Pending};
use crate::failure::Failure;
use crate::intake::{NewEntry, UNSEARCHED_MS};
use crate::router::Router;
use crate::supervisor::SupervisorHandle;

use lanes::KnownLane;
pub(crate) use outcome::log_of;
use outcome::{answer, mode_of, outcome, replay, settled, target_error, targets_of, unknown};
pub use turns::{Turn, Turns};

/// How long the record of a caller's key lives, in milliseconds: 24 hours, or 15 minutes for a key
/// that an SDK made for its own repetitions.
const KEY_KEPT_MS: u64 = 24 * 3600 * 1000;
const SDK_KEY_KEPT_MS: u64 = 15 * 60 * 1000;
/// How long to wait before a lost append is tried again.
const LOST_APPEND_PAUSE: Duration = Duration::from_millis(20);

/// A validated push.
#[derive(Debug)]
pub struct Push {
    /// Whom it is for; at most [`clarion_protocol::http::TARGETS_MAX`] distinct targets.
    pub audience: Audience,
    /// The payload: `Body::Json` or `Body::Bytes`.
    pub body: Body,
    /// Seconds until it expires; 0: only terminals that are online now.
    pub ttl_s: u64,
    /// The caller's idempotency key and the SHA-256 of the request body it is bound to.
    pub idempotency: Option<(Arc<str>, [u8; 32])>,
    /// Its place among the pushes of one connection; `None` if it has no order with others.
    pub turn: Option<Turn>,
}

/// How far apart the clocks of the store's servers may be, in milliseconds: a claim and a log may be
/// on two of them.
const CLOCKS_APART_MS: u64 = 500;

/// What pushes need of the config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PushLimits {
    pub(crate) in_flight_max: u32,
    pub(crate) request_timeout_ms: u64,
    pub(crate) attempt_ms: u64,
    pub(crate) idle_stop_ms: u64,
    pub(crate) inbox: LogLimits,
    pub(crate) topic: LogLimits,
    pub(crate) broadcast: LogLimits,
}

/// Takes pushes.
pub(crate) struct Pushes {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Arc<Router>,
    pub(crate) supervisor: SupervisorHandle,
    pub(crate) limits: PushLimits,
    lanes: Arc<RwLock<HashMap<(ProductId, Mode), KnownLane>>>,
}

/// A push that has its id.
struct Started {
    message: MessageId,
    expires_at_ms: u64,
    /// Set when an earlier request with this key may have appended already (I2).
    first_attempt_ms: Option<u64>,
    /// When this request began to work on it.
    begun_ms: u64,
    /// What that request achieved.
    earlier: Option<PushAccepted>,
}

impl Pushes {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        router: Arc<Router>,
        supervisor: SupervisorHandle,
        limits: PushLimits,
    ) -> Self {
        Self { store, router, supervisor, limits, lanes: Arc::default() }
    }

    /// See [`crate::System::push`].
    pub(crate) async fn push(
        &self,
        product: &Arc<ProductRecord>,
        mut push: Push,
    ) -> Result<PushAccepted, Failure> {
        let mode = mode_of(&push.audience);
        let _place = self.admit(product, mode).await?;
        let now_ms = self.store.time_ms();
        let deadline_ms = now_ms + self.limits.request_timeout_ms;
        let started = match self.start(product, &push, now_ms, deadline_ms).await? {
            Ok(started) => started,
            Err(replayed) => return replayed,
        };
        let mut turn = push.turn.take();
        if let Some(turn) = &mut turn {
            turn.come().await;
        }
        let accepted = if push.ttl_s == 0 {
            self.send_ephemeral(product, &push, &started).await
        } else {
            self.append(product, &push, &started, deadline_ms, turn).await
        };
        self.finish(product, &push, &accepted).await;
        for target in &accepted.targets {
            let outcome = target.error.as_ref().map_or("accepted", |error| error.code.as_str());
            metrics::counter!("clarion_push_targets_total", "mode" => mode.as_str(), "outcome" => outcome)
                .increment(1);
        }
        answer(accepted)
    }

    /// Gives the push its id; claims its key durably before anything is appended.
    async fn start(
        &self,
        product: &Arc<ProductRecord>,
        push: &Push,
        now_ms: u64,
        deadline_ms: u64,
    ) -> Result<Result<Started, Result<PushAccepted, Failure>>, Failure> {
        let entropy = (u128::from(fastrand::u64(..)) << 64) | u128::from(fastrand::u64(..));
        let message = MessageId::from_parts(now_ms, entropy);
        let expires_at_ms = now_ms + push.ttl_s * 1000;
        let new = Started {
            message,
            expires_at_ms,
            first_attempt_ms: None,
            begun_ms: now_ms,
            earlier: None,
        };
        let Some((key, body_hash)) = &push.idempotency else { return Ok(Ok(new)) };
        let made_by_sdk = key.starts_with(SDK_KEY_PREFIX);
        let kept_ms = if made_by_sdk { SDK_KEY_KEPT_MS } else { KEY_KEPT_MS };
        let claim = Claim {
            product: product.product.clone(),
            key: Arc::clone(key),
            body_hash: *body_hash,
            message,
            expires_at_ms,
            // I2: attempts that do not look for the message first have ended by then. Later ones
            // do, so whoever takes the claim over meets no blind one.
            until_ms: deadline_ms.min(now_ms + UNSEARCHED_MS)
                + self.limits.attempt_ms
                + CLOCKS_APART_MS,
            keep_until_ms: now_ms + kept_ms,
        };
        let outcome = self.store.claim(vec![claim]).await.pop();
        match outcome.unwrap_or_else(|| Err(StoreError::Unknown("no answer".into())))? {
            ClaimOutcome::New => Ok(Ok(new)),
            ClaimOutcome::InProgress { until_ms } => Err(Failure::new(Code::IdempotencyInProgress)
                .retry_after_ms(until_ms.saturating_sub(now_ms).clamp(100, 1000))),
            ClaimOutcome::TakenOver { message, expires_at_ms, first_attempt_ms, partial } => {
                let earlier = partial.and_then(|outcome| serde_json::from_slice(&outcome).ok());
                let first_attempt_ms = Some(first_attempt_ms);
                Ok(Ok(Started {
                    message,
                    expires_at_ms,
                    first_attempt_ms,
                    begun_ms: now_ms,
                    earlier,
                }))
            }
            ClaimOutcome::Done { outcome, .. } => Ok(Err(replay(&outcome))),
            ClaimOutcome::Mismatch => Err(Failure::new(Code::IdempotencyMismatch)),
        }
    }

    /// Steps 2 to 4: every target through its owner, at the same time.
    async fn append(
        &self,
        product: &Arc<ProductRecord>,
        push: &Push,
        started: &Started,
        deadline_ms: u64,
        turn: Option<Turn>,
    ) -> PushAccepted {
        let targets = targets_of(&push.audience);
        let mut waiting = Vec::with_capacity(targets.len());
        for target in targets {
            if let Some(done) =
                started.earlier.as_ref().and_then(|earlier| settled(earlier, &target))
            {
                waiting.push((target, None, Some(done)));
                continue;
            }
            let entry = self.entry(product, &target, push, started, deadline_ms);
            let answer = self.router.append(&entry, &product.isolation_group).await;
            waiting.push((target, Some((entry, answer)), None));
        }
        drop(turn);
        let mut outcomes = Vec::with_capacity(waiting.len());
        for (target, sent, done) in waiting {
            outcomes.push(match (sent, done) {
                (_, Some(done)) => done,
                (Some((entry, answer)), None) => {
                    let group = &product.isolation_group;
                    outcome(target, self.settle(entry, group, answer).await)
                }
                (None, None) => outcome(target, Err(unknown("not sent"))),
            });
        }
        PushAccepted {
            id: started.message,
            expires_at_ms: started.expires_at_ms,
            replayed: false,
            targets: outcomes,
        }
    }

    /// Waits for an append; asks again when it was lost before it was tried.
    async fn settle(
        &self,
        mut entry: NewEntry,
        group: &Arc<str>,
        mut answer: Option<Pending>,
    ) -> Result<Appended, NotAppended> {
        loop {
            let Some(waiting) = answer else {
                let why = "its owner does not start".into();
                return Err(NotAppended::Store(entry.refusal(StoreError::Unavailable(why))));
            };
            let left_ms = entry.deadline_ms.saturating_sub(self.store.time_ms());
            match tokio::time::timeout(Duration::from_millis(left_ms), waiting.settled()).await {
                Ok(Some(Err(NotAppended::Store(error)))) => {
                    return Err(NotAppended::Store(entry.refusal(error)));
                }
                Ok(Some(result)) => return result,
                Ok(None) => {}
                Err(_) => return Err(unknown("no answer in time")),
            }
            // I2: it should not have been tried, but nothing is lost by looking for it.
            entry.first_attempt_ms.get_or_insert(entry.begun_ms);
            tokio::time::sleep(LOST_APPEND_PAUSE).await;
            answer = self.router.append(&entry, group).await;
        }
    }

    fn entry(
        &self,
        product: &Arc<ProductRecord>,
        target: &Target,
        push: &Push,
        started: &Started,
        deadline_ms: u64,
    ) -> NewEntry {
        let log = log_of(&product.product, target);
        let limits = match target {
            Target::All => self.limits.broadcast,
            Target::Topic(_) => self.limits.topic,
            Target::Terminal(_) | Target::User(_) => self.limits.inbox,
        };
        NewEntry {
            log,
            message: started.message,
            expires_at_ms: started.expires_at_ms,
            body: push.body.clone(),
            limits,
            first_attempt_ms: started.first_attempt_ms,
            begun_ms: started.begun_ms,
            deadline_ms,
        }
    }

    /// ttl 0: a hint and nothing else, at most once. It may be lost, accepted or not.
    async fn send_ephemeral(
        &self,
        product: &Arc<ProductRecord>,
        push: &Push,
        started: &Started,
    ) -> PushAccepted {
        let mut outcomes = Vec::new();
        for target in targets_of(&push.audience) {
            match started.earlier.as_ref().and_then(|earlier| settled(earlier, &target)) {
                Some(done) => {
                    outcomes.push(done);
                    continue;
                }
                // Taken over without an outcome: it may have been sent, and once is the most.
                None if started.earlier.is_none() && started.first_attempt_ms.is_some() => {
                    outcomes.push(TargetOutcome { target, position: None, error: None });
                    continue;
                }
                None => {}
            }
            let log = log_of(&product.product, &target);
            let entry = Entry::new(
                Offset::ZERO,
                Offset::ZERO,
                started.message,
                u64::MAX,
                push.body.clone(),
            );
            let batch = Batch::new(Arc::clone(&log), self.store.epoch(), vec![Arc::new(entry)]);
            let sent = self.router.ephemeral(Arc::new(batch), &product.isolation_group).await;
            let error = sent.err().map(|()| target_error(Code::Overloaded));
            outcomes.push(TargetOutcome { target, position: None, error });
        }
        metrics::counter!("clarion_ephemeral_messages_total").increment(1);
        PushAccepted {
            id: started.message,
            expires_at_ms: started.expires_at_ms,
            replayed: false,
            targets: outcomes,
        }
    }

    /// Records the outcome under the caller's key: final ones are replayed, others repeated for
    /// the targets that failed as retryable.
    async fn finish(&self, product: &Arc<ProductRecord>, push: &Push, accepted: &PushAccepted) {
        let Some((key, _)) = &push.idempotency else { return };
        let retryable = |target: &TargetOutcome| target.error.as_ref().is_some_and(|e| e.retryable);
        let Ok(outcome) = serde_json::to_vec(accepted) else { return };
        let finish = Finish {
            product: product.product.clone(),
            key: Arc::clone(key),
            message: accepted.id,
            done: !accepted.targets.iter().any(retryable),
            outcome: Bytes::from(outcome),
        };
        // Lost with a crash it costs a retry a look for its message, nothing else.
        let _ = self.store.finish(vec![finish]).await;
    }
}
