//! Terminals: registration, users, topics, sessions (I3, I7).

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{LogName, Offset, ProductId, TerminalId, TopicName, UserId};

use super::codec::{Stay, Sub, TerminalRow};
use super::counts::Passing;
use super::tables::{Slice, Table, View};
use super::{Engine, keys};
use crate::{OpenSession, OpenedLog, OpenedSession, StoreResult};

/// A record is written again when it was not for this long, so that the retention slides.
pub(crate) const TOUCH_MS: u64 = 86_400_000;

/// Terminals of a user up to which every cursor save looks for entries that all have passed; of
/// more, one save in as many as there are terminals does.
const READERS_TRIM_MAX: u64 = 64;

/// A terminal's record within a group.
#[derive(Debug)]
pub(crate) struct TerminalSlot {
    row: Option<TerminalRow>,
    dirty: bool,
}

/// What a session that opens would change in its terminal's record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Nothing.
    Known,
    /// Nothing but the time it was last seen, which need not be durable.
    Touch,
    /// Something that must be durable first.
    Changes,
}

impl Opening {
    pub(crate) fn of(row: &TerminalRow, open: &OpenSession, now_ms: u64) -> Self {
        let room = (open.topics_max as usize).saturating_sub(row.topics());
        let joins = |topic: &TopicName| row.sub(&LogName::Topic(topic.clone())).is_none();
        if row.user != open.user
            || row.kind != Some(open.kind)
            || (room > 0 && open.topics.iter().any(joins))
        {
            Self::Changes
        } else if row.last_seen_ms.saturating_add(TOUCH_MS) <= now_ms {
            Self::Touch
        } else {
            Self::Known
        }
    }
}

/// The key of a log as a session shares it.
pub(crate) fn shared_key(
    product: &ProductId,
    terminal: &TerminalId,
    user: Option<&UserId>,
    log: &LogName,
) -> Option<std::sync::Arc<LogKey>> {
    Some(match log {
        LogName::Terminal => LogKey::terminal(product, terminal),
        LogName::User => LogKey::user(product, user?),
        LogName::Topic(topic) => LogKey::topic(product, topic),
        LogName::Broadcast => LogKey::broadcast(product),
    })
}

/// Subscriptions that are read, in the order sessions number their logs.
pub(crate) fn in_order(row: &TerminalRow) -> Vec<&Sub> {
    let mut subs: Vec<&Sub> = row.subs.iter().filter(|sub| !sub.banned).collect();
    subs.sort_by_key(|sub| match sub.log {
        LogName::Terminal => 0,
        LogName::User => 1,
        LogName::Broadcast => 2,
        LogName::Topic(_) => 3,
    });
    subs
}

/// Topics that a session asked for and is not in, and whether a ban is why.
pub(crate) fn refused(row: &TerminalRow, topics: &[TopicName]) -> Vec<(TopicName, bool)> {
    let mut refused = Vec::new();
    for topic in topics {
        match row.sub(&LogName::Topic(topic.clone())) {
            Some(sub) if !sub.banned => {}
            sub => refused.push((topic.clone(), sub.is_some())),
        }
    }
    refused
}

impl<B: View> Engine<B> {
    fn terminal_slot(&mut self, key: &[u8]) -> StoreResult<&mut TerminalSlot> {
        if !self.terminals.contains_key(key) {
            let row = match self.txn.get(Table::Terminals, key)? {
                Some(value) => Some(TerminalRow::decode(key, &value)?),
                None => None,
            };
            self.terminals.insert(key.into(), TerminalSlot { row, dirty: false });
        }
        match self.terminals.get_mut(key) {
            Some(slot) => Ok(slot),
            None => unreachable!("it was inserted just now"),
        }
    }

    /// A terminal's record as the group sees it.
    pub(crate) fn terminal(&mut self, key: &[u8]) -> StoreResult<Option<&TerminalRow>> {
        Ok(self.terminal_slot(key)?.row.as_ref())
    }

    /// A terminal's record, to be written with the group.
    pub(crate) fn terminal_to_change(
        &mut self,
        key: &[u8],
    ) -> StoreResult<Option<&mut TerminalRow>> {
        let now_ms = self.now_ms;
        let slot = self.terminal_slot(key)?;
        slot.dirty |= slot.row.is_some();
        if let Some(row) = &mut slot.row {
            row.last_seen_ms = now_ms;
        }
        Ok(slot.row.as_mut())
    }

    /// The record of a terminal, made if there is none (I3).
    pub(crate) fn registered(
        &mut self,
        product: &ProductId,
        terminal: &TerminalId,
        key: &[u8],
    ) -> StoreResult<&mut TerminalRow> {
        if self.terminal(key)?.is_none() {
            let (now_ms, epoch) = (self.now_ms, self.epoch);
            // The inbox, filled perhaps before the terminal was known, is loaded without a cursor.
            self.log(&keys::log_of(product, LogKind::Terminal, terminal.as_str()))?;
            let broadcast = self.log_to_change(&Self::broadcast_key(product))?;
            broadcast.row.readers += 1;
            let head = broadcast.last();
            let row = TerminalRow {
                user: None,
                kind: None,
                registered_at_ms: now_ms,
                last_seen_ms: now_ms,
                generation: 0,
                heartbeat_ms: None,
                subs: vec![
                    Sub::reading(LogName::Terminal, epoch, Offset::ZERO),
                    Sub::reading(LogName::Broadcast, epoch, head),
                ],
            };
            self.terminal_slot(key)?.row = Some(row);
            self.sync = true;
        }
        match self.terminal_to_change(key)? {
            Some(row) => Ok(row),
            None => unreachable!("it was made just now"),
        }
    }

    /// A session is about to open (I3, I7).
    pub(crate) fn open_session(&mut self, open: &OpenSession) -> StoreResult<OpenedSession> {
        let key = keys::pair(open.product.as_str(), open.terminal.as_str());
        let now_ms = self.now_ms;
        let opening = match self.terminal(&key)? {
            Some(row) => Opening::of(row, open, now_ms),
            None => Opening::Changes,
        };
        if opening == Opening::Changes {
            if self.full {
                return Err(self.full_error());
            }
            self.sync = true;
            let row = self.registered(&open.product, &open.terminal, &key)?;
            row.kind = Some(open.kind);
            if row.user != open.user {
                self.bind(&open.product, &open.terminal, &key, open.user.as_ref())?;
            }
            for topic in &open.topics {
                self.open_topic(open, &key, topic)?;
            }
        } else if opening == Opening::Touch {
            self.terminal_to_change(&key)?;
        }
        let Some(row) = self.terminal(&key)?.cloned() else {
            unreachable!("it is known or was registered");
        };
        let changes = opening == Opening::Changes;
        let generation = self.shared.generations.take(&key, row.generation, changes, now_ms);
        if changes && let Some(row) = self.terminal_to_change(&key)? {
            row.generation = generation;
        }
        self.opened(open, generation, &row)
    }

    fn open_topic(&mut self, open: &OpenSession, key: &[u8], topic: &TopicName) -> StoreResult<()> {
        let Some(row) = self.terminal(key)? else { return Ok(()) };
        let known = row.sub(&LogName::Topic(topic.clone())).is_some();
        if !known && row.topics() < open.topics_max as usize {
            self.join(&open.product, &open.terminal, key, topic)?;
        }
        Ok(())
    }

    fn opened(
        &mut self,
        open: &OpenSession,
        generation: u64,
        row: &TerminalRow,
    ) -> StoreResult<OpenedSession> {
        let mut logs = Vec::with_capacity(row.subs.len());
        for sub in in_order(row) {
            let user = row.user.as_ref();
            let Some(log) = shared_key(&open.product, &open.terminal, user, &sub.log) else {
                continue;
            };
            logs.push(self.opened_log(log, sub)?);
        }
        Ok(OpenedSession {
            generation,
            time_ms: self.now_ms,
            heartbeat_ms: row.heartbeat_ms,
            logs,
            refused: refused(row, &open.topics),
        })
    }

    pub(crate) fn opened_log(
        &mut self,
        log: std::sync::Arc<LogKey>,
        sub: &Sub,
    ) -> StoreResult<OpenedLog> {
        let mut prefix = Vec::new();
        keys::log(&mut prefix, &log);
        let head = self.log(&prefix)?.last();
        Ok(OpenedLog {
            log,
            epoch: self.epoch,
            cursor_epoch: sub.epoch,
            cursor: sub.cursor,
            attempts: sub.attempts,
            head,
        })
    }

    /// Gives the terminal another user, or none.
    fn bind(
        &mut self,
        product: &ProductId,
        terminal: &TerminalId,
        key: &[u8],
        user: Option<&UserId>,
    ) -> StoreResult<()> {
        self.unbind(product, terminal, key)?;
        let Some(user) = user else { return Ok(()) };
        let log = keys::log_of(product, LogKind::User, user.as_str());
        let state = self.log_to_change(&log)?;
        state.row.readers += 1;
        // I3: it starts at the oldest live entry. I13: it is one more terminal that each entry from
        // there is for, and none of those before.
        let last = state.last();
        let counted = state.live.front().map_or(last, |first| Offset(first.offset.0 - 1));
        if counted < last {
            self.count_reader(&log, counted, last)?;
        }
        let list = keys::listed(product.as_str(), user.as_str(), terminal.as_str());
        self.txn.put(Table::Users, list, Slice::from(&[][..]));
        let epoch = self.epoch;
        if let Some(row) = self.terminal_to_change(key)? {
            row.user = Some(user.clone());
            row.subs.push(Sub { counted, ..Sub::reading(LogName::User, epoch, Offset::ZERO) });
        }
        Ok(())
    }

    fn unbind(
        &mut self,
        product: &ProductId,
        terminal: &TerminalId,
        key: &[u8],
    ) -> StoreResult<()> {
        let Some(row) = self.terminal(key)? else { return Ok(()) };
        let Some(user) = row.user.clone() else { return Ok(()) };
        let Some(sub) = row.sub(&LogName::User).cloned() else { return Ok(()) };
        let log = keys::log_of(product, LogKind::User, user.as_str());
        self.leave(&log, &sub)?;
        self.trims.insert(log.into_boxed_slice());
        self.txn
            .remove(Table::Users, keys::listed(product.as_str(), user.as_str(), terminal.as_str()));
        if let Some(row) = self.terminal_to_change(key)? {
            row.user = None;
            row.subs.retain(|sub| sub.log != LogName::User);
        }
        Ok(())
    }

    /// One reader fewer: what was pending for it is suppressed (I13).
    fn leave(&mut self, log: &[u8], sub: &Sub) -> StoreResult<()> {
        let state = self.log_to_change(log)?;
        state.row.readers = state.row.readers.saturating_sub(1);
        let last = state.last();
        self.count_passing(log, sub.settled(), last, Passing::Left, &[])
    }

    /// Puts a registered terminal into a topic; its start is the head now (I3).
    pub(crate) fn join(
        &mut self,
        product: &ProductId,
        terminal: &TerminalId,
        key: &[u8],
        topic: &TopicName,
    ) -> StoreResult<Sub> {
        let log = keys::log_of(product, LogKind::Topic, topic.as_str());
        let state = self.log_to_change(&log)?;
        state.row.readers += 1;
        let head = state.last();
        let member = keys::listed(product.as_str(), topic.as_str(), terminal.as_str());
        self.txn.put(Table::Members, member, Slice::from(&[][..]));
        let sub = Sub::reading(LogName::Topic(topic.clone()), self.epoch, head);
        self.sync = true;
        if let Some(row) = self.terminal_to_change(key)? {
            row.subs.retain(|old| old.log != sub.log);
            row.subs.push(sub.clone());
        }
        Ok(sub)
    }

    pub(crate) fn leave_topic(
        &mut self,
        product: &ProductId,
        terminal: &TerminalId,
        topic: &TopicName,
        sub: &Sub,
    ) -> StoreResult<()> {
        self.leave(&keys::log_of(product, LogKind::Topic, topic.as_str()), sub)?;
        let member = keys::listed(product.as_str(), topic.as_str(), terminal.as_str());
        self.txn.remove(Table::Members, member);
        Ok(())
    }

    /// Removes a terminal at the end of its retention, with everything that is its own.
    pub(crate) fn erase(&mut self, product: &ProductId, terminal: &TerminalId) -> StoreResult<()> {
        let key = keys::pair(product.as_str(), terminal.as_str());
        let Some(row) = self.terminal(&key)?.cloned() else { return Ok(()) };
        self.unbind(product, terminal, &key)?;
        for sub in row.subs.iter().filter(|sub| !sub.banned) {
            match &sub.log {
                LogName::Topic(topic) => self.leave_topic(product, terminal, topic, sub)?,
                LogName::Broadcast => self.leave(&Self::broadcast_key(product), sub)?,
                LogName::Terminal | LogName::User => {}
            }
        }
        let inbox = keys::log_of(product, LogKind::Terminal, terminal.as_str());
        let live: Vec<_> = self.log(&inbox)?.live.iter().copied().collect();
        for entry in live {
            self.remove_entry(&inbox, &entry, Stay::Passed)?;
        }
        self.logs.forget(&inbox);
        self.txn.remove(Table::Logs, inbox);
        let slot = self.terminal_slot(&key)?;
        (slot.row, slot.dirty) = (None, false);
        self.txn.remove(Table::Terminals, &*key);
        self.shared.generations.forget(&key);
        Ok(())
    }

    /// Removes what every terminal of a user has passed, for the users that the group concerns.
    pub(crate) fn trim_users(&mut self) -> StoreResult<()> {
        for log in std::mem::take(&mut self.trims) {
            let state = self.log(&log)?;
            state.saves += 1;
            let (readers, product_len) = (state.row.readers, state.product_len);
            let due = readers <= READERS_TRIM_MAX || state.saves >= readers;
            if state.live.is_empty() || readers == 0 || !due {
                continue;
            }
            state.saves = 0;
            // The list of a user's terminals is keyed like its log, without the kind.
            let mut list = log[..=product_len].to_vec();
            list.extend_from_slice(&log[product_len + 2..]);
            let rows = self.txn.scan(Table::Users, super::tables::prefixed(&list));
            let names: Vec<Slice> = rows.map(|row| Ok(row?.0)).collect::<StoreResult<_>>()?;
            let mut passed: Option<Offset> = None;
            for name in names {
                let mut key = log[..=product_len].to_vec();
                key.extend_from_slice(&name[list.len()..]);
                let sub = self.terminal(&key)?.and_then(|row| row.sub(&LogName::User));
                let settled = sub.map_or(Offset::ZERO, Sub::settled);
                passed = Some(passed.map_or(settled, |least| least.min(settled)));
            }
            self.remove_passed(&log, passed.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes the records that changed.
    pub(crate) fn flush_terminals(&mut self) {
        for (key, slot) in std::mem::take(&mut self.terminals) {
            if let (true, Some(row)) = (slot.dirty, &slot.row) {
                let value = row.encode(&key);
                self.txn.put(Table::Terminals, &*key, value);
            }
        }
    }
}
