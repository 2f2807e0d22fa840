//! This node among others: the same for membership and for peer links.

use std::sync::Arc;

pub use clarion_core::identity::BootId;

/// A fresh boot id: one run of a node's process. Random, so that a node that comes back under its
/// name cannot pass as the one that went, whatever its clock says. Never 0.
#[must_use]
pub fn new_boot() -> BootId {
    BootId(rand::random_range(1..=u64::MAX))
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's name, unique in the cluster and the same after a restart; at most 64 bytes.
    pub id: Arc<str>,
    /// This run of its process.
    pub boot: BootId,
    /// Its isolation group.
    pub group: Arc<str>,
}
