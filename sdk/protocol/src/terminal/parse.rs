//! Reading frames of the terminal link.

use serde::Deserialize;

use super::{Cursor, GapReason, LogAlias, LogPosition, NodeFrame, SessionNumber, TerminalFrame};
use crate::frame::{self, FrameError, body};
use crate::ids::{Epoch, Offset, TopicName};

#[derive(Deserialize)]
struct SessionOnly {
    s: SessionNumber,
}

#[derive(Deserialize)]
struct Ack {
    s: SessionNumber,
    a: Vec<(LogAlias, Offset)>,
}

#[derive(Deserialize)]
struct Skip {
    s: SessionNumber,
    l: LogAlias,
    o: Offset,
}

#[derive(Deserialize)]
struct Subscribe {
    s: SessionNumber,
    id: u64,
    topic: TopicName,
    cursor: Option<Cursor>,
}

#[derive(Deserialize)]
struct Unsubscribe {
    s: SessionNumber,
    id: u64,
    topic: TopicName,
}

#[derive(Deserialize)]
struct Refresh {
    s: SessionNumber,
    token: String,
}

impl TerminalFrame {
    /// Reads a frame of a terminal. `t` costs nothing extra when it is the first field.
    ///
    /// # Errors
    /// See [`FrameError`]; the node answers both with `frame_malformed`.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        frame::parse(text, Self::of_type)
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }

    fn of_type(t: &str, text: &str) -> Result<Option<Self>, FrameError> {
        Ok(Some(match t {
            "ack" => {
                let Ack { s, a } = body(text)?;
                Self::Ack { s, a }
            }
            "ping" => {
                let SessionOnly { s } = body(text)?;
                Self::Ping { s }
            }
            "open" => Self::Open(body(text)?),
            "skip" => {
                let Skip { s, l, o } = body(text)?;
                Self::Skip { s, l, o }
            }
            "subscribe" => {
                let Subscribe { s, id, topic, cursor } = body(text)?;
                Self::Subscribe { s, id, topic, cursor }
            }
            "unsubscribe" => {
                let Unsubscribe { s, id, topic } = body(text)?;
                Self::Unsubscribe { s, id, topic }
            }
            "refresh" => {
                let Refresh { s, token } = body(text)?;
                Self::Refresh { s, token }
            }
            "close" => {
                let SessionOnly { s } = body(text)?;
                Self::Close { s }
            }
            _ => return Ok(None),
        }))
    }
}

#[derive(Deserialize)]
struct Subscribed {
    s: SessionNumber,
    id: Option<u64>,
    log: LogPosition,
}

#[derive(Deserialize)]
struct Unsubscribed {
    s: SessionNumber,
    id: Option<u64>,
    topic: TopicName,
}

#[derive(Deserialize)]
struct Refreshed {
    s: SessionNumber,
    exp: u64,
}

#[derive(Deserialize)]
struct Gap {
    s: SessionNumber,
    l: LogAlias,
    epoch: Epoch,
    from: Offset,
    to: Offset,
    reason: GapReason,
}

#[derive(Deserialize)]
struct Closed {
    s: SessionNumber,
    code: u16,
    reason: String,
    reconnect: bool,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    s: SessionNumber,
    id: Option<u64>,
    code: u16,
    reason: String,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Goaway {
    s: SessionNumber,
    after_ms: u64,
    #[serde(default)]
    to: Vec<String>,
}

#[derive(Deserialize)]
struct Heartbeat {
    s: SessionNumber,
    ms: u64,
}

impl NodeFrame {
    /// Reads a frame of a node. Terminals ignore frames of an unknown type: the node may be newer.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        frame::parse(text, Self::of_type)
    }

    /// The frame as it is sent. Nodes assemble `deliver` frames from shared parts instead, see
    /// [`write_message`](super::write_message).
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }

    fn of_type(t: &str, text: &str) -> Result<Option<Self>, FrameError> {
        Ok(Some(match t {
            "deliver" => Self::Deliver(body(text)?),
            "opened" => Self::Opened(body(text)?),
            "subscribed" => {
                let Subscribed { s, id, log } = body(text)?;
                Self::Subscribed { s, id, log }
            }
            "unsubscribed" => {
                let Unsubscribed { s, id, topic } = body(text)?;
                Self::Unsubscribed { s, id, topic }
            }
            "refreshed" => {
                let Refreshed { s, exp } = body(text)?;
                Self::Refreshed { s, exp }
            }
            "gap" => {
                let Gap { s, l, epoch, from, to, reason } = body(text)?;
                Self::Gap { s, l, epoch, from, to, reason }
            }
            "closed" => {
                let Closed { s, code, reason, reconnect, detail } = body(text)?;
                Self::Closed { s, code, reason, reconnect, detail }
            }
            "error" => {
                let Failed { s, id, code, reason, detail } = body(text)?;
                Self::Error { s, id, code, reason, detail }
            }
            "goaway" => {
                let Goaway { s, after_ms, to } = body(text)?;
                Self::Goaway { s, after_ms, to }
            }
            "heartbeat" => {
                let Heartbeat { s, ms } = body(text)?;
                Self::Heartbeat { s, ms }
            }
            "pong" => {
                let SessionOnly { s } = body(text)?;
                Self::Pong { s }
            }
            _ => return Ok(None),
        }))
    }
}
