//! The one place where this crate starts tasks.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task. Every caller either keeps the handle or owns a channel that ends the task when
/// the last handle of the client is dropped, so none outlives its client for long.
#[allow(clippy::disallowed_methods, reason = "the one wrapper that the ban points to")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}
