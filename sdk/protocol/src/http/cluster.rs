//! Bodies about the nodes of a cluster: access points for terminals, state, drain, and where
//! something is.

use serde::{Deserialize, Serialize};

use crate::ids::IsolationGroup;

/// Access points that an answer lists when the request names no `limit`.
pub const GATEWAYS_DEFAULT: usize = 8;
/// The most access points a request may ask for.
pub const GATEWAYS_MAX: usize = 64;

/// `GET /v1/gateways`: where terminals connect, the best first. Two that ask at the same time get
/// access points of like load in different order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateways {
    /// The access points; empty when no node takes terminals now.
    pub gateways: Vec<Gateway>,
    /// How long the list may be used, in seconds, already jittered.
    pub ttl_s: u64,
}

/// An access point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Where to connect: `ws://…` or `wss://…`; without a path, `/v1/link` is meant.
    pub url: String,
    /// The node behind it.
    pub node: String,
}

/// `PATCH /v1/products/{product}` (admin): what is named changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductChange {
    /// The group of nodes that serves it from now on. Terminals whose links stand stay where they
    /// are until these end, and messages reach them there late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_group: Option<IsolationGroup>,
}

/// `GET /v1/cluster` (admin): the nodes as the asked one sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that answers.
    pub node: String,
    /// The name of the cluster; absent when the node is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<ClusterNode>,
}

/// A node of a [`ClusterStatus`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its id.
    pub node: String,
    /// Which start of it this is.
    pub boot: String,
    /// Its version.
    pub version: String,
    /// What it does: `push`, `gateway`, `broker`.
    pub roles: Vec<String>,
    /// The group whose products it serves.
    pub isolation_group: IsolationGroup,
    /// Where other nodes reach it; absent when it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its API.
    pub http_url: String,
    /// Where terminals connect to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminals_url: Option<String>,
    /// Whether the answering node has a link to it.
    pub reachable: bool,
    /// Whether it may own logs.
    pub owns: bool,
    /// Why it may, or may not.
    pub why: String,
    /// Whether it is about to leave.
    pub draining: bool,
    /// Whether parts of it make no progress.
    pub sick: bool,
    /// When it may own logs again, Unix milliseconds of the answering node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_until_ms: Option<u64>,
    /// How often it came and went lately.
    pub flaps: u32,
    /// Slots of its group that it owns, of 4096.
    pub slots: u32,
    /// What it carries.
    pub load: Load,
    /// What it says of itself: actors by kind, links to other nodes, store. Absent when it did not
    /// answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// What a node carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Links of terminals.
    pub links: u64,
    /// Links that it takes at most.
    pub links_max: u64,
    /// Sessions of terminals.
    pub sessions: u64,
    /// CPU of its process, in thousandths of what it may use: 1000 is all of its cores.
    pub cpu_permille: u32,
}

/// The answer to `POST /v1/cluster/nodes/{node}/drain` (admin).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStarted {
    /// The node.
    pub node: String,
    /// Whether this request began it; it drains in any case.
    pub started: bool,
}

/// `GET /v1/where` (admin): which node something is on, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Where {
    /// The log that was looked for.
    pub log: String,
    /// The group that serves its product.
    pub isolation_group: IsolationGroup,
    /// The slot that the log falls into, of 4096.
    pub slot: u16,
    /// The node that appends to it now; absent when no node can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why that one.
    pub why: String,
    /// The nodes of the group in placement order: when one cannot serve, the next does.
    pub order: Vec<WhereNode>,
    /// Nodes with terminals that read the log now, as far as the owner answered.
    pub readers: Vec<String>,
}

/// A node of a [`Where`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereNode {
    /// Its id.
    pub node: String,
    /// Whether the answering node reaches it.
    pub reachable: bool,
}
