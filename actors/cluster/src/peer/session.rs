//! One link session with one peer, shared by whoever sends, by the ports that receive and by the
//! [`PeerLink`](super::link) that watches it. A later session of the same peer is another [`Peer`],
//! so nothing of a former one (queue, credit, sequence, frames) can reach it.

mod receive;
mod send;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use ractor::{ActorCell, ActorRef};

use super::frame::ControlKind;
use super::handshake::Agreed;
use super::inlet::{AgeGauge, Inlet};
use super::link::LinkMessage;
use super::outbox::{Limits, Outbox, Push};
use super::port::{PORTS, PortMessage};
use super::shared::Shared;
use super::socket::KillSwitch;
use super::task;
use super::types::{Lane, PeerStatus, Refused};
use crate::BootId;

/// The session is being set up; nothing may be sent.
const OPENING: u8 = 0;
/// Between both: [`PeerEvents::up`](super::PeerEvents::up) runs. Sending works, receiving waits.
const RISING: u8 = 1;
const UP: u8 = 2;
const DOWN: u8 = 3;

/// Why a session ended; the name in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The connection ended, by the peer or the network.
    Lost,
    /// Three heartbeats without an answer.
    Silent,
    /// It did not become ready in time.
    Overdue,
    /// A frame that cannot be believed: checksum, sequence, boot, credit.
    Corrupt,
    /// A frame older than it may be: this node or its peer stood still.
    Stale,
    /// A handler of [`PeerEvents`](super::PeerEvents) panicked.
    Handler,
    /// A later connection of the same peer has taken its place.
    Replaced,
    /// No link is wanted any more, or the node stops.
    Unwanted,
    /// An actor of the links was restarted.
    Restart,
}

impl Why {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Overdue => "overdue",
            Self::Corrupt => "corrupt",
            Self::Stale => "stale",
            Self::Handler => "handler",
            Self::Replaced => "replaced",
            Self::Unwanted => "unwanted",
            Self::Restart => "restart",
        }
    }
}

/// One session of a link with another node.
pub struct Peer {
    /// The other node.
    pub id: Arc<str>,
    /// Which of its runs.
    pub boot: BootId,
    /// The version of messages that both ends speak.
    pub wire: u16,
    pub(super) session: u64,
    pub(super) link: ActorRef<LinkMessage>,
    pub(super) kill: KillSwitch,
    pub(super) node_session: OnceLock<ActorCell>,
    shared: Arc<Shared>,
    myself: Weak<Self>,
    opened_us: u64,
    phase: AtomicU8,
    /// Whether the peer has found the ports of this node.
    greeted: AtomicBool,
    /// Whether `up` was told.
    announced: AtomicBool,
    /// Held while `up` or `down` is told.
    gate: Mutex<()>,
    ports: OnceLock<[ActorRef<PortMessage>; PORTS]>,
    lanes: [LaneSide; 4],
    control: Mutex<ControlSide>,
    gauge: Mutex<AgeGauge>,
    /// When the peer last proved that both directions work.
    proof_us: AtomicU64,
    /// When link control last came in time: until then the peer had not given this session up.
    heard_us: AtomicU64,
    rtt_us: AtomicU64,
}

struct LaneSide {
    out: Mutex<Outbox>,
    inlet: Mutex<Inlet>,
}

#[derive(Default)]
struct ControlSide {
    sent: u64,
    received: u64,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Peer({}-{}, session {:016x})", self.id, self.boot, self.session)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: ActorRef<LinkMessage>,
        agreed: Agreed,
        kill: KillSwitch,
    ) -> Arc<Self> {
        let settings = &shared.settings;
        let limits = Limits {
            queue_bytes: settings.lane_queue_bytes as u64,
            frame_bytes: settings.frame_bytes_max.clamp(16 << 10, 512 << 10),
            frame_messages: settings.frame_messages_max.clamp(1, usize::from(u16::MAX)),
            frame_delay_us: settings.frame_delay_us,
        };
        let window = settings.lane_credit_bytes.max(1);
        let now_us = shared.now_us();
        let mut gauge = AgeGauge::default();
        gauge.age_us(agreed.clock.0, agreed.clock.1);
        Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            id: agreed.id,
            boot: agreed.boot,
            wire: agreed.wire,
            session: agreed.session,
            link,
            kill,
            node_session: OnceLock::new(),
            opened_us: now_us,
            phase: AtomicU8::new(OPENING),
            greeted: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            gate: Mutex::default(),
            ports: OnceLock::new(),
            lanes: std::array::from_fn(|_| LaneSide {
                out: Mutex::new(Outbox::new(limits)),
                inlet: Mutex::new(Inlet::new(window)),
            }),
            control: Mutex::default(),
            gauge: Mutex::new(gauge),
            proof_us: AtomicU64::new(now_us),
            heard_us: AtomicU64::new(now_us),
            rtt_us: AtomicU64::new(0),
            shared,
        })
    }

    /// Takes a message for a lane. It is sent with others of its lane within `frame_delay_us`, as
    /// far as the peer gives credit.
    ///
    /// # Errors
    /// The message was not taken and will not arrive: [`Refused`] says why.
    pub fn send(&self, lane: Lane, message: Bytes) -> Result<(), Refused> {
        if !self.is_up() {
            return Err(Refused::Down);
        }
        let mut out = lock(&self.lanes[lane as usize].out);
        let pushed = out.push(message, || self.shared.now_us()).inspect_err(|refused| {
            if *refused == Refused::Full {
                metrics::counter!("clarion_peer_dropped_total", "lane" => lane.name()).increment(1);
            }
        })?;
        match pushed {
            Push::Wait => {}
            Push::Arm(delay_us) => self.arm(lane, delay_us),
            Push::Flush { due } => self.flush(lane, &mut out, due),
        }
        // What came into the queue behind the back of `take_down` is freed with it.
        if !self.is_up() {
            out.clear();
            return Err(Refused::Down);
        }
        Ok(())
    }

    /// Keeps back `bytes` of a lane's credit until the guard is dropped: for handlers that pass
    /// messages on and are done with them only later. To be called inside
    /// [`received`](super::PeerEvents::received), for messages of that call; each counts its length
    /// and [`MESSAGE_COST_BYTES`](super::MESSAGE_COST_BYTES).
    #[must_use]
    pub fn hold(self: &Arc<Self>, lane: Lane, bytes: usize) -> Held {
        let bytes = bytes as u64;
        lock(&self.lanes[lane as usize].inlet).hold(bytes);
        Held { peer: Arc::clone(self), lane, bytes }
    }

    /// Whether messages are taken.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), RISING | UP)
    }

    /// The link as seen from this end.
    #[must_use]
    pub fn status(&self) -> PeerStatus {
        let lanes = std::array::from_fn(|index| {
            let side = &self.lanes[index];
            let mut status = lock(&side.out).status();
            status.received = lock(&side.inlet).messages();
            status
        });
        PeerStatus {
            up: self.is_up(),
            rtt_us: self.rtt_us.load(Ordering::Relaxed),
            uptime_ms: self.shared.now_us().saturating_sub(self.opened_us) / 1000,
            lanes,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.phase.load(Ordering::Acquire) == DOWN
    }

    /// Whether it was ever up.
    pub(super) fn was_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    pub(super) fn age_ms(&self) -> u64 {
        self.shared.now_us().saturating_sub(self.opened_us) / 1000
    }

    // ---- beginning and end ----

    /// The peer's ports are known: tells it so, after which it may send.
    pub(super) fn found(self: &Arc<Self>, ports: [ActorRef<PortMessage>; PORTS]) {
        if self.ports.set(ports).is_ok() {
            self.control(ControlKind::Hello, 0);
            self.bring_up();
        }
    }

    /// Announces the peer, once, when both ends have found each other's ports. Called after either.
    fn bring_up(self: &Arc<Self>) {
        if self.ports.get().is_none() || !self.greeted.load(Ordering::SeqCst) {
            return;
        }
        let _gate = lock(&self.gate);
        if self
            .phase
            .compare_exchange(OPENING, RISING, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return;
        }
        self.announced.store(true, Ordering::Release);
        metrics::gauge!("clarion_peer_links").increment(1.0);
        self.guarded(|| self.shared.events.up(self));
        // Unless the session ended meanwhile, in which case its end waits for the gate.
        let _ = self.phase.compare_exchange(RISING, UP, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Ends the session: nothing more is taken, sent or handled, and socket and queues are freed.
    pub(super) fn close(self: &Arc<Self>, why: Why) {
        let before = self.phase.swap(DOWN, Ordering::AcqRel);
        if before == DOWN {
            return;
        }
        self.kill.fire();
        self.stop_transport();
        metrics::counter!("clarion_peer_links_ended_total", "why" => why.name()).increment(1);
        if before == OPENING {
            tracing::debug!(peer = %self.id, boot = %self.boot, why = why.name(), "no link");
            return;
        }
        metrics::gauge!("clarion_peer_links").decrement(1.0);
        let lost: usize = self.lanes.iter().map(|side| lock(&side.out).clear()).sum();
        tracing::info!(peer = %self.id, boot = %self.boot, why = why.name(), lost, "link down");
        // After `up` has been told, should it be running. Not inside a handler of this session
        // (`guarded` reports its panic after it has left the gate).
        let peer = Arc::clone(self);
        if before == RISING {
            task::spawn_on(&self.shared.runtime, async move { peer.tell_down() });
        } else {
            peer.tell_down();
        }
    }

    fn tell_down(self: &Arc<Self>) {
        let _gate = lock(&self.gate);
        self.guarded(|| self.shared.events.down(self, false));
    }

    /// Nobody listens at the peer's address any more.
    pub(super) fn tell_refused(self: &Arc<Self>) {
        let _gate = lock(&self.gate);
        self.guarded(|| self.shared.events.down(self, true));
    }

    /// Stopping the node session of a hung peer would leave its queue and socket behind; stopping
    /// the TCP session inside it takes both along. Its other children stand for remote actors.
    pub(super) fn stop_transport(&self) {
        let Some(session) = self.node_session.get() else { return };
        for child in session.get_children() {
            if child.get_id().is_local() {
                child.stop(Some("link closed".to_owned()));
            }
        }
    }

    fn guarded(self: &Arc<Self>, handler: impl FnOnce()) {
        if std::panic::catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!(peer = %self.id, "a handler of peer events panicked: closing the link");
            metrics::counter!("clarion_peer_handler_panics_total").increment(1);
            // Elsewhere: the caller may hold the gate.
            let peer = Arc::clone(self);
            task::spawn_on(&self.shared.runtime, async move { peer.close(Why::Handler) });
        }
    }
}

/// Credit that is kept back ([`Peer::hold`]).
#[derive(Debug)]
pub struct Held {
    peer: Arc<Peer>,
    lane: Lane,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.release(self.lane, self.bytes);
    }
}
