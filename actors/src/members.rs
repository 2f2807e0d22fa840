//! Members of topics as the back-end changes them. The terminal's record is the truth and changes
//! first; a control entry in its inbox then tells its live session, wherever that is.

use std::sync::Arc;

use clarion_core::{Body, Control, LogKey};
use clarion_protocol::http::{MemberOutcome, TargetError};
use clarion_protocol::{Code, MessageId, ProductId, TerminalId, TopicName};
use clarion_storage::{
    LogLimits, Store, StoreError, StoreResult, Subscribe, SubscribeBy, SubscribeOutcome,
    Unsubscribe, UnsubscribeOutcome,
};

use crate::failure::code_of;
use crate::intake::NewEntry;
use crate::link::inbox::SessionEvent;
use crate::products::Products;
use crate::router::Router;

/// How long a control entry waits for a terminal, in milliseconds: one that comes back later
/// learns the same when it opens its session.
const CONTROL_TTL_MS: u64 = 60_000;
/// How long its append may take, in milliseconds.
const CONTROL_PATIENCE_MS: u64 = 5000;

/// Changes members.
pub(crate) struct Members {
    store: Arc<dyn Store>,
    router: Arc<Router>,
    products: Arc<Products>,
    topics_max: u32,
    inbox_limits: LogLimits,
}

impl Members {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        router: Arc<Router>,
        products: Arc<Products>,
        topics_max: u32,
        inbox_limits: LogLimits,
    ) -> Self {
        Self { store, router, products, topics_max, inbox_limits }
    }

    /// Puts terminals into a topic.
    pub(crate) async fn put(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        let request = |terminal: &TerminalId| Subscribe {
            product: product.clone(),
            terminal: terminal.clone(),
            topic: topic.clone(),
            by: SubscribeBy::Backend,
            topics_max: self.topics_max,
        };
        let results = self.store.subscribe(terminals.iter().map(request).collect()).await;
        let mut outcomes = Vec::with_capacity(terminals.len());
        for (terminal, result) in terminals.into_iter().zip(results) {
            match &result {
                Ok(SubscribeOutcome::Joined(_)) => {
                    self.tell(product, &terminal, Control::Subscribed(topic.clone())).await;
                }
                Err(StoreError::Unknown(_)) => self.reload(product, &terminal).await,
                Ok(_) | Err(_) => {}
            }
            outcomes.push(joined(terminal, &result));
        }
        outcomes
    }

    /// Takes terminals out of a topic.
    pub(crate) async fn remove(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        let request = |terminal: &TerminalId| Unsubscribe {
            product: product.clone(),
            terminal: terminal.clone(),
            topic: topic.clone(),
            by: SubscribeBy::Backend,
        };
        let results = self.store.unsubscribe(terminals.iter().map(request).collect()).await;
        let mut outcomes = Vec::with_capacity(terminals.len());
        for (terminal, result) in terminals.into_iter().zip(results) {
            match &result {
                Ok(UnsubscribeOutcome::Left) => {
                    self.tell(product, &terminal, Control::Unsubscribed(topic.clone())).await;
                }
                Err(StoreError::Unknown(_)) => self.reload(product, &terminal).await,
                Ok(_) | Err(_) => {}
            }
            let error = result.as_ref().err().map(|error| target_error(code_of(error)));
            // Whether it still is one is not known when the store did not answer.
            outcomes.push(MemberOutcome { terminal, member: result.is_err(), error });
        }
        outcomes
    }

    /// Tells the terminal's live session; one whose inbox takes nothing is opened again instead.
    async fn tell(&self, product: &ProductId, terminal: &TerminalId, control: Control) {
        let log = LogKey::terminal(product, terminal);
        let now_ms = self.store.time_ms();
        let entropy = (u128::from(fastrand::u64(..)) << 64) | u128::from(fastrand::u64(..));
        let entry = NewEntry {
            log: Arc::clone(&log),
            message: MessageId::from_parts(now_ms, entropy),
            expires_at_ms: now_ms + CONTROL_TTL_MS,
            body: Body::Control(control),
            limits: self.inbox_limits,
            first_attempt_ms: None,
            begun_ms: now_ms,
            deadline_ms: now_ms + CONTROL_PATIENCE_MS,
        };
        let known = self.products.get(product).await.ok().flatten();
        let answer = match known {
            Some(known) => self.router.append(&entry, &known.record.isolation_group).await,
            None => None,
        };
        let appended = match answer {
            Some(answer) => answer.settled().await.is_some_and(|result| result.is_ok()),
            None => false,
        };
        if !appended {
            self.reload(product, terminal).await;
        }
    }

    /// Has the live session look at its record: it may or may not have changed.
    async fn reload(&self, product: &ProductId, terminal: &TerminalId) {
        let log = LogKey::terminal(product, terminal);
        self.router.nodes.notify(log, SessionEvent::Reload).await;
    }
}

fn joined(terminal: TerminalId, result: &StoreResult<SubscribeOutcome>) -> MemberOutcome {
    let code = match result {
        Ok(SubscribeOutcome::Joined(_) | SubscribeOutcome::AlreadyIn(_)) => {
            return MemberOutcome { terminal, member: true, error: None };
        }
        Ok(SubscribeOutcome::Banned) => Code::TopicBanned,
        Ok(SubscribeOutcome::TooMany) => Code::TooManyTopics,
        Err(error) => code_of(error),
    };
    MemberOutcome { terminal, member: false, error: Some(target_error(code)) }
}

fn target_error(code: Code) -> TargetError {
    TargetError { code, retryable: code.retryable(), detail: None }
}
