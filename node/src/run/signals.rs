//! SIGTERM and SIGINT: the first asks the node to drain, the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;

/// How a process ends that was told twice, as shells report an interrupted command.
const INTERRUPTED: i32 = 130;

/// The signals that stop a node, listened to from here on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, StartError> {
        let listen = |kind| {
            signal(kind).map_err(|error| StartError::new(format!("cannot take signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits for one and ends the process.
    pub(crate) async fn end_at_once(&mut self) {
        let signal = self.next().await;
        tracing::warn!(signal, "told twice: ending without draining");
        std::process::exit(INTERRUPTED);
    }
}
