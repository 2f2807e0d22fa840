//! The link with one peer: dials or waits, hands the stream to ractor, watches the session, begins
//! again. One per wanted node, child of the [`Hub`](super::hub).
//!
//! What a crash loses: where it stood. The hub closes its session, tells `down` and starts it again,
//! which dials or waits anew.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, Message, SupervisionEvent};
use ractor_cluster::NodeServerMessage;
use tokio::task::JoinHandle;

use super::Peer;
use super::dial::{DialError, Established, dial, is_deaf};
use super::hub::LinkSlot;
use super::port;
use super::session::Why;
use super::shared::Shared;
use super::socket::{KillSwitch, LinkStream};
use super::task;
use super::types::{Lane, Target};

/// First redial: soon enough that a refusal tells a killed process well within half a second.
const REDIAL_MS_MIN: u64 = 50;
/// Longest pause between two attempts: a peer that comes back is linked within about a second.
const REDIAL_MS_MAX: u64 = 1000;
/// A session of this age has proved that the peer is well: the next redial is fast again.
const STEADY_MS: u64 = 1000;
/// When the end that does not dial looks whether anybody still listens, after a link was lost.
const PROBES_MS: [u64; 3] = [50, 100, 200];
/// How long ractor may take to end a session whose stream is dead.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// What a link is told.
pub(super) enum LinkMessage {
    /// Time to dial.
    Dial,
    /// What became of dialling.
    Dialled(Box<Result<Established, DialError>>),
    /// The peer has dialled.
    Accepted(Box<Established>),
    /// Time to look whether anybody listens; so many looks were taken.
    Probe(usize),
    /// What was seen.
    Probed { looks: usize, deaf: bool },
    /// Ractor has made a session of the stream.
    Opened(u64, ActorCell),
    /// Both ends have exchanged their actors; number of the node session, name of the node.
    Ready { session: u64, node_id: u64, name: String },
    /// Ractor has ended the session.
    Ended(u64),
    /// The session ought to be up, or gone, by now.
    Overdue(u64),
    /// Time for a heartbeat.
    Beat(u64),
    /// A lane takes messages again.
    Relieved(u64, Lane),
    /// The peer is to be found elsewhere.
    Moved(SocketAddr),
    /// An actor below has been restarted: begin again.
    Reset,
}

impl Message for LinkMessage {}

pub(super) struct Link;

pub(super) struct LinkArguments {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Target,
    pub(super) slot: Arc<LinkSlot>,
}

pub(super) struct LinkState {
    shared: Arc<Shared>,
    target: Target,
    slot: Arc<LinkSlot>,
    current: Option<Arc<Peer>>,
    /// Was up last; told as refused if nobody listens any more.
    last: Option<Arc<Peer>>,
    /// Waits until ractor has ended the current session.
    next: Option<Box<Established>>,
    dialling: Option<JoinHandle<()>>,
    attempts: u32,
    /// What the last failure said: the same again is not worth another warning.
    complained: String,
}

impl Drop for LinkState {
    fn drop(&mut self) {
        if let Some(dialling) = self.dialling.take() {
            dialling.abort();
        }
    }
}

impl Actor for Link {
    type Msg = LinkMessage;
    type State = LinkState;
    type Arguments = LinkArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let LinkArguments { shared, target, slot } = arguments;
        if shared.dials(&target.id) {
            myself.cast(LinkMessage::Dial)?;
        }
        Ok(LinkState {
            shared,
            target,
            slot,
            current: None,
            last: None,
            next: None,
            dialling: None,
            attempts: 0,
            complained: String::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LinkMessage::Dial => state.dial(&myself),
            LinkMessage::Dialled(result) => state.on_dialled(&myself, *result),
            LinkMessage::Accepted(established) => state.on_accepted(&myself, established),
            LinkMessage::Probe(looks) => state.probe(&myself, looks),
            LinkMessage::Probed { looks, deaf } => state.on_probed(&myself, looks, deaf),
            LinkMessage::Opened(session, cell) => state.on_opened(session, cell),
            LinkMessage::Ready { session, node_id, name } => {
                state.on_ready(&myself, session, node_id, &name);
            }
            LinkMessage::Ended(session) => state.on_ended(&myself, session),
            LinkMessage::Overdue(session) => state.on_overdue(&myself, session),
            LinkMessage::Beat(session) => state.beat(&myself, session),
            LinkMessage::Relieved(session, lane) => state.on_relieved(session, lane),
            LinkMessage::Moved(addr) => state.target.addr = addr,
            LinkMessage::Reset => state.reset(&myself),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children: ractor's sessions belong to the node server.
        Ok(())
    }
}

/// `base`, shortened by up to half, so that the nodes of a cluster do not beat in step.
fn jittered(base_ms: u64) -> Duration {
    Duration::from_millis(base_ms - fastrand::u64(0..=base_ms / 2))
}

/// Tells what became of dialling, however it ends: without that nobody would dial again. One that
/// ended without a result, in a panic, counts as one that got no answer.
struct Dialling<T: FnOnce(Result<Established, DialError>)>(Option<T>);

impl<T: FnOnce(Result<Established, DialError>)> Dialling<T> {
    fn new(tell: T) -> Self {
        Self(Some(tell))
    }

    fn tell(&mut self, result: Result<Established, DialError>) {
        if let Some(tell) = self.0.take() {
            tell(result);
        }
    }
}

impl<T: FnOnce(Result<Established, DialError>)> Drop for Dialling<T> {
    fn drop(&mut self) {
        self.tell(Err(DialError::TimedOut));
    }
}

impl LinkState {
    fn current(&self, session: u64) -> Option<&Arc<Peer>> {
        self.current.as_ref().filter(|peer| peer.session == session)
    }

    // ---- towards a stream ----

    fn dial(&mut self, myself: &ActorRef<LinkMessage>) {
        if self.current.is_some() || self.dialling.as_ref().is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let (shared, target, link) = (self.shared.clone(), self.target.clone(), myself.clone());
        let mut dialling = Dialling::new(move |result| {
            if link.cast(LinkMessage::Dialled(Box::new(result))).is_err() {
                tracing::debug!("dialled for a link that has stopped");
            }
        });
        self.dialling = Some(task::spawn(async move {
            let result = Box::pin(dial(shared, target)).await;
            dialling.tell(result);
        }));
    }

    fn on_dialled(
        &mut self,
        myself: &ActorRef<LinkMessage>,
        result: Result<Established, DialError>,
    ) {
        self.dialling = None;
        match result {
            Ok(established) => self.open(myself, established),
            Err(error) => {
                if error.is_gone() {
                    self.tell_refused();
                }
                self.complain(&error);
                self.dial_later(myself);
            }
        }
    }

    fn complain(&mut self, error: &DialError) {
        let said = error.to_string();
        if error.is_usual() || said == self.complained {
            tracing::debug!(peer = %self.target.id, addr = %self.target.addr, %error, "no link");
            return;
        }
        tracing::warn!(peer = %self.target.id, addr = %self.target.addr, %error, "no link");
        self.complained = said;
    }

    fn dial_later(&mut self, myself: &ActorRef<LinkMessage>) {
        let pause_ms = (REDIAL_MS_MIN << self.attempts.min(10)).min(REDIAL_MS_MAX);
        self.attempts = self.attempts.saturating_add(1);
        myself.send_after(jittered(pause_ms), || LinkMessage::Dial);
    }

    fn on_accepted(&mut self, myself: &ActorRef<LinkMessage>, established: Box<Established>) {
        let Some(current) = &self.current else { return self.open(myself, *established) };
        // The peer would not dial while it has a session: ours is dead, ractor has to end it first.
        current.close(Why::Replaced);
        self.next = Some(established);
        self.arm_overdue(myself, ENDING_MAX);
    }

    fn open(&mut self, myself: &ActorRef<LinkMessage>, established: Established) {
        let Established { wire, agreed, dialled } = established;
        let Some(node_server) = self.shared.node_server() else { return self.again(myself) };
        self.last = None;
        let kill = KillSwitch::default();
        let label = format!("{:016x}", agreed.session);
        let peer = Peer::new(self.shared.clone(), myself.clone(), agreed, kill.clone());
        self.shared.add_session(&peer);
        self.slot.set(Some(peer.clone()));
        self.current = Some(peer);
        self.arm_overdue(myself, self.shared.handshake_timeout());
        let stream = Box::new(LinkStream { wire, kill, label });
        let opened = NodeServerMessage::ConnectionOpenedExternal { stream, is_server: !dialled };
        if node_server.cast(opened).is_err() {
            self.reset(myself);
        }
    }

    fn arm_overdue(&self, myself: &ActorRef<LinkMessage>, after: Duration) {
        let Some(session) = self.current.as_ref().map(|peer| peer.session) else { return };
        myself.send_after(after, move || LinkMessage::Overdue(session));
    }

    // ---- a session ----

    fn on_opened(&mut self, session: u64, cell: ActorCell) {
        let Some(peer) = self.current(session) else { return };
        if peer.node_session.set(cell).is_ok() && peer.is_down() {
            peer.stop_transport();
        }
    }

    fn on_ready(&mut self, myself: &ActorRef<LinkMessage>, session: u64, node_id: u64, name: &str) {
        let Some(peer) = self.current(session).filter(|peer| !peer.is_down()) else { return };
        let said = super::hub::node_name(&peer.id, peer.boot);
        let ports = port::find(&peer.id, peer.boot, node_id);
        match ports.filter(|_| name.split('@').next() == Some(&said)) {
            Some(ports) => {
                peer.found(ports);
                if myself.cast(LinkMessage::Beat(session)).is_err() {
                    tracing::debug!("the link is stopping");
                }
            }
            None => {
                tracing::warn!(peer = %peer.id, name, "the session is not that of the handshake");
                peer.close(Why::Corrupt);
            }
        }
    }

    fn beat(&mut self, myself: &ActorRef<LinkMessage>, session: u64) {
        let Some(peer) = self.current(session) else { return };
        if !peer.is_down() && !peer.beat() {
            tracing::warn!(peer = %peer.id, "no answer to three heartbeats: closing the link");
            peer.close(Why::Silent);
        }
        if peer.is_down() {
            // Ractor will say that it has ended; should it not, this does.
            return self.arm_overdue(myself, ENDING_MAX);
        }
        if peer.age_ms() >= STEADY_MS {
            self.attempts = 0;
            self.complained.clear();
        }
        let pause = Duration::from_millis(self.shared.settings.heartbeat_ms.max(1));
        myself.send_after(pause, move || LinkMessage::Beat(session));
    }

    fn on_relieved(&mut self, session: u64, lane: Lane) {
        if let Some(peer) = self.current(session) {
            peer.tell_dropped(lane);
        }
    }

    // ---- its end ----

    fn reset(&mut self, myself: &ActorRef<LinkMessage>) {
        if let Some(peer) = &self.current {
            peer.close(Why::Restart);
            self.arm_overdue(myself, ENDING_MAX);
        }
    }

    fn on_overdue(&mut self, myself: &ActorRef<LinkMessage>, session: u64) {
        let Some(peer) = self.current(session).cloned() else { return };
        if peer.is_up() {
            return;
        }
        if !peer.is_down() {
            peer.close(Why::Overdue);
            return self.arm_overdue(myself, ENDING_MAX);
        }
        // Ractor has not said that it is over: end what is left of it and go on.
        tracing::warn!(peer = %peer.id, "a session did not end by itself");
        if let Some(cell) = peer.node_session.get() {
            cell.kill();
        }
        self.on_ended(myself, session);
    }

    fn on_ended(&mut self, myself: &ActorRef<LinkMessage>, session: u64) {
        let Some(peer) = self.current(session).cloned() else { return };
        // Unless it was closed from here.
        peer.close(Why::Lost);
        self.shared.remove_session(session);
        self.slot.set(None);
        self.current = None;
        if peer.was_announced() {
            self.last = Some(peer);
        }
        if let Some(established) = self.next.take() {
            return self.open(myself, *established);
        }
        self.again(myself);
    }

    fn again(&mut self, myself: &ActorRef<LinkMessage>) {
        if self.shared.dials(&self.target.id) {
            self.dial_later(myself);
        } else {
            self.probe_later(myself, 0);
        }
    }

    fn probe_later(&mut self, myself: &ActorRef<LinkMessage>, looks: usize) {
        if let Some(pause_ms) = PROBES_MS.get(looks) {
            myself.send_after(jittered(*pause_ms), move || LinkMessage::Probe(looks));
        }
    }

    fn probe(&mut self, myself: &ActorRef<LinkMessage>, looks: usize) {
        if self.current.is_some() || self.last.is_none() {
            return;
        }
        let (addr, link) = (self.target.addr, myself.clone());
        drop(task::spawn(async move {
            let deaf = is_deaf(addr).await;
            if link.cast(LinkMessage::Probed { looks, deaf }).is_err() {
                tracing::debug!("probed for a link that has stopped");
            }
        }));
    }

    fn on_probed(&mut self, myself: &ActorRef<LinkMessage>, looks: usize, deaf: bool) {
        if self.current.is_some() {
            return;
        }
        if deaf {
            self.tell_refused();
        } else {
            self.probe_later(myself, looks + 1);
        }
    }

    fn tell_refused(&mut self) {
        if let Some(peer) = self.last.take() {
            tracing::info!(peer = %peer.id, boot = %peer.boot, "nobody listens any more");
            peer.tell_refused();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dialling_that_panics_is_told_as_dialling_without_an_answer() {
        let (said, mut heard) = tokio::sync::mpsc::channel(2);
        let dialling = Dialling::new(move |result| {
            let _ = said.try_send(result.is_err());
        });
        let ended = task::spawn(async move {
            let _dialling = dialling;
            panic!("as the test wants");
        });
        assert!(ended.await.is_err());
        assert_eq!(heard.recv().await, Some(true));
        assert_eq!(heard.recv().await, None, "once");
    }
}
