//! What the actors and tasks of peer links have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ractor::ActorRef;
use ractor_cluster::NodeServerMessage;

use super::Peer;
use super::handshake::Local;
use super::link::LinkMessage;
use super::tls::Tls;
use super::types::{PeerEvents, PeerSettings};
use crate::{BootId, Cookie, NodeIdentity};

pub(super) struct Shared {
    pub(super) settings: PeerSettings,
    pub(super) identity: NodeIdentity,
    pub(super) cookie: Cookie,
    pub(super) tls: Option<Tls>,
    pub(super) events: Arc<dyn PeerEvents>,
    pub(super) runtime: tokio::runtime::Handle,
    began: Instant,
    /// When this process last showed that it is not standing still.
    tick_us: AtomicU64,
    /// Sessions from their handshake until ractor has ended them.
    sessions: RwLock<HashMap<u64, Arc<Peer>>>,
    /// Ractor's side of the links; another one after its restart.
    node_server: RwLock<Option<ActorRef<NodeServerMessage>>>,
    /// With whom a link is wanted.
    wanted: Mutex<Wanted>,
}

type Wanted = HashMap<Arc<str>, (BootId, ActorRef<LinkMessage>)>;

impl Shared {
    pub(super) fn new(
        settings: PeerSettings,
        identity: NodeIdentity,
        cookie: Cookie,
        tls: Option<Tls>,
        events: Arc<dyn PeerEvents>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            identity,
            cookie,
            tls,
            events,
            runtime: tokio::runtime::Handle::current(),
            began: Instant::now(),
            tick_us: AtomicU64::new(0),
            sessions: RwLock::default(),
            node_server: RwLock::default(),
            wanted: Mutex::default(),
        })
    }

    /// Microseconds of this node's monotonic clock since it began, which is what frames carry.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Time between two calls of [`tick`](Self::tick).
    pub(super) fn tick_every(&self) -> Duration {
        Duration::from_millis((self.settings.heartbeat_ms / 4).max(1))
    }

    /// The process runs.
    pub(super) fn tick(&self) {
        self.tick_us.store(self.now_us(), Ordering::Release);
    }

    /// Whether nothing has ticked for so long that peers may have given this node up: a peer waits
    /// three heartbeats from the last answer, which came at most one before the standstill, so it
    /// takes two, less the way of an answer.
    pub(super) fn stands_still(&self, now_us: u64) -> bool {
        let gap_us = now_us.saturating_sub(self.tick_us.load(Ordering::Acquire));
        gap_us >= self.settings.heartbeat_ms * 1750
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.handshake_timeout_ms.max(1))
    }

    /// How long the peer's kernel may leave data unacknowledged: as long as the peer may be silent.
    pub(super) fn unsent_max(&self) -> Duration {
        Duration::from_millis((self.settings.heartbeat_ms * 3).max(1))
    }

    pub(super) fn local<'a>(
        &'a self,
        clock_us: &'a (dyn Fn() -> u64 + Send + Sync),
        binding: &'a [u8],
    ) -> Local<'a> {
        Local {
            identity: &self.identity,
            cluster: &self.settings.cluster,
            wire: self.settings.wire,
            cookie: &self.cookie,
            clock_us,
            binding,
        }
    }

    pub(super) fn session(&self, session: u64) -> Option<Arc<Peer>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&session).cloned()
    }

    pub(super) fn add_session(&self, peer: &Arc<Peer>) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(peer.session, Arc::clone(peer));
    }

    pub(super) fn remove_session(&self, session: u64) -> Option<Arc<Peer>> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&session)
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Peer>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.values().cloned().collect()
    }

    pub(super) fn node_server(&self) -> Option<ActorRef<NodeServerMessage>> {
        self.node_server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_node_server(&self, server: Option<ActorRef<NodeServerMessage>>) {
        *self.node_server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_wanted(&self, id: Arc<str>, boot: BootId, link: ActorRef<LinkMessage>) {
        self.wanted().insert(id, (boot, link));
    }

    pub(super) fn remove_wanted(&self, id: &str) {
        self.wanted().remove(id);
    }

    /// The link with this run of a node, if one is wanted.
    pub(super) fn link(&self, id: &str, boot: BootId) -> Option<ActorRef<LinkMessage>> {
        let wanted = self.wanted();
        wanted.get(id).filter(|(wanted, _)| *wanted == boot).map(|(_, link)| link.clone())
    }

    /// Of two nodes, the one whose name sorts first dials.
    pub(super) fn dials(&self, id: &str) -> bool {
        *self.identity.id < *id
    }
}
