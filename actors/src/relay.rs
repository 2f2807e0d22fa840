//! From logs to the sessions of this node (step 6 of the way of a push). Relays are sharded by
//! log, each mode has its own: a broadcast to everybody never delays a private message (N2).
//!
//! Receives registrations from links, hints and confirmations from owners. Sends interest to
//! owners and offers entries to link inboxes. Parent: the supervisor, which restarts it at once;
//! what it held is registered again by the links, and confirmations tell them what they missed.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use clarion_core::{Batch, LogKey, Mode};
use clarion_protocol::Offset;
use clarion_protocol::terminal::{LogAlias, SessionNumber};
use clarion_storage::{Read, Store};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::link::inbox::{Item, LinkInbox, SessionEvent};
use crate::link_shard::uptime_s;
use crate::nodes::THIS_NODE;
use crate::owner::head_read;
use crate::ring::TailRing;
use crate::router::Router;
use crate::supervisor::Slot;
use crate::{fault, task};

/// Sessions that are offered a batch before others on the same thread get a turn: what a private
/// message waits for at most while a broadcast goes out.
const FAN_OUT_SLICE: usize = 256;
/// Logs of one relay whose latest entries are kept in memory, and for how long after the last hint,
/// in seconds: with [`crate::ring::RING_BYTES_MAX`] 64 MiB in all.
const RINGS_MAX: usize = 256;
const RING_KEPT_S: u32 = 60;
/// How long a hint may take before the head check counts it as lost.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// Logs whose heads are checked in one read.
const HEAD_CHECK_SLICE: usize = 256;

/// One session's interest in one log.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) inbox: Arc<LinkInbox>,
    pub(crate) session: SessionNumber,
    pub(crate) alias: LogAlias,
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.inbox.id == other.inbox.id && self.session == other.session
    }
}

impl Eq for Subscriber {}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.inbox.id ^ (u64::from(self.session) << 48));
    }
}

/// All relays of a node.
pub(crate) struct Relays {
    slots: Vec<Arc<Slot<RelayMessage>>>,
    per_mode: usize,
}

impl Relays {
    pub(crate) fn new(per_mode: usize) -> Self {
        let slots = (0..per_mode * Mode::ALL.len()).map(|_| Slot::new()).collect();
        Self { slots, per_mode }
    }

    /// Number, mode and slot of each.
    pub(crate) fn each(&self) -> impl Iterator<Item = (u16, Mode, &Arc<Slot<RelayMessage>>)> {
        let mode = |number: usize| Mode::ALL[number / self.per_mode];
        self.slots.iter().enumerate().map(move |(n, slot)| (n as u16, mode(n), slot))
    }

    /// The number of the relay of a log.
    pub(crate) fn number_of(&self, log: &LogKey) -> u16 {
        let mode = Mode::ALL.iter().position(|mode| *mode == log.kind.mode()).unwrap_or(0);
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(log);
        (mode * self.per_mode + (hash % self.per_mode as u64) as usize) as u16
    }

    fn of(&self, log: &LogKey) -> &Slot<RelayMessage> {
        &self.slots[self.number_of(log) as usize]
    }

    /// A session reads `log`; it finds `Item::Interest` in its inbox once nothing can slip by
    /// (I4). `generation` is given with a terminal's own inbox and ends older sessions (I7).
    pub(crate) fn register(
        &self,
        log: Arc<LogKey>,
        subscriber: Subscriber,
        since_ms: u64,
        generation: u64,
    ) {
        let message =
            RelayMessage::Register { log: Arc::clone(&log), subscriber, since_ms, generation };
        // Lost in a crash: the link registers again when the relay is back.
        let _ = self.of(&log).cast(message);
    }

    /// A session reads it no more.
    pub(crate) fn deregister(&self, log: Arc<LogKey>, subscriber: Subscriber) {
        let slot = self.of(&log);
        let _ = slot.cast(RelayMessage::Deregister { log: Arc::clone(&log), subscriber });
    }

    /// The log of `batch` grew.
    pub(crate) fn hint(&self, batch: Arc<Batch>, ephemeral: bool) {
        let slot = self.of(&batch.log);
        let _ = slot.cast(RelayMessage::Hint { batch: Arc::clone(&batch), ephemeral });
    }

    /// The owner registered this node's interest.
    pub(crate) fn confirm(&self, log: Arc<LogKey>, head: Offset) {
        let slot = self.of(&log);
        let _ = slot.cast(RelayMessage::Confirm { log: Arc::clone(&log), head });
    }

    /// Reads for a session: from memory if it can, else from the store. Leaves `Item::Page`.
    pub(crate) fn read(&self, read: Read, subscriber: Subscriber) {
        let slot = self.of(&read.log);
        let _ = slot.cast(RelayMessage::Read(PendingRead { asked: Some((read, subscriber)) }));
    }

    /// Which of these inboxes have a live session.
    pub(crate) async fn online(&self, logs: Vec<Arc<LogKey>>) -> Vec<bool> {
        let mut answers = Vec::with_capacity(logs.len());
        for log in logs {
            let (reply, answer) = oneshot::channel();
            let _ = self.of(&log).cast(RelayMessage::Online { log: Arc::clone(&log), reply });
            answers.push(answer);
        }
        let mut online = Vec::with_capacity(answers.len());
        for answer in answers {
            online.push(answer.await.unwrap_or(false));
        }
        online
    }

    /// Leaves `event` for the sessions of a terminal's inbox; answers whether there was one.
    pub(crate) async fn notify(&self, log: Arc<LogKey>, event: SessionEvent) -> bool {
        let (reply, answer) = oneshot::channel();
        let _ = self.of(&log).cast(RelayMessage::Notify { log: Arc::clone(&log), event, reply });
        answer.await.unwrap_or(false)
    }

    /// An owner was started or has stopped: announce interest in its logs again (I12).
    pub(crate) fn owner_changed(&self, owner: OwnerId) {
        if let OwnerId::Log(log) = &owner {
            let _ = self.of(log).cast(RelayMessage::OwnerChanged { owner: owner.clone() });
            return;
        }
        for slot in &self.slots {
            let _ = slot.cast(RelayMessage::OwnerChanged { owner: owner.clone() });
        }
    }
}

/// Which owner: a shard of inboxes, or the owner of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnerId {
    InboxShard(u32),
    Log(Arc<LogKey>),
}

/// What a relay receives.
pub(crate) enum RelayMessage {
    /// A session reads a log.
    Register { log: Arc<LogKey>, subscriber: Subscriber, since_ms: u64, generation: u64 },
    /// It reads it no more.
    Deregister { log: Arc<LogKey>, subscriber: Subscriber },
    /// A log grew.
    Hint { batch: Arc<Batch>, ephemeral: bool },
    /// An owner confirmed interest.
    Confirm { log: Arc<LogKey>, head: Offset },
    /// A session reads.
    Read(PendingRead),
    /// Is anybody there?
    Online { log: Arc<LogKey>, reply: oneshot::Sender<bool> },
    /// Tell the sessions of a log.
    Notify { log: Arc<LogKey>, event: SessionEvent, reply: oneshot::Sender<bool> },
    /// An owner lost what it knew of interest.
    OwnerChanged { owner: OwnerId },
    /// Compare heads with the store: the slow check that finds lost hints.
    CheckHeads,
    /// What the check found.
    Heads { heads: Vec<(Arc<LogKey>, Offset)>, sure: bool },
    /// Report what was written, forget old batches.
    Tidy,
}

/// A read that is owed an answer: whoever drops it unanswered, a crash too, answers that it failed.
pub(crate) struct PendingRead {
    asked: Option<(Read, Subscriber)>,
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        if let Some((_, to)) = self.asked.take() {
            to.inbox.leave(Item::Page { session: to.session, log: to.alias, page: None });
        }
    }
}

/// What a relay is given.
pub(crate) struct RelayArguments {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Weak<Router>,
    pub(crate) slot: Arc<Slot<RelayMessage>>,
    pub(crate) ring_entries_max: usize,
    pub(crate) head_check_ms: u64,
}

pub(crate) struct Relay;

pub(crate) struct RelayState {
    arguments: RelayArguments,
    logs: HashMap<Arc<LogKey>, Readers>,
    /// Logs that the head check has yet to visit in this round.
    unchecked: Vec<Arc<LogKey>>,
    /// Logs whose ring holds something, with the second of their last hint. At most [`RINGS_MAX`].
    ringed: HashMap<Arc<LogKey>, u32>,
}

/// The sessions of one log. Most logs are inboxes and have one.
enum Readers {
    One { subscriber: Subscriber, head: Option<Offset> },
    Many(Box<Wide>),
}

struct Wide {
    subscribers: HashSet<Subscriber, BuildHasherDefault<IdHasher>>,
    /// The highest offset known, once the owner confirmed.
    head: Option<Offset>,
    ring: TailRing,
}

impl Actor for Relay {
    type Msg = RelayMessage;
    type State = RelayState;
    type Arguments = RelayArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // A round visits every log once in `head_check_ms`, a slice each tick.
        let tick = Duration::from_millis((arguments.head_check_ms / 16).max(50));
        drop(myself.send_interval(tick, || RelayMessage::CheckHeads));
        drop(myself.send_interval(Duration::from_secs(1), || RelayMessage::Tidy));
        Ok(RelayState {
            arguments,
            logs: HashMap::new(),
            unchecked: Vec::new(),
            ringed: HashMap::new(),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        fault::point("relay");
        match message {
            RelayMessage::Register { log, subscriber, since_ms, generation } => {
                state.register(log, subscriber, since_ms, generation);
            }
            RelayMessage::Deregister { log, subscriber } => state.deregister(&log, &subscriber),
            RelayMessage::Hint { batch, ephemeral } => state.fan_out(batch, ephemeral).await,
            RelayMessage::Confirm { log, head } => state.confirm(&log, head).await,
            RelayMessage::Read(mut pending) => state.read(&mut pending),
            RelayMessage::Online { log, reply } => {
                let _ = reply.send(state.logs.contains_key(&log));
            }
            RelayMessage::Notify { log, event, reply } => {
                let _ = reply.send(state.notify(&log, event));
            }
            RelayMessage::OwnerChanged { owner } => state.announce_to(&owner),
            RelayMessage::CheckHeads => state.check_heads(),
            RelayMessage::Heads { heads, sure } => state.heads_found(heads, sure).await,
            RelayMessage::Tidy => state.tidy(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // it has no children
    }
}

impl RelayState {
    fn register(
        &mut self,
        log: Arc<LogKey>,
        subscriber: Subscriber,
        since_ms: u64,
        generation: u64,
    ) {
        if subscriber.inbox.ended() {
            return;
        }
        let (session, alias) = (subscriber.session, subscriber.alias);
        let Some(readers) = self.logs.get_mut(&log) else {
            let readers = Readers::new(&log, subscriber, self.arguments.ring_entries_max);
            self.logs.insert(Arc::clone(&log), readers);
            if let Some(router) = self.arguments.router.upgrade() {
                router.interest(log, THIS_NODE, since_ms);
            }
            return;
        };
        if generation > 0 {
            // I7: this log is a terminal's own inbox; whoever else reads it is older, or knows better.
            readers.each(&mut |other| {
                if *other != subscriber {
                    let event = SessionEvent::NewerGeneration(generation);
                    other.inbox.leave(Item::Session { session: other.session, event });
                }
            });
        }
        let inbox = Arc::clone(&subscriber.inbox);
        readers.insert(subscriber, self.arguments.ring_entries_max);
        if let Some(head) = readers.head() {
            inbox.leave(Item::Interest { session, log: alias, head });
        }
    }

    fn deregister(&mut self, log: &Arc<LogKey>, subscriber: &Subscriber) {
        let Some(readers) = self.logs.get_mut(log) else { return };
        if readers.remove(subscriber, log) {
            self.logs.remove(log);
            if let Some(router) = self.arguments.router.upgrade() {
                router.no_interest(Arc::clone(log), THIS_NODE);
            }
        }
    }

    async fn fan_out(&mut self, batch: Arc<Batch>, ephemeral: bool) {
        let Some(readers) = self.logs.get_mut(&batch.log) else {
            return self.not_read(&batch.log);
        };
        if !ephemeral && let Some(last) = batch.entries.last() {
            readers.grow_head(last.offset);
        }
        match readers {
            Readers::One { subscriber, .. } => {
                let to = subscriber.clone();
                if !to.inbox.offer(to.session, to.alias, &batch, ephemeral) {
                    self.deregister(&batch.log, &to);
                }
            }
            Readers::Many(wide) => {
                let kept = self.ringed.len() < RINGS_MAX || self.ringed.contains_key(&batch.log);
                if !ephemeral && kept {
                    wide.ring.push(&batch);
                    self.ringed.insert(Arc::clone(&batch.log), uptime_s());
                }
                let mut gone = Vec::new();
                for (count, to) in wide.subscribers.iter().enumerate() {
                    if !to.inbox.offer(to.session, to.alias, &batch, ephemeral) {
                        gone.push(to.clone());
                    }
                    if count % FAN_OUT_SLICE == FAN_OUT_SLICE - 1 {
                        tokio::task::yield_now().await;
                    }
                }
                let log = Arc::clone(&batch.log);
                for subscriber in gone {
                    self.deregister(&log, &subscriber);
                }
            }
        }
    }

    async fn confirm(&mut self, log: &Arc<LogKey>, head: Offset) {
        let Some(readers) = self.logs.get_mut(log) else { return self.not_read(log) };
        readers.grow_head(head);
        let Some(head) = readers.head() else { return };
        let mut count = 0;
        for to in readers.all() {
            to.inbox.leave(Item::Interest { session: to.session, log: to.alias, head });
            count += 1;
            if count % FAN_OUT_SLICE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// An owner believes that this node reads a log: a former incarnation did, or the last reader
    /// left while the owner was being started.
    fn not_read(&self, log: &Arc<LogKey>) {
        if let Some(router) = self.arguments.router.upgrade() {
            router.no_interest(Arc::clone(log), THIS_NODE);
        }
    }

    fn read(&mut self, pending: &mut PendingRead) {
        let Some((read, subscriber)) = pending.asked.take() else { return };
        let found = match self.logs.get(&read.log) {
            Some(Readers::Many(wide)) => wide.ring.read(&read, wide.head),
            _ => None,
        };
        match found {
            Some(page) => subscriber.inbox.leave(Item::Page {
                session: subscriber.session,
                log: subscriber.alias,
                page: Some(Box::new(page)),
            }),
            None => {
                drop(task::spawn(read_for(Arc::clone(&self.arguments.store), read, subscriber)))
            }
        }
    }

    fn notify(&mut self, log: &Arc<LogKey>, event: SessionEvent) -> bool {
        let Some(readers) = self.logs.get_mut(log) else { return false };
        readers.each(&mut |to| to.inbox.leave(Item::Session { session: to.session, event }));
        true
    }

    fn announce_to(&mut self, owner: &OwnerId) {
        let Some(router) = self.arguments.router.upgrade() else { return };
        // Heads are compared with the store: since when the owner is blind is not known.
        match owner {
            OwnerId::Log(log) if self.logs.contains_key(log) => {
                router.interest(Arc::clone(log), THIS_NODE, 0);
            }
            OwnerId::Log(_) => {}
            OwnerId::InboxShard(_) => {
                for log in self.logs.keys().filter(|log| router.owner_id(log) == *owner) {
                    router.interest(Arc::clone(log), THIS_NODE, 0);
                }
            }
        }
        router.interest_complete(owner, THIS_NODE);
    }

    fn check_heads(&mut self) {
        if self.unchecked.is_empty() {
            self.unchecked = self.logs.keys().cloned().collect();
        }
        let ticks_left = 16;
        let slice =
            (self.logs.len() / ticks_left + 1).max(HEAD_CHECK_SLICE.min(self.unchecked.len()));
        let rest = self.unchecked.len().saturating_sub(slice);
        let logs = self.unchecked.split_off(rest);
        if logs.is_empty() {
            return;
        }
        let (store, slot) = (Arc::clone(&self.arguments.store), Arc::clone(&self.arguments.slot));
        task::spawn(async move {
            for logs in logs.chunks(HEAD_CHECK_SLICE) {
                let pages = store.read(logs.iter().cloned().map(head_read).collect()).await;
                let heads = logs.iter().cloned().zip(pages);
                let heads = heads.filter_map(|(log, page)| Some((log, page.ok()?.head))).collect();
                let _ = slot.cast(RelayMessage::Heads { heads, sure: false });
            }
        });
    }

    async fn heads_found(&mut self, heads: Vec<(Arc<LogKey>, Offset)>, sure: bool) {
        let mut ahead = Vec::new();
        for (log, head) in heads {
            let Some(readers) = self.logs.get_mut(&log) else { continue };
            match readers.head() {
                // Its hint may still be on the way: looked at again in a moment.
                Some(known) if head > known && !sure => ahead.push((log, head)),
                Some(known) if head > known => {
                    // I12: only this check found it. Zero is no head: the owner confirmed that
                    // nothing came since the readers read, and no hint told the head since.
                    if known > Offset::ZERO {
                        metrics::counter!("clarion_head_check_found_total").increment(1);
                    }
                    readers.grow_head(head);
                    readers.each(&mut |to| {
                        to.inbox.leave(Item::Missed {
                            session: to.session,
                            log: to.alias,
                            up_to: head,
                        });
                    });
                    tokio::task::yield_now().await;
                }
                Some(_) => {}
                // The owner's confirmation was lost.
                None => self.confirm(&log, head).await,
            }
        }
        if !ahead.is_empty() {
            let slot = Arc::clone(&self.arguments.slot);
            task::spawn(async move {
                tokio::time::sleep(HINT_PATIENCE).await;
                let _ = slot.cast(RelayMessage::Heads { heads: ahead, sure: true });
            });
        }
    }

    fn tidy(&mut self) {
        let (mut written, now_s) = (Vec::new(), uptime_s());
        self.ringed.retain(|log, last_s| {
            let Some(Readers::Many(wide)) = self.logs.get_mut(log) else { return false };
            wide.ring.take_written(&mut written);
            let fresh = now_s.saturating_sub(*last_s) < RING_KEPT_S;
            if !fresh {
                wide.ring.clear();
            }
            fresh
        });
        if !written.is_empty() {
            let store = Arc::clone(&self.arguments.store);
            drop(task::spawn(async move { drop(store.count_delivered(written).await) }));
        }
    }
}

/// Reads from the store and leaves the page.
pub(crate) async fn read_for(store: Arc<dyn Store>, read: Read, subscriber: Subscriber) {
    let page = match store.read(vec![read]).await.pop() {
        Some(Ok(page)) => Some(Box::new(page)),
        Some(Err(error)) => {
            tracing::warn!(%error, "a read failed");
            None
        }
        None => None,
    };
    subscriber.inbox.leave(Item::Page { session: subscriber.session, log: subscriber.alias, page });
}

#[allow(clippy::mutable_key_type, reason = "hashed and compared by ids that never change")]
impl Readers {
    fn new(log: &LogKey, subscriber: Subscriber, ring_entries_max: usize) -> Self {
        if log.kind.is_wide() {
            let mut subscribers = HashSet::default();
            subscribers.insert(subscriber);
            let ring = TailRing::new(ring_entries_max);
            Self::Many(Box::new(Wide { subscribers, head: None, ring }))
        } else {
            Self::One { subscriber, head: None }
        }
    }

    fn head(&self) -> Option<Offset> {
        match self {
            Self::One { head, .. } => *head,
            Self::Many(wide) => wide.head,
        }
    }

    fn grow_head(&mut self, offset: Offset) {
        let head = match self {
            Self::One { head, .. } => head,
            Self::Many(wide) => &mut wide.head,
        };
        *head = Some(head.map_or(offset, |known| known.max(offset)));
    }

    fn insert(&mut self, new: Subscriber, ring_entries_max: usize) {
        match self {
            Self::One { subscriber, .. } if *subscriber == new => *subscriber = new,
            Self::One { subscriber, head } => {
                let mut subscribers = HashSet::default();
                subscribers.insert(subscriber.clone());
                subscribers.insert(new);
                let ring = TailRing::new(ring_entries_max);
                *self = Self::Many(Box::new(Wide { subscribers, head: *head, ring }));
            }
            Self::Many(wide) => {
                wide.subscribers.replace(new);
            }
        }
    }

    /// Whether nobody is left. An inbox that is down to one reader costs as little as before.
    fn remove(&mut self, gone: &Subscriber, log: &LogKey) -> bool {
        match self {
            Self::One { subscriber, .. } => subscriber == gone,
            Self::Many(wide) => {
                wide.subscribers.remove(gone);
                if wide.subscribers.capacity() > 8 * wide.subscribers.len().max(16) {
                    wide.subscribers.shrink_to_fit();
                }
                if let (false, 1) = (log.kind.is_wide(), wide.subscribers.len())
                    && let Some(subscriber) = wide.subscribers.iter().next().cloned()
                {
                    *self = Self::One { subscriber, head: wide.head };
                    return false;
                }
                wide.subscribers.is_empty()
            }
        }
    }

    fn all(&self) -> Box<dyn Iterator<Item = &Subscriber> + Send + '_> {
        match self {
            Self::One { subscriber, .. } => Box::new(std::iter::once(subscriber)),
            Self::Many(wide) => Box::new(wide.subscribers.iter()),
        }
    }

    fn each(&self, visit: &mut dyn FnMut(&Subscriber)) {
        self.all().for_each(visit);
    }
}

/// Link ids are unique already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}
