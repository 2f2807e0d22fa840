//! The one place of peer links that starts plain tasks: work that belongs to an actor but must not
//! block it, and that may be lost at any moment because a deadline of that actor covers it.

use std::future::Future;

/// Runs `work` beside the caller. Its panic ends only itself.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(super) fn spawn(
    work: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(work)
}

/// The same from a thread that may be outside the runtime.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(super) fn spawn_on(
    runtime: &tokio::runtime::Handle,
    work: impl Future<Output = ()> + Send + 'static,
) {
    runtime.spawn(work);
}
