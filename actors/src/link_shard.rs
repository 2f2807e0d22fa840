//! Supervisor of some thousand links: sweeps them for silence and deadlines, flushes the cursors
//! of their sessions, counts how they end.
//!
//! Receives ticks and reports of links. Sends events to link inboxes, cursors to the store.
//! Parent: the supervisor, which restarts it at once. The table of links and the dirty cursors
//! are shared with the links themselves, so its crash closes nothing: its successor goes on.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarion_protocol::Code;
use clarion_storage::Store;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::cursors::CursorBuffer;
use crate::link::inbox::{Item, LinkEvent, LinkInbox};
use crate::supervisor::Slot;
use crate::{fault, task};

/// Seconds since the process began, the clock of heartbeats.
pub(crate) fn uptime_s() -> u32 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs() as u32
}

/// What a shard shares with its links.
pub(crate) struct LinkShardHandle {
    pub(crate) slot: Arc<Slot<LinkShardMessage>>,
    pub(crate) cursors: Arc<CursorBuffer>,
    links: Mutex<HashMap<u64, Arc<LinkInbox>>>,
}

impl LinkShardHandle {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::new(),
            cursors: Arc::new(CursorBuffer::new(store)),
            links: Mutex::default(),
        })
    }

    pub(crate) fn add(&self, link: &Arc<LinkInbox>) {
        self.links().insert(link.id, Arc::clone(link));
        metrics::gauge!("clarion_links").increment(1.0);
    }

    /// The link has ended; `reason` is a label of bounded variety.
    pub(crate) fn remove(&self, link: &LinkInbox, reason: &'static str) {
        let mut links = self.links();
        if links.remove(&link.id).is_some() {
            metrics::gauge!("clarion_links").decrement(1.0);
            metrics::counter!("clarion_links_ended_total", "reason" => reason).increment(1);
        }
        if links.capacity() > 8 * links.len().max(64) {
            links.shrink_to_fit();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.links().len()
    }

    /// Leaves an event for every link of the shard.
    pub(crate) fn each(&self, event: impl Fn() -> LinkEvent) {
        for link in self.links_now() {
            link.leave(Item::Link(event()));
        }
    }

    /// The links of the shard.
    pub(crate) fn links_now(&self) -> Vec<Arc<LinkInbox>> {
        self.links().values().cloned().collect()
    }

    /// Writes dirty cursors now rather than with the next tick.
    pub(crate) fn flush_soon(&self) {
        let _ = self.slot.cast(LinkShardMessage::Flush);
    }

    /// A session of a link panicked and is rebuilt.
    pub(crate) fn session_crashed(&self) {
        let _ = self.slot.cast(LinkShardMessage::SessionCrashed);
    }

    /// Returns once it has taken a message from its mailbox.
    pub(crate) async fn progress(&self) {
        let (reply, answer) = oneshot::channel();
        if self.slot.cast(LinkShardMessage::Progress { reply }).is_ok() {
            let _ = answer.await;
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<u64, Arc<LinkInbox>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a link shard receives.
pub(crate) enum LinkShardMessage {
    /// Look for silence and deadlines.
    Sweep,
    /// Write dirty cursors.
    Flush,
    /// A session panicked.
    SessionCrashed,
    /// Say that messages are handled.
    Progress { reply: oneshot::Sender<()> },
}

impl ractor::Message for LinkShardMessage {}

/// What a link shard is given.
pub(crate) struct LinkShardArguments {
    pub(crate) handle: Arc<LinkShardHandle>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cursor_flush_ms: u64,
}

pub(crate) struct LinkShard;

impl Actor for LinkShard {
    type Msg = LinkShardMessage;
    type State = LinkShardArguments;
    type Arguments = LinkShardArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        drop(myself.send_interval(Duration::from_secs(1), || LinkShardMessage::Sweep));
        let flush = Duration::from_millis(arguments.cursor_flush_ms);
        drop(myself.send_interval(flush, || LinkShardMessage::Flush));
        Ok(arguments)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        fault::point("link_shard");
        match message {
            LinkShardMessage::Sweep => state.sweep(),
            LinkShardMessage::Flush => {
                let cursors = Arc::clone(&state.handle.cursors);
                // Beside the actor: a slow store must not stop the sweeping.
                drop(task::spawn(async move { cursors.flush().await }));
            }
            LinkShardMessage::Progress { reply } => drop(reply.send(())),
            LinkShardMessage::SessionCrashed => {
                metrics::counter!("clarion_session_crashes_total").increment(1);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // links are tasks, not actors: they report by messages
    }
}

impl LinkShardArguments {
    fn sweep(&self) {
        let (now_s, now_ms) = (uptime_s(), self.store.time_ms());
        let links = self.handle.links();
        for link in links.values() {
            let silent_s = now_s.saturating_sub(link.last_heard_s.load(Ordering::Relaxed));
            if silent_s > link.silence_max_s.load(Ordering::Relaxed) {
                link.leave(Item::Link(LinkEvent::Close(Code::HeartbeatTimeout)));
            } else if link.deadline_ms.load(Ordering::Relaxed) <= now_ms {
                link.deadline_ms.store(u64::MAX, Ordering::Relaxed);
                link.leave(Item::Link(LinkEvent::Tick));
            }
        }
    }
}
