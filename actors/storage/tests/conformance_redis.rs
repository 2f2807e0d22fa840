//! The Redis store passes the suite, on a real server without replicas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod redis_support;

use redis_support::Alone;

clarion_storage::conformance_tests!(Alone::tuned().await);
