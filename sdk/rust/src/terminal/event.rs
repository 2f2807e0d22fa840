//! What a terminal is told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clarion_protocol::terminal::GapReason;
use clarion_protocol::{Epoch, LogName, MessageId, Offset, TopicName};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::ledger::{Settle, Target};
use super::shared::Shared;
use crate::cursors::CursorError;

/// What happens on a terminal.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session is open; after a reconnect again.
    Opened(Opened),
    /// A message.
    Message(Message),
    /// Messages of a log are gone for this terminal; delivery goes on behind `to`.
    Gap(Gap),
    /// The terminal is in a topic now, by its own doing or the back-end's.
    Subscribed(TopicName),
    /// The terminal is out of a topic now, by its own doing or the back-end's.
    Unsubscribed(TopicName),
    /// The cursor store failed. Nothing it did not save is acknowledged to the node; saving is
    /// tried again.
    CursorsNotSaved(CursorError),
    /// The link is down.
    Disconnected {
        /// Why.
        why: Why,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It is over, for the reason given. The last event.
    Closed(Closed),
}

/// A session that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The node that serves it.
    pub node: String,
    /// The number that orders the sessions of this terminal.
    pub generation: u64,
    /// The store's time, Unix milliseconds.
    pub time_ms: u64,
    /// When the token ends, Unix seconds.
    pub token_ends_s: u64,
    /// The logs it reads.
    pub logs: Vec<LogName>,
    /// Topics that were refused, with the number of the code that says why.
    pub refused: Vec<(TopicName, u16)>,
}

/// Messages that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The log.
    pub log: LogName,
    /// Its lineage from now on.
    pub epoch: Epoch,
    /// The position until now.
    pub from: Offset,
    /// The position from now on.
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// Why a link went down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The connection could not be made, or broke.
    Io(String),
    /// The node answered the connection with an HTTP status instead.
    Refused {
        /// The status.
        status: u16,
        /// What it says about it.
        detail: String,
    },
    /// The connection, the upgrade or the opening of the session took too long.
    ConnectTimeout,
    /// Nothing was heard though something was due.
    Silent,
    /// The node could not be written to for too long.
    Stalled,
    /// The node drains.
    GoingAway,
    /// The node ended the session or the link.
    Closed {
        /// The code, see [`clarion_protocol::Code`] for those from 4000.
        code: u16,
        /// Its name and detail.
        reason: String,
    },
    /// The node sent something that is not of this protocol.
    Protocol(String),
    /// There was no token to be had.
    Token(String),
    /// There was no list of access points to be had.
    Gateways(String),
}

/// The end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The code, see [`clarion_protocol::Code`]; 4008 when the application closed it.
    pub code: u16,
    /// Its name.
    pub reason: String,
    /// What is special about it.
    pub detail: Option<String>,
}

/// The payload of a message.
#[derive(Debug, Clone)]
pub enum Payload {
    /// JSON, as the back-end wrote it.
    Json(Box<RawValue>),
    /// Bytes.
    Bytes {
        /// Their content type.
        content_type: String,
        /// The bytes.
        data: Bytes,
    },
}

/// A message. To be acknowledged when it is handled; one that is dropped without that is shown
/// again when the node sends it again.
pub struct Message {
    /// Its id, the same in every log and at every delivery.
    pub id: MessageId,
    /// The log it came from.
    pub log: LogName,
    /// Its offset there; none if it was pushed with ttl 0.
    pub offset: Option<Offset>,
    /// What it says.
    pub payload: Payload,
    /// Whether the application was shown it before and let it go unhandled.
    pub redelivered: bool,
    /// How it is acknowledged, also when the rest was taken apart.
    pub receipt: Receipt,
}

/// The way to acknowledge a message.
pub struct Receipt {
    shared: Arc<Shared>,
    pub(super) target: Option<Target>,
    pub(super) id: MessageId,
    settled: AtomicBool,
}

impl Message {
    /// It was handled. Returns at once; the node is told soon, several at a time.
    pub fn ack(&self) {
        self.receipt.ack();
    }

    /// It cannot be handled: passes it, and the back-end sees it counted as undeliverable. While
    /// the link is down this counts as an acknowledgement instead.
    pub fn skip(&self) {
        self.receipt.skip();
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// When it is not that.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.payload.json()
    }

    /// What the application commits together with what this message did, to have it exactly once.
    /// See [`TransactionalCursors`](crate::TransactionalCursors).
    #[must_use]
    pub fn commit_token(&self) -> Vec<u8> {
        commit_token(&[self])
    }
}

/// Like [`Message::commit_token`], for messages that are committed together. Acknowledge all of
/// them when the transaction stands.
#[must_use]
pub fn commit_token(messages: &[&Message]) -> Vec<u8> {
    let Some(first) = messages.first() else { return Vec::new() };
    let settled: Vec<_> = messages.iter().map(|m| (m.receipt.target, m.id)).collect();
    first.receipt.shared.lock().ledger.snapshot_with(&settled).to_bytes()
}

impl Payload {
    /// The payload, read as JSON.
    ///
    /// # Errors
    /// When it is not that.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match self {
            Self::Json(text) => serde_json::from_str(text.get()),
            Self::Bytes { data, .. } => serde_json::from_slice(data),
        }
    }
}

impl Receipt {
    pub(super) const fn new(
        shared: Arc<Shared>,
        target: Option<Target>,
        id: MessageId,
        settled: bool,
    ) -> Self {
        Self { shared, target, id, settled: AtomicBool::new(settled) }
    }

    /// See [`Message::ack`].
    pub fn ack(&self) {
        self.settle(Settle::Ack);
    }

    /// See [`Message::skip`].
    pub fn skip(&self) {
        self.settle(Settle::Skip);
    }

    fn settle(&self, how: Settle) {
        let Some(target) = self.target else { return };
        if !self.settled.swap(true, Ordering::Relaxed) || how == Settle::Skip {
            self.shared.settle(target, self.id, how);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.settle(Settle::Release);
    }
}

impl fmt::Debug for Message {
    /// Without the payload, which has no place in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("log", &self.log)
            .field("offset", &self.offset)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "no connection: {error}"),
            Self::Refused { status, detail } => write!(f, "refused with {status}: {detail}"),
            Self::ConnectTimeout => f.write_str("connecting took too long"),
            Self::Silent => f.write_str("nothing was heard"),
            Self::Stalled => f.write_str("nothing could be written"),
            Self::GoingAway => f.write_str("the node sends its terminals elsewhere"),
            Self::Closed { code, reason } => write!(f, "closed by the node: {code} {reason}"),
            Self::Protocol(detail) => write!(f, "not this protocol: {detail}"),
            Self::Token(error) => write!(f, "no token: {error}"),
            Self::Gateways(error) => write!(f, "no access point: {error}"),
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reason)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}
