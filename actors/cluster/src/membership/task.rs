//! The one place of membership that starts plain tasks: their owner holds the handle.

use std::future::Future;

use tokio::task::JoinHandle;

/// Runs `work` beside the caller. Its panic ends only itself; who needs it waits for the handle.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

/// A task that ends with its owner.
pub(super) struct Held(JoinHandle<()>);

impl Held {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(spawn(work))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}
