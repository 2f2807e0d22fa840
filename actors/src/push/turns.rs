//! The order of the pushes of one connection (I8).

use tokio::sync::oneshot;

/// Keeps the pushes of one connection in order up to their owners (I8).
#[derive(Debug, Default)]
pub struct Turns {
    last: Option<oneshot::Receiver<()>>,
}

/// The place of one push. Dropped, it lets the next one pass.
#[derive(Debug)]
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _passed: oneshot::Sender<()>,
}

impl Turns {
    /// The next place; called in the order in which the pushes came.
    pub fn take(&mut self) -> Turn {
        let (passed, next) = oneshot::channel();
        Turn { before: self.last.replace(next), _passed: passed }
    }
}

impl Turn {
    /// Waits until every push before this one is on its way to its owners, or has failed.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error is the signal: the sender is only ever dropped.
            let _ = before.await;
        }
    }
}
