//! Who owns a log (step 2 of the way of a push): placement, and the actors of this node that are
//! started by the first message for them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use clarion_core::{LogKey, LogKind, placement};
use clarion_storage::Store;

use crate::inbox_shard::InboxShard;
use crate::kinds::Kind;
use crate::nodes::{NodeNumber, Nodes};
use crate::owner::{OwnerArguments, OwnerHandle, OwnerMessage};
use crate::product::Product;
use crate::relay::{OwnerId, Relays};
use crate::supervisor::{Child, ChildOf, Slot, SupervisorHandle};
use crate::task;

/// What the router needs of the config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouterLimits {
    pub(crate) inbox_shards: u32,
    pub(crate) attempt_ms: u64,
    pub(crate) idle_stop_ms: u64,
}

/// Finds and starts owners.
pub(crate) struct Router {
    myself: Weak<Router>,
    store: Arc<dyn Store>,
    relays: Arc<Relays>,
    supervisor: SupervisorHandle,
    limits: RouterLimits,
    inbox_shards: Vec<OwnerHandle>,
    /// Owners of topics and broadcasts. Bounded by what is pushed to and read from: idle ones go.
    virtual_owners: RwLock<HashMap<Arc<LogKey>, Arc<dyn VirtualOwner>>>,
}

/// A virtual owner and how to start it.
trait VirtualOwner: Child {
    fn handle(&self) -> OwnerHandle;
}

impl<A, F> VirtualOwner for ChildOf<A, F>
where
    A: ractor::Actor<Msg = OwnerMessage>,
    F: Fn(u32) -> (A, A::Arguments) + Send + Sync + 'static,
{
    fn handle(&self) -> OwnerHandle {
        OwnerHandle { slot: Arc::clone(&self.slot) }
    }
}

impl Router {
    /// Starts the owners of inboxes.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        relays: Arc<Relays>,
        supervisor: SupervisorHandle,
        limits: RouterLimits,
    ) -> Arc<Self> {
        let slots: Vec<_> = (0..limits.inbox_shards).map(|_| Slot::new()).collect();
        let router = Arc::new_cyclic(|myself| Self {
            myself: Weak::clone(myself),
            store,
            relays,
            supervisor,
            limits,
            inbox_shards: slots.iter().map(|slot| OwnerHandle { slot: Arc::clone(slot) }).collect(),
            virtual_owners: RwLock::default(),
        });
        for (number, slot) in slots.into_iter().enumerate() {
            let id = OwnerId::InboxShard(number as u32);
            let child = router.child(Kind::InboxShard, number.to_string(), slot, id, 0, || InboxShard);
            router.supervisor.ensure(Arc::new(child)).await;
        }
        router
    }

    /// The owner of `log`, started if it has to be. `None`: it is quarantined, or the node stops.
    pub(crate) async fn owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        if let OwnerId::InboxShard(shard) = self.owner_id(log) {
            return self.inbox_shards.get(shard as usize).cloned();
        }
        let owner = self.virtual_owner(log);
        let handle = owner.handle();
        if !handle.slot.is_filled() && !self.supervisor.ensure(owner.as_child()).await {
            return None;
        }
        Some(handle)
    }

    /// Which owner a log has.
    pub(crate) fn owner_id(&self, log: &Arc<LogKey>) -> OwnerId {
        if log.kind.is_wide() {
            return OwnerId::Log(Arc::clone(log));
        }
        OwnerId::InboxShard(placement::inbox_shard_of(
            &log.product,
            log.kind,
            &log.name,
            self.limits.inbox_shards,
        ))
    }

    /// Announces that `node` reads `log`; its relay gets the owner's confirmation.
    pub(crate) fn interest(&self, log: Arc<LogKey>, node: NodeNumber, since_ms: u64) {
        self.with_owner(log, move |owner, log| owner.interest(log, node, since_ms));
    }

    /// Announces that `node` reads it no more.
    pub(crate) fn no_interest(&self, log: Arc<LogKey>, node: NodeNumber) {
        if let Some(owner) = self.running_owner(&log) {
            owner.no_interest(log, node);
        }
    }

    /// Announces that `node` has told `owner` everything.
    pub(crate) fn interest_complete(&self, owner: &OwnerId, node: NodeNumber) {
        let handle = match owner {
            OwnerId::InboxShard(shard) => self.inbox_shards.get(*shard as usize).cloned(),
            OwnerId::Log(log) => self.running_owner(log),
        };
        if let Some(handle) = handle {
            handle.interest_complete(node);
        }
    }

    /// Calls the owner of a log, now if it runs, else as soon as it does.
    fn with_owner(
        &self,
        log: Arc<LogKey>,
        call: impl FnOnce(&OwnerHandle, Arc<LogKey>) + Send + 'static,
    ) {
        if let Some(owner) = self.running_owner(&log) {
            return call(&owner, log);
        }
        let Some(router) = self.myself.upgrade() else { return };
        task::spawn(async move {
            if let Some(owner) = router.owner(&log).await {
                call(&owner, log);
            }
        });
    }

    fn running_owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        match self.owner_id(log) {
            OwnerId::InboxShard(shard) => self.inbox_shards.get(shard as usize).cloned(),
            OwnerId::Log(log) => {
                let owners = self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner);
                owners.get(&log).map(|owner| owner.handle()).filter(|owner| owner.slot.is_filled())
            }
        }
    }

    fn virtual_owner(&self, log: &Arc<LogKey>) -> Arc<dyn VirtualOwner> {
        if let Some(owner) =
            self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).get(log)
        {
            return Arc::clone(owner);
        }
        let mut owners = self.virtual_owners.write().unwrap_or_else(PoisonError::into_inner);
        let make = || -> Arc<dyn VirtualOwner> {
            let (id, slot) = (OwnerId::Log(Arc::clone(log)), Slot::new());
            let idle_ms = self.limits.idle_stop_ms;
            if log.kind == LogKind::Topic {
                let topic = || crate::topic::Topic;
                Arc::new(self.child(Kind::Topic, log.to_string(), slot, id, idle_ms, topic))
            } else {
                let product = || Product;
                Arc::new(self.child(Kind::Product, log.to_string(), slot, id, idle_ms, product))
            }
        };
        Arc::clone(owners.entry(Arc::clone(log)).or_insert_with(make))
    }

    fn child<A: ractor::Actor<Msg = OwnerMessage, Arguments = OwnerArguments>>(
        &self,
        kind: Kind,
        label: String,
        slot: Arc<Slot<OwnerMessage>>,
        id: OwnerId,
        idle_stop_ms: u64,
        actor: impl Fn() -> A + Send + Sync + 'static,
    ) -> ChildOf<A, impl Fn(u32) -> (A, OwnerArguments) + Send + Sync + 'static> {
        let arguments = OwnerArguments {
            store: Arc::clone(&self.store),
            nodes: Nodes { local: Arc::clone(&self.relays) },
            attempt_ms: self.limits.attempt_ms,
            idle_stop_ms,
            slot: Arc::clone(&slot),
            incarnation: 0,
        };
        let (relays, restarted_id) = (Arc::clone(&self.relays), id.clone());
        let myself = Weak::clone(&self.myself);
        ChildOf {
            kind,
            label,
            slot,
            make: move |incarnation| (actor(), OwnerArguments { incarnation, ..arguments.clone() }),
            restarted: Box::new(move || relays.owner_restarted(restarted_id.clone())),
            forgotten: Box::new(move || {
                if let (OwnerId::Log(log), Some(router)) = (&id, myself.upgrade()) {
                    router.forget(log);
                }
            }),
        }
    }

    fn forget(&self, log: &Arc<LogKey>) {
        let mut owners = self.virtual_owners.write().unwrap_or_else(PoisonError::into_inner);
        if owners.get(log).is_some_and(|owner| !owner.handle().slot.is_filled()) {
            owners.remove(log);
        }
    }

    /// Virtual owners that are known, running or not.
    pub(crate) fn virtual_owner_count(&self) -> usize {
        self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl dyn VirtualOwner {
    fn as_child(self: Arc<Self>) -> Arc<dyn Child> {
        self
    }
}
