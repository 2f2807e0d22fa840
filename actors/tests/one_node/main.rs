//! A node over a store in memory: pushes in, frames out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, unused_crate_dependencies)]

mod backpressure;
mod drain;
mod idempotency;
mod members;
mod pushes;
mod resume;
mod sessions;
mod support;
