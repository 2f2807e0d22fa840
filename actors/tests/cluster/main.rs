//! Several nodes in one process over one store and links that tests cut: no accepted push is lost or
//! stored twice, and all is healed by itself. The slow head check is an hour away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, unused_crate_dependencies)]

mod asking;
mod attempts;
mod cuts;
mod heals;
mod links;
mod moves;
mod store;
#[path = "../one_node/support.rs"]
mod support;
mod together;
mod world;
