//! The nodes of the cluster as the doors tell them: where terminals should go, and what an operator
//! wants to know. A node alone is its own only neighbour.

mod balance;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clarion_cluster::membership::{Member, View};
use clarion_core::gateways::{AccessPoint, Overload, Strain, rank, somewhere_better};
use clarion_core::placement::{Slot, slot_of};
use clarion_core::{LogKey, Role};
use clarion_protocol::IsolationGroup;
use clarion_protocol::http::{ClusterNode, Gateway, Load, Where, WhereNode};
use tokio::sync::watch;

/// Links, in thousandths of the most, from which on others are taken for overloaded.
const LINKS_HIGH_PERMILLE: u128 = 950;
/// CPU, in thousandths of what it may use, from which on others are taken for overloaded.
const CPU_HIGH_PERMILLE: u32 = 900;

/// How often this node judges its own load.
const JUDGE_EVERY: Duration = Duration::from_secs(1);

/// What a node says of itself when nobody else does.
#[derive(Debug, Clone)]
pub struct Myself {
    /// Its id.
    pub id: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its isolation group.
    pub group: String,
    /// Its API.
    pub http_url: String,
    /// Where terminals connect to it; none without the gateway role.
    pub terminals_url: Option<String>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Neighbours {
    me: Arc<Myself>,
    /// The name of the cluster and its view.
    cluster: Option<(Arc<str>, watch::Receiver<Arc<View>>)>,
    /// Whether this node has as many newcomers as it can take.
    overloaded: Arc<AtomicBool>,
    /// Whether it sends away some that it has because others have fewer.
    balancing: Arc<AtomicBool>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Neighbours {
    /// Of a node alone.
    #[must_use]
    pub fn none(me: Myself) -> Self {
        Self {
            me: Arc::new(me),
            cluster: None,
            overloaded: Arc::default(),
            balancing: Arc::default(),
        }
    }

    /// Of a node in the cluster of this name.
    #[must_use]
    pub fn of(me: Myself, cluster: &str, view: watch::Receiver<Arc<View>>) -> Self {
        Self { cluster: Some((cluster.into(), view)), ..Self::none(me) }
    }

    /// The name of the cluster, unless the node is alone.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_ref().map(|(name, _)| &**name)
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &Myself {
        &self.me
    }

    /// Judges each second whether this node has as many newcomers as it can take, for as long as
    /// there is a cluster.
    pub async fn judge(self) {
        let mut overload = Overload::default();
        let Some((_, view)) = self.cluster.clone() else { return };
        while view.has_changed().is_ok() {
            let load = view.borrow().me().load;
            let strain = Strain {
                links: load.links,
                links_max: load.links_max,
                cpu_permille: load.cpu_permille,
            };
            let now = overload.look(strain);
            if self.overloaded.swap(now, Ordering::Relaxed) != now {
                if now {
                    tracing::warn!(
                        links = strain.links,
                        links_max = strain.links_max,
                        cpu_permille = strain.cpu_permille,
                        "overloaded: newcomers are sent to other nodes as long as one is not"
                    );
                } else {
                    tracing::info!("no longer overloaded: newcomers are taken again");
                }
            }
            tokio::time::sleep(JUDGE_EVERY).await;
        }
    }

    fn view(&self) -> Option<Arc<View>> {
        self.cluster.as_ref().map(|(_, view)| Arc::clone(&view.borrow()))
    }

    /// Access points for terminals of a product of `group`, the best first; `random` spreads those
    /// of like load.
    #[must_use]
    pub fn gateways(&self, group: &str, limit: usize, random: u64) -> Vec<Gateway> {
        let Some(view) = self.view() else {
            let url = self.me.terminals_url.clone().filter(|_| group == self.me.group);
            return url.map(|url| Gateway { url, node: self.me.id.clone() }).into_iter().collect();
        };
        let doors = doors(&view, group);
        let points: Vec<AccessPoint> =
            doors.iter().map(|(_, member)| access_point(member)).collect();
        let ranked = rank(&points, random).into_iter().filter_map(|at| doors.get(at));
        ranked
            .take(limit)
            .map(|(url, member)| Gateway { url: (*url).to_owned(), node: member.id.to_string() })
            .collect()
    }

    /// Whether a newcomer should be sent elsewhere: this node, with so many links now of the most that
    /// it takes, has enough, and there is a better place.
    #[must_use]
    pub fn sends_away(&self, links: u64, links_max: u64) -> bool {
        // Links are counted here and now: thousands come between two judgements.
        if !self.overloaded.load(Ordering::Relaxed) && !many(links, links_max) {
            return false;
        }
        let Some(view) = self.view() else { return false };
        let me = view.me();
        let others: Vec<AccessPoint> = doors(&view, &me.group)
            .into_iter()
            .filter(|(_, member)| member.id != me.id)
            .map(|(_, member)| access_point(member))
            .collect();
        somewhere_better(&others)
    }

    /// Where terminals that leave this node should go, the best first.
    #[must_use]
    pub fn elsewhere(&self, limit: usize, random: u64) -> Vec<String> {
        if self.balancing.load(Ordering::Relaxed)
            && let Some(lacking) = self.lacking(limit, random)
        {
            return lacking;
        }
        let all = self.gateways(&self.me.group, usize::MAX, random);
        let others = all.into_iter().filter(|gateway| gateway.node != self.me.id);
        others.map(|gateway| gateway.url).take(limit).collect()
    }

    /// All nodes in the order of their ids. `alone` is what a node without a cluster carries.
    #[must_use]
    pub fn nodes(&self, alone: Load, draining: bool) -> Vec<ClusterNode> {
        match self.view() {
            Some(view) => view.members.iter().map(|member| node(&view, member)).collect(),
            None => vec![self.lone(alone, draining)],
        }
    }

    /// Where a log of a product of `group` is.
    #[must_use]
    pub fn place(&self, log: &LogKey, group: &str) -> Where {
        let slot = slot_of(log);
        let (order, why) = match self.view() {
            Some(view) => placed(&view, group, slot),
            None if group == self.me.group => {
                let me = WhereNode { node: self.me.id.clone(), reachable: true };
                (vec![me], "there is no other node".to_owned())
            }
            None => (Vec::new(), nobody(group)),
        };
        let owner = order.iter().find(|node| node.reachable).map(|node| node.node.clone());
        Where {
            log: log.to_string(),
            isolation_group: self::group(group),
            slot: slot.0,
            owner,
            why,
            order,
            readers: Vec::new(),
        }
    }

    fn lone(&self, load: Load, draining: bool) -> ClusterNode {
        ClusterNode {
            node: self.me.id.clone(),
            boot: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: self.me.roles.clone(),
            isolation_group: group(&self.me.group),
            address: None,
            http_url: self.me.http_url.clone(),
            terminals_url: self.me.terminals_url.clone(),
            reachable: true,
            owns: true,
            why: "alone".to_owned(),
            draining,
            sick: false,
            quarantined_until_ms: None,
            flaps: 0,
            slots: u32::from(clarion_core::placement::SLOTS),
            load,
            status: None,
        }
    }
}

/// The nodes that may serve a slot, the owner first, and why it is that one.
fn placed(view: &View, group: &str, slot: Slot) -> (Vec<WhereNode>, String) {
    let order: Vec<&Arc<str>> =
        view.table(group).map(|table| table.order(slot)).unwrap_or_default();
    let order: Vec<WhereNode> = order
        .into_iter()
        .map(|id| WhereNode {
            node: id.to_string(),
            reachable: view.member(id).is_some_and(|member| member.standing.reachable),
        })
        .collect();
    let why = match order.iter().position(|node| node.reachable) {
        None if order.is_empty() => nobody(group),
        None => "none of its nodes can be reached from the answering one".to_owned(),
        Some(0) => "first in placement order for this slot".to_owned(),
        Some(at) => {
            let passed: Vec<&str> = order.iter().take(at).map(|node| node.node.as_str()).collect();
            format!("{} cannot be reached; the next in placement order serves", passed.join(", "))
        }
    };
    (order, why)
}

fn nobody(group: &str) -> String {
    format!("no node of the isolation group {group} may own logs now")
}

/// Members that take terminals of the group, with the address for it.
fn doors<'a>(view: &'a View, group: &str) -> Vec<(&'a str, &'a Member)> {
    view.members
        .iter()
        .filter(|member| member.roles.has(Role::Gateway) && *member.group == *group)
        .filter_map(|member| Some((member.terminals_url.as_deref()?, member)))
        .collect()
}

fn access_point(member: &Member) -> AccessPoint {
    let load = &member.load;
    let full = many(load.links, load.links_max);
    AccessPoint {
        links: load.links,
        links_max: load.links_max,
        cpu_permille: load.cpu_permille,
        overloaded: full || load.cpu_permille >= CPU_HIGH_PERMILLE,
        // Its links are as unsure as the node that cannot be reached.
        sick: member.sick || !member.standing.reachable,
        draining: member.draining,
    }
}

fn many(links: u64, links_max: u64) -> bool {
    u128::from(links) * 1000 >= u128::from(links_max) * LINKS_HIGH_PERMILLE
}

fn node(view: &View, member: &Member) -> ClusterNode {
    let standing = &member.standing;
    let slots = view.table(&member.group).map_or(0, |table| table.load(&member.id));
    ClusterNode {
        node: member.id.to_string(),
        boot: member.boot.to_string(),
        version: member.version.clone(),
        roles: member.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        isolation_group: group(&member.group),
        address: Some(member.peer_addr.to_string()),
        http_url: member.http_url.clone(),
        terminals_url: member.terminals_url.clone(),
        reachable: standing.reachable,
        owns: standing.owns,
        why: standing.why.as_str().to_owned(),
        draining: member.draining,
        sick: member.sick,
        quarantined_until_ms: standing.quarantined_until_ms,
        flaps: standing.flaps,
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        load: Load {
            links: member.load.links,
            links_max: member.load.links_max,
            sessions: member.load.sessions,
            cpu_permille: member.load.cpu_permille,
        },
        status: None,
    }
}

/// Other nodes' names of groups are checked by their own config.
fn group(name: &str) -> IsolationGroup {
    IsolationGroup::new(name).unwrap_or_default()
}
