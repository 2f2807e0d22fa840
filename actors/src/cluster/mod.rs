//! This node among others: what happens when links and members come and go, and what other nodes
//! say. The routing itself is `router`; here its events come in. Nothing in here waits.
//!
//! Links are given from outside ([`PeerPort`]), so that tests cut them; `start` makes real ones.

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

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

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
/// How long one that vanished without a word may still be appending, in milliseconds. After that the
/// slow head check has to do.
const MISSING_MS: u64 = 10 * 60 * 1000;
/// Members that vanished, as far as they are remembered.
const MISSING_MAX: usize = 256;

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
    members: Mutex<Members>,
    /// Messages of appends from other nodes that wait for their owner here.
    serving: Arc<AtomicUsize>,
    pub(crate) heals: Arc<Heals>,
}

/// Members that cannot be heard, beside those that live and have no link.
#[derive(Default)]
struct Members {
    /// Vanished without a word, with the time: they may be dead, or cut off from this node alone.
    missing: HashMap<(Arc<str>, u64), u64>,
    /// Known to be dead: nobody listens where they did.
    dead: HashMap<(Arc<str>, u64), u64>,
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
            members: Mutex::default(),
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
        let mut members = self.members();
        let before = self.router.topology();
        let now_ms = self.store.time_ms();
        for (id, node) in &before.nodes {
            let stays = topology.nodes.get(id).is_some_and(|now| now.boot == node.boot);
            let counts = node.broker && node.group == self.router.myself.group;
            let key = (Arc::clone(id), node.boot);
            if stays || !counts || node.draining || *id == self.router.myself.id {
                continue;
            }
            if !members.dead.contains_key(&key) && members.missing.len() < MISSING_MAX {
                members.missing.insert(key, now_ms);
            }
        }
        // One that came back with another boot is not where it was; with the same one it is here.
        members.missing.retain(|(id, _), _| !topology.nodes.contains_key(id));
        // Who comes back after its address refused lives: something on the way refused.
        let boot_in = |of: &Topology, id: &Arc<str>| of.nodes.get(id).map(|node| node.boot);
        members.dead.retain(|(id, boot), _| {
            boot_in(&topology, id) != Some(*boot) || boot_in(&before, id) == Some(*boot)
        });
        self.router.set_topology(topology);
        self.changed(&mut members, &heal);
    }

    /// A link came up.
    pub fn up(&self, port: Arc<dyn PeerPort>) {
        let heal = self.heals.begin(After::LinkUp);
        let mut members = self.members();
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
        members.missing.retain(|(known, _), _| *known != id);
        members.dead.remove(&(id, boot));
        // What was told of products while there was no link is not known.
        self.products.all_stale();
        self.changed(&mut members, &heal);
        // The other end compares, for what was appended here before it counted as a reader.
        if peer.send(&PeerMessage::Hello).is_err() {
            peer.note_all_untold(&SlotSet::full());
        }
    }

    /// A link ended; told again with `refused` when nobody listens at its address any more, which
    /// means that the process is dead.
    pub fn down(&self, port: &Arc<dyn PeerPort>, refused: bool) {
        let heal = self.heals.begin(After::LinkDown);
        let mut members = self.members();
        let key = (Arc::clone(port.id()), port.boot());
        let peer = self.router.nodes.peers.of_port(port);
        if let Some(peer) = &peer {
            tracing::warn!(node = %key.0, "the link to a node ended");
            self.gone(peer.number);
        }
        if refused {
            members.missing.remove(&key);
            let now_ms = self.store.time_ms();
            members.dead.retain(|_, since_ms| *since_ms + MISSING_MS > now_ms);
            if members.dead.len() < MISSING_MAX {
                members.dead.insert(key, now_ms);
            }
        }
        if peer.is_some() || refused {
            self.changed(&mut members, &heal);
            self.compare_after(AFTER_DOWN, SlotSet::full(), heal);
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
            self.judge_hearing(&mut self.members());
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
    fn changed(&self, members: &mut Members, heal: &Arc<Heal>) {
        let (topology, group) = (self.router.topology(), &self.router.myself.group);
        self.router.nodes.peers.set_readers(|peer| {
            let node = topology.nodes.get(peer.id()).filter(|node| node.boot == peer.port.boot());
            node.is_none_or(|node| node.group == *group)
        });
        let moved = self.router.retarget(heal);
        self.judge_hearing(members);
        if !moved.is_empty() {
            self.compare_after(AFTER_MOVE, moved, Arc::clone(heal));
        }
    }

    /// Whether everybody who may append to logs of this group can be heard. While not, the relays
    /// compare heads with the store.
    fn judge_hearing(&self, members: &mut Members) {
        let now_ms = self.store.time_ms();
        members.missing.retain(|_, since_ms| *since_ms + MISSING_MS > now_ms);
        let (topology, me) = (self.router.topology(), &self.router.myself);
        let unheard = topology.nodes.iter().find(|(id, node)| {
            let counts = node.broker && node.group == me.group && **id != me.id;
            let link = self.router.nodes.peers.of(id);
            let dead = || members.dead.contains_key(&(Arc::clone(*id), node.boot));
            counts && link.is_none_or(|peer| peer.port.boot() != node.boot) && !dead()
        });
        let missing = members.missing.keys().next().map(|(id, _)| id);
        let unheard = unheard.map(|(id, _)| id).or(missing);
        let ownership = &self.router.nodes.ownership;
        let unowned = || Slot::all().any(|slot| ownership.target(slot).is_none());
        let deaf = unheard.is_some() || unowned();
        if ownership.set_deaf(deaf, now_ms) != deaf {
            match unheard {
                Some(node) => tracing::info!(%node, "an owner of logs is not heard: until it is, \
                    or is known to be gone, this node asks the store for news"),
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

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
