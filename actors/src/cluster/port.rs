//! What the routing needs of a link to another node. Real links are those of `clarion_cluster`; tests
//! cut, stall and drop their own.

use std::sync::Arc;

use bytes::Bytes;
pub use clarion_cluster::peer::{Lane, Refused};
use clarion_cluster::peer::{MESSAGE_COST_BYTES, Peer};

/// One session of a link to another node. A later session of the same node is another one.
pub trait PeerPort: Send + Sync + 'static {
    /// The node's name.
    fn id(&self) -> &Arc<str>;
    /// Its incarnation.
    fn boot(&self) -> u64;
    /// The version of the messages that both ends speak.
    fn wire(&self) -> u16;
    /// Leaves a message to be sent. Never waits.
    ///
    /// # Errors
    /// It was not taken, and nothing of it is sent.
    fn send(&self, lane: Lane, message: Bytes) -> Result<(), Refused>;
    /// Keeps back the credit for a message of `bytes` that just came, until what this returns is
    /// dropped: the node at the other end may have no more under way here than a lane has credit.
    fn hold(self: Arc<Self>, lane: Lane, bytes: usize) -> Box<dyn Send> {
        let _ = (lane, bytes);
        Box::new(())
    }
    /// For status.
    fn status(&self) -> serde_json::Value;
}

impl PeerPort for Peer {
    fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn boot(&self) -> u64 {
        self.boot.0
    }

    fn wire(&self) -> u16 {
        self.wire
    }

    fn send(&self, lane: Lane, message: Bytes) -> Result<(), Refused> {
        Self::send(self, lane, message)
    }

    fn hold(self: Arc<Self>, lane: Lane, bytes: usize) -> Box<dyn Send> {
        Box::new(Self::hold(&self, lane, bytes + MESSAGE_COST_BYTES))
    }

    fn status(&self) -> serde_json::Value {
        let status = Self::status(self);
        let lanes = Lane::ALL.map(|lane| {
            let of = status.lane(lane);
            serde_json::json!({
                "lane": lane.name(),
                "queued_bytes": of.queued_bytes,
                "credit_bytes": of.credit_bytes,
                "sent": of.sent,
                "received": of.received,
                "dropped": of.dropped,
            })
        });
        serde_json::json!({
            "node": &*self.id,
            "boot": self.boot.to_string(),
            "wire": self.wire,
            "rtt_us": status.rtt_us,
            "uptime_ms": status.uptime_ms,
            "lanes": lanes,
        })
    }
}
