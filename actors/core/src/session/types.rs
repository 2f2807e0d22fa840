//! What a session is told and what it answers with.

use std::sync::Arc;

use clarion_protocol::terminal::{GapReason, LogAlias};
use clarion_protocol::{Code, Epoch, Offset};

use crate::entry::{Batch, Control, Entry, Page, Settled};
use crate::log::LogKey;

/// The bounds of a session; one value shared by all sessions of a node.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// Unacknowledged entries a log may have on the way.
    pub window_entries: u32,
    /// Unacknowledged payload bytes all logs together may have on the way.
    pub window_bytes: u32,
    /// The part of `window_bytes` that only inboxes may use (I9).
    pub unicast_reserve_bytes: u32,
    /// How long an acknowledgement may take, in milliseconds (I10).
    pub ack_timeout_ms: u64,
    /// Delivery attempts of one entry, across sessions, before it is undeliverable (I10).
    pub attempts_max: u8,
    /// Entries a read asks for at most.
    pub page_entries: u32,
    /// Payload bytes a read asks for at most.
    pub page_bytes: u32,
    /// Logs a session may have.
    pub logs_max: u16,
}

/// A log as the session starts or joins it.
#[derive(Debug, Clone)]
pub struct StartLog {
    /// The log.
    pub log: Arc<LogKey>,
    /// The lineage of the store.
    pub epoch: Epoch,
    /// The lineage of the stored cursor.
    pub cursor_epoch: Epoch,
    /// The stored cursor.
    pub cursor: Offset,
    /// Earlier attempts of the first entry behind it.
    pub attempts: u8,
    /// The durable head.
    pub head: Offset,
    /// The terminal's own cursor, if it sent one.
    pub own: Option<(Epoch, Offset)>,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The owner confirmed the node's interest in a log, with its head (I4).
    Interest {
        /// The log.
        log: LogAlias,
        /// Its durable head.
        head: Offset,
    },
    /// Entries were appended.
    Hint {
        /// The log.
        log: LogAlias,
        /// The entries.
        batch: Arc<Batch>,
    },
    /// Hints were dropped: the log has entries up to there.
    Missed {
        /// The log.
        log: LogAlias,
        /// At least up to here.
        up_to: Offset,
    },
    /// The read that was asked for.
    Page {
        /// The log.
        log: LogAlias,
        /// What it found.
        page: Page,
    },
    /// The read that was asked for failed; it is asked for again at a later tick, with back-off.
    ReadFailed {
        /// The log.
        log: LogAlias,
    },
    /// The terminal acknowledged.
    Ack {
        /// The log.
        log: LogAlias,
        /// Up to here.
        offset: Offset,
    },
    /// The terminal gave up one entry.
    Skip {
        /// The log.
        log: LogAlias,
        /// The entry.
        offset: Offset,
    },
    /// An entry with ttl 0: delivered at once or never.
    Ephemeral {
        /// The log.
        log: LogAlias,
        /// The entries.
        batch: Arc<Batch>,
    },
    /// Time passed; also sent when [`deadline_ms`](super::Session::deadline_ms) is reached.
    Tick,
}

/// What the link is to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Write a whole batch as one `deliver` frame.
    DeliverBatch {
        /// The log.
        log: LogAlias,
        /// The batch.
        batch: Arc<Batch>,
    },
    /// Write entries as one `deliver` frame.
    Deliver {
        /// The log.
        log: LogAlias,
        /// Whether some were written in this session before.
        again: bool,
        /// The entries, never empty.
        entries: Vec<Arc<Entry>>,
    },
    /// Write a `gap` frame.
    Gap {
        /// The log.
        log: LogAlias,
        /// The lineage from now on.
        epoch: Epoch,
        /// Position until now.
        from: Offset,
        /// Position from now on.
        to: Offset,
        /// Why.
        reason: GapReason,
    },
    /// Read the log; answer with [`Event::Page`] or [`Event::ReadFailed`]. One at a time per log.
    Read {
        /// The log.
        log: LogAlias,
        /// Behind this offset.
        after: Offset,
        /// Most entries.
        entries_max: u32,
        /// Most payload bytes.
        bytes_max: u32,
        /// How far the log is known to go: a page that shows less is older than that.
        known: Offset,
    },
    /// The cursor of a log moved, or its first attempt count did: to be saved.
    Save {
        /// The log.
        log: LogAlias,
        /// The lineage.
        epoch: Epoch,
        /// Everything up to here is settled.
        cursor: Offset,
        /// Attempts of the first entry behind it.
        attempts: u8,
        /// What was settled otherwise than by acknowledgement.
        settled: Vec<Settled>,
    },
    /// The back-end changed the terminal's record: join or leave as it says.
    Control(Control),
    /// Close the session with this code.
    Close {
        /// The code.
        code: Code,
        /// What is special about it.
        detail: &'static str,
    },
}
