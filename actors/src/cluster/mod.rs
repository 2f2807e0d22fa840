//! This node among others: what happens when links and members come and go, and what other nodes
//! say. The routing itself is `router`; here its events come in. Nothing in here waits.
//!
//! Links are given from outside ([`PeerPort`]), so that tests cut them; `start` makes real ones.

pub(crate) mod absent;
pub(crate) mod asking;
pub(crate) mod codec;
pub(crate) mod forward;
pub(crate) mod heals;
mod inbound;
pub(crate) mod join;
pub(crate) mod ownership;
pub(crate) mod peers;
pub(crate) mod pending;
pub(crate) mod port;
pub(crate) mod topology;
pub(crate) mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use clarion_core::BootId;
use clarion_core::membership::{Hearing, Living, Unheard};
use clarion_core::placement::{Slot, SlotSet};
use clarion_protocol::ProductId;
use clarion_storage::Store;
use futures_util::future::BoxFuture;

use self::heals::{After, Heal, Heals};
use self::peers::Linked;
pub use self::port::{Lane, PeerPort, Refused};
pub use self::topology::{Topology, TopologyNode};
use self::wire::PeerMessage;
pub use self::wire::wire_versions;
use crate::kinds::Kind;
use crate::nodes::NodeNumber;
use crate::products::Products;
use crate::router::Router;
use crate::task;

/// How long after the end of a link everything is compared with the store: what the other end had
/// under way is durable by then, or never.
const AFTER_DOWN: Duration = Duration::from_millis(1500);
/// How long after slots moved they are compared: nodes with an old view went on meanwhile.
const AFTER_MOVE: Duration = Duration::from_secs(2);

/// What other nodes may ask of this one as a whole.
pub(crate) trait Doors: Send + Sync {
    fn status(&self) -> BoxFuture<'_, serde_json::Value>;
    fn drain_wanted(&self);
}

/// This node among others.
pub struct Cluster {
    me: Weak<Cluster>,
    pub(crate) router: Arc<Router>,
    products: Arc<Products>,
    store: Arc<dyn Store>,
    doors: OnceLock<Weak<dyn Doors>>,
    /// Held while links and members change: each change is seen whole.
    hearing: Mutex<Hearing>,
    /// Messages of appends from other nodes that wait for their owner here.
    serving: Arc<AtomicUsize>,
    pub(crate) heals: Arc<Heals>,
}

impl Cluster {
    pub(crate) fn new(
        router: Arc<Router>,
        products: Arc<Products>,
        store: Arc<dyn Store>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            router,
            products,
            store,
            doors: OnceLock::new(),
            hearing: Mutex::default(),
            serving: Arc::default(),
            heals: Arc::default(),
        })
    }

    pub(crate) fn set_doors(&self, doors: Weak<dyn Doors>) {
        let _ = self.doors.set(doors);
    }

    /// Messages of appends from other nodes that wait for their owner here.
    pub(crate) fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed)
    }

    fn doors(&self) -> Option<Arc<dyn Doors>> {
        self.doors.get()?.upgrade()
    }

    /// The members changed.
    pub fn set_topology(&self, topology: Arc<Topology>) {
        let heal = self.heals.begin(After::Members);
        let mut hearing = self.hearing();
        let myself = &self.router.myself;
        let others = topology.nodes.iter().filter(|(id, _)| **id != myself.id);
        let living = others.map(|(id, node)| Living {
            id: Arc::clone(id),
            boot: BootId(node.boot),
            appends: node.broker && node.group == myself.group,
            draining: node.draining,
        });
        hearing.members(self.store.time_ms(), living, |id, boot| self.is_linked(id, boot));
        self.router.set_topology(topology);
        self.changed(&mut hearing, &heal);
    }

    /// A link came up.
    pub fn up(&self, port: Arc<dyn PeerPort>) {
        let heal = self.heals.begin(After::LinkUp);
        let mut hearing = self.hearing();
        if let Some(former) = self.router.nodes.peers.of(port.id()) {
            self.gone(former.number);
        }
        let (id, boot) = (Arc::clone(port.id()), port.boot());
        let Some(peer) = self.router.nodes.peers.add(port) else {
            tracing::error!(node = %id, "as many links between nodes as there may be");
            return;
        };
        // The number may have been another's, long ago.
        self.forget_number(peer.number);
        Kind::PeerLink.figures().on_start(Kind::PeerLink);
        tracing::info!(node = %id, "the link to a node is up");
        hearing.linked(&id, BootId(boot));
        // What was told of products while there was no link is not known.
        self.products.all_stale();
        self.changed(&mut hearing, &heal);
        // The other end compares, for what was appended here before it counted as a reader.
        if peer.send(&PeerMessage::Hello).is_err() {
            peer.note_all_untold(&SlotSet::full());
        }
    }

    /// A link ended; told again with `refused` when nobody listens at its address any more, which
    /// means that the process is dead.
    pub fn down(&self, port: &Arc<dyn PeerPort>, refused: bool) {
        let heal = self.heals.begin(After::LinkDown);
        let mut hearing = self.hearing();
        let (id, boot, now_ms) = (port.id(), BootId(port.boot()), self.store.time_ms());
        let peer = self.router.nodes.peers.of_port(port);
        if let Some(peer) = &peer {
            tracing::warn!(node = %id, "the link to a node ended");
            self.gone(peer.number);
            hearing.ended(now_ms, id, boot);
        }
        if refused {
            hearing.refused(now_ms, id, boot);
        }
        if peer.is_some() || refused {
            self.changed(&mut hearing, &heal);
            self.compare_after(AFTER_DOWN, SlotSet::full(), heal);
        }
    }

    /// There ought to be others: until one is heard of, this node does not hear all.
    pub(crate) fn expect_others(&self) {
        self.hearing().expect_others(self.store.time_ms());
    }

    /// Whether this node has heard of one, and not of its leaving.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.hearing().knows(id)
    }

    /// Runs that are not there and may start again behind a cut.
    pub fn absent(&self) -> Vec<(Arc<str>, BootId)> {
        let hearing = self.hearing();
        hearing.absent().map(|(id, boot)| (Arc::clone(id), boot)).collect()
    }

    /// One of them was asked whether anybody listens where it did.
    pub fn asked(&self, id: &Arc<str>, boot: BootId, refuses: bool) {
        let mut hearing = self.hearing();
        if hearing.asked(self.store.time_ms(), id, boot, refuses) {
            self.judge_hearing(&mut hearing);
        }
    }

    /// A lane to a peer takes messages again after it refused some.
    pub fn dropped(&self, port: &Arc<dyn PeerPort>, lane: Lane) {
        let Some(peer) = self.router.nodes.peers.of_port(port) else { return };
        self.say_what_was_dropped(&peer);
        if lane == Lane::Control {
            self.router.tell_again(&peer);
            peer.tell_grown_again();
        }
    }

    /// Time passes: one that vanished long ago is not waited for any more. And what a lane refused is
    /// said, also if the lane took messages again before it was noted, or never was full: a message
    /// can be too large.
    pub(crate) fn tick(&self) {
        for peer in self.router.nodes.peers.all() {
            self.say_what_was_dropped(&peer);
            self.router.tell_again(&peer);
            peer.tell_grown_again();
        }
        if self.router.nodes.ownership.is_deaf() {
            self.judge_hearing(&mut self.hearing());
        }
    }

    /// Tells a node what it was not told; what cannot be said now is said the next time.
    fn say_what_was_dropped(&self, peer: &Linked) {
        let slots = peer.take_untold();
        if slots.is_empty() {
            return;
        }
        metrics::counter!("clarion_drop_notices_total").increment(1);
        if peer.send(&PeerMessage::Dropped { slots: slots.clone() }).is_err() {
            peer.note_all_untold(&slots);
        }
    }

    /// The record of a product was changed here.
    pub(crate) fn product_changed(&self, product: &ProductId) {
        for peer in self.router.nodes.peers.all() {
            // Lost, the record there is read again when it is no longer fresh.
            let _ = peer.send(&PeerMessage::ProductChanged { product: product.clone() });
        }
    }

    /// Everything under a number ends with its link.
    fn gone(&self, number: NodeNumber) {
        if self.router.nodes.peers.remove(number).is_some() {
            Kind::PeerLink.figures().on_end(Kind::PeerLink, false);
        }
        self.router.forwarder.gone(number);
        self.router.nodes.asking.gone(number);
        self.forget_number(number);
    }

    fn forget_number(&self, number: NodeNumber) {
        self.router.nodes.ownership.unset_complete(number, &SlotSet::full());
        self.router.owners.node_gone(number);
    }

    /// Links or members changed.
    fn changed(&self, hearing: &mut Hearing, heal: &Arc<Heal>) {
        let (topology, group) = (self.router.topology(), &self.router.myself.group);
        self.router.nodes.peers.set_readers(|peer| {
            let node = topology.nodes.get(peer.id()).filter(|node| node.boot == peer.port.boot());
            node.is_none_or(|node| node.group == *group)
        });
        let moved = self.router.retarget(heal);
        self.judge_hearing(hearing);
        if !moved.is_empty() {
            self.compare_after(AFTER_MOVE, moved, Arc::clone(heal));
        }
    }

    /// Whether everybody who may append to logs of this group can be heard. While not, the relays
    /// compare heads with the store.
    fn judge_hearing(&self, hearing: &mut Hearing) {
        let now_ms = self.store.time_ms();
        let unheard = hearing.unheard(now_ms, |id, boot| self.is_linked(id, boot));
        let ownership = &self.router.nodes.ownership;
        let unowned = || Slot::all().any(|slot| ownership.target(slot).is_none());
        let deaf = unheard.is_some() || unowned();
        if ownership.set_deaf(deaf, now_ms) != deaf {
            match unheard {
                Some(Unheard::Everybody) => tracing::info!(
                    "nobody was heard of yet: until somebody \
                    is, this node asks the store for news"
                ),
                Some(Unheard::Node(node)) => {
                    tracing::info!(%node, "an owner of logs is not heard: until it is, \
                    or is known to be gone, this node asks the store for news")
                }
                None if deaf => tracing::info!(
                    "not every log has an owner: until it has, this \
                    node asks the store for news"
                ),
                None => tracing::info!("every owner of logs is heard"),
            }
            // In between hints were lost that nobody speaks of.
            self.router.relays().compare(&Arc::new(SlotSet::full()), None);
        }
        metrics::gauge!("clarion_unheard_nodes").set(f64::from(u8::from(deaf)));
    }

    fn compare_after(&self, pause: Duration, slots: SlotSet, heal: Arc<Heal>) {
        heal.count();
        let me = Weak::clone(&self.me);
        task::spawn(async move {
            tokio::time::sleep(pause).await;
            if let Some(cluster) = me.upgrade() {
                cluster.router.relays().compare(&Arc::new(slots), Some(&heal));
            }
        });
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_linked(&self, id: &str, boot: BootId) -> bool {
        self.router.nodes.peers.of(id).is_some_and(|peer| peer.port.boot() == boot.0)
    }
}

#[cfg(test)]
mod tests;
