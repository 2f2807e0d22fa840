//! The state of logs, and appending to them.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;

use clarion_core::{Body, LogKind};
use clarion_protocol::{LogName, Offset, ProductId};

use super::codec::{self, CountRow, LogRow, Outcome, PlaceRow, Stay};
use super::tables::{Range, Table, View, prefixed_after};
use super::{Engine, keys};
use crate::{Append, Appended, StoreError, StoreResult};

/// Oldest entries of a wide log that are looked up at a time when it has to evict.
const AHEAD: usize = 256;

/// A live entry, as far as limits need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    pub(crate) offset: Offset,
    pub(crate) bytes: u32,
    pub(crate) expires_at_ms: u64,
}

/// A log in the writer's memory.
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) kind: LogKind,
    pub(crate) product_len: usize,
    pub(crate) row: LogRow,
    /// Inboxes: every live entry. Wide logs: some of the oldest, for eviction.
    pub(crate) live: VecDeque<Live>,
    pub(crate) dirty: bool,
    /// Cursor saves of a user's inbox since it was last looked for entries that all have passed.
    pub(crate) saves: u64,
}

impl LogState {
    pub(crate) const fn last(&self) -> Offset {
        Offset(self.row.last)
    }

    /// Whether all live entries are in `live`.
    const fn is_inbox(&self) -> bool {
        !self.kind.is_wide()
    }

    fn removed(&mut self, entry: &Live) {
        self.row.count = self.row.count.saturating_sub(1);
        self.row.bytes = self.row.bytes.saturating_sub(u64::from(entry.bytes));
    }
}

/// Logs by key, in two halves: when the younger is full, the older is dropped.
#[derive(Debug)]
pub(crate) struct LogCache {
    young: HashMap<Box<[u8]>, LogState>,
    old: HashMap<Box<[u8]>, LogState>,
    half_max: usize,
    /// Logs whose row is to be written with the group.
    pub(crate) dirty: Vec<Box<[u8]>>,
}

impl LogCache {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half_max: (max / 2).max(1),
            dirty: Vec::new(),
        }
    }

    /// Has a log that is in memory among the young.
    fn hold(&mut self, key: &[u8]) -> bool {
        if self.young.contains_key(key) {
            return true;
        }
        match self.old.remove_entry(key) {
            Some((key, state)) => {
                self.young.insert(key, state);
                true
            }
            None => false,
        }
    }

    /// To be called between groups only, when nothing is dirty.
    pub(crate) fn trim(&mut self) {
        if self.young.len() > self.half_max {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(crate) fn forget(&mut self, key: &[u8]) {
        self.young.remove(key);
        self.old.remove(key);
        self.dirty.retain(|dirty| **dirty != *key);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.dirty.clear();
    }
}

fn product_len(log: &[u8]) -> usize {
    log.iter().position(|&byte| byte == 0).unwrap_or(0)
}

pub(crate) fn entries_after(log: &[u8], after: Offset) -> Range {
    prefixed_after(log, keys::entry(log, after))
}

pub(crate) fn entries_between(log: &[u8], after: Offset, up_to: Offset) -> Range {
    (Bound::Excluded(keys::entry(log, after)), Bound::Included(keys::entry(log, up_to)))
}

/// The row of a log, if it has one.
pub(crate) fn log_row(view: &impl View, log: &[u8]) -> StoreResult<Option<LogRow>> {
    match view.get(Table::Logs, log)? {
        Some(value) => codec::decode(Table::Logs, log, &value).map(Some),
        None => Ok(None),
    }
}

impl<B: View> Engine<B> {
    /// The state of a log, loaded if need be.
    pub(crate) fn log(&mut self, key: &[u8]) -> StoreResult<&mut LogState> {
        if !self.logs.hold(key) {
            let state = self.load_log(key)?;
            self.logs.young.insert(key.into(), state);
        }
        match self.logs.young.get_mut(key) {
            Some(state) => Ok(state),
            None => unreachable!("it was inserted just now"),
        }
    }

    /// As [`Engine::log`], and its row is written with the group.
    pub(crate) fn log_to_change(&mut self, key: &[u8]) -> StoreResult<&mut LogState> {
        let state = self.log(key)?;
        if !std::mem::replace(&mut state.dirty, true) {
            self.logs.dirty.push(key.into());
        }
        match self.logs.young.get_mut(key) {
            Some(state) => Ok(state),
            None => unreachable!("it was looked up just now"),
        }
    }

    fn load_log(&mut self, key: &[u8]) -> StoreResult<LogState> {
        let product_len = product_len(key);
        let Some(kind) = keys::kind_of_log(key, product_len) else {
            return Err(codec::damaged(Table::Logs, key, "its key is no log"));
        };
        let row = log_row(&self.txn, key)?.unwrap_or_default();
        let mut state = LogState {
            kind,
            product_len,
            row,
            live: VecDeque::new(),
            dirty: false,
            saves: 0,
        };
        if state.is_inbox() {
            self.load_inbox(key, &mut state)?;
        }
        Ok(state)
    }

    /// Inboxes are small: their live entries are kept in memory. A terminal's cursor tells up to
    /// where they are gone, so that the scan does not walk over what compaction has yet to drop.
    fn load_inbox(&mut self, key: &[u8], state: &mut LogState) -> StoreResult<()> {
        let mut from = Offset(state.row.first.saturating_sub(1));
        if state.kind == LogKind::Terminal {
            let (product, name) = (&key[..state.product_len], &key[state.product_len + 2..]);
            let mut terminal = product.to_vec();
            terminal.push(0);
            terminal.extend_from_slice(&name[..name.len() - 1]);
            if let Some(row) = self.terminal(&terminal)?
                && let Some(sub) = row.sub(&LogName::Terminal)
            {
                from = from.max(sub.settled());
            }
            state.row.last = state.row.last.max(from.0);
            state.row.count = 0;
            state.row.bytes = 0;
        }
        let mut live = VecDeque::new();
        for item in self.txn.scan(Table::Entries, entries_after(key, from)) {
            let (entry_key, value) = item?;
            let entry = codec::decode_entry(&entry_key, &value)?;
            live.push_back(Live {
                offset: entry.offset,
                bytes: size_of(&entry.body),
                expires_at_ms: entry.expires_at_ms,
            });
        }
        state.row.last = state.row.last.max(live.back().map_or(0, |entry| entry.offset.0));
        state.row.count = live.len() as u64;
        state.row.bytes = live.iter().map(|entry| u64::from(entry.bytes)).sum();
        state.live = live;
        Ok(())
    }

    /// One attempt to append (I2).
    pub(crate) fn append(&mut self, append: &Append) -> StoreResult<Appended> {
        let mut key = std::mem::take(&mut self.scratch);
        keys::log(&mut key, &append.log);
        let outcome = self.append_to(&key, append);
        self.scratch = key;
        outcome
    }

    fn append_to(&mut self, key: &[u8], append: &Append) -> StoreResult<Appended> {
        let product_len = append.log.product.as_str().len();
        let place = keys::placed(key, product_len, append.message);
        // I2: a retry finds its message however many entries lie between; also a late one, since
        // then it did happen.
        if append.first_attempt_ms.is_some()
            && let Some(value) = self.txn.get(Table::Messages, &place)?
        {
            let row: PlaceRow = codec::decode(Table::Messages, &place, &value)?;
            return self.duplicate(key, &row);
        }
        if self.now_ms > append.not_after_ms {
            return Err(StoreError::TooLate);
        }
        if self.full {
            return Err(self.full_error());
        }
        let bytes = size_of(&append.body);
        let evicted = self.make_room(key, append, bytes)?;
        let (now_ms, epoch) = (self.now_ms, self.epoch);
        let wide = append.log.kind != LogKind::Terminal;
        let state = if wide { self.log_to_change(key)? } else { self.log(key)? };
        let predecessor = state.last();
        let offset = predecessor.next(now_ms);
        if offset.0 >= clarion_protocol::ids::OFFSET_END {
            return Err(StoreError::Fatal("the log has no offsets left".into()));
        }
        let audience = if wide { state.row.readers } else { 1 };
        if state.row.count == 0 {
            state.row.first = offset.0;
        }
        state.row.last = offset.0;
        state.row.count += 1;
        state.row.bytes += u64::from(bytes);
        if state.is_inbox() {
            state.live.push_back(Live { offset, bytes, expires_at_ms: append.expires_at_ms });
        }
        let entry_key = keys::entry(key, offset);
        let value = codec::encode_entry(
            &mut self.entry_buffer,
            &entry_key,
            predecessor,
            append.message,
            append.expires_at_ms,
            &append.body,
        );
        if wide {
            let row = CountRow::new(bytes, append.expires_at_ms, audience);
            self.counts_push(key, offset, row);
        }
        self.txn.put(Table::Entries, entry_key, value);
        let row = PlaceRow {
            offset: offset.0,
            expires_at_ms: append.expires_at_ms,
            outcome: None,
            delivered: false,
        };
        let value = codec::encode(&row, &place);
        self.txn.put(Table::Messages, place, value);
        self.sync = true;
        Ok(Appended { epoch, offset, predecessor, duplicate: false, audience, evicted })
    }

    fn duplicate(&mut self, key: &[u8], row: &PlaceRow) -> StoreResult<Appended> {
        let offset = Offset(row.offset);
        let entry_key = keys::entry(key, offset);
        // An entry that is gone cannot be hinted; nobody continues at offset zero.
        let predecessor = match self.txn.get(Table::Entries, &entry_key)? {
            Some(value) => codec::decode_entry(&entry_key, &value)?.predecessor,
            None => Offset::ZERO,
        };
        let wide = self.log(key)?.kind != LogKind::Terminal;
        let audience = if wide { self.count_row(key, offset)?.map_or(0, |row| row.audience) } else { 1 };
        let epoch = self.epoch;
        Ok(Appended { epoch, offset, predecessor, duplicate: true, audience, evicted: 0 })
    }

    /// Removes what must go so that one more entry fits (I6).
    fn make_room(&mut self, key: &[u8], append: &Append, bytes: u32) -> StoreResult<u32> {
        let limits = append.limits;
        let fits = |state: &LogState| {
            state.row.count < u64::from(limits.entries_max)
                && state.row.bytes + u64::from(bytes) <= limits.bytes_max
        };
        if fits(self.log(key)?) {
            return Ok(0);
        }
        if u64::from(bytes) > limits.bytes_max || limits.entries_max == 0 {
            return Err(StoreError::LogFull);
        }
        self.expire_inbox(key)?;
        let mut evicted = 0;
        while !fits(self.log(key)?) {
            if !limits.evict {
                metrics::counter!("clarion_store_log_full_total").increment(1);
                return Err(StoreError::LogFull);
            }
            let Some(oldest) = self.oldest(key)? else { return Err(StoreError::LogFull) };
            if oldest.expires_at_ms <= self.now_ms {
                self.remove_entry(key, &oldest, Stay::Expired)?;
            } else {
                self.remove_entry(key, &oldest, Stay::Evicted)?;
                evicted += 1;
            }
        }
        if evicted > 0 {
            metrics::counter!("clarion_store_evicted_entries_total").increment(u64::from(evicted));
        }
        Ok(evicted)
    }

    /// Removes the expired entries of an inbox.
    pub(crate) fn expire_inbox(&mut self, key: &[u8]) -> StoreResult<()> {
        let now_ms = self.now_ms;
        let state = self.log(key)?;
        if !state.is_inbox() {
            return Ok(());
        }
        let expired: Vec<Live> =
            state.live.iter().filter(|entry| entry.expires_at_ms <= now_ms).copied().collect();
        for entry in &expired {
            self.remove_entry(key, entry, Stay::Expired)?;
        }
        Ok(())
    }

    /// The oldest live entry. A wide log looks a number of them up at once, from where the last
    /// look ended, so that it does not walk over what it removed before.
    fn oldest(&mut self, key: &[u8]) -> StoreResult<Option<Live>> {
        let state = self.log(key)?;
        if let Some(oldest) = state.live.front() {
            return Ok(Some(*oldest));
        }
        if state.is_inbox() {
            return Ok(None);
        }
        let from = Offset(state.row.first.saturating_sub(1));
        self.counts_flush(key);
        let mut ahead = VecDeque::with_capacity(AHEAD);
        for item in self.txn.scan(Table::Counts, entries_after(key, from)) {
            let (count_key, value) = item?;
            let row: CountRow = codec::decode(Table::Counts, &count_key, &value)?;
            let Some(offset) = keys::offset_of(&count_key) else { continue };
            if row.stay == Stay::Live {
                let (bytes, expires_at_ms) = (row.bytes, row.expires_at_ms);
                ahead.push_back(Live { offset, bytes, expires_at_ms });
            }
            if ahead.len() == AHEAD {
                break;
            }
        }
        let oldest = ahead.front().copied();
        let state = self.log_to_change(key)?;
        state.row.first = oldest.map_or(state.row.last + 1, |live| live.offset.0);
        state.live = ahead;
        Ok(oldest)
    }

    /// Removes a live entry of any log and says in the counts why. From a terminal's inbox, what
    /// neither expired nor was evicted goes with its terminal.
    pub(crate) fn remove_entry(&mut self, key: &[u8], entry: &Live, why: Stay) -> StoreResult<()> {
        let state = self.log_to_change(key)?;
        let (kind, product_len) = (state.kind, state.product_len);
        let is_oldest = state.live.front().is_some_and(|front| front.offset == entry.offset);
        if is_oldest {
            state.live.pop_front();
        } else {
            state.live.retain(|live| live.offset != entry.offset);
        }
        state.removed(entry);
        if why == Stay::Evicted {
            state.row.evicted_to = state.row.evicted_to.max(entry.offset.0);
        }
        if state.is_inbox() {
            state.row.first = state.live.front().map_or(state.row.last + 1, |live| live.offset.0);
        } else if is_oldest || state.row.first == entry.offset.0 {
            state.row.first = entry.offset.0 + 1;
        }
        let entry_key = keys::entry(key, entry.offset);
        if kind == LogKind::Terminal {
            let outcome = match why {
                Stay::Expired => Outcome::Expired,
                Stay::Evicted => Outcome::Evicted,
                Stay::Passed | Stay::Live => Outcome::Suppressed,
            };
            self.settle_place(key, product_len, &entry_key, outcome)?;
        } else {
            self.count_stay(key, entry.offset, why)?;
        }
        self.txn.remove(Table::Entries, entry_key);
        Ok(())
    }

    /// Records how the entry of a terminal's inbox ended.
    pub(crate) fn settle_place(
        &mut self,
        log: &[u8],
        product_len: usize,
        entry_key: &[u8],
        outcome: Outcome,
    ) -> StoreResult<()> {
        let Some(value) = self.txn.get(Table::Entries, entry_key)? else { return Ok(()) };
        let entry = codec::decode_entry(entry_key, &value)?;
        let place = keys::placed(log, product_len, entry.message);
        let Some(value) = self.txn.get(Table::Messages, &place)? else { return Ok(()) };
        let mut row: PlaceRow = codec::decode(Table::Messages, &place, &value)?;
        row.delivered = self.shared.delivered.contains(log, entry.offset);
        self.shared.delivered.remove(log, entry.offset);
        row.outcome = Some(outcome);
        let value = codec::encode(&row, &place);
        self.txn.put(Table::Messages, place, value);
        Ok(())
    }

    /// Removes the entries of an inbox up to `up_to`, which every reader has passed. Its state says
    /// so only in memory: for a terminal's inbox the cursor tells, a user's is written.
    pub(crate) fn remove_passed(&mut self, key: &[u8], up_to: Offset) -> StoreResult<()> {
        let state = self.log(key)?;
        let is_user = state.kind == LogKind::User;
        let mut gone = Vec::new();
        while let Some(front) = state.live.front().copied().filter(|live| live.offset <= up_to) {
            state.live.pop_front();
            state.removed(&front);
            gone.push(front.offset);
        }
        if gone.is_empty() {
            return Ok(());
        }
        if is_user {
            let state = self.log_to_change(key)?;
            state.row.first = state.live.front().map_or(state.row.last + 1, |live| live.offset.0);
        }
        for offset in gone {
            if is_user {
                self.count_stay(key, offset, Stay::Passed)?;
            } else {
                self.shared.delivered.remove(key, offset);
            }
            self.txn.remove(Table::Entries, keys::entry(key, offset));
        }
        Ok(())
    }

    /// Removes an expired entry that the sweep found by its message.
    pub(crate) fn expire_entry(&mut self, place: &keys::Place, row: &PlaceRow) -> StoreResult<bool> {
        let entry_key = keys::entry(&place.log, Offset(row.offset));
        let Some(value) = self.txn.get(Table::Entries, &entry_key)? else { return Ok(false) };
        let entry = codec::decode_entry(&entry_key, &value)?;
        let live = Live {
            offset: entry.offset,
            bytes: size_of(&entry.body),
            expires_at_ms: entry.expires_at_ms,
        };
        self.remove_entry(&place.log, &live, Stay::Expired)?;
        Ok(true)
    }

    /// Writes the rows of the logs that changed.
    pub(crate) fn flush_logs(&mut self) {
        for key in std::mem::take(&mut self.logs.dirty) {
            if let Some(state) = self.logs.young.get_mut(&key) {
                state.dirty = false;
                let value = codec::encode(&state.row, &key);
                self.txn.put(Table::Logs, &*key, value);
            }
        }
    }

    /// The key of a product's broadcast log, whose readers are all of its terminals.
    pub(crate) fn broadcast_key(product: &ProductId) -> Vec<u8> {
        keys::log_of(product, LogKind::Broadcast, "")
    }
}

fn size_of(body: &Body) -> u32 {
    u32::try_from(body.len()).unwrap_or(u32::MAX)
}
