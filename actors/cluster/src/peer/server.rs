//! Ractor's side of the links: one `NodeServer` for all of them.
//!
//! It gets streams that have passed our handshake and no others. Its own listener, which would accept
//! one client at a time and wait for it for ever, is taken away from it right after the start; until
//! then it listens on a loopback port of the system's choice, and whoever finds that needs a secret
//! that is made from the cookie and used for nothing else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ractor::{ActorCell, ActorRef, SpawnErr};
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{NodeEventSubscription, NodeServer, NodeServerMessage};

use super::hub::node_name;
use super::link::LinkMessage;
use super::shared::Shared;

/// Most bytes of one message between two node servers; a session that sends more is ended.
const FRAME_BYTES_MAX: u64 = 1 << 20;

/// Starts it as a child of `hub`.
pub(super) async fn start(
    shared: &Arc<Shared>,
    hub: ActorCell,
) -> Result<ActorRef<NodeServerMessage>, SpawnErr> {
    // The boot in the name: a node that comes back must not lose an election against its former,
    // hung self. The host is part of what ractor takes for the node's address, by which it would
    // mistake a node of another machine with the same loopback port for itself.
    let name = node_name(&shared.identity.id, shared.identity.boot);
    let secret = shared.cookie.key(&format!("ractor sessions of {}", shared.settings.cluster));
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let server = NodeServer::new(0, secret, name.clone(), name, None, None)
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(FRAME_BYTES_MAX);
    let (server, _) = ractor::Actor::spawn_linked(None, server, (), hub).await?;
    // Unlinked first: the server would start it again.
    for listener in server.get_children() {
        listener.unlink(server.get_cell());
        listener.kill();
    }
    let subscription = Box::new(SessionEvents(Arc::clone(shared)));
    let subscribe = NodeServerMessage::SubscribeToEvents { id: "clarion".to_owned(), subscription };
    if server.cast(subscribe).is_err() {
        return Err(SpawnErr::StartupFailed("the node server stopped at once".into()));
    }
    Ok(server)
}

/// Passes what happens to a session on to the link it belongs to.
struct SessionEvents(Arc<Shared>);

impl SessionEvents {
    fn session_of(info: &NodeServerSessionInformation) -> Option<u64> {
        // The label of the stream ([`LinkStream`](super::socket::LinkStream)).
        u64::from_str_radix(&info.peer_addr, 16).ok()
    }

    fn tell(&self, info: &NodeServerSessionInformation, message: impl Fn(u64) -> LinkMessage) {
        let Some(session) = Self::session_of(info) else { return };
        let Some(peer) = self.0.session(session) else { return };
        if peer.link.cast(message(session)).is_err() {
            tracing::debug!(peer = %peer.id, "the link of a session has stopped");
        }
    }
}

impl NodeEventSubscription for SessionEvents {
    fn node_session_opened(&self, info: NodeServerSessionInformation) {
        self.tell(&info, |session| LinkMessage::Opened(session, info.actor.get_cell()));
    }

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, info: NodeServerSessionInformation) {
        let name = info.peer_name.as_ref().map(|name| name.name.clone()).unwrap_or_default();
        self.tell(&info, |session| LinkMessage::Ready {
            session,
            node_id: info.node_id,
            name: name.clone(),
        });
    }

    fn node_session_disconnected(&self, info: NodeServerSessionInformation) {
        self.tell(&info, LinkMessage::Ended);
        if let Some(session) = Self::session_of(&info) {
            self.0.remove_session(session);
        }
    }
}
