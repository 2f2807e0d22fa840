//! SIGTERM, SIGINT, SIGHUP (the terminal is gone; not under `nohup`): the first asks the node to drain, the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;

/// How a process ends that was told twice, as shells report an interrupted command.
const INTERRUPTED: i32 = 130;

/// The signals that stop a node, listened to from here on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None when whoever started the process has it ignored.
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, StartError> {
        let listen = |kind| {
            signal(kind).map_err(|error| StartError::new(format!("cannot take signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: if ignored(SignalKind::hangup()) {
                None
            } else {
                Some(listen(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hangup => "SIGHUP",
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

/// Whether the process was started with this signal ignored.
fn ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}
