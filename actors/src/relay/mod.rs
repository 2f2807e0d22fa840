//! From logs to the sessions of this node (step 6 of the way of a push). Relays are sharded by
//! log, each mode has its own: a broadcast to everybody never delays a private message.
//!
//! Receives registrations from links, hints and confirmations from owners. Sends interest to
//! owners and offers entries to link inboxes. Parent: the supervisor, which restarts it at once;
//! what it held is registered again by the links, and confirmations tell them what they missed.

pub(crate) mod announce;
mod backlog;
mod heads;
mod readers;
mod relays;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clarion_core::placement::SlotSet;
use clarion_core::{Batch, LogKey};
use clarion_protocol::Offset;
use clarion_storage::{Read, Seldom, Store};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::cluster::heals::Heal;
use crate::link::inbox::{Item, SessionEvent};
use crate::link_shard::uptime_s;
use crate::nodes::{NodeNumber, Nodes};
use crate::router::Router;
use crate::supervisor::Slot;
use crate::{fault, task};

use announce::Announcement;
use backlog::{Backlog, Queued, Registering};
use heads::{Comparing, Found};
use readers::Readers;

pub(crate) use readers::Subscriber;
pub(crate) use relays::Relays;

/// Sessions that are offered a batch before others on the same thread get a turn: what a private
/// message waits for at most while a broadcast goes out.
const FAN_OUT_SLICE: usize = 256;
/// Logs of one relay whose latest entries are kept in memory, and for how long after the last hint,
/// in seconds: with [`crate::ring::RING_BYTES_MAX`] 64 MiB in all.
const RINGS_MAX: usize = 256;
const RING_KEPT_S: u32 = 60;

/// What a relay receives.
pub(crate) enum RelayMessage {
    /// A session reads a log.
    Register {
        log: Arc<LogKey>,
        subscriber: Subscriber,
        since_ms: u64,
        generation: u64,
        queued: Registering,
    },
    /// It reads it no more.
    Deregister { log: Arc<LogKey>, subscriber: Subscriber, queued: Registering },
    /// A log grew.
    Hint { batch: Arc<Batch>, ephemeral: bool, listed: Option<NodeNumber>, queued: Queued },
    /// Hints, or what else was told of logs, found no room in the mailbox.
    Dropped,
    /// An owner confirmed interest.
    Confirm { log: Arc<LogKey>, head: Offset, from: Option<NodeNumber>, queued: Queued },
    /// A newer session of a terminal is on another node.
    Superseded { log: Arc<LogKey>, generation: u64, queued: Queued },
    /// A session reads.
    Read(PendingRead),
    /// Is anybody there?
    Online { log: Arc<LogKey>, reply: oneshot::Sender<bool> },
    /// Tell the sessions of a log.
    Notify { log: Arc<LogKey>, event: SessionEvent, reply: oneshot::Sender<bool> },
    /// The owner of one log stopped.
    OwnerChanged { log: Arc<LogKey>, owner: NodeNumber, queued: Queued },
    /// Tell an owner everything.
    Announce { announcement: Arc<Announcement> },
    /// Compare heads with the store: the slow check that finds lost hints.
    CheckHeads,
    /// Some owner cannot be heard: compare heads with the store.
    Poll,
    /// Compare the heads of these with the store: something happened that may have cost hints.
    Compare { slots: Arc<SlotSet>, heal: Option<Arc<Heal>> },
    /// A comparison ended; `whole`: it got through.
    Compared { number: u64, whole: bool },
    /// How far logs go.
    Heads { heads: Vec<(Arc<LogKey>, Offset)>, found: Found, queued: Option<Queued> },
    /// Say that messages are handled.
    Progress { reply: oneshot::Sender<()> },
    /// Report what was written, forget old batches.
    Tidy,
}

impl ractor::Message for RelayMessage {}

/// A read that is owed an answer: whoever drops it unanswered, a crash too, answers that it failed.
pub(crate) struct PendingRead {
    asked: Option<(Read, Subscriber)>,
    /// How far the session knows the log to go: the store may have told it more than hints did here.
    known: Offset,
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
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) ring_entries_max: usize,
    pub(crate) head_check_ms: u64,
    /// How often heads are compared while an owner cannot be heard; 0: never, the node is alone.
    pub(crate) poll_ms: u64,
}

pub(crate) struct Relay;

pub(crate) struct RelayState {
    arguments: RelayArguments,
    logs: HashMap<Arc<LogKey>, Readers>,
    /// Logs that the head check has yet to visit in this round.
    unchecked: Vec<Arc<LogKey>>,
    comparing: Comparing,
    /// Logs whose ring holds something, with the second of their last hint. At most [`RINGS_MAX`].
    ringed: HashMap<Arc<LogKey>, u32>,
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
        if arguments.poll_ms > 0 {
            let pause = Duration::from_millis(arguments.poll_ms);
            drop(myself.send_interval(pause, || RelayMessage::Poll));
        }
        Ok(RelayState {
            arguments,
            logs: HashMap::new(),
            unchecked: Vec::new(),
            comparing: Comparing::default(),
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
            RelayMessage::Register { log, subscriber, since_ms, generation, queued } => {
                state.register(log, subscriber, since_ms, generation);
                drop(queued);
            }
            RelayMessage::Deregister { log, subscriber, queued } => {
                state.deregister(&log, &subscriber);
                drop(queued);
            }
            RelayMessage::Hint { batch, ephemeral, listed, queued } => {
                state.fan_out(batch, ephemeral, listed).await;
                drop(queued);
            }
            RelayMessage::Dropped => state.make_up_for_dropped(),
            RelayMessage::Confirm { log, head, from, queued } => {
                state.confirm(&log, head, from).await;
                drop(queued);
            }
            RelayMessage::Superseded { log, generation, queued } => {
                state.notify(&log, SessionEvent::NewerGeneration(generation));
                drop(queued);
            }
            RelayMessage::Read(mut pending) => state.read(&mut pending),
            RelayMessage::Online { log, reply } => {
                let _ = reply.send(state.logs.contains_key(&log));
            }
            RelayMessage::Notify { log, event, reply } => {
                let _ = reply.send(state.notify(&log, event));
            }
            RelayMessage::OwnerChanged { log, owner, queued } => {
                state.announce_one(log, owner);
                drop(queued);
            }
            RelayMessage::Announce { announcement } => state.announce(announcement).await,
            RelayMessage::CheckHeads => state.check_heads(),
            RelayMessage::Poll => state.poll(),
            RelayMessage::Compare { slots, heal } => state.compare(&slots, heal),
            RelayMessage::Compared { number, whole } => state.compared(number, whole),
            RelayMessage::Heads { heads, found, queued } => {
                state.heads_found(heads, found).await;
                drop(queued);
            }
            RelayMessage::Progress { reply } => drop(reply.send(())),
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
                router.interest(log, since_ms, generation);
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
                router.no_interest(log, None);
            }
        }
    }

    async fn fan_out(&mut self, batch: Arc<Batch>, ephemeral: bool, listed: Option<NodeNumber>) {
        let Some(readers) = self.logs.get_mut(&batch.log) else {
            return self.not_read(&batch.log, listed);
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

    async fn confirm(&mut self, log: &Arc<LogKey>, head: Offset, from: Option<NodeNumber>) {
        let Some(readers) = self.logs.get_mut(log) else { return self.not_read(log, from) };
        let head = readers.confirm(head);
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
    fn not_read(&self, log: &Arc<LogKey>, owner: Option<NodeNumber>) {
        if let (Some(router), true) = (self.arguments.router.upgrade(), owner.is_some()) {
            router.no_interest(log, owner);
        }
    }

    fn read(&mut self, pending: &mut PendingRead) {
        // What ends is answered by the drop.
        let Some(nodes) = self.nodes() else { return };
        let Some((read, subscriber)) = pending.asked.take() else { return };
        let found = match self.logs.get(&read.log) {
            Some(Readers::Many(wide)) => wide.ring.read(&read, wide.head.known.max(pending.known)),
            _ => None,
        };
        match found {
            Some(page) => subscriber.inbox.leave(Item::Page {
                session: subscriber.session,
                log: subscriber.alias,
                page: Some(Box::new(page)),
            }),
            None => drop(task::spawn(read_for(nodes, read, subscriber))),
        }
    }

    /// The way to all nodes; none once the system ends.
    fn nodes(&self) -> Option<Arc<Nodes>> {
        Some(Arc::clone(&self.arguments.router.upgrade()?.nodes))
    }

    fn notify(&mut self, log: &Arc<LogKey>, event: SessionEvent) -> bool {
        let Some(readers) = self.logs.get_mut(log) else { return false };
        readers.each(&mut |to| to.inbox.leave(Item::Session { session: to.session, event }));
        true
    }

    /// What was told of these slots was dropped before it came here (I12).
    fn make_up_for_dropped(&mut self) {
        let (slots, unannounced) = self.arguments.backlog.take_dropped();
        if !unannounced.is_empty() {
            self.announce_again(&unannounced);
        }
        if !slots.is_empty() {
            self.compare(&slots, None);
        }
    }

    fn tidy(&mut self) {
        // A crash may have cost the message that says so.
        self.make_up_for_dropped();
        self.compare_rest();
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

/// Reads, and leaves the page.
pub(crate) async fn read_for(nodes: Arc<Nodes>, read: Read, subscriber: Subscriber) {
    let page = match nodes.read(vec![read]).await.pop() {
        Some(Ok(page)) => Some(Box::new(page)),
        Some(Err(error)) => {
            static SAID: Seldom = Seldom::new();
            if let Some(unsaid) = SAID.turn() {
                tracing::warn!(%error, unsaid, "a read failed");
            }
            None
        }
        None => None,
    };
    subscriber.inbox.leave(Item::Page { session: subscriber.session, log: subscriber.alias, page });
}
