//! What every link of a node shares, and the work that links leave to tasks.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use clarion_core::session::SessionLimits;
use clarion_core::{LogKey, LogKind};
use clarion_protocol::terminal::{Open, SessionNumber};
use clarion_protocol::{Code, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::{
    OpenSession, OpenedLog, Read, Store, StoreError, Subscribe, SubscribeBy, SubscribeOutcome,
    SubscriptionState, Unsubscribe, UnsubscribeOutcome,
};

use crate::cursors::CursorBuffer;
use crate::link::inbox::{Answer, Grant, Item, LinkInbox, Refused};
use crate::nodes::Nodes;
use crate::products::{KnownProduct, Products};
use crate::push::Turn;
use crate::relay::{Relays, Subscriber};
use crate::task;
use crate::tokens::Identity;

/// Pauses before each try to read the record of a session again, in milliseconds.
const REOPEN_PAUSES_MS: [u64; 8] = [0, 100, 400, 1600, 6400, 10_000, 20_000, 20_000];
/// How often a link that waits for its session is looked at whether it is still there.
const GONE_LOOK: Duration = Duration::from_millis(100);
/// How long the answer to `close` waits for the store.
const CLOSE_SAVE_MAX: Duration = Duration::from_secs(2);

/// The bounds of a link.
#[derive(Debug, Clone)]
pub(crate) struct LinkLimits {
    pub(crate) open_timeout_ms: u64,
    pub(crate) flush_timeout_ms: u64,
    pub(crate) frames_per_s_max: u32,
    pub(crate) sessions_max: usize,
    pub(crate) topics_max: u32,
    pub(crate) heartbeat_min_ms: u64,
    pub(crate) heartbeat_max_ms: u64,
    pub(crate) heartbeat_grace_ms: u64,
    pub(crate) generation_check_ms: u64,
    pub(crate) crashes_max: u32,
    pub(crate) crash_window_ms: u64,
    /// Sessions of one product on this node; 0 for no limit.
    pub(crate) sessions_per_product_max: usize,
}

/// Shared by all links of a node.
pub(crate) struct LinkContext {
    pub(crate) node: String,
    /// The isolation group whose products are served; none if the node is alone.
    group: Option<Arc<str>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) relays: Arc<Relays>,
    pub(crate) products: Arc<Products>,
    pub(crate) limits: LinkLimits,
    pub(crate) session_limits: SessionLimits,
    /// One name for each wide log, so that thousands of sessions share it.
    names: RwLock<HashSet<Arc<LogKey>>>,
    /// Sessions by product; empty without a limit.
    places: Arc<Mutex<HashMap<ProductId, usize>>>,
    /// Live sessions by product: as many as hold its token.
    sessions: Mutex<HashMap<ProductId, Token>>,
    /// Names other access points, for terminals that are sent away.
    elsewhere: OnceLock<Elsewhere>,
}

/// Names access points, the best first.
pub(crate) type Elsewhere = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// A live session of a product, counted for as long as this is held.
pub(crate) type Token = Arc<()>;

/// A session's place among those of its product, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    product: ProductId,
    places: Arc<Mutex<HashMap<ProductId, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.product) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.product);
            }
        }
    }
}

impl LinkContext {
    pub(crate) fn new(
        node: String,
        group: Option<Arc<str>>,
        store: Arc<dyn Store>,
        nodes: Arc<Nodes>,
        products: Arc<Products>,
        limits: LinkLimits,
        session_limits: SessionLimits,
    ) -> Self {
        let (names, places, sessions) = (RwLock::default(), Arc::default(), Mutex::default());
        let relays = Arc::clone(&nodes.local);
        Self {
            node,
            group,
            store,
            nodes,
            relays,
            products,
            limits,
            session_limits,
            names,
            places,
            sessions,
            elsewhere: OnceLock::new(),
        }
    }

    /// Says how other access points are found; the first to say so counts.
    pub(crate) fn set_elsewhere(&self, elsewhere: Elsewhere) {
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Other access points, the best first; none if nobody knows.
    pub(crate) fn elsewhere(&self) -> Vec<String> {
        self.elsewhere.get().map_or_else(Vec::new, |elsewhere| elsewhere())
    }

    /// Counts a session.
    pub(crate) fn count(&self, product: &ProductId) -> Token {
        let mut sessions = self.sessions();
        if let Some(token) = sessions.get(product) {
            return Arc::clone(token);
        }
        Arc::clone(sessions.entry(product.clone()).or_default())
    }

    /// Live sessions on this node.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions().values().map(|token| Arc::strong_count(token) - 1).sum()
    }

    /// Products with live sessions on this node.
    pub(crate) fn products_in_use(&self) -> Vec<ProductId> {
        let mut sessions = self.sessions();
        sessions.retain(|_, token| Arc::strong_count(token) > 1);
        sessions.keys().cloned().collect()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<ProductId, Token>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a product is another isolation group's, as far as is known here.
    pub(crate) fn is_elsewhere(&self, product: &ProductId) -> bool {
        self.products.known(product).is_some_and(|known| !self.serves(&known))
    }

    fn serves(&self, product: &KnownProduct) -> bool {
        self.group.as_ref().is_none_or(|group| *group == product.record.isolation_group)
    }

    /// A place among the sessions of a product; `Err` if it has as many as it may.
    fn place(&self, product: &ProductId) -> Result<Option<Box<Place>>, Refused> {
        let max = self.limits.sessions_per_product_max;
        if max == 0 {
            return Ok(None);
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(product.clone()).or_default();
        if *count >= max {
            return Err(Refused::new(Code::LinkLimit));
        }
        *count += 1;
        drop(places);
        Ok(Some(Box::new(Place { product: product.clone(), places: Arc::clone(&self.places) })))
    }

    /// The shared name of a log.
    pub(crate) fn intern(&self, log: Arc<LogKey>) -> Arc<LogKey> {
        if !log.kind.is_wide() {
            return log;
        }
        if let Some(known) = self.names.read().unwrap_or_else(PoisonError::into_inner).get(&log) {
            return Arc::clone(known);
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() == names.capacity() {
            // About to grow: names that nobody else holds go first.
            names.retain(|name| Arc::strong_count(name) > 1);
        }
        names.insert(Arc::clone(&log));
        log
    }

    /// Verifies the token of an `open` and opens the session in the store; leaves the answer in
    /// the link's inbox.
    pub(crate) fn open(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        open: Open,
    ) {
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        task::spawn(async move {
            // A terminal that gave up is perhaps somewhere else by now: an `open` that still went to
            // the store would take its place there (I7), for good.
            let answer = tokio::select! {
                answer = context.grant(&open) => answer,
                () = gone(&inbox) => return,
            };
            leave(&inbox, session, Answer::Opened(answer));
        });
    }

    /// Opens the session of a known identity again: after a crash, or when its record changed.
    /// What it has acknowledged is written down first. While the store is away it waits.
    pub(crate) fn reopen(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        (identity, generation): (Arc<Identity>, u64),
        cursors: Arc<CursorBuffer>,
    ) {
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        task::spawn(async move {
            let mut answer = Err(Refused::new(Code::StoreAway));
            for pause_ms in REOPEN_PAUSES_MS {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                if inbox.ended() {
                    return;
                }
                cursors.drain().await;
                let who = (identity.product.clone(), identity.terminal.clone(), generation);
                answer = match context.store.verify_generations(vec![who]).await.as_deref() {
                    // I7: it must not take over again from the one that replaced it.
                    Ok([false]) => Err(Refused::new(Code::Replaced)),
                    Ok(_) => {
                        let identity = Arc::clone(&identity);
                        context.open_in_store(identity, Vec::new(), Vec::new()).await
                    }
                    Err(_) => Err(Refused::new(Code::StoreAway)),
                };
                if !matches!(answer, Err(Refused { code: Code::StoreAway })) {
                    break;
                }
            }
            leave(&inbox, session, Answer::Opened(answer));
        });
    }

    /// Has what an ended session acknowledged written down before the terminal hears that it is over:
    /// its next session, on whichever node, begins behind it. A store that is away is not waited for.
    pub(crate) fn close(
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        number: SessionNumber,
        cursors: Arc<CursorBuffer>,
    ) {
        let inbox = Arc::clone(inbox);
        task::spawn(async move {
            let _ = tokio::time::timeout(CLOSE_SAVE_MAX, cursors.written()).await;
            leave(&inbox, session, Answer::Closed { number });
        });
    }

    async fn grant(&self, open: &Open) -> Result<Box<Grant>, Refused> {
        let known = match self.products.get(&open.product).await {
            Ok(Some(known)) => known,
            Ok(None) => return Err(Refused::new(Code::TokenInvalid)),
            Err(_) => return Err(Refused::new(Code::StoreAway)),
        };
        let identity = known.token_keys.verify(&open.token, self.store.time_ms())?;
        if !self.serves(&known) {
            return Err(Refused::new(Code::WrongGroup));
        }
        if !known.record.kinds.contains(&identity.kind) {
            return Err(Refused::new(Code::KindNotAccepted));
        }
        let (mut topics, mut refused) = (Vec::new(), Vec::new());
        for topic in &open.topics {
            if topics.len() + refused.len() >= self.limits.topics_max as usize {
                refused.push((topic.clone(), Code::TooManyTopics));
            } else if identity.topics.iter().any(|pattern| pattern.matches(topic)) {
                topics.push(topic.clone());
            } else {
                refused.push((topic.clone(), Code::TopicForbidden));
            }
        }
        let place = self.place(&identity.product)?;
        self.relays.room().await;
        let mut grant = self.open_in_store(Arc::new(identity), topics, refused).await?;
        grant.place = place;
        Ok(grant)
    }

    async fn open_in_store(
        &self,
        identity: Arc<Identity>,
        topics: Vec<TopicName>,
        mut refused: Vec<(TopicName, Code)>,
    ) -> Result<Box<Grant>, Refused> {
        let open = OpenSession {
            product: identity.product.clone(),
            terminal: identity.terminal.clone(),
            user: identity.user.clone(),
            kind: identity.kind,
            topics,
            topics_max: self.limits.topics_max,
        };
        match self.store.open_session(vec![open]).await.pop() {
            Some(Ok(opened)) => {
                let code = |banned| if banned { Code::TopicBanned } else { Code::TooManyTopics };
                refused.extend(
                    opened.refused.iter().map(|(topic, banned)| (topic.clone(), code(*banned))),
                );
                // What it is in already, by the back-end's doing, needs no leave.
                let is_in = |topic: &TopicName| {
                    let own =
                        |log: &LogKey| log.kind == LogKind::Topic && &*log.name == topic.as_str();
                    opened.logs.iter().any(|opened| own(&opened.log))
                };
                refused.retain(|(topic, _)| !is_in(topic));
                Ok(Box::new(Grant { identity, opened, refused, place: None }))
            }
            _ => Err(Refused::new(Code::StoreAway)),
        }
    }

    /// Verifies a new token; leaves the answer.
    pub(crate) fn refresh(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        identity: &Identity,
        token: String,
    ) {
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        let product = identity.product.clone();
        task::spawn(async move {
            let answer = match context.products.get(&product).await {
                Ok(Some(known)) => known.token_keys.verify(&token, context.store.time_ms()),
                Ok(None) => Err(Code::TokenInvalid),
                Err(_) => Err(Code::StoreAway),
            };
            let answer = answer.map(Box::new).map_err(Refused::from);
            leave(&inbox, session, Answer::Refreshed(answer));
        });
    }

    /// Joins a topic; leaves the answer.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        id: u64,
        identity: &Identity,
        topic: TopicName,
        mut turn: Turn,
    ) {
        let request = Subscribe {
            product: identity.product.clone(),
            terminal: identity.terminal.clone(),
            topic: topic.clone(),
            by: SubscribeBy::Terminal,
            topics_max: self.limits.topics_max,
        };
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        task::spawn(async move {
            turn.come().await;
            tokio::select! {
                () = context.relays.room() => {}
                () = gone(&inbox) => return,
            }
            let outcome = context.store.subscribe(vec![request]).await.pop();
            let outcome = outcome.unwrap_or_else(|| Err(StoreError::Unknown("no answer".into())));
            leave(&inbox, session, Answer::Subscribed { id: Some(id), topic, outcome });
        });
    }

    /// Leaves a topic; leaves the answer.
    pub(crate) fn unsubscribe(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        id: u64,
        identity: &Identity,
        topic: TopicName,
        mut turn: Turn,
    ) {
        let request = Unsubscribe {
            product: identity.product.clone(),
            terminal: identity.terminal.clone(),
            topic: topic.clone(),
            by: SubscribeBy::Terminal,
        };
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        task::spawn(async move {
            turn.come().await;
            let outcome = context.store.unsubscribe(vec![request]).await.pop();
            let outcome = outcome.unwrap_or_else(|| Err(StoreError::Unknown("no answer".into())));
            leave(&inbox, session, Answer::Unsubscribed { id: Some(id), topic, outcome });
        });
    }

    /// The back-end changed this topic for the terminal: looks what its record says now, whatever
    /// the control entry said then, and leaves that as an answer without a request.
    pub(crate) fn follow_record(
        self: &Arc<Self>,
        inbox: &Arc<LinkInbox>,
        session: SessionNumber,
        identity: &Identity,
        topic: TopicName,
        mut turn: Turn,
    ) {
        let (context, inbox) = (Arc::clone(self), Arc::clone(inbox));
        let (product, terminal) = (identity.product.clone(), identity.terminal.clone());
        task::spawn(async move {
            turn.come().await;
            for pause_ms in REOPEN_PAUSES_MS {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                let answer = match context.subscription(&product, &terminal, &topic).await {
                    Some(Some(opened)) => Answer::Subscribed {
                        id: None,
                        topic,
                        outcome: Ok(SubscribeOutcome::AlreadyIn(opened)),
                    },
                    Some(None) => {
                        let outcome = Ok(UnsubscribeOutcome::Left);
                        Answer::Unsubscribed { id: None, topic, outcome }
                    }
                    None if inbox.ended() => return,
                    None => continue, // the store is away
                };
                return leave(&inbox, session, answer);
            }
            // It learns of it with the next `open`.
            tracing::warn!(%product, "a change of a topic's members could not be read");
        });
    }

    async fn subscription(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        topic: &TopicName,
    ) -> Option<Option<OpenedLog>> {
        let record = self.store.terminal(product, terminal).await.ok()??;
        let name = clarion_protocol::LogName::Topic(topic.clone());
        let state = record.subscriptions.iter().find(|s| s.log == name).map(|s| s.state);
        let Some(SubscriptionState::Reading { epoch, cursor, attempts }) = state else {
            return Some(None);
        };
        let log = LogKey::topic(product, topic);
        let head = crate::owner::head_of(&*self.store, &log).await?;
        let now = self.store.epoch();
        Some(Some(OpenedLog { log, epoch: now, cursor_epoch: epoch, cursor, attempts, head }))
    }

    /// Reads a log for a session that knows how far it goes: wide ones through their relay, which often
    /// has it in memory.
    pub(crate) fn read(&self, read: Read, known: Offset, subscriber: Subscriber) {
        if read.log.kind.is_wide() {
            self.relays.read(read, known, subscriber);
        } else {
            task::spawn(crate::relay::read_for(Arc::clone(&self.nodes), read, subscriber));
        }
    }
}

/// Resolves some time after the link has ended.
async fn gone(inbox: &LinkInbox) {
    while !inbox.ended() {
        tokio::time::sleep(GONE_LOOK).await;
    }
}

fn leave(inbox: &LinkInbox, session: SessionNumber, answer: Answer) {
    inbox.leave(Item::Answer { session, answer: Box::new(answer) });
}
