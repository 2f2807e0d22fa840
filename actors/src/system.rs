//! The running node as its doors see it: HTTP and the back-end WebSocket push, ask and administer;
//! the gateway hands over links. Everything behind it is actors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clarion_config::Config;
use clarion_core::LogKey;
use clarion_protocol::http::{
    MemberOutcome, MessageState, Page, PushAccepted, TerminalInfo, TokenClaims, TopicMember,
};
use clarion_protocol::{Code, MessageId, ProductId, TerminalId, TopicName, UserId};
use clarion_storage::{ConsumeNonce, NonceUse, ProductRecord, Store, StoreError};
use futures_util::future::join_all;
use ractor::SpawnErr;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::limits::{inbox_limits, link_limits, push_limits, session_limits};
use crate::link::Link;
use crate::link::context::LinkContext;
use crate::link::inbox::{Item, LinkEvent, LinkInbox, SessionEvent};
use crate::link::io::LinkIo;
use crate::link_shard::{LinkShard, LinkShardArguments, LinkShardHandle};
use crate::members::Members;
use crate::products::Products;
use crate::push::{Push, Pushes};
use crate::relay::{Relay, RelayArguments, Relays};
use crate::router::{Router, RouterLimits};
use crate::supervisor::{ChildOf, SupervisorHandle};
use crate::views::{message_state, page, terminal_info};
use crate::{task, tokens};

/// How often the readiness of the doors is judged, and how many good judgements in a row it takes
/// to become ready again (hysteresis).
const JUDGE_EVERY: Duration = Duration::from_millis(500);
const GOOD_JUDGEMENTS: u32 = 3;
/// Records that one round of upkeep looks at, and the pause between rounds.
const UPKEEP_BUDGET: usize = 2000;
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);
/// The part of the drain time-out over which links are sent away; the rest is for the last ones.
const GOAWAY_SHARE: f64 = 0.6;

/// Whether each door serves (readiness, with hysteresis).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Pushes are accepted; if not, why.
    pub push: Result<(), String>,
    /// Links are accepted; if not, why.
    pub terminals: Result<(), String>,
}

/// A running node.
#[derive(Clone)]
pub struct System {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    supervisor: SupervisorHandle,
    relays: Arc<Relays>,
    router: Arc<Router>,
    products: Arc<Products>,
    members: Members,
    pushes: Pushes,
    shards: Vec<Arc<LinkShardHandle>>,
    context: Arc<LinkContext>,
    next_link: AtomicU64,
    links: AtomicUsize,
    draining: watch::Sender<bool>,
    push_ready: Mutex<Result<(), String>>,
    stopped: AtomicBool,
    started: Instant,
}

impl System {
    /// Starts the actors over an open store.
    ///
    /// # Errors
    /// An actor did not start; nothing is left running.
    pub async fn start(config: Arc<Config>, store: Arc<dyn Store>) -> Result<Self, Failure> {
        #[cfg(feature = "fault-hooks")]
        crate::fault::arm_from_environment()
            .map_err(|why| Failure::new(Code::Internal).detail(why))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let supervisor = SupervisorHandle::start().await.map_err(|e| not_started(&e))?;
        let per_mode = if config.actors.relays == 0 { cores } else { config.actors.relays };
        let relays = Arc::new(Relays::new(per_mode));
        let limits = RouterLimits {
            inbox_shards: config.actors.inbox_shards,
            attempt_ms: config.limits.append_timeout_ms,
            idle_stop_ms: config.actors.idle_stop_ms,
        };
        let router =
            Router::start(Arc::clone(&store), Arc::clone(&relays), supervisor.clone(), limits)
                .await;
        let shard_count =
            if config.terminals.shards == 0 { 4 * cores } else { config.terminals.shards };
        let shards: Vec<_> =
            (0..shard_count).map(|_| LinkShardHandle::new(Arc::clone(&store))).collect();
        start_relays(&config, &store, &supervisor, &relays, &router, &shards).await?;
        start_link_shards(&config, &store, &supervisor, &shards).await?;
        let products = Arc::new(Products::new(Arc::clone(&store)));
        let members = Members::new(
            Arc::clone(&store),
            Arc::clone(&router),
            Arc::clone(&relays),
            config.session.topics_max,
            inbox_limits(&config),
        );
        let pushes = Pushes::new(
            Arc::clone(&store),
            Arc::clone(&router),
            supervisor.clone(),
            push_limits(&config),
        );
        let context = Arc::new(LinkContext::new(
            config.node.id.clone(),
            Arc::clone(&store),
            Arc::clone(&relays),
            Arc::clone(&products),
            link_limits(&config),
            session_limits(&config),
        ));
        let inner = Arc::new(Inner {
            config,
            store,
            supervisor,
            relays,
            router,
            products,
            members,
            pushes,
            shards,
            context,
            next_link: AtomicU64::new(1),
            links: AtomicUsize::new(0),
            draining: watch::channel(false).0,
            push_ready: Mutex::new(Ok(())),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
        });
        task::spawn(judge(Arc::downgrade(&inner)));
        task::spawn(upkeep(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Accepts a push: durable when it returns `Ok`.
    ///
    /// # Errors
    /// Nothing was accepted, or (`OutcomeUnknown`) it is not known.
    pub async fn push(
        &self,
        product: &Arc<ProductRecord>,
        push: Push,
    ) -> Result<PushAccepted, Failure> {
        if *self.inner.draining.borrow() {
            return Err(Failure::new(Code::Draining).retry_after_ms(1000));
        }
        self.inner.pushes.push(product, push).await
    }

    /// The record of a product, from the node's cache. `Ok(None)`: there is no such product.
    ///
    /// # Errors
    /// The store is away and the product is not cached.
    pub async fn product(
        &self,
        product: &ProductId,
    ) -> Result<Option<Arc<ProductRecord>>, Failure> {
        let known = self.inner.products.get(product).await?;
        Ok(known.map(|known| Arc::clone(&known.record)))
    }

    /// Creates a product.
    ///
    /// # Errors
    /// `ProductExists` if there is one of that name; else the store's.
    pub async fn create_product(&self, record: ProductRecord) -> Result<(), Failure> {
        self.inner.products.create(record).await
    }

    /// Changes a product's record (keys); `change` may refuse. Changes of one product are serial.
    ///
    /// # Errors
    /// `ProductUnknown`, what `change` says, or the store's.
    pub async fn change_product<T: Send>(
        &self,
        product: &ProductId,
        change: impl FnOnce(&mut ProductRecord) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        self.inner.products.change(product, change).await
    }

    /// Products in the order of their names.
    ///
    /// # Errors
    /// The store's.
    pub async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> Result<Page<ProductRecord>, Failure> {
        let items = self.inner.store.products(after, limit + 1).await?;
        Ok(page(items, limit, |record| record.product.to_string()))
    }

    /// How many terminals a product has.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminal_count(&self, product: &ProductId) -> Result<u64, Failure> {
        Ok(self.inner.store.terminal_count(product).await?)
    }

    /// State and counts of a message.
    ///
    /// # Errors
    /// The store's.
    pub async fn message(
        &self,
        product: &ProductId,
        id: MessageId,
    ) -> Result<Option<MessageState>, Failure> {
        Ok(self.inner.store.message(product, id).await?.map(message_state))
    }

    /// Puts terminals into a topic.
    pub async fn put_members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        self.inner.members.put(product, topic, terminals).await
    }

    /// Takes terminals out of a topic; they may not rejoin by themselves.
    pub async fn remove_members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        self.inner.members.remove(product, topic, terminals).await
    }

    /// Members of a topic.
    ///
    /// # Errors
    /// The store's.
    pub async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> Result<Page<TopicMember>, Failure> {
        let members = self.inner.store.members(product, topic, after, limit + 1).await?;
        let items = members.into_iter().map(|terminal| TopicMember { terminal }).collect();
        Ok(page(items, limit, |member: &TopicMember| member.terminal.to_string()))
    }

    /// Terminals of a product, or of one user.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> Result<Page<TerminalInfo>, Failure> {
        let records = self.inner.store.terminals(product, user, after, limit + 1).await?;
        let logs =
            records.iter().map(|record| LogKey::terminal(product, &record.terminal)).collect();
        let online = self.inner.relays.online(logs).await;
        let items = records.into_iter().zip(online).map(terminal_info).collect();
        Ok(page(items, limit, |terminal: &TerminalInfo| terminal.terminal.to_string()))
    }

    /// One terminal.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> Result<Option<TerminalInfo>, Failure> {
        let Some(record) = self.inner.store.terminal(product, terminal).await? else {
            return Ok(None);
        };
        let online = self.inner.relays.online(vec![LogKey::terminal(product, terminal)]).await;
        Ok(Some(terminal_info((record, online.first().copied().unwrap_or(false)))))
    }

    /// Closes the live session of a terminal. `Ok(false)`: it has none.
    ///
    /// # Errors
    /// None today; a cluster's other nodes may not answer.
    pub async fn kick(&self, product: &ProductId, terminal: &TerminalId) -> Result<bool, Failure> {
        let log = LogKey::terminal(product, terminal);
        Ok(self.inner.relays.notify(log, SessionEvent::Kicked).await)
    }

    /// Uses a nonce (once).
    ///
    /// # Errors
    /// The store's.
    pub async fn consume_nonce(&self, nonce: ConsumeNonce) -> Result<NonceUse, Failure> {
        let used = self.inner.store.consume_nonces(vec![nonce]).await?;
        used.first().copied().ok_or_else(|| Failure::new(Code::Internal))
    }

    /// Signs a terminal token with the product's newest HS256 key.
    ///
    /// # Errors
    /// The product has no such key.
    pub fn mint_token(
        &self,
        product: &ProductRecord,
        claims: &TokenClaims,
    ) -> Result<String, Failure> {
        tokens::mint(product, claims)
    }

    /// The store's time, Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.inner.store.time_ms()
    }

    /// Takes over an upgraded link from `peer`. The future ends with the link; it is small, the
    /// link itself lives on the heap, and nothing of the handshake is left in it.
    pub fn serve_link<S>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
        peer: IpAddr,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_link_from(socket, None, peer)
    }

    /// [`System::serve_link`] for a link whose first message was read already (see
    /// [`crate::first_message`]).
    pub fn serve_link_from<S>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
        first: Option<Message>,
        peer: IpAddr,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tracing::debug!(%peer, "a link begins");
        let (link, inbox, shard) = self.inner.link(socket);
        self.inner.links.fetch_add(1, Ordering::Relaxed);
        if *self.inner.draining.borrow() {
            inbox.leave(Item::Link(LinkEvent::Close(Code::GoingAway)));
        }
        let inner = Arc::clone(&self.inner);
        async move {
            let mut ends = LinkEnds { inner, shard, inbox, reason: "panicked" };
            ends.reason = link.run(first).await;
        }
    }

    /// Links that are served now.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.inner.links.load(Ordering::Relaxed)
    }

    /// Whether the doors serve.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if *self.inner.draining.borrow() {
            let why = || Err("the node is draining".to_owned());
            return Readiness { push: why(), terminals: why() };
        }
        let push = self.inner.push_ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let full = self.link_count() >= self.inner.config.terminals.links_max;
        let terminals =
            if full { Err("the node holds as many links as it may".into()) } else { Ok(()) };
        Readiness { push, terminals }
    }

    /// Whether the node's own parts make progress (liveness).
    #[must_use]
    pub fn alive(&self) -> bool {
        self.inner.supervisor.healthy()
    }

    /// Whether the store failed in a way that only a restart of the process can mend.
    #[must_use]
    pub fn store_failed(&self) -> Option<String> {
        match self.inner.store.health().writable {
            Err(StoreError::Fatal(why)) => Some(why),
            _ => None,
        }
    }

    /// Links, sessions, actors by kind with restarts, store health: for `GET /v1/status`.
    pub async fn status(&self) -> serde_json::Value {
        let health = self.inner.store.health();
        let actors: HashMap<_, _> = Kind::ALL
            .iter()
            .map(|kind| {
                let figures = kind.figures();
                let figure = |of: &AtomicU64| of.load(Ordering::Relaxed);
                let row = serde_json::json!({
                    "live": figure(&figures.live),
                    "started": figure(&figures.started),
                    "crashed": figure(&figures.crashed),
                });
                (kind.policy().name, row)
            })
            .collect();
        let readiness = self.readiness();
        serde_json::json!({
            "node": self.inner.config.node.id,
            "version": env!("CARGO_PKG_VERSION"),
            "fault_hooks": cfg!(feature = "fault-hooks"),
            "uptime_s": self.inner.started.elapsed().as_secs(),
            "time_ms": self.inner.store.time_ms(),
            "alive": self.alive(),
            "draining": *self.inner.draining.borrow(),
            "readiness": {
                "push": readiness.push.err().unwrap_or_else(|| "ready".to_owned()),
                "terminals": readiness.terminals.err().unwrap_or_else(|| "ready".to_owned()),
            },
            "links": self.link_count(),
            "links_by_shard": self.inner.shards.iter().map(|shard| shard.len()).collect::<Vec<_>>(),
            "virtual_owners": self.inner.router.virtual_owner_count(),
            "actors": actors,
            "store": {
                "epoch": health.epoch,
                "writable": health.writable.is_ok(),
                "refuses_because": health.writable.as_ref().err().map(ToString::to_string),
                "free_bytes": health.free_bytes,
                "used_bytes": health.used_bytes,
                "queued": health.queued,
            },
        })
    }

    /// Resolves when the node began to drain.
    pub async fn draining(&self) {
        let mut draining = self.inner.draining.subscribe();
        // An error means that the node is gone, which is as good.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Drains: refuses pushes, sends links `goaway` spread over the drain time-out, closes what is
    /// left at its end, flushes cursors and closes the store.
    pub async fn drain(&self) {
        self.inner.draining.send_replace(true);
        let total = Duration::from_millis(self.inner.config.node.drain_timeout_ms);
        let deadline = Instant::now() + total;
        let spread_ms = (total.as_millis() as f64 * GOAWAY_SHARE) as u64;
        for shard in &self.inner.shards {
            shard.each(|| LinkEvent::Goaway { after_ms: fastrand::u64(0..=spread_ms) });
        }
        // Kept: time for the close frames, cursors and the store.
        let farewell = deadline - total.mul_f64(0.25).min(Duration::from_secs(3));
        self.wait_for_links(farewell).await;
        for shard in &self.inner.shards {
            shard.each(|| LinkEvent::Close(Code::GoingAway));
        }
        self.wait_for_links(farewell + total.mul_f64(0.1)).await;
        let cursors = self.inner.shards.iter().map(|shard| shard.cursors.drain());
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, join_all(cursors)).await.is_err() {
            tracing::warn!("the store did not take all cursors: their messages come again");
        }
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.supervisor.stop().await;
        if let Err(error) = self.inner.store.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }

    async fn wait_for_links(&self, until: Instant) {
        while self.link_count() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Inner {
    fn link<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
    ) -> (Box<Link<S>>, Arc<LinkInbox>, Arc<LinkShardHandle>) {
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let inbox = LinkInbox::new(id, self.config.session.inbox_items_max as u32);
        let shard = Arc::clone(&self.shards[id as usize % self.shards.len()]);
        shard.add(&inbox);
        let context = Arc::clone(&self.context);
        let link = Link::new(socket, Arc::clone(&inbox), Arc::clone(&shard), context);
        (Box::new(link), inbox, shard)
    }
}

/// Takes a link out of the books however it ends.
struct LinkEnds {
    inner: Arc<Inner>,
    shard: Arc<LinkShardHandle>,
    inbox: Arc<LinkInbox>,
    reason: &'static str,
}

impl Drop for LinkEnds {
    fn drop(&mut self) {
        self.inbox.end();
        self.shard.remove(&self.inbox, self.reason);
        self.inner.links.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn start_relays(
    config: &Config,
    store: &Arc<dyn Store>,
    supervisor: &SupervisorHandle,
    relays: &Arc<Relays>,
    router: &Arc<Router>,
    shards: &[Arc<LinkShardHandle>],
) -> Result<(), Failure> {
    for (number, mode, slot) in relays.each() {
        let (slot, store) = (Arc::clone(slot), Arc::clone(store));
        let (router, shards) = (Arc::downgrade(router), shards.to_vec());
        let ring_entries_max = config.actors.topic_ring_entries;
        let head_check_ms = config.actors.head_check_ms;
        let relay_slot = Arc::clone(&slot);
        let child = ChildOf {
            kind: Kind::Relay,
            label: format!("{}/{number}", mode.as_str()),
            slot,
            make: move |_| {
                let arguments = RelayArguments {
                    store: Arc::clone(&store),
                    router: router.clone(),
                    slot: Arc::clone(&relay_slot),
                    ring_entries_max,
                    head_check_ms,
                };
                (Relay, arguments)
            },
            started: Box::new(move |incarnation| {
                if incarnation > 1 {
                    for shard in &shards {
                        shard.each(|| LinkEvent::RelayRestarted { relay: number });
                    }
                }
            }),
            forgotten: Box::new(|| {}),
            quarantined: Box::new(|| {}),
        };
        if !supervisor.ensure(Arc::new(child)).await {
            return Err(Failure::new(Code::Internal).detail("a relay did not start"));
        }
    }
    Ok(())
}

async fn start_link_shards(
    config: &Config,
    store: &Arc<dyn Store>,
    supervisor: &SupervisorHandle,
    shards: &[Arc<LinkShardHandle>],
) -> Result<(), Failure> {
    for (number, handle) in shards.iter().enumerate() {
        let (handle, store) = (Arc::clone(handle), Arc::clone(store));
        let cursor_flush_ms = config.session.cursor_flush_ms;
        let child = ChildOf {
            kind: Kind::LinkShard,
            label: number.to_string(),
            slot: Arc::clone(&handle.slot),
            make: move |_| {
                let (handle, store) = (Arc::clone(&handle), Arc::clone(&store));
                (LinkShard, LinkShardArguments { handle, store, cursor_flush_ms })
            },
            started: Box::new(|_| {}),
            forgotten: Box::new(|| {}),
            quarantined: Box::new(|| {}),
        };
        if !supervisor.ensure(Arc::new(child)).await {
            return Err(Failure::new(Code::Internal).detail("a link shard did not start"));
        }
    }
    Ok(())
}

/// Judges the push door. Bad news counts at once, good news when it lasts.
async fn judge(inner: std::sync::Weak<Inner>) {
    let mut good = GOOD_JUDGEMENTS;
    loop {
        tokio::time::sleep(JUDGE_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let now = match inner.store.health().writable {
            Err(error) => Err(error.to_string()),
            Ok(()) if !inner.supervisor.healthy() => Err("actors crash beyond their budget".into()),
            Ok(()) => Ok(()),
        };
        good = if now.is_ok() { good.saturating_add(1) } else { 0 };
        if now.is_err() || good >= GOOD_JUDGEMENTS {
            *inner.push_ready.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
    }
}

/// Removes what expired, a little at a time; after a complete round it rests longer.
async fn upkeep(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(UPKEEP_PAUSE).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        match inner.store.upkeep(UPKEEP_BUDGET).await {
            Ok(done) => {
                metrics::counter!("clarion_store_expired_entries_total")
                    .increment(done.expired_entries);
                metrics::counter!("clarion_store_expired_records_total")
                    .increment(done.expired_records);
            }
            Err(error) => tracing::warn!(%error, "upkeep of the store failed"),
        }
    }
}

fn not_started(error: &SpawnErr) -> Failure {
    Failure::new(Code::Internal).detail(format!("the supervisor did not start: {error}"))
}
