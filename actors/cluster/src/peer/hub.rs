//! The root of peer links: starts and restarts what they are made of, and decides with whom there
//! is one.
//!
//! Children: the node server, the ports, one [`Link`] per wanted node; beside them the task that
//! accepts. A crashed link is started again after a pause that grows with its crashes; a crashed
//! port or node server is started again at once and every session begins anew, since what it held is
//! lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, RpcReplyPort,
    SupervisionEvent,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Peer;
use super::link::{Link, LinkArguments, LinkMessage};
use super::listener;
use super::port::{self, PORTS, Port};
use super::server;
use super::session::Why;
use super::shared::Shared;
use super::types::Target;
use crate::BootId;

/// The name of a node in ractor's eyes: unique per boot.
pub(super) fn node_name(id: &str, boot: BootId) -> String {
    format!("{id}-{boot}")
}

/// The session of a link, where the hub finds it when the link has crashed.
#[derive(Default)]
pub(super) struct LinkSlot(Mutex<Option<Arc<Peer>>>);

impl LinkSlot {
    pub(super) fn set(&self, peer: Option<Arc<Peer>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = peer;
    }

    fn close(&self, why: Why) {
        let peer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(peer) = peer {
            peer.close(why);
        }
    }
}

/// What the hub is told.
pub(super) enum HubMessage {
    /// Links are wanted with these and no others.
    Want(Vec<Target>),
    /// Time to show that the process runs.
    Tick,
    /// The accepting task has ended.
    ListenerEnded,
    /// Time to start a crashed link again.
    Restart(Arc<str>, BootId),
    /// Close everything; answered when every session is closed.
    Stop(RpcReplyPort<()>),
}

impl Message for HubMessage {}

pub(super) struct Hub;

pub(super) struct HubState {
    shared: Arc<Shared>,
    /// Until the node stops.
    listener: Option<Arc<TcpListener>>,
    accepting: JoinHandle<()>,
    ports: Vec<ActorId>,
    node_server: ActorId,
    links: HashMap<Arc<str>, Entry>,
    stopping: bool,
}

struct Entry {
    target: Target,
    slot: Arc<LinkSlot>,
    link: Option<ActorRef<LinkMessage>>,
    crashes: u32,
}

impl Drop for HubState {
    fn drop(&mut self) {
        self.accepting.abort();
        for entry in self.links.values() {
            entry.slot.close(Why::Unwanted);
        }
    }
}

impl Actor for Hub {
    type Msg = HubMessage;
    type State = HubState;
    type Arguments = (Arc<Shared>, TcpListener);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (shared, listener): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut ports = Vec::with_capacity(PORTS);
        for index in 0..PORTS {
            ports.push(start_port(&shared, index, myself.get_cell()).await?);
        }
        let server = server::start(&shared, myself.get_cell()).await?;
        let node_server = server.get_id();
        shared.set_node_server(Some(server));
        let listener = Arc::new(listener);
        shared.tick();
        myself.send_after(shared.tick_every(), || HubMessage::Tick);
        let accepting = listener::start(shared.clone(), listener.clone(), myself);
        Ok(HubState {
            shared,
            listener: Some(listener),
            accepting,
            ports,
            node_server,
            links: HashMap::new(),
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HubMessage::Want(targets) => state.want(&myself, targets).await,
            HubMessage::Tick => state.tick(&myself),
            HubMessage::ListenerEnded => state.listen_again(&myself),
            HubMessage::Restart(id, boot) => state.start_again(&myself, &id, boot).await,
            HubMessage::Stop(reply) => state.stop(&myself, reply).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.unwrap_or_default())
            }
            _ => return Ok(()),
        };
        if state.stopping {
            return Ok(());
        }
        state.on_crash(&myself, &cell, &reason).await
    }
}

async fn start_port(
    shared: &Arc<Shared>,
    index: usize,
    hub: ActorCell,
) -> Result<ActorId, ActorProcessingErr> {
    let arguments = (shared.clone(), index);
    let (port, _) = Actor::spawn_linked(None, Port, arguments, hub).await?;
    port::publish(shared, index, port.get_cell());
    Ok(port.get_id())
}

impl HubState {
    async fn want(&mut self, myself: &ActorRef<HubMessage>, targets: Vec<Target>) {
        let mut targets: HashMap<Arc<str>, Target> =
            targets.into_iter().map(|target| (target.id.clone(), target)).collect();
        targets.remove(&self.shared.identity.id);
        self.links.retain(|id, entry| {
            let kept = targets.get(id).is_some_and(|target| target.boot == entry.target.boot);
            if !kept {
                self.shared.remove_wanted(id);
                entry.stop();
            }
            kept
        });
        for (id, target) in targets {
            match self.links.get_mut(&id) {
                Some(entry) if entry.target.addr == target.addr => {}
                Some(entry) => {
                    entry.tell(LinkMessage::Moved(target.addr));
                    entry.target = target;
                }
                None => {
                    let entry = Entry { target, slot: Arc::default(), link: None, crashes: 0 };
                    self.links.insert(id.clone(), entry);
                    self.start_link(myself, &id).await;
                }
            }
        }
    }

    async fn start_link(&mut self, myself: &ActorRef<HubMessage>, id: &Arc<str>) {
        let Some(entry) = self.links.get_mut(id) else { return };
        let arguments = LinkArguments {
            shared: self.shared.clone(),
            target: entry.target.clone(),
            slot: entry.slot.clone(),
        };
        let name = format!("peer_link {}", node_name(id, entry.target.boot));
        match Actor::spawn_linked(Some(name), Link, arguments, myself.get_cell()).await {
            Ok((link, _)) => {
                self.shared.set_wanted(id.clone(), entry.target.boot, link.clone());
                entry.link = Some(link);
            }
            Err(error) => {
                tracing::error!(peer = %id, %error, "a peer link did not start");
                entry.restart_later(myself);
            }
        }
    }

    async fn start_again(&mut self, myself: &ActorRef<HubMessage>, id: &Arc<str>, boot: BootId) {
        let waits = |entry: &Entry| entry.target.boot == boot && entry.link.is_none();
        if self.links.get(id).is_some_and(waits) {
            self.start_link(myself, id).await;
        }
    }

    /// A process that stood still (stopped, or its machine was) has been given up by its peers. What
    /// they had sent before is still in its sockets, and must not be handled now.
    fn tick(&mut self, myself: &ActorRef<HubMessage>) {
        if self.shared.stands_still(self.shared.now_us()) {
            tracing::warn!("this process stood still: every link begins anew");
            for peer in self.shared.sessions() {
                peer.close(Why::Stale);
            }
        }
        // Only now, when no session is left whose frames would be taken for fresh.
        self.shared.tick();
        myself.send_after(self.shared.tick_every(), || HubMessage::Tick);
    }

    fn listen_again(&mut self, myself: &ActorRef<HubMessage>) {
        let Some(listener) = self.listener.clone().filter(|_| !self.stopping) else { return };
        tracing::error!("the task that accepts peers has ended: starting it again");
        self.accepting = listener::start(self.shared.clone(), listener, myself.clone());
    }

    async fn on_crash(
        &mut self,
        myself: &ActorRef<HubMessage>,
        cell: &ActorCell,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let id = cell.get_id();
        if let Some(index) = self.ports.iter().position(|port| *port == id) {
            tracing::error!(index, reason, "a peer port crashed: every link begins anew");
            crashed("peer_port");
            self.ports[index] = start_port(&self.shared, index, myself.get_cell()).await?;
            self.reset();
        } else if id == self.node_server {
            tracing::error!(reason, "the node server crashed: every link begins anew");
            crashed("node_server");
            self.shared.set_node_server(None);
            let server = server::start(&self.shared, myself.get_cell()).await?;
            self.node_server = server.get_id();
            self.shared.set_node_server(Some(server));
            self.reset();
        } else {
            let of =
                |entry: &&mut Entry| entry.link.as_ref().is_some_and(|link| link.get_id() == id);
            if let Some(entry) = self.links.values_mut().find(of) {
                tracing::error!(peer = %entry.target.id, reason, "a peer link crashed");
                crashed("peer_link");
                self.shared.remove_wanted(&entry.target.id);
                entry.link = None;
                entry.slot.close(Why::Restart);
                entry.restart_later(myself);
            }
        }
        Ok(())
    }

    fn reset(&self) {
        for entry in self.links.values() {
            entry.tell(LinkMessage::Reset);
        }
    }

    async fn stop(&mut self, myself: &ActorRef<HubMessage>, reply: RpcReplyPort<()>) {
        self.stopping = true;
        self.accepting.abort();
        self.listener = None;
        // Gone, and with it the last hold on the listening socket.
        if let Err(error) = (&mut self.accepting).await {
            tracing::debug!(%error, "accepts no more");
        }
        for (id, mut entry) in self.links.drain() {
            self.shared.remove_wanted(&id);
            entry.stop();
        }
        // With it go its children, the node server and what is left of its sessions.
        myself.stop(Some("stopped".to_owned()));
        if reply.send(()).is_err() {
            tracing::debug!("nobody waits for peer links to stop");
        }
    }
}

fn crashed(kind: &'static str) {
    metrics::counter!("clarion_actor_crashes_total", "kind" => kind).increment(1);
}

impl Entry {
    fn tell(&self, message: LinkMessage) {
        if self.link.as_ref().is_some_and(|link| link.cast(message).is_err()) {
            tracing::debug!(peer = %self.target.id, "the link is stopping");
        }
    }

    fn stop(&mut self) {
        if let Some(link) = self.link.take() {
            link.stop(Some("unwanted".to_owned()));
        }
        self.slot.close(Why::Unwanted);
    }

    fn restart_later(&mut self, myself: &ActorRef<HubMessage>) {
        let pause_ms = (50_u64 << self.crashes.min(6)).min(2000);
        self.crashes = self.crashes.saturating_add(1);
        let (id, boot) = (self.target.id.clone(), self.target.boot);
        myself.send_after(Duration::from_millis(pause_ms), move || HubMessage::Restart(id, boot));
    }
}
