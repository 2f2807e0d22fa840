//! Accepts connections of peers. Each handshake runs beside the others under its own deadline, and
//! there are at most [`HANDSHAKES_MAX`]: beyond that the oldest is given up, so clients that say
//! nothing hold up nobody.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ractor::ActorRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;

use super::dial::{DialError, answer};
use super::hub::HubMessage;
use super::link::LinkMessage;
use super::shared::Shared;
use super::task;

/// Most connections that have not proved who they are.
pub(super) const HANDSHAKES_MAX: usize = 128;

/// Starts accepting. When the task ends, however that comes, the hub is told and starts it again.
pub(super) fn start(
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    hub: ActorRef<HubMessage>,
) -> JoinHandle<()> {
    let ended = Ended(hub);
    task::spawn(async move {
        let _ended = ended;
        accept_all(&shared, &listener).await;
    })
}

struct Ended(ActorRef<HubMessage>);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.cast(HubMessage::ListenerEnded).is_err() {
            tracing::debug!("peer links have stopped");
        }
    }
}

async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    // Dropped with the task, which ends every handshake.
    let mut running = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    tracing::debug!(%from, "accepted");
                    oldest.push_back(running.spawn(take(Arc::clone(shared), stream, from)));
                }
                Err(error) => {
                    // Out of descriptors, most likely: accepting again at once would only burn.
                    tracing::warn!(%error, "cannot accept a peer");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = running.join_next(), if !running.is_empty() => {
                oldest.retain(|handle| !handle.is_finished());
            }
        }
        while oldest.len() > HANDSHAKES_MAX {
            if let Some(handle) = oldest.pop_front() {
                handle.abort();
                metrics::counter!("clarion_peer_handshakes_given_up_total").increment(1);
            }
        }
    }
}

async fn take(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    let talk = Box::pin(answer(&shared, stream));
    let result = timeout(shared.handshake_timeout(), talk).await;
    match result.unwrap_or(Err(DialError::TimedOut)) {
        Ok(established) => {
            let agreed = &established.agreed;
            // Wanted a moment ago; the view may have changed since.
            let Some(link) = shared.link(&agreed.id, agreed.boot) else { return };
            if link.cast(LinkMessage::Accepted(Box::new(established))).is_err() {
                tracing::debug!("the link of an accepted peer has stopped");
            }
        }
        Err(error) if error.is_answered() => tracing::debug!(%from, %error, "answered"),
        Err(error) => {
            metrics::counter!("clarion_peer_handshakes_failed_total").increment(1);
            if error.is_usual() {
                tracing::debug!(%from, %error, "no link with a client");
            } else {
                tracing::warn!(%from, %error, "no link with a client");
            }
        }
    }
}
