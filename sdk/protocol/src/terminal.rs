//! Frames of the terminal link, sub-protocol `clarion.v1.json`: one JSON object in one WebSocket
//! text frame, told apart by `t`. Every frame carries its session number `s`; 0 is the link
//! itself. Unknown fields are ignored, so that either side may be newer; unknown types are an
//! error towards the node and ignored by terminals. `README.md` of this crate is the written
//! specification.

mod parse;
mod payload;
mod write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use payload::{CONTENT_TYPE_DEFAULT, Payload};
pub use write::{PayloadRef, write_deliver_head, write_deliver_tail, write_message};

use crate::ids::{Epoch, LogName, MessageId, Offset, ProductId, TopicName};

/// The sub-protocol offered in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL_JSON: &str = "clarion.v1.json";

/// The path at which a node's links are opened.
pub const LINK_PATH: &str = "/v1/link";

/// The largest frame that a terminal may send, in bytes. A token and 64 topics fit.
pub const TERMINAL_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Which session of a link a frame belongs to; 0 is the link itself.
pub type SessionNumber = u32;

/// A small number that stands for a log in the frames of one session.
pub type LogAlias = u16;

/// A cursor: everything in the log up to `1` in the lineage `0` was handled. An array on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(pub Epoch, pub Offset);

/// What a terminal sends. Read with [`TerminalFrame::parse`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum TerminalFrame {
    /// Opens session `s` (at least 1, not in use on this link).
    Open(Open),
    /// Acknowledges, cumulatively per log: all deliveries up to the offset were handled.
    Ack {
        /// The session.
        s: SessionNumber,
        /// Pairs of log alias and offset.
        a: Vec<(LogAlias, Offset)>,
    },
    /// Gives up one delivery, the first unacknowledged one of its log: it counts as undeliverable.
    Skip {
        /// The session.
        s: SessionNumber,
        /// The log.
        l: LogAlias,
        /// The offset of the delivery.
        o: Offset,
    },
    /// Joins a topic; answered by `subscribed` or `error` with the same `id`.
    Subscribe {
        /// The session.
        s: SessionNumber,
        /// The terminal's number for this request.
        id: u64,
        /// The topic.
        topic: TopicName,
        /// The terminal's own cursor, if it kept one.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<Cursor>,
    },
    /// Leaves a topic and drops its cursor durably; answered by `unsubscribed` or `error`.
    Unsubscribe {
        /// The session.
        s: SessionNumber,
        /// The terminal's number for this request.
        id: u64,
        /// The topic.
        topic: TopicName,
    },
    /// Gives a new token of the same product, terminal and user; answered by `refreshed`.
    Refresh {
        /// The session.
        s: SessionNumber,
        /// The new token.
        token: String,
    },
    /// Ends the session; answered by `closed`.
    Close {
        /// The session.
        s: SessionNumber,
    },
    /// The heartbeat of the link (`s` is 0), for terminals that cannot send WebSocket pings
    /// (browsers); answered by `pong`.
    Ping {
        /// 0.
        s: SessionNumber,
    },
}

/// The body of `open`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The session number the terminal chose.
    pub s: SessionNumber,
    /// The product; equal to the token's `aud`.
    pub product: ProductId,
    /// The terminal's token (JWT).
    pub token: String,
    /// Name and version of the client, for the operator; at most 64 bytes are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The cursors the terminal kept itself. The higher of these and the node's counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cursors: Vec<(LogName, Cursor)>,
    /// Topics to be in; adds to those the terminal is in already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicName>,
}

/// What a node sends. Read with [`NodeFrame::parse`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum NodeFrame {
    /// The session is open.
    Opened(Opened),
    /// Messages of one log, in order.
    Deliver(Deliver),
    /// The session is in a topic now: the answer to `subscribe`, or the back-end's doing (no `id`).
    Subscribed {
        /// The session.
        s: SessionNumber,
        /// The request it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Alias, name and position of the topic's log.
        log: LogPosition,
    },
    /// The session is out of a topic: the answer to `unsubscribe`, or the back-end's doing (no `id`).
    Unsubscribed {
        /// The session.
        s: SessionNumber,
        /// The request it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The topic.
        topic: TopicName,
    },
    /// The token was replaced.
    Refreshed {
        /// The session.
        s: SessionNumber,
        /// When the new token ends, Unix seconds.
        exp: u64,
    },
    /// Messages of a log are gone for this terminal (I5, I6). Delivery goes on behind `to`.
    Gap {
        /// The session.
        s: SessionNumber,
        /// The log.
        l: LogAlias,
        /// The lineage from now on.
        epoch: Epoch,
        /// The terminal's position until now.
        from: Offset,
        /// Its position from now on; lower than `from` when history was rewound.
        to: Offset,
        /// Why.
        reason: GapReason,
    },
    /// The session is over. `code` is a number of the table of codes.
    Closed {
        /// The session.
        s: SessionNumber,
        /// The code, 4000-4999.
        code: u16,
        /// Its name.
        reason: String,
        /// Whether to open it again (with back-off).
        reconnect: bool,
        /// What is special about this occurrence.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A request failed; the session goes on.
    Error {
        /// The session.
        s: SessionNumber,
        /// The request it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The code.
        code: u16,
        /// Its name.
        reason: String,
        /// What is special about this occurrence.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The link (`s` is 0) ends soon: connect elsewhere after `after_ms` of waiting.
    Goaway {
        /// 0.
        s: SessionNumber,
        /// How long to stay before reconnecting, already jittered, in milliseconds.
        after_ms: u64,
        /// Other access points, the best first, for terminals that look for one themselves.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        to: Vec<String>,
    },
    /// The heartbeat from now on (`s` is 0): send something at least this often.
    Heartbeat {
        /// 0.
        s: SessionNumber,
        /// Milliseconds.
        ms: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// 0.
        s: SessionNumber,
    },
}

/// The body of `opened`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The session.
    pub s: SessionNumber,
    /// The node that serves it.
    pub node: String,
    /// The number that orders the sessions of this terminal (I7).
    pub generation: u64,
    /// The store's time, Unix milliseconds.
    pub time_ms: u64,
    /// The heartbeat: send something at least this often, in milliseconds.
    pub heartbeat_ms: u64,
    /// Unacknowledged messages that a log may have on the way.
    pub window: u32,
    /// How long the node waits for an acknowledgement before it sends again, in milliseconds.
    pub ack_timeout_ms: u64,
    /// When the token ends, Unix seconds.
    pub exp: u64,
    /// The logs of the session.
    pub logs: Vec<LogPosition>,
    /// Topics of `open` that were refused, with the number of the code that says why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(TopicName, u16)>,
}

/// A log of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Its alias in the frames of this session.
    pub l: LogAlias,
    /// Its name.
    pub log: LogName,
    /// Its lineage.
    pub epoch: Epoch,
    /// Delivery starts behind this offset.
    pub offset: Offset,
}

/// The body of `deliver`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deliver {
    /// The session.
    pub s: SessionNumber,
    /// The log.
    pub l: LogAlias,
    /// Whether some of them were sent on this link before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// The messages, in the order of the log.
    pub m: Vec<Message>,
}

/// A message. Exactly one of `d` and `b` is there; [`Message::payload`] reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Its offset; absent when it was pushed with ttl 0, and then it is not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub o: Option<Offset>,
    /// Its id.
    pub id: MessageId,
    /// The payload, JSON.
    #[serde(
        default,
        deserialize_with = "crate::frame::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub d: Option<Box<RawValue>>,
    /// The payload, bytes in base64 (RFC 4648, section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
    /// The content type of `b`; [`CONTENT_TYPE_DEFAULT`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ct: Option<String>,
}

/// Why messages are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The log had to evict them.
    Evicted,
    /// The store was restored or replaced: another lineage.
    Epoch,
    /// The terminal's cursor is above everything the store has: history was lost.
    Ahead,
}
