//! What is known of the cluster at one moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use clarion_core::membership::Standing;
use clarion_core::placement::SlotTable;
use clarion_core::{BootId, Roles};
use serde_json::{Value, json};

use super::facts::Load;
use super::seats::Conflict;

/// One node that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub id: Arc<str>,
    /// This run of it.
    pub boot: BootId,
    /// Where its peer links are dialled.
    pub peer_addr: SocketAddr,
    /// What it does.
    pub roles: Roles,
    /// Its isolation group.
    pub group: Arc<str>,
    /// Its release.
    pub version: String,
    /// Oldest and newest version of the messages between nodes that it speaks.
    pub wire: (u16, u16),
    /// The newest placement version it computes.
    pub placement_version: u16,
    /// It is on its way out.
    pub draining: bool,
    /// It says that it does not work as it should.
    pub sick: bool,
    /// How busy it is; a second old, and coarse.
    pub load: Load,
    /// Where its HTTP API is reached; empty if it has none.
    pub http_url: String,
    /// Where terminals reach it, if it takes any.
    pub terminals_url: Option<String>,
    /// Whether it owns slots, why, and whether we reach it.
    pub standing: Standing,
}

/// The cluster as this node sees it. Immutable; the next one has a higher revision.
#[derive(Clone, Debug)]
pub struct View {
    /// Counts the views of this process.
    pub revision: u64,
    /// All that live, this node included, by name.
    pub members: Vec<Member>,
    /// Who owns which slots, for each isolation group that has owners. The same `Arc` as in the
    /// former view when nothing moved.
    pub tables: BTreeMap<Arc<str>, Arc<SlotTable>>,
    /// Names under which two nodes run: a mistake to tell the operator.
    pub conflicts: Vec<Conflict>,
    /// False just after the start, while others may be there that have not been heard yet.
    pub settled: bool,
    /// The version that all place by.
    pub placement_version: Option<u16>,
    pub(super) me: usize,
}

impl View {
    /// The slots of an isolation group.
    #[must_use]
    pub fn table(&self, group: &str) -> Option<&SlotTable> {
        self.tables.get(group).map(AsRef::as_ref)
    }

    /// The living member of this name.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| (*member.id).cmp(id)).ok()?;
        self.members.get(at)
    }

    /// This node.
    ///
    /// # Panics
    /// Never: every view is made with this node in it.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.members[self.me]
    }

    /// All of it for people: for `clarion cluster …` and bug reports. No field is promised.
    #[must_use]
    pub fn dump(&self) -> Value {
        let table = |table: &SlotTable| -> BTreeMap<String, usize> {
            table.members().map(|id| (id.to_string(), table.load(id))).collect()
        };
        let slots: BTreeMap<&str, _> =
            self.tables.iter().map(|(group, slots)| (&**group, table(slots))).collect();
        json!({
            "revision": self.revision,
            "settled": self.settled,
            "me": &*self.me().id,
            "placement_version": self.placement_version,
            "members": self.members.iter().map(Member::dump).collect::<Vec<_>>(),
            "slots": slots,
            "conflicts": self.conflicts,
        })
    }
}

impl Member {
    fn dump(&self) -> Value {
        json!({
            "id": &*self.id,
            "boot": self.boot.to_string(),
            "peer_addr": self.peer_addr,
            "roles": self.roles.to_string(),
            "group": &*self.group,
            "version": self.version,
            "wire": self.wire,
            "placement_version": self.placement_version,
            "draining": self.draining,
            "sick": self.sick,
            "load": self.load,
            "http_url": self.http_url,
            "terminals_url": self.terminals_url,
            "owns": self.standing.owns,
            "why": self.standing.why.as_str(),
            "reachable": self.standing.reachable,
            "flaps": self.standing.flaps,
            "quarantined_until_ms": self.standing.quarantined_until_ms,
        })
    }
}
