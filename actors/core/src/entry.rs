//! Log entries and batches of them, shared by every reader.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Epoch, MessageId, Offset, TopicName};

use crate::log::LogKey;

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A payload that is JSON, as the back-end wrote it.
    Json(Bytes),
    /// A payload of bytes.
    Bytes {
        /// Its content type.
        content_type: Arc<str>,
        /// The bytes.
        data: Bytes,
    },
    /// A change that the back-end made to the terminal's record, for its live session. Only in
    /// terminal inboxes; passed silently.
    Control(Control),
    /// What is left of an entry that was taken back; passed silently (I6).
    Tombstone,
}

impl Body {
    /// Bytes it counts towards limits.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Bytes { data, .. } => data.len(),
            Self::Control(_) | Self::Tombstone => 0,
        }
    }

    /// Whether it counts nothing towards limits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A change of a terminal's record that its live session must learn of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The back-end put the terminal into a topic.
    Subscribed(TopicName),
    /// The back-end took the terminal out of a topic.
    Unsubscribed(TopicName),
}

/// One entry of a log.
#[derive(Debug)]
pub struct Entry {
    /// Its position; [`Offset::ZERO`] for ttl 0, which is in no log.
    pub offset: Offset,
    /// The position of the entry before it when it was appended. Judges hints only (I6).
    pub predecessor: Offset,
    /// The message.
    pub message: MessageId,
    /// When it expires, Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// What it holds.
    pub body: Body,
    fragment: OnceLock<Bytes>,
}

impl Entry {
    /// An entry whose wire form is not made yet.
    #[must_use]
    pub const fn new(
        offset: Offset,
        predecessor: Offset,
        message: MessageId,
        expires_at_ms: u64,
        body: Body,
    ) -> Self {
        Self { offset, predecessor, message, expires_at_ms, body, fragment: OnceLock::new() }
    }

    /// Its element of a `deliver` frame, made once by `encode` and shared by every session.
    pub fn fragment(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.fragment.get_or_init(|| encode(self))
    }
}

/// Consecutive entries of one log, on their way as a hint.
#[derive(Debug)]
pub struct Batch {
    /// The log.
    pub log: Arc<LogKey>,
    /// Its lineage.
    pub epoch: Epoch,
    /// In order; never empty.
    pub entries: Vec<Arc<Entry>>,
    /// Sessions that wrote the whole batch since the relay last asked; it resets this.
    pub written: AtomicU32,
    joined: OnceLock<Bytes>,
}

impl Batch {
    /// A batch of at least one entry.
    #[must_use]
    pub const fn new(log: Arc<LogKey>, epoch: Epoch, entries: Vec<Arc<Entry>>) -> Self {
        Self { log, epoch, entries, written: AtomicU32::new(0), joined: OnceLock::new() }
    }

    /// All elements of a `deliver` frame, joined by commas, made once by `encode`: most sessions
    /// at the head take a whole batch.
    pub fn joined(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.joined.get_or_init(|| encode(self))
    }
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct Page {
    /// The lineage.
    pub epoch: Epoch,
    /// In order. Expired entries and tombstones are included if they are still there.
    pub entries: Vec<Arc<Entry>>,
    /// The durable head: the offset of the last durable entry ever appended.
    pub head: Offset,
    /// The highest offset that was ever evicted: a reader whose position is below it, and not at
    /// [`Offset::ZERO`] by right, missed something (I6). Entries removed because they expired or
    /// were acknowledged by every reader do not count.
    pub evicted_to: Offset,
    /// Whether there is more behind the last entry.
    pub more: bool,
}

/// How a terminal is done with one entry otherwise than by acknowledging it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The entry.
    pub offset: Offset,
    /// `Expired`, `Undeliverable`, `Filtered`, `Recalled` or `Evicted`.
    pub how: Milestone,
}
