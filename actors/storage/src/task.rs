//! The one place of this crate that starts tasks.

use std::future::Future;

/// Runs `work` beside the caller. Its panic ends only itself.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(crate) fn spawn(
    work: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(work)
}
