//! What must hold at each effect, and at the end.

use std::sync::Arc;

use clarion_core::entry::{Body, Entry, Settled};
use clarion_core::session::{Effect, Event};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::{GapReason, LogAlias};
use clarion_protocol::{Code, Epoch};

use crate::world::{LIMITS, Log, PendingRead, WIDE_MAX, World};

impl World {
    // The session.

    pub(crate) fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.session.step(event, self.now_ms, &LIMITS, &mut effects);
        for effect in effects {
            self.check(effect, false);
        }
        if self.closed {
            let argument = u32::try_from(self.now_ms & 0xff_ffff).unwrap();
            self.restart(argument);
        }
    }

    pub(crate) fn log_of(&self, alias: LogAlias) -> usize {
        self.logs.iter().position(|log| log.session.alias == alias).expect("an alias in use")
    }

    pub(crate) fn check(&mut self, effect: Effect, starting: bool) {
        assert!(!self.closed, "nothing after a close");
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
            Effect::Read { log, after, entries_max, bytes_max, .. } => {
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
                let (offset, _) =
                    next.find(|(_, entry)| is_control(entry)).expect("a control entry");
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
            assert!(within || counts[1] <= 1, "I9: {wide} wide bytes, {unicast} unicast");
        } else {
            let within = unicast + wide.min(WIDE_MAX) <= LIMITS.window_bytes;
            assert!(within || counts[0] <= 1, "I9: {unicast} unicast bytes");
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
    fn check_save(
        &mut self,
        index: usize,
        to: u64,
        attempts: u8,
        done: &[Settled],
        starting: bool,
    ) {
        let (now_ms, epoch) = (self.now_ms, self.epoch);
        let log = &mut self.logs[index];
        assert!(to <= log.head, "I5: nothing above the head is saved");
        let from = log.session.cursor;
        for Settled { offset, how } in done {
            assert!(offset.0 > from && offset.0 <= to, "settled with the save that passes it");
            if *how == Milestone::Evicted {
                assert!(offset.0 <= log.told, "I6: an eviction that was not told");
                continue;
            }
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
                assert!(fine, "I5: {:?} {offset} never arrived", log.key);
            }
        }
    }
}

impl Log {
    /// Whether the entry is one that nobody is given.
    pub(crate) fn is_passable(&self, offset: u64, now_ms: u64) -> bool {
        let entry = &self.all[&offset];
        let expired = entry.expires_at_ms <= now_ms;
        !matches!(entry.body, Body::Json(_)) || expired || offset <= self.removed_to
    }

    /// I5: between the point and the next delivery lies nothing that should have been delivered.
    pub(crate) fn check_passable(&self, to: u64, now_ms: u64) {
        assert!(to > self.session.point, "I8: {to} after {}", self.session.point);
        for (offset, _) in self.all.range(self.session.point + 1..to) {
            assert!(self.is_passable(*offset, now_ms), "I5: {offset} left out before {to}");
        }
    }
}
