//! What those who use peer links see of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::Peer;
use crate::BootId;

/// Most bytes of one message. What is larger has to be split by the sender.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) - 4096;
/// Most messages that wait in one lane, however small they are.
pub const LANE_MESSAGES_MAX: usize = 65_536;
/// What a message counts in queues and credit besides its own bytes.
pub const MESSAGE_COST_BYTES: usize = 64;

/// A stream of messages to one peer. Order holds within a lane; a full lane never holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Interest, confirmations, notices.
    Control = 0,
    /// Of single terminals and users.
    Unicast = 1,
    /// Of topics.
    Multicast = 2,
    /// Of everybody.
    Broadcast = 3,
}

impl Lane {
    /// Every lane, by number.
    pub const ALL: [Self; 4] = [Self::Control, Self::Unicast, Self::Multicast, Self::Broadcast];

    /// The name in metrics, logs and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Unicast => "unicast",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Why a message was not taken. It is dropped: the log is the truth, the reader catches up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// The lane holds as much as it may. [`PeerEvents::dropped`] follows once it takes messages again.
    #[error("the lane is full")]
    Full,
    /// The link is down; nothing more goes over this [`Peer`].
    #[error("the link is down")]
    Down,
    /// Above [`MESSAGE_BYTES_MAX`].
    #[error("the message is larger than a frame may be")]
    TooLarge,
}

/// What is told about peers. Every method is called on the runtime, must not block and must not
/// wait; a panic in one closes that link and nothing else.
pub trait PeerEvents: Send + Sync + 'static {
    /// A link session began. A later session of the same peer is another [`Peer`].
    fn up(&self, peer: &Arc<Peer>);
    /// It ended: told once with `refused` false, at once, and once more with `refused` true as soon
    /// as nobody listens at the peer's address any more, which a killed process shows within
    /// milliseconds. What was sent and not handled is lost. No call of [`received`](Self::received)
    /// begins afterwards; one that runs may still end.
    fn down(&self, peer: &Arc<Peer>, refused: bool);
    /// Messages of a lane, in the order they were sent. The peer may send as many more bytes as soon
    /// as this returns, unless [`Peer::hold`] says otherwise.
    fn received(&self, peer: &Arc<Peer>, lane: Lane, messages: Vec<Bytes>);
    /// Messages to this lane were refused as [`Refused::Full`] since it was last told, and the lane
    /// takes messages again.
    fn dropped(&self, peer: &Arc<Peer>, lane: Lane);
}

/// A node to which a link is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub id: Arc<str>,
    /// Which of its runs.
    pub boot: BootId,
    /// Where it listens for peers.
    pub addr: SocketAddr,
}

/// Certificates for mutual TLS between nodes, as PEM files. A node's certificate has to be valid for
/// the DNS name `<node id>.<cluster name>.peer`, for which `*.<cluster name>.peer` does as well.
#[derive(Debug, Clone)]
pub struct PeerTls {
    /// This node's chain, used in both directions.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Who signs the certificates of nodes; nobody else is trusted.
    pub ca_file: PathBuf,
}

/// How links behave.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Where this node listens for peers.
    pub listen: SocketAddr,
    /// Name of the cluster: nodes of another one are refused.
    pub cluster: String,
    /// Lowest and highest version of the messages that this node speaks. The highest that both ends
    /// speak is used ([`Peer::wire`]); none is a refusal.
    pub wire: (u16, u16),
    /// Time between heartbeats, in milliseconds; three without an answer end a link.
    pub heartbeat_ms: u64,
    /// Longest time from a connection to a working link, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Bytes that a peer may have sent to this node and not yet seen handled, per lane.
    pub lane_credit_bytes: u64,
    /// Bytes that may wait here to be sent, per peer and lane.
    pub lane_queue_bytes: usize,
    /// A frame is sent when it has so many bytes (16 KiB to 512 KiB).
    pub frame_bytes_max: usize,
    /// … or so many messages.
    pub frame_messages_max: usize,
    /// … or when its first message has waited so long, in microseconds. A message that follows a
    /// pause of that length goes at once.
    pub frame_delay_us: u64,
}

impl PeerSettings {
    /// The defaults of the configuration.
    #[must_use]
    pub fn new(listen: SocketAddr, cluster: impl Into<String>, wire: (u16, u16)) -> Self {
        Self {
            listen,
            cluster: cluster.into(),
            wire,
            heartbeat_ms: 750,
            handshake_timeout_ms: 5000,
            lane_credit_bytes: 4 << 20,
            lane_queue_bytes: 4 << 20,
            frame_bytes_max: 65_536,
            frame_messages_max: 128,
            frame_delay_us: 1000,
        }
    }

    /// The age above which a frame is stale, in milliseconds: by then its sender has given the link up.
    #[must_use]
    pub const fn frame_age_ms_max(&self) -> u64 {
        self.heartbeat_ms * 3
    }
}

/// Why peer links could not be started.
#[derive(Debug, Error)]
pub enum PeersError {
    /// The address cannot be listened on.
    #[error("cannot listen for peers on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("TLS between nodes: {0}")]
    Tls(String),
    /// The name of the node or of the cluster cannot be used.
    #[error("{0}")]
    Name(String),
    /// An actor did not start.
    #[error("peer links did not start: {0}")]
    Start(String),
}

/// A lane as seen from this end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// Bytes that the peer would still take; negative after a frame that was larger than the rest.
    pub credit_bytes: i64,
    /// Bytes that wait to be sent, with [`MESSAGE_COST_BYTES`] per message.
    pub queued_bytes: u64,
    /// Messages that wait to be sent.
    pub queued_messages: u64,
    /// Bytes sent of which the peer has not said that they are handled.
    pub in_flight_bytes: u64,
    /// Frames sent of which the peer has not said that they are handled.
    pub in_flight_frames: u64,
    /// Messages sent in this session.
    pub sent: u64,
    /// Messages received and handled in this session.
    pub received: u64,
    /// Messages refused because the lane was full.
    pub dropped: u64,
}

/// A link as seen from this end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether messages are taken.
    pub up: bool,
    /// Round trip of the last heartbeat, in microseconds; 0 before the first.
    pub rtt_us: u64,
    /// Age of the session, in milliseconds.
    pub uptime_ms: u64,
    /// By number of the lane.
    pub lanes: [LaneStatus; 4],
}

impl PeerStatus {
    /// One lane.
    #[must_use]
    pub const fn lane(&self, lane: Lane) -> &LaneStatus {
        &self.lanes[lane as usize]
    }

    /// Messages sent, over all lanes.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent).sum()
    }

    /// Messages received, over all lanes.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.received).sum()
    }

    /// Messages refused, over all lanes.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.dropped).sum()
    }
}
