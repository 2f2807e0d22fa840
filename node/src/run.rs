//! A node, put together: config, log and metrics, descriptor limit, store, actors, the two doors;
//! then it runs until a signal, drains and ends. Starting stops at the first thing that is wrong,
//! before anything was accepted, and says how to mend it.

mod cluster;
mod doors;
mod error;
mod node;
mod signals;
pub mod store;

pub(crate) use cluster::cookie;
pub use error::StartError;
pub use node::Node;
pub(crate) use signals::Signals;

use std::num::NonZeroUsize;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

/// The runtime of a node: a worker for each core.
///
/// # Errors
/// When the threads cannot be started.
pub fn runtime() -> Result<Runtime, StartError> {
    let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("clarion")
        .enable_all()
        .build()
        .map_err(|error| StartError::new(format!("cannot start threads: {error}")))
}

/// Raises the limit of open files to what this process may have, and returns it: each link is a
/// file.
pub fn raise_descriptor_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    getrlimit(Resource::Nofile).current
}
