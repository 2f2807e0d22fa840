//! The words Clarion speaks on its wires: identifiers, terminal frames, push API bodies, the one
//! table of codes, OAuth 1.0 signatures and milestones. No runtime, no sockets: whatever talks to
//! a node, in any direction, shares these types. The written specification is `README.md` beside
//! this crate.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod codes;
pub mod frame;
pub mod http;
pub mod ids;
pub mod milestone;
pub mod oauth;
pub mod push_link;
pub mod terminal;

pub use codes::{Code, Problem, Retry};
pub use frame::FrameError;
pub use ids::{
    Epoch, IdError, IsolationGroup, KeyId, LogName, MessageId, Offset, ProductId, TerminalId,
    TopicName, TopicPattern, UserId,
};
