//! What nodes say to each other, and the versions of it that this build speaks.

use std::sync::Arc;

use clarion_core::placement::SlotSet;
use clarion_core::{Batch, LogKey, Mode, Page};
use clarion_protocol::{Offset, ProductId};
use clarion_storage::{Appended, Read, StoreError, StoreResult};

use super::port::Lane;
use crate::intake::NewEntry;

/// Versions that this build speaks. Two neighbouring releases share at least one.
pub(crate) const WIRE_MIN: u16 = 1;
const WIRE: u16 = 1;

/// The highest version that this node speaks. With the feature `fault-hooks`, `CLARION_FAULT_WIRE=2`
/// makes it that of the next release, so that tests run both together.
pub(crate) fn wire_max() -> u16 {
    #[cfg(feature = "fault-hooks")]
    {
        static ORDERED: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
        let ordered = || {
            let value = std::env::var("CLARION_FAULT_WIRE").ok();
            value.and_then(|value| value.parse().ok()).filter(|v| *v == 2).unwrap_or(WIRE)
        };
        *ORDERED.get_or_init(ordered)
    }
    #[cfg(not(feature = "fault-hooks"))]
    WIRE
}

/// The versions that this node speaks, lowest and highest: what a link is told.
#[must_use]
pub fn wire_versions() -> (u16, u16) {
    (WIRE_MIN, wire_max())
}

/// Interest in one log. A `generation` above 0 comes with a terminal's own inbox and ends older
/// sessions on other nodes (I7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) log: Arc<LogKey>,
    pub(crate) generation: u64,
}

/// One message between two nodes. Any may be lost.
#[derive(Debug)]
pub(crate) enum PeerMessage {
    /// Append these to their log, one after the other: all are of the same log. The deadline of each
    /// is the end of this attempt (I2).
    Append { request: u64, entries: Vec<NewEntry> },
    /// What became of them, in their order.
    Appended { request: u64, results: Vec<AppendResult> },
    /// Pass on an entry with ttl 0 to whoever is online.
    Ephemeral { batch: Arc<Batch> },
    /// A log grew. `listed`: the owner has the receiver's interest in it, else it does not know.
    Hint { batch: Arc<Batch>, ephemeral: bool, listed: bool },
    /// From one that served for an owner it could not reach, to that owner: these logs grew.
    Grew { heads: Vec<(Arc<LogKey>, Offset)> },
    /// These logs have entries up to there.
    Heads { heads: Vec<(Arc<LogKey>, Offset)> },
    /// The receiver's interest in these logs is registered; their heads (I4).
    Confirm { heads: Vec<(Arc<LogKey>, Offset)> },
    /// The sender has readers of these logs; each is answered by `Confirm`. `since_ms`: the head it
    /// knows is of that time.
    Interest { logs: Vec<Announced>, since_ms: u64 },
    /// It has none any more.
    NoInterest { logs: Vec<Arc<LogKey>> },
    /// The sender has told all its interest in logs of these slots.
    Complete { slots: SlotSet },
    /// The sender tells its interest in these slots to another node from now on.
    Leave { slots: SlotSet },
    /// The sender lost what it knew of interest in these slots.
    AnnounceAgain { slots: SlotSet },
    /// The owner of one log stopped; interest may have been on its way to it.
    OwnerChanged { log: Arc<LogKey> },
    /// Hints or confirmations of these slots were dropped on the way to the receiver.
    Dropped { slots: SlotSet },
    /// A newer session of the terminal of this inbox exists (I7).
    Superseded { log: Arc<LogKey>, generation: u64 },
    /// A question.
    Ask { request: u64, question: Question },
    /// Its answer.
    Answer { request: u64, reply: Reply },
    /// The record of a product changed.
    ProductChanged { product: ProductId },
    /// The sender hears the receiver and counts it among its peers.
    Hello,
}

/// What became of a forwarded append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppendResult {
    /// It is durable.
    Done(Appended),
    /// The owner did not try it: nothing happened.
    NotTried,
    /// The store was away, and the owner never tried it with an unknown end: nothing happened. Former
    /// releases said so of less; see `codec`.
    Unavailable(String),
    /// Not known (I2).
    Unknown(String),
    /// Refused: the log is full.
    LogFull,
    /// Refused: the store is full.
    Full(String),
}

/// What a node asks another.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// Which of these inboxes have a live session there?
    Online(Vec<Arc<LogKey>>),
    /// Have the sessions of this inbox write down what they have read.
    FlushCursors(Arc<LogKey>),
    /// Close the session of this inbox.
    Kick(Arc<LogKey>),
    /// Have the session of this inbox look at its record.
    Reload(Arc<LogKey>),
    /// Its status, as JSON.
    Status,
    /// Drain.
    Drain,
    /// Pages of logs: the store does not answer the asker.
    Read(Vec<Read>),
}

/// Its answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Each(Vec<bool>),
    Is(bool),
    Text(String),
    /// Without those that could not be read.
    Pages(Vec<Option<Page>>),
}

impl PeerMessage {
    /// The lane it travels in: modes never wait for each other.
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Self::Append { entries, .. } => {
                entries.first().map_or(Lane::Control, |entry| lane_of(&entry.log))
            }
            Self::Hint { batch, .. } | Self::Ephemeral { batch } => lane_of(&batch.log),
            _ => Lane::Control,
        }
    }
}

/// The lane of a log.
pub(crate) fn lane_of(log: &LogKey) -> Lane {
    match log.kind.mode() {
        Mode::Unicast => Lane::Unicast,
        Mode::Multicast => Lane::Multicast,
        Mode::Broadcast => Lane::Broadcast,
    }
}

impl From<StoreResult<Appended>> for AppendResult {
    fn from(result: StoreResult<Appended>) -> Self {
        match result {
            Ok(appended) => Self::Done(appended),
            Err(StoreError::Unavailable(why) | StoreError::Fatal(why)) => Self::Unavailable(why),
            Err(StoreError::Unknown(why)) => Self::Unknown(why),
            Err(StoreError::TooLate) => Self::Unknown("it came too late".into()),
            Err(StoreError::LogFull) => Self::LogFull,
            Err(StoreError::Full(why)) => Self::Full(why),
        }
    }
}
