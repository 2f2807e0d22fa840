//! The kind table: what restarts, within which budget, what happens beyond it, and in which order
//! kinds stop. The life cycle of every actor is on this page.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Admission of one product and mode.
    Lane,
    /// Owner of a product's broadcast log.
    Product,
    /// Owner of a topic.
    Topic,
    /// Owner of a share of the terminal and user inboxes.
    InboxShard,
    /// From logs to the sessions of this node.
    Relay,
    /// Sweeper, cursor flusher and supervisor of some links.
    LinkShard,
    /// The link to another node: a session of `clarion_cluster`, which supervises it and dials
    /// again; here it only counts.
    PeerLink,
}

/// When an actor of a kind is started again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// At once, with back-off: somebody waits for it, or for the hints it had (I12).
    Always,
    /// With the next message for it: nobody waits for what it forgot.
    OnUse,
    /// By who owns it elsewhere: links between nodes are dialled again with back-off.
    Elsewhere,
}

/// What happens when a kind's budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escalation {
    /// The node reports itself as not alive (`/livez`), so that whatever runs it restarts it, until
    /// the budget holds again; it goes on trying meanwhile.
    NodeUnhealthy,
    /// Messages for this one actor are refused as retryable until the budget allows it to run
    /// again: the fault stays where it is.
    Quarantine,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The name in metrics, logs and status.
    pub name: &'static str,
    /// When it starts again.
    pub restart: Restart,
    /// Crashes of one actor that are mended within `window_ms`.
    pub crashes_max: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// What happens beyond.
    pub escalation: Escalation,
    /// Kinds with lower numbers stop first: doors before owners, so that nothing in flight is cut.
    pub stop_order: u8,
}

const fn row(
    name: &'static str,
    restart: Restart,
    crashes_max: u32,
    escalation: Escalation,
    stop_order: u8,
) -> Policy {
    Policy { name, restart, crashes_max, window_ms: 60_000, escalation, stop_order }
}

impl Kind {
    /// Every kind, in stop order.
    pub const ALL: [Self; 7] = [
        Self::Lane,
        Self::LinkShard,
        Self::Relay,
        Self::Topic,
        Self::Product,
        Self::InboxShard,
        Self::PeerLink,
    ];

    /// Its row.
    #[must_use]
    pub const fn policy(self) -> Policy {
        use Escalation::{NodeUnhealthy, Quarantine};
        use Restart::{Always, Elsewhere, OnUse};
        match self {
            Self::Lane => row("lane", OnUse, 20, Quarantine, 0),
            Self::LinkShard => row("link_shard", Always, 20, NodeUnhealthy, 1),
            Self::Relay => row("relay", Always, 20, NodeUnhealthy, 2),
            Self::Topic => row("topic", Always, 20, Quarantine, 3),
            Self::Product => row("product", Always, 20, Quarantine, 4),
            Self::InboxShard => row("inbox_shard", Always, 20, NodeUnhealthy, 5),
            // Last: appends of other nodes are answered until there is nobody to append.
            Self::PeerLink => row("peer_link", Elsewhere, u32::MAX, Quarantine, 6),
        }
    }

    /// How many live, how often one was started, how often one crashed: since the process began.
    #[must_use]
    pub fn figures(self) -> &'static Figures {
        &FIGURES[self as usize]
    }
}

/// Counters of a kind.
#[derive(Debug)]
pub struct Figures {
    /// Running now.
    pub live: AtomicU64,
    /// Started, restarts included.
    pub started: AtomicU64,
    /// Ended by a panic or an error.
    pub crashed: AtomicU64,
}

static FIGURES: [Figures; 7] = [const {
    Figures { live: AtomicU64::new(0), started: AtomicU64::new(0), crashed: AtomicU64::new(0) }
}; 7];

impl Figures {
    pub(crate) fn on_start(&self, kind: Kind) {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("clarion_actors", "kind" => kind.policy().name).increment(1.0);
    }

    pub(crate) fn on_end(&self, kind: Kind, crashed: bool) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("clarion_actors", "kind" => kind.policy().name).decrement(1.0);
        if crashed {
            self.crashed.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("clarion_actor_crashes_total", "kind" => kind.policy().name)
                .increment(1);
        }
    }
}
