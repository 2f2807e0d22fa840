//! Which node a log's owner is on (step 2 of the way of a push), and the way there: to an owner of
//! this node, or over a link to one that runs elsewhere. Also the way back: whom the relays of this
//! node tell what they read, and who is to be told when ownership moves (I12).
//!
//! A node that is alone owns everything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use clarion_core::placement::{self, Slot, SlotSet};
use clarion_core::{Batch, LogKey};
use clarion_storage::Store;

use crate::cluster::forward::{Forwarder, Route};
use crate::cluster::heals::Heal;
use crate::cluster::peers::Linked;
use crate::cluster::pending::Pending;
use crate::cluster::topology::Topology;
use crate::cluster::wire::{Announced, PeerMessage};
use crate::intake::NewEntry;
use crate::nodes::{NodeNumber, Nodes, THIS_NODE};
use crate::owner::Interest;
use crate::owners::{OwnerEvents, OwnerLimits, Owners};
use crate::relay::Relays;
use crate::relay::announce::Announcement;
use crate::supervisor::SupervisorHandle;

/// This node among others.
#[derive(Debug, Clone)]
pub(crate) struct Myself {
    pub(crate) id: Arc<str>,
    pub(crate) group: Arc<str>,
    /// It is in a cluster; else it owns everything.
    pub(crate) clustered: bool,
}

/// Finds owners and readers.
pub(crate) struct Router {
    me: Weak<Router>,
    pub(crate) myself: Myself,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) forwarder: Arc<Forwarder>,
    store: Arc<dyn Store>,
    topology: RwLock<Arc<Topology>>,
    /// Held while targets change and while an announcement is completed: a slot's former owner is
    /// never told that it knows everything after it was told that it will not.
    moves: Mutex<()>,
}

impl Router {
    pub(crate) fn new(
        myself: Myself,
        nodes: Arc<Nodes>,
        store: Arc<dyn Store>,
        supervisor: SupervisorHandle,
        limits: OwnerLimits,
        forward_ms: u64,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let events: Weak<dyn OwnerEvents> = Weak::clone(me) as Weak<dyn OwnerEvents>;
            let owners =
                Owners::new(Arc::clone(&store), Arc::clone(&nodes), supervisor, limits, events);
            let router: Weak<dyn Route> = Weak::clone(me) as Weak<dyn Route>;
            let forwarder = Forwarder::new(
                Arc::clone(&store),
                Arc::clone(&owners),
                Arc::clone(&nodes.peers),
                router,
                forward_ms,
            );
            Self {
                me: Weak::clone(me),
                myself,
                nodes,
                owners,
                forwarder,
                store,
                topology: RwLock::default(),
                moves: Mutex::default(),
            }
        })
    }

    /// Starts the owners of inboxes.
    pub(crate) async fn start(&self) {
        self.owners.start().await;
    }

    pub(crate) fn relays(&self) -> &Arc<Relays> {
        &self.nodes.local
    }

    /// Who is in the cluster.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_topology(&self, topology: Arc<Topology>) {
        *self.topology.write().unwrap_or_else(PoisonError::into_inner) = topology;
    }

    /// Appends through the owner of the entry's log, wherever it is. `None`: the owner does not
    /// start, nothing happens.
    pub(crate) async fn append(&self, entry: &NewEntry, group: &Arc<str>) -> Option<Pending> {
        // I8: what is unresolved on one way holds later appends of the log from any other.
        if self.myself.clustered && !self.forwarder.holds(&entry.log) {
            // Without a store here, the forwarder finds somebody who has one.
            let here = self.is_here(group, placement::slot_of(&entry.log))
                && self.store.health().writable.is_ok();
            if here || self.owners.holds(&entry.log) {
                return self.owners.append(entry).await.map(Pending::Here);
            }
        }
        if self.myself.clustered {
            return Some(self.forwarder.forward(entry.clone(), Arc::clone(group)));
        }
        self.owners.append(entry).await.map(Pending::Here)
    }

    fn is_here(&self, group: &Arc<str>, slot: Slot) -> bool {
        self.topology().owner(group, slot).is_some_and(|owner| *owner == self.myself.id)
    }

    /// Sends an entry with ttl 0 to whoever is online: at most once.
    pub(crate) async fn ephemeral(&self, batch: Arc<Batch>, group: &Arc<str>) -> Result<(), ()> {
        let slot = placement::slot_of(&batch.log);
        if !self.myself.clustered || self.is_here(group, slot) {
            return self.owners.ephemeral(batch).await;
        }
        for id in self.topology().order(group, slot) {
            if id == self.myself.id {
                return self.owners.ephemeral(batch).await;
            }
            let message = PeerMessage::Ephemeral { batch: Arc::clone(&batch) };
            if self.nodes.peers.of(&id).is_some_and(|peer| peer.send(&message).is_ok()) {
                return Ok(());
            }
        }
        Err(())
    }

    /// Announces that this node reads `log`; its relay gets the owner's confirmation.
    pub(crate) fn interest(&self, log: Arc<LogKey>, since_ms: u64, generation: u64) {
        let slot = placement::slot_of(&log);
        match self.nodes.ownership.target(slot) {
            Some(THIS_NODE) => {
                let of = Interest { node: THIS_NODE, since_ms, generation };
                self.owners.interest(log, of);
            }
            Some(node) => {
                let logs = vec![Announced { log, generation }];
                self.tell_interest(node, PeerMessage::Interest { logs, since_ms }, slot);
            }
            // Nobody confirms and nobody hints: the log is compared with the store from now on.
            None => self.nodes.confirm_from_store(THIS_NODE, log),
        }
    }

    fn tell_interest(&self, node: NodeNumber, message: PeerMessage, slot: Slot) {
        if let Some(peer) = self.nodes.peers.get(node)
            && peer.send(&message).is_err()
        {
            peer.note_unannounced(&[slot].into_iter().collect());
        }
    }

    /// Announces that this node reads it no more: to the one it is told to, and to `listed`, who
    /// still believed it.
    pub(crate) fn no_interest(&self, log: &Arc<LogKey>, listed: Option<NodeNumber>) {
        let target = self.nodes.ownership.target(placement::slot_of(log));
        for node in [target, listed.filter(|node| Some(*node) != target)].into_iter().flatten() {
            if node == THIS_NODE {
                self.owners.no_interest(Arc::clone(log), THIS_NODE);
            } else if let Some(peer) = self.nodes.peers.get(node) {
                // Lost, it costs a hint that nobody reads.
                let _ = peer.send(&PeerMessage::NoInterest { logs: vec![Arc::clone(log)] });
            }
        }
    }

    /// Has the relays tell `to` all they read of these slots, and then that this was all.
    pub(crate) fn announce(&self, slots: SlotSet, to: NodeNumber, heal: Option<&Arc<Heal>>) {
        if !slots.is_empty() {
            let (router, _heal) = (Weak::clone(&self.me), heal.cloned());
            self.relays().announce(&Arc::new(Announcement { slots, to, router, _heal }));
        }
    }

    /// An announcement is complete, but for slots that moved on meanwhile.
    pub(crate) fn announced(&self, slots: &SlotSet, to: NodeNumber) {
        let _moves = self.moves();
        let still = |slot: &Slot| self.nodes.ownership.target(*slot) == Some(to);
        let slots: SlotSet = slots.iter().filter(still).collect();
        if slots.is_empty() {
            return;
        }
        if to == THIS_NODE {
            self.nodes.ownership.set_complete(THIS_NODE, &slots);
        } else if let Some(peer) = self.nodes.peers.get(to)
            && peer.send(&PeerMessage::Complete { slots: slots.clone() }).is_err()
        {
            peer.note_unannounced(&slots);
        }
    }

    /// Says anew whom this node tells what it reads, after members or links changed. Returns the
    /// slots that moved from one node to another.
    pub(crate) fn retarget(&self, heal: &Arc<Heal>) -> SlotSet {
        let moves = self.moves();
        let (topology, now_ms) = (self.topology(), self.store.time_ms());
        let table = topology.tables.get(&self.myself.group);
        let mut numbers: Vec<(Arc<str>, Option<NodeNumber>)> = Vec::new();
        let mut number_of = |id: &Arc<str>| match numbers.iter().find(|(known, _)| known == id) {
            Some((_, number)) => *number,
            None => {
                let link = || self.nodes.peers.of(id).map(|peer| peer.number);
                let number = if *id == self.myself.id { Some(THIS_NODE) } else { link() };
                numbers.push((Arc::clone(id), number));
                number
            }
        };
        let mut left: Vec<(NodeNumber, SlotSet)> = Vec::new();
        let mut gained: Vec<(NodeNumber, SlotSet)> = Vec::new();
        let mut moved = SlotSet::new();
        for slot in Slot::all() {
            let target = table.and_then(|table| table.owner(slot)).and_then(&mut number_of);
            let before = self.nodes.ownership.set_target(slot, target, now_ms);
            if before == target {
                continue;
            }
            moved.insert(slot);
            before.into_iter().for_each(|node| add(&mut left, node, slot));
            target.into_iter().for_each(|node| add(&mut gained, node, slot));
        }
        for (node, slots) in left {
            self.leave(node, slots);
        }
        drop(moves); // an announcement may be complete before it is out of hand
        for (node, slots) in gained {
            self.announce(slots, node, Some(heal));
        }
        moved
    }

    /// Tells a former owner that it will not be told any more.
    fn leave(&self, node: NodeNumber, slots: SlotSet) {
        if node == THIS_NODE {
            self.nodes.ownership.unset_complete(THIS_NODE, &slots);
            self.owners.node_left(THIS_NODE, &Arc::new(slots));
        } else if let Some(peer) = self.nodes.peers.get(node)
            && peer.send(&PeerMessage::Leave { slots: slots.clone() }).is_err()
        {
            // It goes on hinting what it knows of; the rest is compared with the store.
            peer.note_unannounced(&slots);
        }
    }

    /// The lane to a peer takes messages again: what could not be told is told now.
    pub(crate) fn tell_again(&self, peer: &Linked) {
        let slots = peer.take_unannounced();
        if slots.is_empty() {
            return;
        }
        let mine = |slot: &Slot| self.nodes.ownership.target(*slot) == Some(peer.number);
        let (again, gone): (Vec<_>, Vec<_>) = slots.iter().partition(mine);
        let gone: SlotSet = gone.into_iter().collect();
        if !gone.is_empty() {
            let _moves = self.moves();
            self.leave(peer.number, gone);
        }
        self.announce(again.into_iter().collect(), peer.number, None);
    }

    fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(to: &mut Vec<(NodeNumber, SlotSet)>, node: NodeNumber, slot: Slot) {
    match to.iter_mut().find(|(known, _)| *known == node) {
        Some((_, slots)) => drop(slots.insert(slot)),
        None => to.push((node, [slot].into_iter().collect())),
    }
}

impl Route for Router {
    fn order(&self, group: &str, slot: Slot) -> Vec<Arc<str>> {
        self.topology().order(group, slot)
    }

    fn is_me(&self, id: &str) -> bool {
        *self.myself.id == *id
    }
}

impl OwnerEvents for Router {
    fn restarted(&self, slots: &SlotSet) {
        self.nodes.ownership.forget_complete(slots);
        let mine = |slot: &Slot| self.nodes.ownership.target(*slot) == Some(THIS_NODE);
        self.announce(slots.iter().filter(mine).collect(), THIS_NODE, None);
        for peer in self.nodes.peers.all() {
            let message = PeerMessage::AnnounceAgain { slots: slots.clone() };
            if peer.send(&message).is_err() {
                peer.note_all_untold(slots);
            }
        }
    }

    fn stopped(&self, log: &Arc<LogKey>) {
        self.relays().owner_changed(Arc::clone(log), THIS_NODE);
        for peer in self.nodes.peers.all() {
            if peer.send(&PeerMessage::OwnerChanged { log: Arc::clone(log) }).is_err() {
                peer.note_untold(placement::slot_of(log));
            }
        }
    }
}
