//! The pure decisions of Clarion: what a log entry is, what a session does with it, what is
//! admitted, who owns what. No runtime, no sockets, no clock: time comes in as a number, effects
//! go out as values. The numbered invariants (`I1` …) that code and tests cite are listed in
//! `README.md` of this crate.

#![deny(clippy::wildcard_enum_match_arm)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admission;
pub mod entry;
pub mod fault;
pub mod gateways;
pub mod identity;
pub mod log;
pub mod membership;
pub mod placement;
pub mod session;

pub use entry::{Batch, Body, Control, Entry, Page, Settled};
pub use identity::{BootId, Role, Roles};
pub use log::{LogKey, LogKind, Mode};
