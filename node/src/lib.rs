//! A Clarion node and its command line. On the way of a push: [`http`] takes it, the actors carry
//! it, [`gateway`] holds the links that deliver it. [`run`] puts a node together, [`cli`] is what
//! people and scripts call, [`telemetry`] is what the node says about itself.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)
)]

pub mod cli;
pub mod gateway;
pub mod http;
pub mod neighbours;
pub mod run;
mod task;
pub mod telemetry;
