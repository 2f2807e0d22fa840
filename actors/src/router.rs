//! Who owns a log (step 2 of the way of a push): placement, and the actors of this node that are
//! started by the first message for them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use clarion_core::{LogKey, LogKind, placement};
use clarion_storage::Store;

use crate::inbox_shard::InboxShard;
use crate::intake::{Answer, NewEntry};
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
    virtual_owners: RwLock<HashMap<Arc<LogKey>, VirtualOwner>>,
}

/// A virtual owner and how to start it.
#[derive(Clone)]
struct VirtualOwner {
    handle: OwnerHandle,
    child: Arc<dyn Child>,
}

impl Router {
    /// Starts the owners of inboxes.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        relays: Arc<Relays>,
        supervisor: SupervisorHandle,
        limits: RouterLimits,
    ) -> Arc<Self> {
        let shards: Vec<_> =
            (0..limits.inbox_shards).map(|_| OwnerHandle::new(Slot::new())).collect();
        let router = Arc::new_cyclic(|myself| Self {
            myself: Weak::clone(myself),
            store,
            relays,
            supervisor,
            limits,
            inbox_shards: shards.clone(),
            virtual_owners: RwLock::default(),
        });
        for (number, handle) in shards.into_iter().enumerate() {
            let id = OwnerId::InboxShard(number as u32);
            let label = number.to_string();
            let child = router.child(Kind::InboxShard, label, handle, id, 0, || InboxShard);
            router.supervisor.ensure(Arc::new(child)).await;
        }
        router
    }

    /// The owner of `log`, started if it has to be. `None`: it is quarantined, or the node stops.
    pub(crate) async fn owner(&self, log: &Arc<LogKey>) -> Option<OwnerHandle> {
        if let OwnerId::InboxShard(shard) = self.owner_id(log) {
            return self.inbox_shards.get(shard as usize).cloned();
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
                owners
                    .get(&log)
                    .map(|owner| owner.handle.clone())
                    .filter(|owner| owner.slot.is_filled())
            }
        }
    }

    fn virtual_owner(&self, log: &Arc<LogKey>) -> VirtualOwner {
        if let Some(owner) =
            self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).get(log)
        {
            return owner.clone();
        }
        let mut owners = self.virtual_owners.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let (id, handle) = (OwnerId::Log(Arc::clone(log)), OwnerHandle::new(Slot::new()));
            let (of, idle_ms, label) = (handle.clone(), self.limits.idle_stop_ms, log.to_string());
            let child: Arc<dyn Child> = if log.kind == LogKind::Topic {
                Arc::new(self.child(Kind::Topic, label, of, id, idle_ms, || crate::topic::Topic))
            } else {
                Arc::new(self.child(Kind::Product, label, of, id, idle_ms, || Product))
            };
            VirtualOwner { handle, child }
        };
        owners.entry(Arc::clone(log)).or_insert_with(make).clone()
    }

    fn child<A: ractor::Actor<Msg = OwnerMessage, Arguments = OwnerArguments>>(
        &self,
        kind: Kind,
        label: String,
        handle: OwnerHandle,
        id: OwnerId,
        idle_stop_ms: u64,
        actor: impl Fn() -> A + Send + Sync + 'static,
    ) -> ChildOf<A, impl Fn(u32) -> (A, OwnerArguments) + Send + Sync + 'static> {
        let arguments = OwnerArguments {
            store: Arc::clone(&self.store),
            nodes: Nodes { local: Arc::clone(&self.relays) },
            attempt_ms: self.limits.attempt_ms,
            idle_stop_ms,
            handle: handle.clone(),
            incarnation: 0,
        };
        let slot = Arc::clone(&handle.slot);
        let (relays, of) = (Arc::clone(&self.relays), id.clone());
        let (myself, refused) = (Weak::clone(&self.myself), Arc::clone(&handle.intake));
        ChildOf {
            kind,
            label,
            slot,
            make: move |incarnation| (actor(), OwnerArguments { incarnation, ..arguments.clone() }),
            started: Box::new(move |incarnation| {
                // I12: a shard's first incarnation comes before all relays; a virtual owner may
                // have been forgotten with interest on its way to it.
                if incarnation > 1 || matches!(of, OwnerId::Log(_)) {
                    relays.owner_changed(of.clone());
                }
                handle.started();
            }),
            quarantined: Box::new(move || refused.drop_pending()),
            forgotten: Box::new(move || {
                if let (OwnerId::Log(log), Some(router)) = (&id, myself.upgrade()) {
                    router.forget(log);
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
            self.relays.owner_changed(OwnerId::Log(Arc::clone(log)));
        } else {
            let (supervisor, child) = (self.supervisor.clone(), Arc::clone(&owner.child));
            task::spawn(async move {
                supervisor.ensure(child).await;
            });
        }
    }

    /// Virtual owners that are known, running or not.
    pub(crate) fn virtual_owner_count(&self) -> usize {
        self.virtual_owners.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
