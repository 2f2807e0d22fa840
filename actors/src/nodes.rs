//! The nodes an owner speaks to, by number. A cluster puts peer links behind [`Nodes`]; one node
//! has just its own relays.

use std::sync::Arc;

use clarion_core::{Batch, LogKey};
use clarion_protocol::Offset;

use crate::link::inbox::SessionEvent;
use crate::relay::Relays;

/// The number of a node incarnation (node and boot) within one process. 0 is the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeNumber(pub(crate) u8);

/// The node itself.
pub(crate) const THIS_NODE: NodeNumber = NodeNumber(0);

/// A set of nodes; at most 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeSet(u64);

impl NodeSet {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self = Self(u64::MAX);

    pub(crate) fn insert(&mut self, node: NodeNumber) {
        self.0 |= 1 << node.0;
    }

    pub(crate) fn remove(&mut self, node: NodeNumber) {
        self.0 &= !(1 << node.0);
    }

    /// These nodes and all that are not in `complete`.
    pub(crate) fn or_not_in(self, complete: Self) -> Self {
        Self(self.0 | !complete.0)
    }

    fn contains(self, node: NodeNumber) -> bool {
        self.0 & (1 << node.0) != 0
    }
}

/// The way to the relays of every node.
#[derive(Clone)]
pub(crate) struct Nodes {
    pub(crate) local: Arc<Relays>,
}

impl Nodes {
    /// Hints `nodes` that the log of `batch` grew.
    pub(crate) fn hint(&self, nodes: NodeSet, batch: &Arc<Batch>, ephemeral: bool) {
        if nodes.contains(THIS_NODE) {
            self.local.hint(Arc::clone(batch), ephemeral);
        }
    }

    /// Has the sessions of an inbox write down what they have read; answers whether there is one.
    pub(crate) async fn flush_cursors(&self, log: Arc<LogKey>) -> bool {
        self.local.notify(log, SessionEvent::FlushCursors).await
    }

    /// Tells `node` that its interest in `log` is registered (I4).
    pub(crate) fn confirm(&self, node: NodeNumber, log: Arc<LogKey>, head: Offset) {
        debug_assert_eq!(node, THIS_NODE, "there are no peers");
        self.local.confirm(log, head);
    }
}
