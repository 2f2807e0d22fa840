//! What a node says of itself.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_storage::StoreError;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{Inner, System};
use crate::cluster::Doors;
use crate::kinds::Kind;

/// Whether each door serves (readiness, with hysteresis).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Pushes are accepted; if not, why.
    pub push: Result<(), String>,
    /// Links are accepted; if not, why.
    pub terminals: Result<(), String>,
}

impl System {
    /// Whether the doors serve.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.inner.readiness()
    }

    /// Whether the node's own parts make progress (liveness).
    #[must_use]
    pub fn alive(&self) -> bool {
        self.inner.supervisor.healthy()
    }

    /// Whether the store failed in a way that only a restart of the process can mend.
    #[must_use]
    pub fn store_failed(&self) -> Option<String> {
        match self.inner.store.health().writable {
            Err(StoreError::Fatal(why)) => Some(why),
            _ => None,
        }
    }

    /// Links, sessions, actors by kind with restarts, store health: for `GET /v1/status`.
    pub async fn status(&self) -> serde_json::Value {
        self.inner.describe()
    }
}

impl Inner {
    fn readiness(&self) -> Readiness {
        if *self.draining.borrow() {
            let why = || Err("the node is draining".to_owned());
            return Readiness { push: why(), terminals: why() };
        }
        let push = self.push_ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let full = self.links.load(Ordering::Relaxed) >= self.config.terminals.links_max;
        let terminals =
            if full { Err("the node holds as many links as it may".into()) } else { Ok(()) };
        Readiness { push, terminals }
    }

    /// What waits for other nodes. `null` if the node is alone.
    fn describe_cluster(&self) -> serde_json::Value {
        let (router, nodes) = (&self.router, &self.router.nodes);
        if !router.myself.clustered {
            return serde_json::Value::Null;
        }
        let (logs, messages) = router.forwarder.len();
        serde_json::json!({
            "group": &*router.myself.group,
            "revision": router.topology().revision,
            "hears_all": !nodes.ownership.is_deaf(),
            "conflicts": self.joined.get().map(|joined| joined.membership.view().borrow().conflicts.clone()),
            "heals": self.cluster.heals.describe(),
            "forwarding": { "logs": logs, "messages": messages },
            "serving": self.cluster.serving(),
            "asking": nodes.asking.len(),
        })
    }

    fn describe(&self) -> serde_json::Value {
        let health = self.store.health();
        let actors: HashMap<_, _> = Kind::ALL
            .iter()
            .map(|kind| {
                let figures = kind.figures();
                let figure = |of: &AtomicU64| of.load(Ordering::Relaxed);
                let row = serde_json::json!({
                    "live": figure(&figures.live),
                    "started": figure(&figures.started),
                    "crashed": figure(&figures.crashed),
                });
                (kind.policy().name, row)
            })
            .collect();
        let readiness = self.readiness();
        let peers: Vec<_> =
            self.router.nodes.peers.all().iter().map(|peer| peer.port.status()).collect();
        serde_json::json!({
            "node": self.config.node.id,
            "version": env!("CARGO_PKG_VERSION"),
            "wire": crate::cluster::wire_versions(),
            "fault_hooks": cfg!(feature = "fault-hooks"),
            "uptime_s": self.started.elapsed().as_secs(),
            "time_ms": self.store.time_ms(),
            "alive": self.supervisor.healthy(),
            "draining": *self.draining.borrow(),
            "readiness": {
                "push": readiness.push.err().unwrap_or_else(|| "ready".to_owned()),
                "terminals": readiness.terminals.err().unwrap_or_else(|| "ready".to_owned()),
            },
            "links": self.links.load(Ordering::Relaxed),
            "sessions": self.context.session_count(),
            "links_by_shard": self.shards.iter().map(|shard| shard.len()).collect::<Vec<_>>(),
            "virtual_owners": self.router.owners.virtual_owner_count(),
            "actors": actors,
            "cluster": self.describe_cluster(),
            "peers": peers,
            "store": {
                "epoch": health.epoch,
                "writable": health.writable.is_ok(),
                "refuses_because": health.writable.as_ref().err().map(ToString::to_string),
                "free_bytes": health.free_bytes,
                "used_bytes": health.used_bytes,
                "queued": health.queued,
            },
        })
    }
}

impl Doors for Inner {
    fn status(&self) -> BoxFuture<'_, serde_json::Value> {
        Box::pin(async move { self.describe() })
    }

    fn drain_wanted(&self) {
        self.drain_wanted.send_replace(true);
    }
}
