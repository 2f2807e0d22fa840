//! The state of logs.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;

use clarion_core::{Body, LogKind};
use clarion_protocol::{LogName, Offset, ProductId};

use super::codec::{self, LogRow};
use super::tables::{Range, Table, View, prefixed_after};
use super::{Engine, entries, keys};
use crate::StoreResult;

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
    pub(crate) const fn is_inbox(&self) -> bool {
        !self.kind.is_wide()
    }

    pub(crate) fn removed(&mut self, entry: &Live) {
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
        let mut state =
            LogState { kind, product_len, row, live: VecDeque::new(), dirty: false, saves: 0 };
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
            let entry = entries::decode_entry(&entry_key, &value)?;
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

pub(crate) fn size_of(body: &Body) -> u32 {
    u32::try_from(body.len()).unwrap_or(u32::MAX)
}
