//! What of each log was received, is in the application's hands, and was handled. Pure: it is told
//! what happened and answers what to show and what to acknowledge. It outlives connections, so a
//! message that the application still holds when the link breaks is not shown twice, and its late
//! acknowledgement counts on the next link.
//!
//! Three positions per log move one after the other: `cursor` (handled without a hole), `saved`
//! (the store has it), `wired` (the node was told). `received` bounds the last: a node treats an
//! acknowledgement above what it sent in this session as an error (I5).

mod log;

use clarion_protocol::terminal::{Cursor, GapReason, LogAlias, LogPosition};
use clarion_protocol::{Epoch, LogName, MessageId, Offset, TopicName};

use log::{Log, Slot, State, forget_passed};

use super::seen::Seen;
use crate::cursors::{Owner, Snapshot};

/// Where a message of the application's is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    key: u32,
    epoch: Epoch,
    pub(super) offset: Offset,
}

/// What to do with a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Give it to the application; without a target it needs no acknowledgement (ttl 0).
    Show { log: LogName, target: Option<Target>, redelivered: bool },
    /// The application has it, or had it.
    Drop,
}

/// How the application is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// Handled.
    Ack,
    /// Given up.
    Skip,
    /// Let go without a word: to be shown again when the node sends it again.
    Release,
}

/// What to tell the node, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ack(Vec<(LogAlias, Offset)>),
    Skip(LogAlias, Offset),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    owner: Owner,
    logs: Vec<Log>,
    key_next: u32,
    seen: Seen,
    held: usize,
    unflushed: usize,
    /// Whether there may be shadows; spares the search for them.
    shadows: bool,
    /// Deliveries that were dropped because the application has or had them.
    pub(super) duplicates: u64,
}

impl Ledger {
    pub(super) fn new(owner: Owner, snapshot: Snapshot, seen_max: usize) -> Self {
        let mut ledger = Self {
            owner,
            logs: Vec::new(),
            key_next: 0,
            seen: Seen::new(seen_max, snapshot.seen),
            held: 0,
            unflushed: 0,
            shadows: false,
            duplicates: 0,
        };
        for (name, cursor) in snapshot.cursors {
            ledger.add(name, cursor);
        }
        ledger
    }

    fn add(&mut self, name: LogName, cursor: Cursor) -> usize {
        let key = self.key_next;
        self.key_next = key.wrapping_add(1);
        self.logs.push(Log::new(key, name, cursor));
        self.logs.len() - 1
    }

    fn by_alias(&mut self, alias: LogAlias) -> Option<&mut Log> {
        self.logs.iter_mut().find(|log| log.alias == Some(alias))
    }

    fn remove(&mut self, gone: impl Fn(&Log) -> bool) {
        self.logs.retain(|log| !gone(log));
        self.held = self.logs.iter().map(Log::held).sum();
    }

    /// Another user than before uses this terminal: its inbox is another log.
    pub(super) fn change_owner(&mut self, owner: Owner) {
        if owner.user != self.owner.user {
            self.remove(|log| log.name == LogName::User);
        }
        self.owner = owner;
    }

    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The cursors for `open`: what the store has, no more.
    pub(super) fn own_cursors(&self) -> Vec<(LogName, Cursor)> {
        self.logs.iter().map(|log| (log.name.clone(), Cursor(log.epoch, log.saved))).collect()
    }

    /// The cursor of one topic.
    pub(super) fn own_cursor(&self, topic: &TopicName) -> Option<Cursor> {
        let is_it = |log: &&Log| matches!(&log.name, LogName::Topic(name) if name == topic);
        self.logs.iter().find(is_it).map(|log| Cursor(log.epoch, log.saved))
    }

    /// The session is over: aliases mean nothing until the next.
    pub(super) fn disconnected(&mut self) {
        for log in &mut self.logs {
            log.alias = None;
        }
    }

    /// A session begins: these are its logs, all of them.
    pub(super) fn opened(&mut self, logs: &[LogPosition]) {
        self.remove(|log| !logs.iter().any(|position| position.log == log.name));
        self.disconnected();
        for position in logs {
            self.joined(position);
        }
    }

    /// A log is part of the session, from this position.
    pub(super) fn joined(&mut self, position: &LogPosition) {
        let at = position.offset;
        let known = self.logs.iter().position(|log| log.name == position.log);
        let index = known.unwrap_or_else(|| {
            self.unflushed += 1;
            self.add(position.log.clone(), Cursor(position.epoch, at))
        });
        let log = &mut self.logs[index];
        log.alias = Some(position.l);
        if log.epoch != position.epoch {
            self.held -= log.reset(position.epoch, at, false);
            self.unflushed += 1;
            return;
        }
        // What the node has behind it will not come again: whoever holds it may settle it in vain.
        let before = log.held();
        log.slots.retain(|slot| slot.offset > at);
        self.held -= before - log.held();
        log.cursor = log.cursor.max(at);
        log.saved = log.saved.max(at);
        log.wired = at;
        log.received = at;
        log.skips.retain(|(_, skipped)| *skipped > at);
        log.advance();
    }

    /// A topic is not part of the session any more; its cursor goes with it.
    pub(super) fn left(&mut self, topic: &TopicName) {
        self.remove(|log| matches!(&log.name, LogName::Topic(name) if name == topic));
        self.unflushed += 1;
    }

    /// Messages are gone (I5, I6): adopts lineage and position.
    pub(super) fn gap(
        &mut self,
        alias: LogAlias,
        epoch: Epoch,
        to: Offset,
        reason: GapReason,
    ) -> Option<LogName> {
        let log = self.by_alias(alias)?;
        let keep_above = reason == GapReason::Evicted && log.epoch == epoch;
        let forgotten = log.reset(epoch, to, keep_above);
        let name = log.name.clone();
        self.held -= forgotten;
        self.unflushed += 1;
        Some(name)
    }

    /// A message arrived. `None` if its log is not part of the session.
    pub(super) fn deliver(
        &mut self,
        alias: LogAlias,
        offset: Option<Offset>,
        id: MessageId,
    ) -> Option<Verdict> {
        let index = self.logs.iter().position(|log| log.alias == Some(alias))?;
        let Some(offset) = offset else {
            let log = self.logs[index].name.clone();
            let shown = Verdict::Show { log, target: None, redelivered: false };
            return Some(if self.seen.insert(id) { shown } else { self.dropped() });
        };
        let handled = self.seen.contains(id);
        let elsewhere = !handled && self.held > 0 && self.held_elsewhere(index, id);
        let log = &mut self.logs[index];
        if offset > log.received {
            self.held -= forget_passed(log, offset);
            log.received = offset;
        }
        let target = Some(Target { key: log.key, epoch: log.epoch, offset });
        if offset <= log.cursor {
            self.unflushed += 1;
            return Some(self.dropped());
        }
        let (at, redelivered) = match log.find(offset) {
            Ok(at) if log.slots[at].state == State::Released => (at, true),
            Ok(_) => return Some(self.dropped()),
            Err(at) => {
                log.slots.insert(at, Slot { offset, id, state: State::Released });
                (at, false)
            }
        };
        if handled {
            log.slots[at].state = State::Handled;
            log.advance();
            self.unflushed += 1;
        } else if elsewhere {
            log.slots[at].state = State::Shadow;
            self.shadows = true;
        } else {
            log.slots[at].state = State::Held;
            self.held += 1;
            return Some(Verdict::Show { log: log.name.clone(), target, redelivered });
        }
        Some(self.dropped())
    }

    fn dropped(&mut self) -> Verdict {
        self.duplicates += 1;
        Verdict::Drop
    }

    fn held_elsewhere(&self, index: usize, id: MessageId) -> bool {
        let holds = |log: &Log| log.slots.iter().any(|s| s.id == id && s.state == State::Held);
        self.logs.iter().enumerate().any(|(i, log)| i != index && holds(log))
    }

    /// The application is done with a message.
    pub(super) fn settle(&mut self, target: Target, id: MessageId, how: Settle) {
        if how != Settle::Release {
            self.seen.insert(id);
            self.unflushed += 1;
        }
        if let Some(log) = self.logs.iter_mut().find(|log| log.key == target.key)
            && log.epoch == target.epoch
            && let Ok(at) = log.find(target.offset)
            && log.slots[at].state == State::Held
        {
            log.slots[at].state = match how {
                Settle::Ack => State::Handled,
                Settle::Skip => State::Skipped,
                Settle::Release => State::Released,
            };
            self.held -= 1;
            log.advance();
        }
        self.settle_shadows(id, how);
    }

    fn settle_shadows(&mut self, id: MessageId, how: Settle) {
        if !self.shadows {
            return;
        }
        self.shadows = false;
        let state = if how == Settle::Release { State::Released } else { State::Handled };
        for log in &mut self.logs {
            let mut found = false;
            for slot in &mut log.slots {
                if slot.state == State::Shadow && slot.id == id {
                    slot.state = state;
                    found = true;
                }
                self.shadows |= slot.state == State::Shadow;
            }
            if found {
                log.advance();
            }
        }
    }

    /// What the store would hold if these were acknowledged, and whatever was acknowledged.
    pub(super) fn snapshot_with(&self, settled: &[(Option<Target>, MessageId)]) -> Snapshot {
        let cursor = |log: &Log| {
            let is_done = |slot: &&Slot| {
                let target = Target { key: log.key, epoch: log.epoch, offset: slot.offset };
                matches!(slot.state, State::Handled | State::Skipped)
                    || settled.iter().any(|(t, id)| {
                        *t == Some(target) || (slot.state == State::Shadow && *id == slot.id)
                    })
            };
            let last = log.slots.iter().take_while(is_done).last();
            Cursor(log.epoch, last.map_or(log.cursor, |slot| slot.offset))
        };
        let ids: Vec<MessageId> = settled.iter().map(|(_, id)| *id).collect();
        Snapshot {
            owner: Some(self.owner.clone()),
            cursors: self.logs.iter().map(|log| (log.name.clone(), cursor(log))).collect(),
            seen: self.seen.with(&ids),
        }
    }

    /// Messages in the application's hands.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Changes that were not saved and told yet.
    pub(super) const fn unflushed(&self) -> usize {
        self.unflushed
    }

    /// A save begins.
    pub(super) fn saving(&mut self) {
        self.unflushed = 0;
        for log in &mut self.logs {
            log.saving = Some(log.cursor);
        }
    }

    /// The save ended. What it did not save is to be saved again.
    pub(super) fn saved(&mut self, ok: bool) {
        for log in &mut self.logs {
            if let Some(offset) = log.saving.take()
                && ok
            {
                log.saved = log.saved.max(offset);
            }
        }
        self.unflushed += usize::from(!ok);
    }

    /// What to tell the node now, and takes it for told.
    pub(super) fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut acks = Vec::new();
        for log in &mut self.logs {
            let Some(alias) = log.alias else { continue };
            let limit = log.saved.min(log.received);
            while let Some((before, skipped)) = log.skips.front().copied() {
                if skipped > limit {
                    break;
                }
                if before > log.wired {
                    steps.push(Step::Ack(vec![(alias, before)]));
                }
                if skipped > log.wired {
                    steps.push(Step::Skip(alias, skipped));
                    log.wired = skipped;
                }
                log.skips.pop_front();
            }
            // An acknowledgement covers all before it, so it must not overtake a skip.
            let limit = log.skips.front().map_or(limit, |(before, _)| limit.min(*before));
            if limit > log.wired {
                acks.push((alias, limit));
                log.wired = limit;
            }
        }
        if !acks.is_empty() {
            steps.push(Step::Ack(acks));
        }
        steps
    }
}

#[cfg(test)]
mod tests;
