//! The one place that starts plain tasks: work that belongs to an actor but must not block it, and
//! that may be lost at any moment without breaking a promise.

use std::future::Future;

/// Runs `work` beside the caller. Its panic ends only itself.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(crate) fn spawn(
    work: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(work)
}
