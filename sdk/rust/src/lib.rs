#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![doc = include_str!("../README.md")]

pub mod admin;
pub mod backend;
pub mod backoff;
pub mod cursors;
pub mod terminal;
pub mod transport;

mod http;
mod task;
mod wire;

pub use clarion_protocol as protocol;

pub use admin::Admin;
pub use backend::{Backend, Push, PushError, PushLink};
pub use cursors::{CursorStore, FileCursors, MemoryCursors, TransactionalCursors};
pub use terminal::{Event, Events, Message, Payload, Terminal, TerminalHandle, TokenSource};
