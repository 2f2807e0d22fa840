//! Whom this node, as a gateway, tells what it reads; and which nodes have told this one, as an
//! owner, everything (I12). By slot: the unit in which ownership moves.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use clarion_core::placement::{SLOTS, Slot, SlotSet};

use crate::nodes::{NodeNumber, NodeSet, THIS_NODE};

/// Stands for no node: the owner is not known, or there is no link to it.
const NOBODY: u8 = u8::MAX;
/// How long others may go on with an old view of who owns what, in milliseconds: what an owner
/// remembers of a log does not count as all there was until it has owned it for so long.
const OLD_VIEW_MS: u64 = 3000;

/// See the module. 100 KiB.
pub(crate) struct Ownership {
    targets: Box<[AtomicU8]>,
    /// Nodes that have told everything about a slot. All others get every hint.
    complete: RwLock<Box<[NodeSet]>>,
    /// Since when this node owns a slot by its own view, in milliseconds of the store.
    owned_since_ms: Box<[AtomicU64]>,
    /// Some node that may append to logs of this group cannot be heard.
    deaf: AtomicBool,
    hears_all_since_ms: AtomicU64,
}

impl Ownership {
    /// `alone`: this node owns everything, for good.
    pub(crate) fn new(alone: bool) -> Arc<Self> {
        let (target, since_ms) = if alone { (THIS_NODE.0, 0) } else { (NOBODY, u64::MAX) };
        let slots = || 0..usize::from(SLOTS);
        // Alone, no relay has anything to tell yet when owners start.
        let complete = if alone { NodeSet::ALL } else { NodeSet::NONE };
        Arc::new(Self {
            targets: slots().map(|_| AtomicU8::new(target)).collect(),
            complete: RwLock::new(slots().map(|_| complete).collect()),
            owned_since_ms: slots().map(|_| AtomicU64::new(since_ms)).collect(),
            deaf: AtomicBool::new(false),
            hears_all_since_ms: AtomicU64::new(0),
        })
    }

    /// Who is told what this node reads of a slot; `None`: there is no link to its owner.
    pub(crate) fn target(&self, slot: Slot) -> Option<NodeNumber> {
        let target = self.targets.get(slot.index())?.load(Ordering::Acquire);
        (target != NOBODY).then_some(NodeNumber(target))
    }

    /// Changes that; returns who it was.
    pub(crate) fn set_target(
        &self,
        slot: Slot,
        target: Option<NodeNumber>,
        now_ms: u64,
    ) -> Option<NodeNumber> {
        let before = self.target(slot);
        if before == target {
            return before;
        }
        if let Some(since) = self.owned_since_ms.get(slot.index()) {
            let ms = if target == Some(THIS_NODE) { now_ms } else { u64::MAX };
            since.store(ms, Ordering::Release);
        }
        if let Some(of) = self.targets.get(slot.index()) {
            of.store(target.map_or(NOBODY, |node| node.0), Ordering::Release);
        }
        before
    }

    /// Which nodes have told all they read of a slot.
    pub(crate) fn complete(&self, slot: Slot) -> NodeSet {
        let complete = self.complete.read().unwrap_or_else(PoisonError::into_inner);
        complete.get(slot.index()).copied().unwrap_or(NodeSet::NONE)
    }

    /// `node` has told all it reads of these.
    pub(crate) fn set_complete(&self, node: NodeNumber, slots: &SlotSet) {
        self.change(slots, |set| set.insert(node));
    }

    /// It tells it to another node from now on, or has gone.
    pub(crate) fn unset_complete(&self, node: NodeNumber, slots: &SlotSet) {
        self.change(slots, |set| set.remove(node));
    }

    /// What was told about these is lost.
    pub(crate) fn forget_complete(&self, slots: &SlotSet) {
        self.change(slots, |set| *set = NodeSet::NONE);
    }

    fn change(&self, slots: &SlotSet, change: impl Fn(&mut NodeSet)) {
        let mut complete = self.complete.write().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter() {
            if let Some(set) = complete.get_mut(slot.index()) {
                change(set);
            }
        }
    }

    /// From when on what this node itself appended to a log of the slot is all that was appended.
    /// `u64::MAX`: never.
    pub(crate) fn all_known_since_ms(&self, slot: Slot) -> u64 {
        if self.is_deaf() {
            return u64::MAX;
        }
        let owned = self
            .owned_since_ms
            .get(slot.index())
            .map_or(u64::MAX, |since| since.load(Ordering::Acquire));
        let hears_all = self.hears_all_since_ms.load(Ordering::Acquire);
        match owned.max(hears_all) {
            0 => 0,
            since => since.saturating_add(OLD_VIEW_MS),
        }
    }

    /// Whether a node that may append to logs of this group cannot be heard: its hints do not come.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Acquire)
    }

    /// Returns what it was.
    pub(crate) fn set_deaf(&self, deaf: bool, now_ms: u64) -> bool {
        let before = self.deaf.swap(deaf, Ordering::AcqRel);
        if before != deaf {
            self.hears_all_since_ms.store(now_ms, Ordering::Release);
        }
        before
    }
}
