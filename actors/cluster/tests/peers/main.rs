//! Peer links between processes: each node is this test program started again ([`probe`]), because
//! ractor's process groups belong to the process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod hangs;
mod links;
mod probe;
mod proxy;
mod refusals;
mod support;
