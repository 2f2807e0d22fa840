//! The end of a run by somebody's will.

use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

/// Waits for Ctrl-C, SIGTERM or SIGHUP, which end the program no longer by themselves. Whoever runs a
/// world drops it then: that clears it away.
///
/// # Errors
/// Always: what came, or why it cannot be heard.
pub async fn interrupted() -> Failure {
    let listen = |kind| signal(kind).map_err(Failure::of("cannot listen for signals"));
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [interrupt, terminate, hangup] = kinds.map(listen);
    let (mut interrupt, mut terminate, mut hangup) = match (interrupt, terminate, hangup) {
        (Ok(interrupt), Ok(terminate), Ok(hangup)) => (interrupt, terminate, hangup),
        (Err(failure), ..) | (_, Err(failure), _) | (.., Err(failure)) => return failure,
    };
    let what = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    };
    Failure::new(format!("interrupted ({what})"))
}
