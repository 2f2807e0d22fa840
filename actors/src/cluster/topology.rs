//! Who is in the cluster, as far as routing cares.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clarion_core::placement::{Slot, SlotTable};

/// A member that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyNode {
    /// Its isolation group.
    pub group: Arc<str>,
    /// Its incarnation.
    pub boot: u64,
    /// Whether it may append to logs.
    pub broker: bool,
    /// Whether it says that it is about to go.
    pub draining: bool,
}

/// The members that live and who owns what among them.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Goes up with each change.
    pub revision: u64,
    /// By name; this node included.
    pub nodes: HashMap<Arc<str>, TopologyNode>,
    /// The owners of each isolation group's slots.
    pub tables: BTreeMap<Arc<str>, Arc<SlotTable>>,
}

impl Topology {
    /// The owner of a slot of a group.
    #[must_use]
    pub fn owner(&self, group: &str, slot: Slot) -> Option<&Arc<str>> {
        self.tables.get(group)?.owner(slot)
    }

    /// All that may serve it, the owner first.
    #[must_use]
    pub fn order(&self, group: &str, slot: Slot) -> Vec<Arc<str>> {
        let table = self.tables.get(group);
        table.map_or_else(Vec::new, |table| table.order(slot).into_iter().cloned().collect())
    }
}
