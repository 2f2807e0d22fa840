//! Logs, store, hints, reads and terminal around one session, and what must hold at each effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::entry::{Batch, Body, Control, Entry, Page, Settled};
use clarion_core::log::LogKey;
use clarion_core::session::{Effect, Event, Session, SessionLimits, StartLog};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::{GapReason, LogAlias};
use clarion_protocol::{Code, Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

const LIMITS: SessionLimits = SessionLimits {
    window_entries: 4,
    window_bytes: 300,
    unicast_reserve_bytes: 80,
    ack_timeout_ms: 30_000,
    attempts_max: 4,
    page_entries: 3,
    page_bytes: 200,
    logs_max: 8,
};
const WIDE_MAX: u32 = LIMITS.window_bytes - LIMITS.unicast_reserve_bytes;

/// A log, the stored cursor in it, and what the session under test did with it.
struct Log {
    key: Arc<LogKey>,
    /// Every entry of the present lineage, as it is now (recalled: a tombstone).
    all: BTreeMap<u64, Arc<Entry>>,
    /// Entries that a read still finds.
    live: BTreeSet<u64>,
    head: u64,
    evicted_to: u64,
    /// Entries of an inbox up to here were removed because their reader had passed them.
    removed_to: u64,
    /// The stored cursor.
    epoch: u64,
    cursor: u64,
    attempts: u8,
    /// Up to here evictions were told, in the present lineage.
    told: u64,
    /// The terminal's own cursor.
    own: Option<(u64, u64)>,
    session: Track,
}

/// One log in one session.
#[derive(Default)]
struct Track {
    alias: LogAlias,
    /// Everything up to here was delivered, passed or told.
    point: u64,
    /// As last saved in this session, or where it started.
    cursor: u64,
    /// Delivered in this session.
    sent: BTreeSet<u64>,
    /// Delivered and not settled, with bytes.
    open: BTreeMap<u64, u32>,
    acked: u64,
    controls: BTreeSet<u64>,
    reading: bool,
}

struct PendingRead {
    log: usize,
    after: u64,
    entries_max: u32,
    bytes_max: u32,
    /// What was there when it was asked for; given if it is answered late.
    early: Page,
}

pub struct World {
    now_ms: u64,
    epoch: u64,
    next_message: u128,
    logs: Vec<Log>,
    session: Session,
    closed: bool,
    hints: Vec<(usize, Arc<Batch>)>,
    reads: Vec<PendingRead>,
    answered: Vec<(LogAlias, Page)>,
    /// Messages that the terminal acknowledged; deliveries of each, and those it gave up.
    handled: BTreeSet<u128>,
    deliveries: BTreeMap<u128, u32>,
    skipped: BTreeSet<u128>,
    undeliverable: BTreeSet<u128>,
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
            let body = if index == 0 && bits % 7 == 0 {
                Body::Control(Control::Subscribed(TopicName::new("x").unwrap()))
            } else {
                let bytes = if bits % 29 == 0 { 500 } else { 1 + bits % 90 };
                Body::Json(Bytes::from(vec![b'1'; bytes as usize]))
            };
            let ttl = if bits % 5 == 0 { u64::from(bits % 40_000) } else { 1 << 50 };
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
        if argument % 3 != 0 {
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

    fn find(&self, log: usize, after: u64, entries_max: u32, bytes_max: u32) -> Page {
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

    fn acknowledge_to(&mut self, index: usize, offset: u64) {
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
            let told = effects.iter().any(|e| matches!(e, Effect::Gap { log, .. } if *log == alias));
            if own == Some(true) || own.is_none() && lost(start.cursor_epoch, start.cursor) {
                assert!(told, "I5: {start:?}");
            }
            if told {
                assert_eq!(self.logs[index].session.point, 0, "from the oldest");
                self.logs[index].told = 0;
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

    // The session.

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        eprintln!("TRACE {} {event:?}", self.now_ms);
        self.session.step(event, self.now_ms, &LIMITS, &mut effects);
        for effect in effects {
            self.check(effect, false);
        }
        if self.closed {
            let argument = u32::try_from(self.now_ms & 0xff_ffff).unwrap();
            self.restart(argument);
        }
    }

    fn log_of(&self, alias: LogAlias) -> usize {
        self.logs.iter().position(|log| log.session.alias == alias).expect("an alias in use")
    }

    fn check(&mut self, effect: Effect, starting: bool) {
        assert!(!self.closed, "nothing after a close");
        eprintln!("TRACE    {effect:?}");
        match effect {
            Effect::DeliverBatch { log, batch } => {
                self.check_delivery(self.log_of(log), false, &batch.entries);
            }
            Effect::Deliver { log, again, entries } => {
                self.check_delivery(self.log_of(log), again, &entries);
            }
            Effect::Gap { log, epoch, from: _, to, reason } => {
                assert_eq!(epoch, Epoch(self.epoch));
                let log = self.log_of(log);
                self.check_gap(log, to.0, reason, starting);
            }
            Effect::Read { log, after, entries_max, bytes_max } => {
                let log = self.log_of(log);
                assert!(!self.logs[log].session.reading, "one read at a time");
                assert!(entries_max <= LIMITS.page_entries && bytes_max <= LIMITS.page_bytes);
                self.logs[log].session.reading = true;
                let early = self.find(log, after.0, entries_max, bytes_max);
                self.reads.retain(|read| read.log != log);
                self.reads.push(PendingRead { log, after: after.0, entries_max, bytes_max, early });
            }
            Effect::Save { log, epoch, cursor, attempts, settled } => {
                assert_eq!(epoch, Epoch(self.epoch));
                self.check_save(self.log_of(log), cursor.0, attempts, &settled, starting);
            }
            Effect::Control(_) => {
                let now_ms = self.now_ms;
                let log = &mut self.logs[0];
                let is_control = |entry: &Arc<Entry>| matches!(entry.body, Body::Control(_));
                let mut next = log.all.range(log.session.point + 1..);
                let (offset, _) = next.find(|(_, entry)| is_control(entry)).expect("a control entry");
                assert!(log.session.controls.insert(*offset), "once in a session");
                log.check_passable(*offset, now_ms);
                log.session.point = *offset;
            }
            Effect::Close { code, .. } => {
                assert_eq!(code, Code::AckTimeout);
                self.closed = true;
            }
        }
    }

    /// I8: in order. I5, I6: nothing left out silently. I9: within the bounds.
    fn check_delivery(&mut self, index: usize, again: bool, entries: &[Arc<Entry>]) {
        assert!(!entries.is_empty());
        assert!(entries.is_sorted_by(|a, b| a.offset < b.offset));
        for entry in entries {
            let offset = entry.offset.0;
            let log = &mut self.logs[index];
            assert!(matches!(entry.body, Body::Json(_)) && entry.expires_at_ms > self.now_ms);
            *self.deliveries.entry(entry.message.0).or_default() += 1;
            if log.session.sent.contains(&offset) {
                assert!(again, "told to be sent again");
                assert!(log.session.open.contains_key(&offset) || offset > log.session.acked);
                log.session.open.insert(offset, entry.body.len() as u32);
                continue;
            }
            log.check_passable(offset, self.now_ms);
            log.session.point = offset;
            log.session.sent.insert(offset);
            log.session.open.insert(offset, entry.body.len() as u32);
            self.check_bounds(index);
        }
    }

    fn check_bounds(&self, index: usize) {
        let (mut totals, mut counts) = ([0u32; 2], [0u32; 2]);
        for log in &self.logs {
            let class = usize::from(log.key.kind.is_wide());
            let held = |offset: &u64| !log.is_passable(*offset, self.now_ms);
            for (_, bytes) in log.session.open.iter().filter(|(offset, _)| held(offset)) {
                totals[class] += bytes;
                counts[class] += 1;
            }
            let open = log.session.open.keys().filter(|offset| held(offset)).count();
            assert!(open <= LIMITS.window_entries as usize, "I9: the window");
        }
        let [unicast, wide] = totals;
        if self.logs[index].key.kind.is_wide() {
            let within = wide <= WIDE_MAX && wide + unicast <= LIMITS.window_bytes;
            assert!(within || counts[1] == 1, "I9: {wide} wide bytes, {unicast} unicast");
        } else {
            let within = unicast + wide.min(WIDE_MAX) <= LIMITS.window_bytes;
            assert!(within || counts[0] == 1, "I9: {unicast} unicast bytes");
        }
    }

    fn check_gap(&mut self, index: usize, to: u64, reason: GapReason, starting: bool) {
        let log = &mut self.logs[index];
        match reason {
            GapReason::Evicted => {
                assert!(to <= log.evicted_to && to > 0);
                log.told = log.told.max(to);
                log.session.point = log.session.point.max(to);
                log.session.open = log.session.open.split_off(&(to + 1));
            }
            GapReason::Epoch | GapReason::Ahead => assert!(starting && to == 0),
        }
    }

    /// I9, I13: the cursor passes only what was acknowledged, settled and said so, or told.
    fn check_save(&mut self, index: usize, to: u64, attempts: u8, done: &[Settled], starting: bool) {
        let (now_ms, epoch) = (self.now_ms, self.epoch);
        let log = &mut self.logs[index];
        assert!(to <= log.head, "I5: nothing above the head is saved");
        let from = log.session.cursor;
        for Settled { offset, how } in done {
            assert!(offset.0 > from && offset.0 <= to, "settled with the save that passes it");
            let entry = &log.all[&offset.0];
            match how {
                Milestone::Expired => assert!(entry.expires_at_ms <= now_ms),
                Milestone::Recalled => assert!(matches!(entry.body, Body::Tombstone)),
                Milestone::Undeliverable => {
                    let attempts = self.deliveries.get(&entry.message.0).copied().unwrap_or(0);
                    let skipped = self.skipped.contains(&entry.message.0);
                    assert!(skipped || attempts >= u32::from(LIMITS.attempts_max), "I10");
                    self.undeliverable.insert(entry.message.0);
                }
                other => panic!("{other:?}"),
            }
            log.session.open.remove(&offset.0);
        }
        if !starting {
            assert!(to >= from);
            for (offset, _) in log.all.range(from + 1..=to.max(from + 1)) {
                let settled = done.iter().any(|settled| settled.offset.0 == *offset);
                let acked = *offset <= log.session.acked && log.session.sent.contains(offset);
                let fine = settled || acked || *offset <= log.told || *offset > to;
                assert!(fine || log.is_passable(*offset, now_ms), "I9: {offset} passed by {to}");
            }
        }
        log.session.cursor = to;
        // The store: `max` within the epoch.
        if log.epoch != epoch || to >= log.cursor {
            (log.epoch, log.cursor, log.attempts) = (epoch, to, attempts);
        }
    }

    // The end of all faults.

    /// Everything arrives once hints, reads and terminal do as they should.
    pub fn settle_down(&mut self) {
        self.hints.clear();
        for round in 0.. {
            assert!(round < 3000, "it comes to rest");
            for index in 0..5 {
                self.confirm_interest(index);
                let last = self.logs[index as usize].session.open.last_key_value();
                if let Some((offset, _)) = last {
                    self.acknowledge_to(index as usize, *offset);
                }
            }
            while !self.reads.is_empty() {
                self.answer_read(0x100);
            }
            if let Some(due_ms) = self.session.deadline_ms(&LIMITS) {
                self.now_ms = self.now_ms.max(due_ms);
                self.step(Event::Tick);
            } else if self.reads.is_empty() && self.logs.iter().all(|l| l.session.open.is_empty()) {
                break;
            }
        }
        for log in &self.logs {
            let position = self.session.logs().find(|known| *known.1 == log.key).unwrap().3;
            assert_eq!(position.0, log.head.max(position.0), "all was read");
            assert_eq!(log.cursor.max(position.0), log.cursor, "all was settled and saved");
            for (offset, entry) in &log.all {
                let message = &entry.message.0;
                let done = self.handled.contains(message) || self.undeliverable.contains(message);
                let fine = done || *offset <= log.told || log.is_passable(*offset, self.now_ms);
                assert!(fine, "N1, I5: {:?} {offset} never arrived", log.key);
            }
        }
    }
}

impl Log {
    /// Whether the entry is one that nobody is given.
    fn is_passable(&self, offset: u64, now_ms: u64) -> bool {
        let entry = &self.all[&offset];
        let expired = entry.expires_at_ms <= now_ms;
        !matches!(entry.body, Body::Json(_)) || expired || offset <= self.removed_to
    }

    /// I5: between the point and the next delivery lies nothing that should have been delivered.
    fn check_passable(&self, to: u64, now_ms: u64) {
        assert!(to > self.session.point, "I8: {to} after {}", self.session.point);
        for (offset, _) in self.all.range(self.session.point + 1..to) {
            assert!(self.is_passable(*offset, now_ms), "I5: {offset} left out before {to}");
        }
    }
}
