//! One file a group of rules; names state the behaviour, docs cite the invariants.

mod acks;
mod budgets;
mod hints;
mod poison;
mod reads;
mod starts;

use super::*;
use bytes::Bytes;
use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::GapReason;
use clarion_protocol::{MessageId, ProductId, TerminalId, TopicName, UserId};

use crate::entry::{Control, Entry, Settled};

pub(super) const EPOCH: Epoch = Epoch(7);
pub(super) const NEVER: u64 = u64::MAX;

pub(super) fn limits() -> SessionLimits {
    SessionLimits {
        window_entries: 8,
        window_bytes: 1000,
        unicast_reserve_bytes: 250,
        ack_timeout_ms: 30_000,
        attempts_max: 10,
        page_entries: 64,
        page_bytes: 65_536,
        logs_max: 68,
    }
}

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

pub(super) fn inbox() -> Arc<LogKey> {
    LogKey::terminal(&product(), &TerminalId::new("t").unwrap())
}

pub(super) fn user_inbox() -> Arc<LogKey> {
    LogKey::user(&product(), &UserId::new("u").unwrap())
}

pub(super) fn topic(name: &str) -> Arc<LogKey> {
    LogKey::topic(&product(), &TopicName::new(name).unwrap())
}

pub(super) fn broadcast() -> Arc<LogKey> {
    LogKey::broadcast(&product())
}

pub(super) fn start(log: Arc<LogKey>, cursor: u64, head: u64) -> StartLog {
    StartLog {
        log,
        epoch: EPOCH,
        cursor_epoch: EPOCH,
        cursor: Offset(cursor),
        attempts: 0,
        head: Offset(head),
        own: None,
    }
}

/// An entry of `bytes` bytes at `offset`, directly behind `predecessor`.
pub(super) fn entry_of(offset: u64, predecessor: u64, bytes: usize, expires: u64) -> Arc<Entry> {
    let body = Body::Json(Bytes::from(vec![b'1'; bytes]));
    entry_with(offset, predecessor, expires, body)
}

pub(super) fn entry_with(offset: u64, predecessor: u64, expires: u64, body: Body) -> Arc<Entry> {
    let message = MessageId(u128::from(offset));
    Arc::new(Entry::new(Offset(offset), Offset(predecessor), message, expires, body))
}

/// Offsets one apart, ten bytes each, that never expire.
pub(super) fn run(from: u64, to: u64) -> Vec<Arc<Entry>> {
    (from..=to).map(|offset| entry_of(offset, offset - 1, 10, NEVER)).collect()
}

pub(super) fn control(offset: u64, name: &str) -> Arc<Entry> {
    let control = Control::Subscribed(TopicName::new(name).unwrap());
    entry_with(offset, offset - 1, NEVER, Body::Control(control))
}

pub(super) fn tombstone(offset: u64) -> Arc<Entry> {
    entry_with(offset, offset - 1, NEVER, Body::Tombstone)
}

pub(super) fn page_of(entries: Vec<Arc<Entry>>, head: u64, more: bool) -> Page {
    Page { epoch: EPOCH, entries, head: Offset(head), evicted_to: Offset::ZERO, more }
}

/// What effects look like in assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Batch(u16, Vec<u64>),
    Deliver(u16, Vec<u64>),
    Again(u16, Vec<u64>),
    Gap(u16, u64, u64, GapReason),
    Read(u16, u64, u32, u32),
    Save(u16, u64, u8, Vec<(u64, Milestone)>),
    Control(String),
    Close(Code),
}

fn offsets(entries: &[Arc<Entry>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.offset.0).collect()
}

pub(super) fn see(effect: &Effect) -> Seen {
    match effect {
        Effect::DeliverBatch { log, batch } => Seen::Batch(*log, offsets(&batch.entries)),
        Effect::Deliver { log, again: false, entries } => Seen::Deliver(*log, offsets(entries)),
        Effect::Deliver { log, again: true, entries } => Seen::Again(*log, offsets(entries)),
        Effect::Gap { log, from, to, reason, .. } => Seen::Gap(*log, from.0, to.0, *reason),
        Effect::Read { log, after, entries_max, bytes_max, .. } => {
            Seen::Read(*log, after.0, *entries_max, *bytes_max)
        }
        Effect::Save { log, cursor, attempts, settled, .. } => {
            let settled = settled.iter().map(|Settled { offset, how }| (offset.0, *how));
            Seen::Save(*log, cursor.0, *attempts, settled.collect())
        }
        Effect::Control(Control::Subscribed(topic)) => Seen::Control(format!("+{topic}")),
        Effect::Control(Control::Unsubscribed(topic)) => Seen::Control(format!("-{topic}")),
        Effect::Close { code, .. } => Seen::Close(*code),
    }
}

/// A session under test, with its own clock and limits.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now_ms: u64,
    pub(super) limits: SessionLimits,
    /// Effects of the start.
    pub(super) started: Vec<Seen>,
}

impl Bench {
    pub(super) fn new(logs: Vec<StartLog>) -> Self {
        Self::with(logs, limits())
    }

    pub(super) fn with(logs: Vec<StartLog>, limits: SessionLimits) -> Self {
        let mut effects = Vec::new();
        let session = Session::new(logs, 0, &mut effects);
        Self { session, now_ms: 1000, limits, started: effects.iter().map(see).collect() }
    }

    /// One log, interest confirmed at `head`.
    pub(super) fn one(log: Arc<LogKey>, cursor: u64, head: u64) -> Self {
        let mut bench = Self::new(vec![start(log, cursor, head)]);
        bench.interest(1, head);
        bench
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Seen> {
        let mut effects = Vec::new();
        self.session.step(event, self.now_ms, &self.limits, &mut effects);
        effects.iter().map(see).collect()
    }

    pub(super) fn interest(&mut self, log: u16, head: u64) -> Vec<Seen> {
        self.step(Event::Interest { log, head: Offset(head) })
    }

    pub(super) fn hint(&mut self, log: u16, entries: Vec<Arc<Entry>>) -> Vec<Seen> {
        self.hint_in(EPOCH, log, entries)
    }

    pub(super) fn hint_in(&mut self, epoch: Epoch, log: u16, e: Vec<Arc<Entry>>) -> Vec<Seen> {
        let batch = Arc::new(Batch::new(inbox(), epoch, e));
        self.step(Event::Hint { log, batch })
    }

    pub(super) fn page(&mut self, log: u16, page: Page) -> Vec<Seen> {
        self.step(Event::Page { log, page })
    }

    pub(super) fn ack(&mut self, log: u16, offset: u64) -> Vec<Seen> {
        self.step(Event::Ack { log, offset: Offset(offset) })
    }

    pub(super) fn skip(&mut self, log: u16, offset: u64) -> Vec<Seen> {
        self.step(Event::Skip { log, offset: Offset(offset) })
    }

    pub(super) fn tick_after(&mut self, ms: u64) -> Vec<Seen> {
        self.now_ms += ms;
        self.step(Event::Tick)
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.session.deadline_ms(&self.limits)
    }

    pub(super) fn finish(&mut self) -> Vec<Seen> {
        let mut effects = Vec::new();
        self.session.finish(&mut effects);
        effects.iter().map(see).collect()
    }
}

/// A session with four idle logs: the layout, counted. Allocations are its vector alone.
#[test]
fn a_session_with_four_idle_logs_takes_less_than_300_bytes() {
    let logs = [inbox(), user_inbox(), broadcast(), topic("a")];
    let mut bench = Bench::new(logs.into_iter().map(|log| start(log, 5, 5)).collect());
    for alias in 1..=4 {
        bench.interest(alias, 5);
    }
    let idle = |session: &Session| {
        assert!(session.logs.iter().all(|log| log.motion.is_none()), "nothing boxed when idle");
        size_of::<Session>() + session.logs.capacity() * size_of::<LogState>()
    };
    assert_eq!(size_of::<LogState>(), 56);
    assert!(idle(&bench.session) < 300, "{}", idle(&bench.session));
    // And so again after it received and acknowledged.
    for alias in 1..=4 {
        bench.hint(alias, run(6, 9));
        bench.ack(alias, 9);
    }
    assert!(idle(&bench.session) < 300);
    bench.hint(1, run(10, 10));
    assert!(bench.session.logs[0].motion.is_some());
    assert_eq!(size_of::<super::log_window::Item>(), 24);
}
