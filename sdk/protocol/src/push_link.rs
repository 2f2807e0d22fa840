//! Frames of the back-end's WebSocket, `/v1/products/{product}/push`, sub-protocol
//! [`SUBPROTOCOL_PUSH`]: the same pushes as over HTTP on one signed connection, each confirmed by
//! the id the back-end gave it. At most [`Welcome::window`] may be unconfirmed; a node stops
//! reading while that many are, so a back-end that ignores the window only slows itself down.

use serde::{Deserialize, Serialize};

use crate::codes::Problem;
use crate::frame::{self, FrameError};
use crate::http::{PushAccepted, PushRequest};

/// The sub-protocol offered in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL_PUSH: &str = "clarion.push.v1.json";

/// What a back-end sends. Read with [`BackendFrame::parse`].
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum BackendFrame {
    /// A push.
    Push {
        /// The back-end's number for it, echoed in its confirmation.
        id: u64,
        /// The push, as over HTTP.
        push: PushRequest,
    },
}

/// What a node sends to a back-end. Read with [`PushNodeFrame::parse`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum PushNodeFrame {
    /// First frame of the connection.
    Welcome(Welcome),
    /// Outcomes, in any order, each once.
    Confirm {
        /// The outcomes.
        c: Vec<Confirmation>,
    },
    /// The node drains: finish what is unconfirmed and connect again after `after_ms`.
    Goaway {
        /// How long to stay, already jittered, in milliseconds.
        after_ms: u64,
    },
}

/// The limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Pushes that may be unconfirmed.
    pub window: u32,
    /// The largest frame the node takes, in bytes.
    pub frame_bytes_max: u32,
    /// The node pings this often; a connection that does not answer two is closed. Milliseconds.
    pub heartbeat_ms: u64,
}

/// The outcome of one push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The back-end's number for the push.
    pub id: u64,
    /// It was accepted: what HTTP answers with 202.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<PushAccepted>,
    /// It was refused, or its outcome is unknown: what HTTP answers as a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl BackendFrame {
    /// Reads a frame of a back-end.
    ///
    /// # Errors
    /// See [`FrameError`]. When [`BackendFrame::peek_id`] still finds the id of a malformed push,
    /// the push can be refused by its id and the connection goes on.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        frame::parse(text, Self::of_type)
    }

    /// The id of a push that [`BackendFrame::parse`] refused as malformed, if it has one.
    #[must_use]
    pub fn peek_id(text: &str) -> Option<u64> {
        #[derive(Deserialize)]
        struct Body {
            id: u64,
        }
        serde_json::from_str::<Body>(text).ok().map(|body| body.id)
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }

    fn of_type(t: &str, text: &str) -> Result<Option<Self>, FrameError> {
        #[derive(Deserialize)]
        struct Push {
            id: u64,
            push: PushRequest,
        }
        if t != "push" {
            return Ok(None);
        }
        let Push { id, push } = frame::body(text)?;
        Ok(Some(Self::Push { id, push }))
    }
}

impl PushNodeFrame {
    /// Reads a frame of a node. Back-ends ignore frames of an unknown type: the node may be newer.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        frame::parse(text, Self::of_type)
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }

    fn of_type(t: &str, text: &str) -> Result<Option<Self>, FrameError> {
        #[derive(Deserialize)]
        struct Confirm {
            c: Vec<Confirmation>,
        }
        #[derive(Deserialize)]
        struct Goaway {
            after_ms: u64,
        }
        Ok(Some(match t {
            "welcome" => Self::Welcome(frame::body(text)?),
            "confirm" => {
                let Confirm { c } = frame::body(text)?;
                Self::Confirm { c }
            }
            "goaway" => {
                let Goaway { after_ms } = frame::body(text)?;
                Self::Goaway { after_ms }
            }
            _ => return Ok(None),
        }))
    }
}
