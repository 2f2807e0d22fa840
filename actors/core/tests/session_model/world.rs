//! Logs, store, hints, reads and terminal around one session, and what must hold at each effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::entry::{Batch, Body, Control, Entry, Page};
use clarion_core::log::LogKey;
use clarion_core::session::{Effect, Event, Session, SessionLimits, StartLog};
use clarion_protocol::terminal::LogAlias;
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

pub(crate) const LIMITS: SessionLimits = SessionLimits {
    window_entries: 4,
    window_bytes: 300,
    unicast_reserve_bytes: 80,
    ack_timeout_ms: 30_000,
    attempts_max: 4,
    page_entries: 3,
    page_bytes: 200,
    logs_max: 8,
};
pub(crate) const WIDE_MAX: u32 = LIMITS.window_bytes - LIMITS.unicast_reserve_bytes;

/// A log, the stored cursor in it, and what the session under test did with it.
pub(crate) struct Log {
    pub(crate) key: Arc<LogKey>,
    /// Every entry of the present lineage, as it is now (recalled: a tombstone).
    pub(crate) all: BTreeMap<u64, Arc<Entry>>,
    /// Entries that a read still finds.
    pub(crate) live: BTreeSet<u64>,
    pub(crate) head: u64,
    pub(crate) evicted_to: u64,
    /// Entries of an inbox up to here were removed because their reader had passed them.
    pub(crate) removed_to: u64,
    /// The stored cursor.
    pub(crate) epoch: u64,
    pub(crate) cursor: u64,
    pub(crate) attempts: u8,
    /// Up to here evictions were told, in the present lineage.
    pub(crate) told: u64,
    /// The terminal's own cursor.
    pub(crate) own: Option<(u64, u64)>,
    pub(crate) session: Track,
}

/// One log in one session.
#[derive(Default)]
pub(crate) struct Track {
    pub(crate) alias: LogAlias,
    /// Everything up to here was delivered, passed or told.
    pub(crate) point: u64,
    /// As last saved in this session, or where it started.
    pub(crate) cursor: u64,
    /// Delivered in this session.
    pub(crate) sent: BTreeSet<u64>,
    /// Delivered and not settled, with bytes.
    pub(crate) open: BTreeMap<u64, u32>,
    pub(crate) acked: u64,
    pub(crate) controls: BTreeSet<u64>,
    pub(crate) reading: bool,
}

pub(crate) struct PendingRead {
    pub(crate) log: usize,
    pub(crate) after: u64,
    pub(crate) entries_max: u32,
    pub(crate) bytes_max: u32,
    /// What was there when it was asked for; given if it is answered late.
    pub(crate) early: Page,
}

pub struct World {
    pub(crate) now_ms: u64,
    pub(crate) epoch: u64,
    pub(crate) next_message: u128,
    pub(crate) logs: Vec<Log>,
    pub(crate) session: Session,
    pub(crate) closed: bool,
    pub(crate) hints: Vec<(usize, Arc<Batch>)>,
    pub(crate) reads: Vec<PendingRead>,
    pub(crate) answered: Vec<(LogAlias, Page)>,
    /// Messages that the terminal acknowledged; deliveries of each, and those it gave up.
    pub(crate) handled: BTreeSet<u128>,
    pub(crate) deliveries: BTreeMap<u128, u32>,
    pub(crate) skipped: BTreeSet<u128>,
    pub(crate) undeliverable: BTreeSet<u128>,
}

impl World {
    pub fn new() -> Self {
        let product = ProductId::new("p").unwrap();
        let keys = [
            LogKey::terminal(&product, &TerminalId::new("t").unwrap()),
            LogKey::user(&product, &UserId::new("u").unwrap()),
            LogKey::topic(&product, &TopicName::new("a").unwrap()),
            LogKey::topic(&product, &TopicName::new("b").unwrap()),
            LogKey::broadcast(&product),
        ];
        let log = |key| Log {
            key,
            all: BTreeMap::new(),
            live: BTreeSet::new(),
            head: 0,
            evicted_to: 0,
            removed_to: 0,
            epoch: 1,
            cursor: 0,
            attempts: 0,
            told: 0,
            own: None,
            session: Track::default(),
        };
        let mut world = Self {
            now_ms: 1,
            epoch: 1,
            next_message: 1,
            logs: keys.into_iter().map(log).collect(),
            session: Session::new(vec![], 0, &mut vec![]),
            closed: false,
            hints: vec![],
            reads: vec![],
            answered: vec![],
            handled: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            skipped: BTreeSet::new(),
            undeliverable: BTreeSet::new(),
        };
        world.open(0);
        world
    }

    fn pick(&self, argument: u32) -> usize {
        argument as usize % self.logs.len()
    }

    // The logs.

    pub fn append(&mut self, argument: u32) {
        let index = self.pick(argument);
        let mut entries = Vec::new();
        for n in 0..=(argument >> 8) % 4 {
            let bits = argument.rotate_right(n * 5 + 11);
            let log = &mut self.logs[index];
            let offset = log.head + 1 + u64::from(bits % 3);
            let body = if index == 0 && bits.is_multiple_of(7) {
                Body::Control(Control::Subscribed(TopicName::new("x").unwrap()))
            } else {
                let bytes = if bits.is_multiple_of(29) { 500 } else { 1 + bits % 90 };
                Body::Json(Bytes::from(vec![b'1'; bytes as usize]))
            };
            let ttl = if bits.is_multiple_of(5) { u64::from(bits % 40_000) } else { 1 << 50 };
            let message = MessageId(self.next_message);
            self.next_message += 1;
            let predecessor = Offset(log.head);
            let entry = Entry::new(Offset(offset), predecessor, message, self.now_ms + ttl, body);
            let entry = Arc::new(entry);
            log.all.insert(offset, Arc::clone(&entry));
            log.live.insert(offset);
            log.head = offset;
            entries.push(entry);
        }
        let batch = Batch::new(Arc::clone(&self.logs[index].key), Epoch(self.epoch), entries);
        self.hints.push((index, Arc::new(batch)));
        if !argument.is_multiple_of(3) {
            self.deliver_hint(u32::MAX);
        }
    }

    pub fn evict(&mut self, argument: u32) {
        let index = 2 + argument as usize % 3;
        let log = &mut self.logs[index];
        if let Some(first) = log.live.pop_first() {
            log.evicted_to = first;
        }
    }

    pub fn recall(&mut self, argument: u32) {
        let index = self.pick(argument);
        let log = &mut self.logs[index];
        let live: Vec<_> = log.live.iter().copied().collect();
        if live.is_empty() {
            return;
        }
        let old = &log.all[&live[(argument >> 8) as usize % live.len()]];
        if matches!(old.body, Body::Json(_)) {
            let (offset, expires) = (old.offset, old.expires_at_ms);
            let entry = Entry::new(offset, old.predecessor, old.message, expires, Body::Tombstone);
            log.all.insert(offset.0, Arc::new(entry));
        }
    }

    /// Upkeep: what expired is removed, and inbox entries that every reader has passed.
    pub fn purge(&mut self, _argument: u32) {
        let now_ms = self.now_ms;
        for (index, log) in self.logs.iter_mut().enumerate() {
            let passed = if index == 0 && log.epoch == self.epoch { log.cursor } else { 0 };
            log.removed_to = log.removed_to.max(passed);
            let all = &log.all;
            log.live.retain(|offset| *offset > passed && all[offset].expires_at_ms > now_ms);
        }
    }

    /// The store is restored from a backup: the tail of some logs is gone, the lineage is another.
    pub fn restore(&mut self, argument: u32) {
        self.finish();
        self.epoch += 1;
        for (index, log) in self.logs.iter_mut().enumerate() {
            let drop = (argument >> (index * 4)) as usize % 4;
            for _ in 0..drop {
                if let Some((offset, _)) = log.all.pop_last() {
                    log.live.remove(&offset);
                }
            }
            log.head = log.all.last_key_value().map_or(0, |(offset, _)| *offset);
            log.evicted_to = log.evicted_to.min(log.head);
            log.removed_to = log.removed_to.min(log.head);
            log.told = 0;
        }
        self.open(argument);
    }

    // Hints.

    pub fn deliver_hint(&mut self, argument: u32) {
        if self.hints.is_empty() {
            return;
        }
        let index = (argument as usize).min(self.hints.len() - 1);
        let index = if argument == u32::MAX { index } else { argument as usize % self.hints.len() };
        let (log, batch) = self.hints.remove(index);
        let log = self.logs[log].session.alias;
        self.step(Event::Hint { log, batch });
    }

    pub fn double_hint(&mut self, argument: u32) {
        if let Some(hint) = self.hints.get(argument as usize % self.hints.len().max(1)) {
            self.hints.push(hint.clone());
            self.deliver_hint(argument);
        }
    }

    pub fn lose_hint(&mut self, argument: u32) {
        if !self.hints.is_empty() {
            self.hints.swap_remove(argument as usize % self.hints.len());
        }
    }

    pub fn tell_missed(&mut self, argument: u32) {
        let log = &self.logs[self.pick(argument)];
        let (log, up_to) = (log.session.alias, Offset(log.head));
        self.step(Event::Missed { log, up_to });
    }

    pub fn confirm_interest(&mut self, argument: u32) {
        let log = &self.logs[self.pick(argument)];
        let (log, head) = (log.session.alias, Offset(log.head));
        self.step(Event::Interest { log, head });
    }

    // Reads.

    pub(crate) fn find(&self, log: usize, after: u64, entries_max: u32, bytes_max: u32) -> Page {
        let log = &self.logs[log];
        let mut page = Page {
            epoch: Epoch(self.epoch),
            entries: vec![],
            head: Offset(log.head),
            evicted_to: Offset(log.evicted_to),
            more: false,
        };
        let mut bytes = 0;
        for offset in log.live.range(after + 1..) {
            if page.entries.len() >= entries_max as usize || bytes >= bytes_max as usize {
                page.more = true;
                break;
            }
            bytes += log.all[offset].body.len();
            page.entries.push(Arc::clone(&log.all[offset]));
        }
        page
    }

    pub fn answer_read(&mut self, argument: u32) {
        if self.reads.is_empty() {
            return;
        }
        let read = self.reads.swap_remove(argument as usize % self.reads.len());
        let page = if argument & 0x100 == 0 {
            read.early
        } else {
            self.find(read.log, read.after, read.entries_max, read.bytes_max)
        };
        self.logs[read.log].session.reading = false;
        let log = self.logs[read.log].session.alias;
        self.answered.push((log, page.clone()));
        self.step(Event::Page { log, page });
    }

    pub fn fail_read(&mut self, argument: u32) {
        if !self.reads.is_empty() {
            let read = self.reads.swap_remove(argument as usize % self.reads.len());
            self.logs[read.log].session.reading = false;
            let log = self.logs[read.log].session.alias;
            self.step(Event::ReadFailed { log });
        }
    }

    /// One of the last answers comes again. If a read is in flight, it is taken for its answer; the
    /// true one comes as the surplus then.
    pub fn answer_twice(&mut self, argument: u32) {
        let recent = self.answered.len().min(6);
        if recent > 0 {
            let index = self.answered.len() - 1 - argument as usize % recent;
            let (log, page) = self.answered[index].clone();
            for known in self.logs.iter_mut().filter(|known| known.session.alias == log) {
                known.session.reading = false;
            }
            self.step(Event::Page { log, page });
        }
    }

    // The terminal.

    pub fn acknowledge(&mut self, argument: u32) {
        let index = self.pick(argument);
        let open: Vec<_> = self.logs[index].session.open.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let offset = open[(argument >> 8) as usize % open.len()];
        self.acknowledge_to(index, offset);
    }

    pub(crate) fn acknowledge_to(&mut self, index: usize, offset: u64) {
        let log = &mut self.logs[index];
        for passed in log.session.open.range(..=offset) {
            self.handled.insert(log.all[passed.0].message.0);
        }
        log.session.open = log.session.open.split_off(&(offset + 1));
        log.session.acked = log.session.acked.max(offset);
        log.own = Some((self.epoch, offset));
        let (log, offset) = (log.session.alias, Offset(offset));
        self.step(Event::Ack { log, offset });
    }

    pub fn skip(&mut self, argument: u32) {
        let log = &mut self.logs[argument as usize % 5];
        let Some((offset, _)) = log.session.open.pop_first() else { return };
        self.skipped.insert(log.all[&offset].message.0);
        let (log, offset) = (log.session.alias, Offset(offset));
        self.step(Event::Skip { log, offset });
    }

    pub fn pass_time(&mut self, argument: u32) {
        self.now_ms += u64::from(argument % 4000);
        if self.session.deadline_ms(&LIMITS).is_some_and(|due| due <= self.now_ms) {
            self.step(Event::Tick);
        }
    }

    pub fn stay_silent(&mut self, _argument: u32) {
        self.now_ms += 30_000;
        self.step(Event::Tick);
    }

    /// A topic is left and joined again, as if nothing had happened in the store.
    pub fn rejoin(&mut self, argument: u32) {
        let index = 2 + argument as usize % 2;
        let key = Arc::clone(&self.logs[index].key);
        self.reads.retain(|read| read.log != index);
        let old = self.session.leave(&key).unwrap();
        assert_eq!(old, self.logs[index].session.alias);
        // A late acknowledgement of the left log is no error.
        self.step(Event::Ack { log: old, offset: Offset(1) });
        if self.closed {
            return;
        }
        let mut effects = Vec::new();
        let start = self.start_log(index, 1);
        let alias = self.session.join(start, self.now_ms, &mut effects).unwrap();
        assert_ne!(alias, old);
        self.track(index, alias);
        for effect in effects {
            self.check(effect, true);
        }
    }

    pub fn restart(&mut self, argument: u32) {
        self.finish();
        self.open(argument);
    }

    /// The session dies without a word, as it does with its node.
    pub fn crash(&mut self, argument: u32) {
        self.open(argument);
    }

    fn finish(&mut self) {
        self.closed = false;
        let mut effects = Vec::new();
        self.session.finish(&mut effects);
        for effect in effects {
            assert!(matches!(effect, Effect::Save { .. }));
            self.check(effect, false);
        }
    }

    fn start_log(&self, index: usize, argument: u32) -> StartLog {
        let log = &self.logs[index];
        let own = log.own.filter(|_| argument.is_multiple_of(2));
        StartLog {
            log: Arc::clone(&log.key),
            epoch: Epoch(self.epoch),
            cursor_epoch: Epoch(log.epoch),
            cursor: Offset(log.cursor),
            attempts: log.attempts,
            head: Offset(log.head),
            own: own.map(|(epoch, offset)| (Epoch(epoch), Offset(offset))),
        }
    }

    fn track(&mut self, index: usize, alias: LogAlias) {
        let position = self.session.logs().find(|log| log.0 == alias).unwrap().3.0;
        self.logs[index].session =
            Track { alias, point: position, cursor: position, ..Track::default() };
    }

    fn open(&mut self, argument: u32) {
        (self.closed, self.reads, self.answered) = (false, vec![], vec![]);
        let starts: Vec<_> = (0..self.logs.len()).map(|i| self.start_log(i, argument)).collect();
        let mut effects = Vec::new();
        self.session = Session::new(starts.clone(), self.now_ms, &mut effects);
        for (index, start) in starts.into_iter().enumerate() {
            let alias = LogAlias::try_from(index + 1).unwrap();
            self.track(index, alias);
            // I5: what cannot be continued is told.
            let lost = |epoch: Epoch, at: Offset| epoch != start.epoch || at > start.head;
            let own = start.own.map(|(epoch, at)| lost(epoch, at));
            let told =
                effects.iter().any(|e| matches!(e, Effect::Gap { log, .. } if *log == alias));
            if own == Some(true) || own.is_none() && lost(start.cursor_epoch, start.cursor) {
                assert!(told, "I5: {start:?}");
            }
            if told {
                assert_eq!(self.logs[index].session.point, 0, "from the oldest");
            }
        }
        for effect in effects {
            self.check(effect, true);
        }
        for index in 0..5 {
            if argument >> (index + 8) & 3 != 0 {
                self.confirm_interest(index);
            }
        }
    }
}
