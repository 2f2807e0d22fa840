//! The actors of a node. Read in the order of the way of a push: [`push`] and `lane` (admission,
//! claim, answer), `router` (who owns the log), `owner` with `inbox_shard`, `topic` and `product`
//! and their `intake` (append, hint), `relay` (who reads it here), `link` with its sessions (deliver, acknowledge),
//! `cursors` (write-behind). `supervisor` and [`kinds`] are the life cycle, [`system`] is the node
//! as its doors see it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cluster;
mod cursors;
mod failure;
#[allow(dead_code, reason = "empty without the feature")]
pub mod fault;
mod inbox_shard;
mod intake;
pub mod kinds;
mod lane;
mod limits;
mod link;
mod link_shard;
mod members;
mod nodes;
mod owner;
mod owners;
mod product;
mod products;
pub mod push;
mod relay;
mod ring;
mod router;
mod supervisor;
pub mod system;
mod task;
mod tokens;
mod topic;
mod views;

pub use failure::Failure;
pub use link::first::first_message;
pub use link::io::LinkIo;
pub use push::{Push, Turns};
pub use system::{Readiness, System};
pub use tokens::is_ed25519_public_key;
