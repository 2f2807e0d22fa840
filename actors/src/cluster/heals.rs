//! How long it takes until all is healed (I12): from the moment at which this node learns that an owner
//! changed, or that a link ended or is there again, until it has told the owners everything it reads
//! of what moved, and has compared everything else with the store.
//!
//! Whatever is done for one change holds its [`Heal`]; who lets go of it last ends it. So a relay that
//! crashes meanwhile ends its part early: what it read is registered again and read from the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

/// What was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Members came, went or own otherwise.
    Members,
    LinkUp,
    LinkDown,
}

impl After {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::LinkUp => "link_up",
            Self::LinkDown => "link_down",
        }
    }
}

/// What healing took, since the node started.
#[derive(Debug, Default)]
pub(crate) struct Heals {
    running: AtomicU64,
    count: AtomicU64,
    last_ms: AtomicU64,
    longest_ms: AtomicU64,
}

/// One change that heals.
#[derive(Debug)]
pub(crate) struct Heal {
    heals: Arc<Heals>,
    after: After,
    since: Instant,
    /// Something moved. A change that moved nothing heals nothing.
    counts: AtomicBool,
}

impl Heals {
    /// A change was learned of now.
    pub(crate) fn begin(self: &Arc<Self>, after: After) -> Arc<Heal> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let (heals, since, counts) = (Arc::clone(self), Instant::now(), AtomicBool::new(false));
        Arc::new(Heal { heals, after, since, counts })
    }

    /// For the status of the node.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let figure = |of: &AtomicU64| of.load(Ordering::Relaxed);
        serde_json::json!({
            "running": figure(&self.running),
            "count": figure(&self.count),
            "last_ms": figure(&self.last_ms),
            "longest_ms": figure(&self.longest_ms),
        })
    }
}

impl Heal {
    /// It moved something.
    pub(crate) fn count(&self) {
        self.counts.store(true, Ordering::Relaxed);
    }

    /// More heal at once than are followed: when this one ends is not known.
    pub(crate) fn lose_sight(&self) {
        self.counts.store(false, Ordering::Relaxed);
    }
}

impl Drop for Heal {
    fn drop(&mut self) {
        self.heals.running.fetch_sub(1, Ordering::Relaxed);
        if !*self.counts.get_mut() {
            return;
        }
        let took = self.since.elapsed();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.heals.count.fetch_add(1, Ordering::Relaxed);
        self.heals.last_ms.store(took_ms, Ordering::Relaxed);
        self.heals.longest_ms.fetch_max(took_ms, Ordering::Relaxed);
        metrics::histogram!("clarion_heal_seconds", "after" => self.after.as_str())
            .record(took.as_secs_f64());
    }
}
