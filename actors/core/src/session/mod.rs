//! A session: the pure state machine of one live terminal. It is told what happened (hints, pages,
//! acknowledgements, time) and answers with effects; the link carries them out. Delivery is always
//! "read my logs from my cursor": a hint only saves the read when it continues exactly where the
//! session stands.
//!
//! A crash loses nothing but the attempts since the last save: everything else is read again from
//! the cursors.

mod acks;
mod budget;
mod delivery;
mod log_state;
mod log_window;
mod reads;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use clarion_protocol::terminal::LogAlias;
use clarion_protocol::{Code, Epoch, Offset};

use crate::entry::{Batch, Body, Page};
use crate::log::{LogKey, LogKind};

use acks::close;
use budget::Budget;
use delivery::{Closing, bytes_of};
use log_state::{Context, LogState};

pub use types::{Effect, Event, SessionLimits, StartLog};

/// The order in which logs get what room there is (I9).
const PRIORITY: [LogKind; 4] =
    [LogKind::Terminal, LogKind::User, LogKind::Topic, LogKind::Broadcast];

const SKIP_UNKNOWN: Closing = (Code::FrameUnexpected, "no log has this alias");

/// One live terminal. 48 bytes, plus 56 for each log that is idle.
#[derive(Debug)]
pub struct Session {
    /// In the order of their aliases.
    logs: Vec<LogState>,
    budget: Budget,
    /// The alias that the next log gets; no alias is used twice.
    next_alias: LogAlias,
    /// The topic that was read last: the next one comes first, so that all get their turn.
    turn: LogAlias,
    /// As last seen in the limits; nothing is delivered before the first step.
    attempts_max: u8,
    /// Room was made outside of a step: a tick is wanted at once.
    kicked: bool,
    /// A `Close` was emitted; nothing else happens.
    closed: bool,
    /// It stands in for a session that crashed on this link.
    rebuilt: bool,
}

impl Session {
    /// A session over `logs`; gaps of I5 are its first effects.
    #[must_use]
    pub fn new(logs: Vec<StartLog>, _now_ms: u64, effects: &mut Vec<Effect>) -> Self {
        let mut session = Self::empty(logs.len());
        for log in logs {
            session.add(log, effects);
        }
        session
    }

    /// A session in the place of `former`, which crashed: over the same link, so the terminal's
    /// frames still speak of what the former one gave it. Logs keep their aliases, and
    /// acknowledgements and skips of what this session did not send yet are ignored, not refused:
    /// those entries are sent again and acknowledged again.
    #[must_use]
    pub fn rebuild(former: &Self, logs: Vec<StartLog>, effects: &mut Vec<Effect>) -> Self {
        let mut session = Self::empty(logs.len());
        session.next_alias = former.next_alias;
        session.rebuilt = true;
        let (mut known, mut new) = (Vec::with_capacity(logs.len()), Vec::new());
        for start in logs {
            match former.logs.iter().find(|log| log.log == start.log) {
                Some(log) => known.push((log.alias, start)),
                None => new.push(start),
            }
        }
        known.sort_by_key(|(alias, _)| *alias);
        for (alias, start) in known {
            session.logs.push(LogState::start(start, alias, effects));
        }
        for start in new {
            session.add(start, effects);
        }
        session
    }

    fn empty(logs: usize) -> Self {
        Self {
            logs: Vec::with_capacity(logs),
            budget: Budget::default(),
            next_alias: 1,
            turn: 0,
            attempts_max: u8::MAX,
            kicked: false,
            closed: false,
            rebuilt: false,
        }
    }

    /// Adds a log and returns its alias. The same log again keeps its alias. `None` once all
    /// aliases of the session are used up.
    pub fn join(
        &mut self,
        log: StartLog,
        _now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<LogAlias> {
        self.logs.reserve_exact(1);
        self.add(log, effects)
    }

    fn add(&mut self, start: StartLog, effects: &mut Vec<Effect>) -> Option<LogAlias> {
        if let Some(known) = self.logs.iter().find(|known| known.log == start.log) {
            return Some(known.alias);
        }
        let alias = self.next_alias;
        self.next_alias = alias.checked_add(1)?;
        self.logs.push(LogState::start(start, alias, effects));
        Some(alias)
    }

    /// Forgets a log; its alias is never used again in this session. The room it gives back is
    /// used at the next step: ask [`Session::deadline_ms`] again.
    pub fn leave(&mut self, log: &LogKey) -> Option<LogAlias> {
        let index = self.logs.iter().position(|known| *known.log == *log)?;
        let left = self.logs.remove(index);
        left.release_all(&mut self.budget);
        self.kicked = true;
        Some(left.alias)
    }

    /// The log of an alias.
    #[must_use]
    pub fn log(&self, alias: LogAlias) -> Option<&Arc<LogKey>> {
        self.index(alias).and_then(|index| self.logs.get(index)).map(|log| &log.log)
    }

    /// The logs: alias, log, epoch, position.
    pub fn logs(&self) -> impl Iterator<Item = (LogAlias, &Arc<LogKey>, Epoch, Offset)> {
        self.logs.iter().map(|log| (log.alias, &log.log, log.epoch, log.position))
    }

    /// Takes one event and appends its effects.
    pub fn step(
        &mut self,
        event: Event,
        now_ms: u64,
        limits: &SessionLimits,
        effects: &mut Vec<Effect>,
    ) {
        if self.closed {
            return;
        }
        self.attempts_max = limits.attempts_max;
        let mut budget = std::mem::take(&mut self.budget);
        let mut cx = Context { now_ms, limits, budget: &mut budget, effects };
        if let Err(closing) = self.handle(event, &mut cx) {
            self.closed = true;
            cx.effects.push(close(closing));
        }
        self.budget = budget;
    }

    fn handle(&mut self, event: Event, cx: &mut Context<'_>) -> Result<(), Closing> {
        match event {
            Event::Interest { log, head } => self.interest(log, head, cx),
            Event::Hint { log, batch } => self.hint(log, &batch, cx),
            Event::Missed { log, up_to } => self.missed(log, up_to, cx),
            Event::Page { log, page } => return self.page(log, &page, cx),
            Event::ReadFailed { log } => self.read_failed(log, cx),
            Event::Ack { log, offset } => return self.ack(log, offset, cx),
            Event::Skip { log, offset } => return self.skip(log, offset, cx),
            Event::Ephemeral { log, batch } => self.ephemeral(log, &batch, cx),
            Event::Tick => return self.tick(cx),
        }
        Ok(())
    }

    /// When it wants a [`Event::Tick`], Unix milliseconds of the store.
    #[must_use]
    pub fn deadline_ms(&self, limits: &SessionLimits) -> Option<u64> {
        if self.closed {
            return None;
        }
        if self.kicked {
            return Some(0);
        }
        self.logs.iter().filter_map(|log| log.deadline_ms(limits.ack_timeout_ms)).min()
    }

    /// What must be saved when the session ends: attempts of unacknowledged first entries, and
    /// those that used up their attempts (I10).
    pub fn finish(&mut self, effects: &mut Vec<Effect>) {
        self.closed = true;
        for log in &mut self.logs {
            log.finish(self.attempts_max, &mut self.budget, effects);
        }
    }

    fn index(&self, alias: LogAlias) -> Option<usize> {
        self.logs.binary_search_by_key(&alias, |log| log.alias).ok()
    }

    fn find(&mut self, alias: LogAlias) -> Option<&mut LogState> {
        self.index(alias).and_then(|index| self.logs.get_mut(index))
    }

    /// Whether an alias was given to a log that the session has left since.
    const fn was_left(&self, alias: LogAlias) -> bool {
        alias != 0 && alias < self.next_alias
    }

    fn interest(&mut self, alias: LogAlias, head: Offset, cx: &mut Context<'_>) {
        let Some(log) = self.find(alias) else { return };
        // I4: only now is nothing appended unseen between a read and the next hint.
        log.interested = true;
        log.note(head);
        self.pump(cx);
    }

    fn hint(&mut self, alias: LogAlias, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        let Some(log) = self.find(alias) else { return };
        log.hint(batch, cx);
        if log.is_behind() {
            self.pump(cx);
        }
    }

    fn missed(&mut self, alias: LogAlias, up_to: Offset, cx: &mut Context<'_>) {
        let Some(log) = self.find(alias) else { return };
        log.note(up_to);
        self.pump(cx);
    }

    fn page(&mut self, alias: LogAlias, page: &Page, cx: &mut Context<'_>) -> Result<(), Closing> {
        if let Some(log) = self.find(alias) {
            log.page(page, cx)?;
            self.pump(cx);
        }
        Ok(())
    }

    fn read_failed(&mut self, alias: LogAlias, cx: &mut Context<'_>) {
        let Some(log) = self.find(alias) else { return };
        if log.end_read(cx).is_some() {
            log.back_off(cx.now_ms);
        }
        self.pump(cx);
    }

    fn ack(&mut self, alias: LogAlias, to: Offset, cx: &mut Context<'_>) -> Result<(), Closing> {
        let (was_left, rebuilt) = (self.was_left(alias), self.rebuilt);
        match self.find(alias) {
            Some(log) => match log.ack(to, cx) {
                Err(_) if rebuilt => return Ok(()),
                answer => answer?,
            },
            None if was_left => return Ok(()),
            None => return Err(acks::ACK_AHEAD),
        }
        self.pump(cx);
        Ok(())
    }

    fn skip(&mut self, alias: LogAlias, at: Offset, cx: &mut Context<'_>) -> Result<(), Closing> {
        let (was_left, rebuilt) = (self.was_left(alias), self.rebuilt);
        match self.find(alias) {
            Some(log) => match log.skip(at, cx) {
                Err(_) if rebuilt => return Ok(()),
                answer => answer?,
            },
            None if was_left => return Ok(()),
            None => return Err(SKIP_UNKNOWN),
        }
        self.pump(cx);
        Ok(())
    }

    /// Entries with ttl 0: at most once, in no window, never acknowledged. What does not fit into
    /// the bytes that are free now is dropped.
    fn ephemeral(&mut self, alias: LogAlias, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        let Some(log) = self.find(alias) else { return };
        let mut room = cx.budget.room(log.log.kind, cx.limits);
        let mut fits = |entry: &Arc<crate::entry::Entry>| match &entry.body {
            Body::Json(_) | Body::Bytes { .. } => {
                let bytes = bytes_of(entry);
                let fits = bytes <= room;
                room -= if fits { bytes } else { 0 };
                fits
            }
            Body::Control(_) | Body::Tombstone => false,
        };
        let mut entries: Vec<_> = batch.entries.clone();
        entries.retain(|entry| fits(entry));
        if entries.len() == batch.entries.len() {
            cx.effects.push(Effect::DeliverBatch { log: alias, batch: Arc::clone(batch) });
        } else if !entries.is_empty() {
            cx.effects.push(Effect::Deliver { log: alias, again: false, entries });
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Result<(), Closing> {
        self.kicked = false;
        for log in &mut self.logs {
            log.time_out(cx)?;
            log.retry(cx.now_ms);
        }
        self.pump(cx);
        Ok(())
    }

    /// I9: reads what there is room for, inboxes first; topics in turn.
    fn pump(&mut self, cx: &mut Context<'_>) {
        if !self.logs.iter().any(LogState::is_behind) {
            return;
        }
        for kind in PRIORITY {
            let pivot = self.logs.partition_point(|log| log.alias <= self.turn);
            let (before, after) = self.logs.split_at_mut(pivot);
            for log in after.iter_mut().chain(before).filter(|log| log.log.kind == kind) {
                if log.wants_read(cx) {
                    log.read(cx);
                    self.turn = if kind == LogKind::Topic { log.alias } else { self.turn };
                }
            }
        }
    }
}
