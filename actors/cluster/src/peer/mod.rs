//! Links between nodes: one per pair, authenticated, with bounded lanes that push back, and an end
//! that is noticed.
//!
//! [`Peers`] is told with whom links are wanted and tells through [`PeerEvents`] of each session that
//! begins and ends. A session is a [`Peer`]; its messages go through a ractor_cluster session to the
//! ports of the other node. Read in the order of a link's life: `listener` and `dial` (sockets),
//! `tls` and `handshake` (who is there), `link` (one per peer: dials, watches, begins again), `server`
//! (ractor's side), `port` (where frames arrive), `session` with `outbox`, `inlet` and `frame`. `hub`
//! is the root that restarts them. `ask` only looks who is there, for an operator's check.
//!
//! Nothing here is durable and nothing is sent twice: what a link that ends had on its way is lost,
//! and `down` says so.

mod ask;
mod dial;
mod frame;
mod handshake;
mod hub;
mod inlet;
mod link;
mod listener;
mod outbox;
mod port;
mod server;
mod session;
mod shared;
mod socket;
mod task;
mod tls;
mod types;

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{Actor, ActorRef};

pub use ask::{AskError, Asked, Asker};
pub use dial::is_deaf;
pub use session::{Held, Peer};
pub use types::{
    LANE_MESSAGES_MAX, Lane, LaneStatus, MESSAGE_BYTES_MAX, MESSAGE_COST_BYTES, PeerEvents,
    PeerSettings, PeerStatus, PeerTls, PeersError, Refused, Target,
};

use crate::{Cookie, NodeIdentity};
use hub::{Hub, HubMessage};
use shared::Shared;

/// The links of this node. At most one per process: ractor's process groups belong to the process.
pub struct Peers {
    shared: Arc<Shared>,
    hub: ActorRef<HubMessage>,
    addr: SocketAddr,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Peers({} on {})", self.shared.identity.id, self.addr)
    }
}

impl Peers {
    /// Listens for peers. Links begin with [`want`](Self::want).
    ///
    /// # Errors
    /// [`PeersError`]: the address, the certificates or a name cannot be used.
    pub async fn start(
        settings: PeerSettings,
        identity: NodeIdentity,
        cookie: Cookie,
        tls: Option<PeerTls>,
        events: Arc<dyn PeerEvents>,
    ) -> Result<Self, PeersError> {
        check_name("node id", &identity.id)?;
        check_name("cluster name", &settings.cluster)?;
        let tls =
            tls.map(|files| tls::Tls::load(&files, &identity.id, &settings.cluster)).transpose()?;
        let failed = |error| PeersError::Listen { addr: settings.listen, error };
        let listener = socket::listen(settings.listen).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Shared::new(settings, identity, cookie, tls, events);
        let (hub, _) = Actor::spawn(None, Hub, (shared.clone(), listener))
            .await
            .map_err(|error| PeersError::Start(error.to_string()))?;
        Ok(Self { shared, hub, addr })
    }

    /// Where it listens, with the port that the system chose if that was 0.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Links are wanted with these nodes and no others; the node itself among them does not count.
    /// Of two nodes the one whose id sorts first dials, so both have to want each other.
    pub fn want(&self, targets: Vec<Target>) {
        if self.hub.cast(HubMessage::Want(targets)).is_err() {
            tracing::debug!("peer links have stopped");
        }
    }

    /// The sessions that take messages now.
    #[must_use]
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.shared.sessions().into_iter().filter(|peer| peer.is_up()).collect()
    }

    /// Ends every link and stops listening. `down` is told for each.
    pub async fn stop(&self) {
        let asked = ractor::call!(self.hub, HubMessage::Stop);
        if asked.is_err() {
            return;
        }
        if let Err(error) = self.hub.stop_and_wait(None, None).await {
            tracing::debug!(%error, "peer links had stopped");
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.hub.stop(None);
    }
}

fn check_name(what: &str, name: &str) -> Result<(), PeersError> {
    let usual = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if name.is_empty() || name.len() > handshake::NAME_BYTES_MAX || !name.chars().all(usual) {
        return Err(PeersError::Name(format!(
            "the {what} `{name}` has to be 1 to {} letters, digits, `-`, `_` or `.`",
            handshake::NAME_BYTES_MAX
        )));
    }
    Ok(())
}
