//! The bounded inbox of a link, shared by its sessions: what relays, readers and sweepers leave
//! for it. Empty when idle, and then it holds no heap.
//!
//! Hints are refused when it is full: the highest offset passed over is noted per log instead, and
//! the session reads from its cursor. Pages are always taken: each log has at most one on the way.
//!
//! What controls the link and its sessions is apart, so that a link that can write nothing more
//! still learns that it is to end: answers to requests, which the sessions bound, and events, of
//! which the same one is there once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use clarion_core::{Batch, Page};
use clarion_protocol::TopicName;
use clarion_protocol::terminal::{LogAlias, SessionNumber};
use clarion_protocol::{Code, Offset};
use clarion_storage::{OpenedSession, StoreResult, SubscribeOutcome, UnsubscribeOutcome};
use futures_util::task::AtomicWaker;

use super::context::Place;
use crate::tokens::Identity;

/// What a link finds in its inbox.
#[derive(Debug)]
pub(crate) enum Item {
    /// Entries of a log (or, ephemeral, with ttl 0).
    Hint { session: SessionNumber, log: LogAlias, ephemeral: bool, batch: Arc<Batch> },
    /// The owner confirmed the interest in a log.
    Interest { session: SessionNumber, log: LogAlias, head: Offset },
    /// A log has entries up to there; hints were lost.
    Missed { session: SessionNumber, log: LogAlias, up_to: Offset },
    /// A read ended.
    Page { session: SessionNumber, log: LogAlias, page: Option<Box<Page>> },
    /// Something the link asked the store for.
    Answer { session: SessionNumber, answer: Box<Answer> },
    /// Something happened to a session from outside.
    Session { session: SessionNumber, event: SessionEvent },
    /// Something happened to the link from outside.
    Link(LinkEvent),
}

/// An answer of the store to a session.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To `open`.
    Opened(Result<Box<Grant>, Refused>),
    /// To `subscribe`; `id` of the request, none when the back-end did it.
    Subscribed { id: Option<u64>, topic: TopicName, outcome: StoreResult<SubscribeOutcome> },
    /// To `refresh`.
    Refreshed(Result<Box<Identity>, Refused>),
    /// To `unsubscribe`.
    Unsubscribed { id: Option<u64>, topic: TopicName, outcome: StoreResult<UnsubscribeOutcome> },
    /// To `close`: what the session that the terminal calls `number` acknowledged is written down.
    Closed { number: SessionNumber },
}

/// A session that may begin.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) identity: Arc<Identity>,
    pub(crate) opened: OpenedSession,
    pub(crate) refused: Vec<(TopicName, Code)>,
    pub(crate) place: Option<Box<Place>>,
}

/// Why a session may not begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) code: Code,
}

impl Refused {
    pub(crate) const fn new(code: Code) -> Self {
        Self { code }
    }
}

impl From<Code> for Refused {
    fn from(code: Code) -> Self {
        Self { code }
    }
}

/// What happens to a session from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SessionEvent {
    /// A session of the same terminal with this generation was registered (I7).
    NewerGeneration(u64),
    /// The store refused its cursor or says that its generation is old (I7).
    Stale,
    /// The store has less than the session's cursor says: history was lost under it (I5).
    AboveHead,
    /// The back-end closed it.
    Kicked,
    /// Its inbox is full: write down now what it has acknowledged.
    FlushCursors,
    /// Its record changed in a way that it could not be told: open it again in place.
    Reload,
}

/// What happens to a link from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LinkEvent {
    /// A deadline passed.
    Tick,
    /// Close with this code.
    Close(Code),
    /// The node drains: go away after this many milliseconds.
    Goaway { after_ms: u64 },
    /// This relay was restarted: register with it again.
    RelayRestarted { relay: u16 },
    /// A product was given to another isolation group: its sessions are to go there.
    ProductMoved,
}

/// The shared part of a link. Its size is part of the cost of a terminal.
#[derive(Debug)]
pub(crate) struct LinkInbox {
    /// Unique in this process.
    pub(crate) id: u64,
    items_max: u32,
    /// Store time of the last sign of life, in seconds since the process began.
    pub(crate) last_heard_s: AtomicU32,
    /// How long silence may last, in seconds.
    pub(crate) silence_max_s: AtomicU32,
    /// When the link wants a tick, Unix milliseconds of the store; `u64::MAX` for never.
    pub(crate) deadline_ms: AtomicU64,
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    first: Option<Item>,
    rest: VecDeque<Item>,
    missed: Vec<Missed>,
    #[allow(clippy::box_collection, reason = "8 bytes for what is rarely there")]
    control: Option<Box<VecDeque<Item>>>,
    ended: bool,
}

/// A log of which hints were passed over.
#[derive(Debug)]
struct Missed {
    session: SessionNumber,
    log: LogAlias,
    up_to: Offset,
    /// The owner's confirmation was among them.
    interest: bool,
}

impl LinkInbox {
    pub(crate) fn new(id: u64, items_max: u32) -> Arc<Self> {
        Arc::new(Self {
            id,
            items_max,
            last_heard_s: AtomicU32::new(0),
            silence_max_s: AtomicU32::new(u32::MAX),
            deadline_ms: AtomicU64::new(u64::MAX),
            state: Mutex::new(State::default()),
            waker: AtomicWaker::new(),
        })
    }

    /// Offers a hint; when the inbox is full it is noted as missed. `false`: the link has ended.
    pub(crate) fn offer(
        &self,
        session: SessionNumber,
        log: LogAlias,
        batch: &Arc<Batch>,
        ephemeral: bool,
    ) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        if state.len() < self.items_max as usize {
            state.push(Item::Hint { session, log, ephemeral, batch: Arc::clone(batch) });
        } else {
            metrics::counter!("clarion_hints_dropped_total").increment(1);
            if let (false, Some(last)) = (ephemeral, batch.entries.last()) {
                state.miss(session, log, last.offset, false);
            }
        }
        drop(state);
        self.waker.wake();
        true
    }

    /// Leaves an answer or an event.
    pub(crate) fn leave(&self, item: Item) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        match item {
            Item::Answer { .. } | Item::Session { .. } | Item::Link(_) => state.push_control(item),
            Item::Interest { session, log, head } if state.len() >= self.items_max as usize => {
                state.miss(session, log, head, true);
            }
            item => state.push(item),
        }
        drop(state);
        self.waker.wake();
    }

    /// Takes the oldest answer or event.
    pub(crate) fn take_control(&self) -> Option<Item> {
        let mut state = self.lock();
        let item = state.control.as_mut()?.pop_front();
        if state.control.as_ref().is_some_and(|control| control.is_empty()) {
            state.control = None;
        }
        item
    }

    /// Takes the oldest hint or page; what was missed comes after everything that was taken in time.
    pub(crate) fn take(&self) -> Option<Item> {
        let mut state = self.lock();
        if let Some(item) = state.first.take() {
            state.first = state.rest.pop_front();
            if state.first.is_none() {
                state.rest = VecDeque::new();
            }
            return Some(item);
        }
        let Missed { session, log, up_to, interest } = state.missed.pop()?;
        if state.missed.is_empty() {
            state.missed = Vec::new();
        }
        Some(match interest {
            true => Item::Interest { session, log, head: up_to },
            false => Item::Missed { session, log, up_to },
        })
    }

    /// Who is woken by the next item.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The link has ended: drops what is there and takes nothing more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        *state = State { ended: true, ..State::default() };
    }

    /// Whether the link has ended.
    pub(crate) fn ended(&self) -> bool {
        self.lock().ended
    }

    pub(crate) fn heard(&self, now_s: u32) {
        self.last_heard_s.store(now_s, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn push(&mut self, item: Item) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    fn push_control(&mut self, item: Item) {
        let control = self.control.get_or_insert_default();
        if !control.iter_mut().any(|known| known.covers(&item)) {
            control.push_back(item);
        }
    }

    fn miss(&mut self, session: SessionNumber, log: LogAlias, up_to: Offset, interest: bool) {
        let known = self.missed.iter_mut().find(|m| (m.session, m.log) == (session, log));
        match known {
            Some(missed) => {
                missed.up_to = up_to.max(missed.up_to);
                missed.interest |= interest;
            }
            None => self.missed.push(Missed { session, log, up_to, interest }),
        }
    }
}

impl Item {
    /// Whether `new` says nothing that this event does not say, or can be made to say.
    fn covers(&mut self, new: &Self) -> bool {
        match (self, new) {
            (Self::Link(known), Self::Link(new)) => match (known, new) {
                (LinkEvent::Tick, LinkEvent::Tick)
                | (LinkEvent::Close(_), LinkEvent::Close(_))
                | (LinkEvent::Goaway { .. }, LinkEvent::Goaway { .. })
                | (LinkEvent::ProductMoved, LinkEvent::ProductMoved) => true,
                (LinkEvent::RelayRestarted { relay }, LinkEvent::RelayRestarted { relay: new }) => {
                    relay == new
                }
                _ => false,
            },
            (Self::Session { session, event }, Self::Session { session: of, event: new })
                if session == of =>
            {
                match (event, new) {
                    (SessionEvent::NewerGeneration(known), SessionEvent::NewerGeneration(new)) => {
                        *known = (*known).max(*new);
                        true
                    }
                    (SessionEvent::Stale, SessionEvent::Stale)
                    | (SessionEvent::AboveHead, SessionEvent::AboveHead)
                    | (SessionEvent::Kicked, SessionEvent::Kicked)
                    | (SessionEvent::FlushCursors, SessionEvent::FlushCursors)
                    | (SessionEvent::Reload, SessionEvent::Reload) => true,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clarion_core::{Body, Entry, LogKey};
    use clarion_protocol::{Epoch, MessageId, ProductId};

    fn batch(offset: u64) -> Arc<Batch> {
        let log = LogKey::broadcast(&ProductId::new("demo").unwrap());
        let entry =
            Entry::new(Offset(offset), Offset(offset - 1), MessageId(1), 0, Body::Tombstone);
        Arc::new(Batch::new(log, Epoch(1), vec![Arc::new(entry)]))
    }

    #[test]
    fn a_full_inbox_notes_the_highest_offset_passed_over_and_stays_bounded() {
        let inbox = LinkInbox::new(1, 4);
        for offset in 1..=1000 {
            assert!(inbox.offer(1, (offset % 3) as LogAlias, &batch(offset), false));
        }
        let mut hints = Vec::new();
        let mut missed = Vec::new();
        while let Some(item) = inbox.take() {
            match item {
                Item::Hint { batch, .. } => hints.push(batch.entries[0].offset.0),
                Item::Missed { log, up_to, .. } => missed.push((log, up_to.0)),
                other => panic!("{other:?}"),
            }
        }
        missed.sort_unstable();
        assert_eq!(hints, [1, 2, 3, 4]);
        assert_eq!(missed, [(0, 999), (1, 1000), (2, 998)]);
        let state = inbox.lock();
        assert_eq!(state.rest.capacity() + state.missed.capacity(), 0);
    }

    #[test]
    fn what_controls_a_link_is_taken_however_full_it_is_and_stays_bounded() {
        let inbox = LinkInbox::new(1, 4);
        for round in 1..=1000u64 {
            inbox.offer(1, 1, &batch(round), false);
            inbox.leave(Item::Interest { session: 1, log: 2, head: Offset(round) });
            inbox.leave(Item::Link(LinkEvent::Tick));
            inbox.leave(Item::Link(LinkEvent::ProductMoved));
            inbox.leave(Item::Link(LinkEvent::RelayRestarted { relay: (round % 3) as u16 }));
            let event = SessionEvent::NewerGeneration(round);
            inbox.leave(Item::Session { session: 1, event });
            inbox.leave(Item::Session { session: 1, event: SessionEvent::FlushCursors });
            inbox.leave(Item::Session { session: 2, event: SessionEvent::FlushCursors });
        }
        let (mut events, mut newest) = (0, 0);
        while let Some(item) = inbox.take_control() {
            events += 1;
            if let Item::Session { event: SessionEvent::NewerGeneration(generation), .. } = item {
                newest = generation;
            }
        }
        assert_eq!((events, newest), (8, 1000));
        let items: Vec<_> = std::iter::from_fn(|| inbox.take()).collect();
        assert!(items.len() <= 6, "{}", items.len());
        let highest = |item: &Item| matches!(item, Item::Interest { head: Offset(1000), .. });
        assert!(items.iter().any(highest), "the confirmation is never lost");
    }

    #[test]
    fn an_ended_inbox_takes_nothing() {
        let inbox = LinkInbox::new(1, 4);
        inbox.offer(1, 1, &batch(1), false);
        inbox.end();
        assert!(!inbox.offer(1, 1, &batch(2), false));
        assert!(inbox.take().is_none());
    }

    #[test]
    fn the_shared_part_of_an_idle_link_is_small() {
        assert!(size_of::<LinkInbox>() <= 200, "{}", size_of::<LinkInbox>());
    }
}
