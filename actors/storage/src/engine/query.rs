//! Reads: everything that needs a view of the tables and not the writer.

use std::sync::Arc;

use clarion_core::{LogKind, Page};
use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{
    Epoch, LogName, MessageId, Offset, ProductId, TerminalId, TopicName, UserId,
};

use super::codec::{self, CountRow, Outcome, PlaceRow, Stay, Sub, TerminalRow};
use super::logs::{entries_after, log_row};
use super::tables::{Range, Slice, Table, View, prefixed, prefixed_after};
use super::terminals::{Opening, in_order, refused, shared_key};
use super::{Shared, entries, keys};
use crate::record::{
    MessageRecord, MessageTarget, ProductRecord, Subscription, SubscriptionState, TerminalRecord,
};
use crate::{OpenSession, OpenedLog, OpenedSession, Read, StoreResult};

/// Readers whose cursors are looked at to tell how many have an entry before them.
pub(crate) const READERS_COUNTED_MAX: usize = 10_000;

/// How long the record of a message outlives it.
pub(crate) const MESSAGE_KEPT_MS: u64 = 86_400_000;

/// A view of the tables with what the process knows besides.
pub(crate) struct Query<'a, V> {
    pub(crate) view: &'a V,
    pub(crate) shared: &'a Shared,
    pub(crate) epoch: Epoch,
}

impl<V: View> Query<'_, V> {
    /// A page of a log, up to the durable head (I1: the view holds nothing else).
    pub(crate) fn read(&self, read: &Read) -> StoreResult<Page> {
        let mut log = Vec::new();
        keys::log(&mut log, &read.log);
        let row = log_row(self.view, &log)?.unwrap_or_default();
        // Nothing live is at or below; a scan from there does not walk over what was evicted.
        let start = Offset(row.first.saturating_sub(1)).min(Offset(row.last)).max(read.after);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for item in self.view.scan(Table::Entries, entries_after(&log, start)) {
            let (key, value) = item?;
            if entries.len() >= read.entries_max as usize || bytes >= read.bytes_max as usize {
                more = !entries.is_empty();
                if more {
                    break;
                }
            }
            let entry = entries::decode_entry(&key, &value)?;
            bytes += entry.body.len();
            entries.push(Arc::new(entry));
        }
        let head = match (entries.last(), more) {
            (Some(last), false) => last.offset.max(Offset(row.last)),
            _ => self.head(&log, read.log.kind, Offset(row.last))?,
        };
        Ok(Page { epoch: self.epoch, entries, head, evicted_to: Offset(row.evicted_to), more })
    }

    /// The durable head. A terminal's inbox has no row that is always up to date: what is above its
    /// cursor is live, or told by the row.
    fn head(&self, log: &[u8], kind: LogKind, last: Offset) -> StoreResult<Offset> {
        if kind != LogKind::Terminal {
            return Ok(last);
        }
        let product_len = log.iter().position(|&byte| byte == 0).unwrap_or(0);
        let mut terminal = log[..=product_len].to_vec();
        terminal.extend_from_slice(&log[product_len + 2..log.len() - 1]);
        let row = self.terminal_row(&terminal)?;
        let sub = row.as_ref().and_then(|row| row.sub(&LogName::Terminal));
        self.inbox_head(log, sub.map_or(Offset::ZERO, Sub::settled).max(last))
    }

    fn inbox_head(&self, log: &[u8], at_least: Offset) -> StoreResult<Offset> {
        let live = self.view.last(Table::Entries, entries_after(log, at_least))?;
        Ok(live.and_then(|(key, _)| keys::offset_of(&key)).unwrap_or(at_least))
    }

    fn terminal_row(&self, key: &[u8]) -> StoreResult<Option<TerminalRow>> {
        match self.view.get(Table::Terminals, key)? {
            Some(value) => TerminalRow::decode(key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the session of a terminal whose record it does not change (I7). `None` if it does, or
    /// if the record is about to change: then the writer decides. The flag says that the record should be written for its retention's sake.
    pub(crate) fn open_known(
        &self,
        open: &OpenSession,
    ) -> StoreResult<Option<(OpenedSession, bool)>> {
        let key = keys::pair(open.product.as_str(), open.terminal.as_str());
        let now_ms = self.shared.clock.now_ms();
        let Some(row) = self.terminal_row(&key)? else { return Ok(None) };
        let opening = Opening::of(&row, open, now_ms);
        if opening == Opening::Changes {
            return Ok(None);
        }
        let Some(generation) = self.shared.generations.take_known(&key, row.generation, now_ms)
        else {
            return Ok(None);
        };
        let mut logs = Vec::with_capacity(row.subs.len());
        let mut prefix = Vec::new();
        for sub in in_order(&row) {
            let user = row.user.as_ref();
            let Some(log) = shared_key(&open.product, &open.terminal, user, &sub.log) else {
                continue;
            };
            keys::log(&mut prefix, &log);
            let last = Offset(log_row(self.view, &prefix)?.unwrap_or_default().last);
            let head = match log.kind {
                LogKind::Terminal => self.inbox_head(&prefix, sub.settled().max(last))?,
                LogKind::User | LogKind::Topic | LogKind::Broadcast => last,
            };
            logs.push(OpenedLog {
                log,
                epoch: self.epoch,
                cursor_epoch: sub.epoch,
                cursor: sub.cursor,
                attempts: sub.attempts,
                head,
            });
        }
        let opened = OpenedSession {
            generation,
            time_ms: now_ms,
            heartbeat_ms: row.heartbeat_ms,
            logs,
            refused: refused(&row, &open.topics),
        };
        Ok(Some((opened, opening == Opening::Touch)))
    }

    /// Whether the generation is the newest of its terminal.
    pub(crate) fn verify(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        generation: u64,
    ) -> StoreResult<bool> {
        let key = keys::pair(product.as_str(), terminal.as_str());
        let now_ms = self.shared.clock.now_ms();
        match self.shared.generations.verify(&key, generation, now_ms) {
            Some(newest) => Ok(newest),
            None => Ok(self.terminal_row(&key)?.is_some_and(|row| row.generation == generation)),
        }
    }

    pub(crate) fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>> {
        let key = product.as_str().as_bytes();
        match self.view.get(Table::Products, key)? {
            Some(value) => codec::decode_product(key, &value).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn products(
        &self,
        after: Option<&ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        let range = match after {
            Some(after) => prefixed_after(&[], after.as_str().as_bytes().to_vec()),
            None => prefixed(&[]),
        };
        let rows = self.view.scan(Table::Products, range).take(limit);
        rows.map(|row| row.and_then(|(key, value)| codec::decode_product(&key, &value))).collect()
    }

    pub(crate) fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        let key = keys::pair(product.as_str(), terminal.as_str());
        Ok(self.terminal_row(&key)?.map(|row| self.record(terminal.clone(), &key, row)))
    }

    fn record(&self, terminal: TerminalId, key: &[u8], row: TerminalRow) -> TerminalRecord {
        let newest = self.shared.generations.newest(key).unwrap_or(0);
        let subscriptions = row.subs.into_iter().map(|sub| Subscription {
            log: sub.log,
            state: if sub.banned {
                SubscriptionState::Banned
            } else {
                let (epoch, cursor, attempts) = (sub.epoch, sub.cursor, sub.attempts);
                SubscriptionState::Reading { epoch, cursor, attempts }
            },
        });
        TerminalRecord {
            terminal,
            user: row.user,
            kind: row.kind,
            registered_at_ms: row.registered_at_ms,
            last_seen_ms: row.last_seen_ms,
            generation: row.generation.max(newest),
            heartbeat_ms: row.heartbeat_ms,
            subscriptions: subscriptions.collect(),
        }
    }

    pub(crate) fn terminals(
        &self,
        product: &ProductId,
        user: Option<&UserId>,
        after: Option<&TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        if let Some(user) = user {
            let list = keys::list(product.as_str(), user.as_str());
            let mut records = Vec::new();
            for terminal in self.listed(Table::Users, &list, after, limit)? {
                records.extend(self.terminal(product, &terminal)?);
            }
            return Ok(records);
        }
        let rows =
            self.view.scan(Table::Terminals, after_in(&keys::first(product.as_str()), after));
        let record = |(key, value): (Slice, Slice)| {
            let row = TerminalRow::decode(&key, &value)?;
            Ok(self.record(codec::terminal_id(&key)?, &key, row))
        };
        rows.take(limit).map(|row| row.and_then(record)).collect()
    }

    pub(crate) fn terminal_count(&self, product: &ProductId) -> StoreResult<u64> {
        let log = keys::log_of(product, LogKind::Broadcast, "");
        Ok(log_row(self.view, &log)?.map_or(0, |row| row.readers))
    }

    pub(crate) fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<&TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        let list = keys::list(product.as_str(), topic.as_str());
        self.listed(Table::Members, &list, after, limit)
    }

    fn listed(
        &self,
        table: Table,
        list: &[u8],
        after: Option<&TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        let rows = self.view.scan(table, after_in(list, after)).take(limit);
        rows.map(|row| codec::terminal_id(&row?.0)).collect()
    }

    /// A message with its counts (I13).
    pub(crate) fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        let now_ms = self.shared.clock.now_ms();
        let mut targets = Vec::new();
        let rows = self.view.scan(Table::Messages, prefixed(&keys::message(product, message)));
        for row in rows {
            let (key, value) = row?;
            let place = keys::place_of(&key)
                .ok_or_else(|| codec::damaged(Table::Messages, &key, "its key is no place"))?;
            let row: PlaceRow = codec::decode(Table::Messages, &key, &value)?;
            if row.expires_at_ms.saturating_add(MESSAGE_KEPT_MS) <= now_ms {
                continue;
            }
            let counts = match place.kind {
                LogKind::Terminal => self.counts_of_one(&place, &row, now_ms)?,
                LogKind::User | LogKind::Topic | LogKind::Broadcast => {
                    self.counts_of_many(product, &place, &row, now_ms)?
                }
            };
            targets.push(MessageTarget {
                target: place.target,
                epoch: self.epoch,
                offset: Offset(row.offset),
                expires_at_ms: row.expires_at_ms,
                counts,
            });
        }
        Ok((!targets.is_empty()).then_some(MessageRecord { message, targets }))
    }

    /// A terminal's inbox has one reader: an entry that is gone without another outcome went
    /// because it was acknowledged.
    fn counts_of_one(
        &self,
        place: &keys::Place,
        row: &PlaceRow,
        now_ms: u64,
    ) -> StoreResult<Counts> {
        let offset = Offset(row.offset);
        let mut counts = Counts { audience: 1, ..Counts::default() };
        counts.delivered = u64::from(row.delivered);
        let outcome = match row.outcome {
            Some(outcome) => outcome,
            None if self.view.contains(Table::Entries, &keys::entry(&place.log, offset))? => {
                counts.delivered = u64::from(self.shared.delivered.contains(&place.log, offset));
                if row.expires_at_ms > now_ms {
                    counts.pending = 1;
                    return Ok(counts);
                }
                Outcome::Expired
            }
            None => Outcome::Acknowledged,
        };
        match outcome {
            Outcome::Acknowledged => (counts.acknowledged, counts.delivered) = (1, 1),
            Outcome::Expired => counts.expired = 1,
            Outcome::Undeliverable => counts.undeliverable = 1,
            Outcome::Suppressed => counts.suppressed = 1,
            Outcome::Evicted => counts.evicted = 1,
        }
        Ok(counts)
    }

    fn counts_of_many(
        &self,
        product: &ProductId,
        place: &keys::Place,
        row: &PlaceRow,
        now_ms: u64,
    ) -> StoreResult<Counts> {
        let offset = Offset(row.offset);
        let key = keys::entry(&place.log, offset);
        let Some(value) = self.view.get(Table::Counts, &key)? else {
            return Err(codec::damaged(Table::Counts, &key, "it is missing"));
        };
        let row: CountRow = codec::decode(Table::Counts, &key, &value)?;
        let mut counts = Counts {
            audience: row.audience,
            delivered: row.delivered.max(row.acknowledged).min(row.audience),
            acknowledged: row.acknowledged,
            expired: row.expired,
            undeliverable: row.undeliverable,
            suppressed: row.suppressed,
            evicted: row.evicted,
            pending: 0,
        };
        let ahead = match self.readers_before(product, place, offset)? {
            Some(readers) => readers,
            None => row.audience.saturating_sub(row.sum()),
        };
        match row.stay {
            Stay::Evicted => counts.evicted += ahead,
            Stay::Expired => counts.expired += ahead,
            Stay::Live | Stay::Passed if row.expires_at_ms <= now_ms => counts.expired += ahead,
            Stay::Live | Stay::Passed => counts.pending += ahead,
        }
        Ok(counts)
    }

    /// Readers that have yet to pass an entry; `None` if there are too many to look at.
    fn readers_before(
        &self,
        product: &ProductId,
        place: &keys::Place,
        offset: Offset,
    ) -> StoreResult<Option<u64>> {
        let (table, list, name) = match &place.target {
            Target::User(user) => {
                let list = keys::list(product.as_str(), user.as_str());
                (Table::Users, list, LogName::User)
            }
            Target::Topic(topic) => {
                let list = keys::list(product.as_str(), topic.as_str());
                (Table::Members, list, LogName::Topic(topic.clone()))
            }
            Target::All => (Table::Terminals, keys::first(product.as_str()), LogName::Broadcast),
            Target::Terminal(_) => return Ok(Some(0)),
        };
        let mut readers = 0;
        for (looked_at, item) in self.view.scan(table, prefixed(&list)).enumerate() {
            if looked_at >= READERS_COUNTED_MAX {
                return Ok(None);
            }
            let (key, value) = item?;
            let row = if table == Table::Terminals {
                Some(TerminalRow::decode(&key, &value)?)
            } else {
                let terminal = codec::terminal_id(&key)?;
                self.terminal_row(&keys::pair(product.as_str(), terminal.as_str()))?
            };
            let sub = row.as_ref().and_then(|row| row.sub(&name)).filter(|sub| !sub.banned);
            readers += u64::from(sub.is_some_and(|sub| sub.settled() < offset));
        }
        Ok(Some(readers))
    }
}

fn after_in(list: &[u8], after: Option<&TerminalId>) -> Range {
    match after {
        Some(after) => {
            let mut key = list.to_vec();
            key.extend_from_slice(after.as_str().as_bytes());
            prefixed_after(list, key)
        }
        None => prefixed(list),
    }
}
