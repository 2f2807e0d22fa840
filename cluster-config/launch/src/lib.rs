//! Starts local processes and looks after them: Redis servers with replicas and sentinels, nodes,
//! a proxy. `clarion cluster up` and the tests use it.
//!
//! Everything listens on an address of this machine at a port that was free, keeps its files in a
//! directory that the caller gives, is waited for by a condition and never by time, and is killed
//! when its handle is dropped. [`process::Process`] is the common part: pid, signals, restart, log.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cluster;
mod error;
pub mod follow;
pub mod haproxy;
pub mod http;
pub mod node;
pub mod port;
pub mod process;
pub mod profile;
pub mod redis;
pub mod resp;
pub mod wait;

pub use cluster::{Cluster, Place, RedisGroup, Up};
pub use error::{Cause, LaunchError};
pub use haproxy::HaProxy;
pub use node::{Node, NodeSpec};
pub use process::{Process, Signal};
pub use profile::Profile;
pub use redis::{Redis, RedisCluster, RedisOptions, RedisSentinel, RedisServer};
