//! The owners that run on this node: those of inboxes, a fixed pool, and virtual ones of topics and
//! broadcasts, started by the first message for them. Which node owns a log is `router`'s affair; an
//! owner serves whatever reaches it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use clarion_core::placement::{self, Slot as LogSlot, SlotSet};
use clarion_core::{LogKey, LogKind};
use clarion_protocol::Offset;
use clarion_storage::Store;

use crate::inbox_shard::InboxShard;
use crate::intake::{Answer, NewEntry};
use crate::kinds::Kind;
use crate::nodes::{NodeNumber, Nodes};
use crate::owner::{Interest, OwnerArguments, OwnerHandle, OwnerMessage};
use crate::product::Product;
use crate::supervisor::{Child, ChildOf, Slot, SupervisorHandle};
use crate::task;

/// What owners need of the config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnerLimits {
    pub(crate) inbox_shards: u32,
    pub(crate) attempt_ms: u64,
    pub(crate) idle_stop_ms: u64,
}

/// What the others must learn of owners.
pub(crate) trait OwnerEvents: Send + Sync {
    /// The owner of logs in these slots crashed and was started again: it knows of no interest, and
    /// hints are lost.
    fn restarted(&self, slots: &SlotSet);
    /// The owner of this log stopped because it was idle. Interest may have been on its way to it.
    fn stopped(&self, log: &Arc<LogKey>);
}

/// Finds and starts owners.
pub(crate) struct Owners {
    myself: Weak<Owners>,
    store: Arc<dyn Store>,
    nodes: Arc<Nodes>,
    supervisor: SupervisorHandle,
    limits: OwnerLimits,
    events: Weak<dyn OwnerEvents>,
    inbox_shards: Vec<OwnerHandle>,
    /// Owners of topics and broadcasts. Bounded by what is pushed to and read from: idle ones go.
    virtual_owners: RwLock<HashMap<Arc<LogKey>, VirtualOwner>>,
}

/// A virtual owner and how to start it.
#[derive(Clone)]
struct VirtualOwner {
    handle: OwnerHandle,
    child: Arc<dyn Child>,
}

impl Owners {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        nodes: Arc<Nodes>,
        supervisor: SupervisorHandle,
        limits: OwnerLimits,
        events: Weak<dyn OwnerEvents>,
    ) -> Arc<Self> {
        let new = |_| OwnerHandle::new(Slot::new());
        Arc::new_cyclic(|myself| Self {
            myself: Weak::clone(myself),
            store,
            nodes,
            supervisor,
            limits,
            events,
            inbox_shards: (0..limits.inbox_shards).map(new).collect(),
            virtual_owners: RwLock::default(),
        })
    }

    /// Starts the owners of inboxes.
    pub(crate) async fn start(&self) {
        for (number, handle) in self.inbox_shards.iter().enumerate() {
            let mine = |slot: &LogSlot| slot.index() % self.inbox_shards.len() == number;
            let slots: SlotSet = LogSlot::all().filter(mine).collect();
            let label = number.to_string();
            let child = self.child(Kind::InboxShard, label, handle, slots, None, || InboxShard);
            self.supervisor.ensure(Arc::new(child)).await;
        }
    }

    /// The owner of `log`, started if it has to be. `None`: it is quarantined, or the node stops.
    async fn owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        if !log.kind.is_wide() {
            return self.inbox_shard(log);
        }
        let VirtualOwner { handle, child } = self.virtual_owner(log);
        if !handle.slot.is_filled() && !self.supervisor.ensure(child).await {
            return None;
        }
        Some(handle)
    }

    /// Appends through the owner of the entry's log; see [`OwnerHandle::append`]. `None`: the
    /// owner does not start, nothing happens.
    pub(crate) async fn append(&self, entry: &NewEntry) -> Option<Answer> {
        loop {
            let owner = self.owner(&entry.log).await?;
            let (answer, runs) = owner.append(entry.clone());
            // One that stopped because it was idle may be forgotten by now, and this append with
            // it. One that is being restarted is still the same.
            if runs || self.owner(&entry.log).await?.is_same(&owner) {
                return Some(answer);
            }
        }
    }

    /// Sends an entry with ttl 0 to whoever is online.
    pub(crate) async fn ephemeral(&self, batch: Arc<clarion_core::Batch>) -> Result<(), ()> {
        self.owner(&batch.log).await.ok_or(())?.ephemeral(batch)
    }

    /// Whether an append to this log is unresolved here.
    pub(crate) fn holds(&self, log: &Arc<LogKey>) -> bool {
        self.known_owner(log).is_some_and(|owner| owner.intake.holds(log))
    }

    /// A node reads a log.
    pub(crate) fn interest(&self, log: Arc<LogKey>, of: Interest) {
        if let Some(owner) = self.running_owner(&log) {
            return owner.interest(log, of);
        }
        let Some(owners) = self.myself.upgrade() else { return };
        task::spawn(async move {
            if let Some(owner) = owners.owner(&log).await {
                owner.interest(log, of);
            }
        });
    }

    /// It reads it no more.
    pub(crate) fn no_interest(&self, log: Arc<LogKey>, node: NodeNumber) {
        if let Some(owner) = self.running_owner(&log) {
            owner.no_interest(log, node);
        }
    }

    /// Another node appended to a log of this one.
    pub(crate) fn grew(&self, log: Arc<LogKey>, head: Offset) {
        if let Some(owner) = self.running_owner(&log) {
            owner.grew(log, head);
        }
    }

    /// The link to a node ended.
    pub(crate) fn node_gone(&self, node: NodeNumber) {
        self.each(|owner, _| owner.node_gone(node));
    }

    /// A node tells its interest in these slots to another owner from now on.
    pub(crate) fn node_left(&self, node: NodeNumber, slots: &Arc<SlotSet>) {
        self.each(|owner, of| {
            if of.is_none_or(|slot| slots.contains(slot)) {
                owner.node_left(node, Arc::clone(slots));
            }
        });
    }

    fn each(&self, call: impl Fn(&OwnerHandle, Option<LogSlot>)) {
        self.inbox_shards.iter().for_each(|owner| call(owner, None));
        let owners = self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner);
        for (log, owner) in &*owners {
            call(&owner.handle, Some(placement::slot_of(log)));
        }
    }

    fn inbox_shard(&self, log: &LogKey) -> Option<OwnerHandle> {
        let shard = placement::slot_of(log).index() % self.inbox_shards.len().max(1);
        self.inbox_shards.get(shard).cloned()
    }

    /// Running or not: its intake outlives its incarnations.
    fn known_owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        if !log.kind.is_wide() {
            return self.inbox_shard(log);
        }
        let owners = self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(log).map(|owner| owner.handle.clone())
    }

    fn running_owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        self.known_owner(log).filter(|owner| !log.kind.is_wide() || owner.slot.is_filled())
    }

    fn virtual_owner(&self, log: &Arc<LogKey>) -> VirtualOwner {
        if let Some(owner) =
            self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).get(log)
        {
            return owner.clone();
        }
        let mut owners = self.virtual_owners.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let handle = OwnerHandle::new(Slot::new());
            let (slots, label) = ([placement::slot_of(log)].into_iter().collect(), log.to_string());
            let of = Some(Arc::clone(log));
            let child: Arc<dyn Child> = if log.kind == LogKind::Topic {
                Arc::new(self.child(Kind::Topic, label, &handle, slots, of, || crate::topic::Topic))
            } else {
                Arc::new(self.child(Kind::Product, label, &handle, slots, of, || Product))
            };
            VirtualOwner { handle, child }
        };
        owners.entry(Arc::clone(log)).or_insert_with(make).clone()
    }

    fn child<A: ractor::Actor<Msg = OwnerMessage, Arguments = OwnerArguments>>(
        &self,
        kind: Kind,
        label: String,
        handle: &OwnerHandle,
        slots: SlotSet,
        virtual_of: Option<Arc<LogKey>>,
        actor: impl Fn() -> A + Send + Sync + 'static,
    ) -> ChildOf<A, impl Fn(u32) -> (A, OwnerArguments) + Send + Sync + 'static> {
        let arguments = OwnerArguments {
            store: Arc::clone(&self.store),
            nodes: Arc::clone(&self.nodes),
            attempt_ms: self.limits.attempt_ms,
            idle_stop_ms: if virtual_of.is_some() { self.limits.idle_stop_ms } else { 0 },
            handle: handle.clone(),
        };
        let (events, of) = (Weak::clone(&self.events), handle.clone());
        let (myself, refused) = (Weak::clone(&self.myself), Arc::clone(&handle.intake));
        ChildOf {
            kind,
            label,
            slot: Arc::clone(&handle.slot),
            make: move |_| (actor(), arguments.clone()),
            started: Box::new(move |incarnation| {
                // I12: the first incarnation has lost nothing.
                if incarnation > 1
                    && let Some(events) = events.upgrade()
                {
                    events.restarted(&slots);
                }
                of.started();
            }),
            quarantined: Box::new(move || refused.drop_pending()),
            forgotten: Box::new(move || {
                if let (Some(log), Some(owners)) = (&virtual_of, myself.upgrade()) {
                    owners.forget(log);
                }
            }),
        }
    }

    /// An idle owner has stopped. What reached it too late starts it again.
    fn forget(&self, log: &Arc<LogKey>) {
        let mut owners = self.virtual_owners.write().unwrap_or_else(PoisonError::into_inner);
        let Some(owner) = owners.get(log).filter(|owner| !owner.handle.slot.is_filled()) else {
            return;
        };
        if owner.handle.intake.is_empty() {
            owners.remove(log);
            drop(owners);
            if let Some(events) = self.events.upgrade() {
                events.stopped(log);
            }
        } else {
            let (supervisor, child) = (self.supervisor.clone(), Arc::clone(&owner.child));
            task::spawn(async move {
                supervisor.ensure(child).await;
            });
        }
    }

    /// Returns once every owner of inboxes has taken a message from its mailbox.
    pub(crate) async fn progress(&self) {
        for owner in &self.inbox_shards {
            owner.progress().await;
        }
    }

    /// Virtual owners that are known, running or not.
    pub(crate) fn virtual_owner_count(&self) -> usize {
        self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use clarion_core::Body;
    use clarion_protocol::{MessageId, ProductId, TopicName};
    use clarion_storage::LogLimits;
    use clarion_storage::memory::MemoryStore;

    use super::*;
    use crate::cluster::ownership::Ownership;
    use crate::cluster::peers::LinkedPeers;
    use crate::relay::Relays;

    struct Silent;

    impl OwnerEvents for Silent {
        fn restarted(&self, _: &SlotSet) {}
        fn stopped(&self, _: &Arc<LogKey>) {}
    }

    #[tokio::test]
    async fn an_owner_that_is_being_restarted_still_holds_its_appends_i8() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let nodes = Nodes::new(
            Arc::new(Relays::new(1)),
            Arc::new(LinkedPeers::new()),
            Ownership::new(false),
            Arc::default(),
            Arc::clone(&store),
        );
        let supervisor = SupervisorHandle::start().await.unwrap();
        let limits = OwnerLimits { inbox_shards: 1, attempt_ms: 300, idle_stop_ms: 0 };
        let events: Weak<dyn OwnerEvents> = Weak::<Silent>::new();
        let owners = Owners::new(store, nodes, supervisor, limits, events);
        let log = LogKey::topic(&ProductId::new("demo").unwrap(), &TopicName::new("news").unwrap());
        let entry = NewEntry {
            log: Arc::clone(&log),
            message: MessageId(7),
            expires_at_ms: u64::MAX,
            body: Body::Tombstone,
            limits: LogLimits { entries_max: 10, bytes_max: 1000, evict: true },
            first_attempt_ms: None,
            begun_ms: 0,
            deadline_ms: u64::MAX,
        };
        assert!(!owners.holds(&log));
        // Known, and not running: as between two incarnations.
        let (_answer, runs) = owners.virtual_owner(&log).handle.append(entry);
        assert!(!runs);
        assert!(owners.holds(&log));
    }
}
