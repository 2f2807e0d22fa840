//! Removing entries: expired, evicted, passed by every reader.

use std::collections::VecDeque;

use clarion_core::LogKind;
use clarion_protocol::Offset;

use super::codec::{self, CountRow, Outcome, PlaceRow, Stay};
use super::logs::{Live, entries_after, size_of};
use super::tables::{Table, View};
use super::{Engine, entries, keys};
use crate::StoreResult;

/// Oldest entries of a wide log that are looked up at a time when it has to evict.
const AHEAD: usize = 256;

impl<B: View> Engine<B> {
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
    pub(crate) fn oldest(&mut self, key: &[u8]) -> StoreResult<Option<Live>> {
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
        let entry = entries::decode_entry(entry_key, &value)?;
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
    pub(crate) fn expire_entry(
        &mut self,
        place: &keys::Place,
        row: &PlaceRow,
    ) -> StoreResult<bool> {
        let entry_key = keys::entry(&place.log, Offset(row.offset));
        let Some(value) = self.txn.get(Table::Entries, &entry_key)? else { return Ok(false) };
        let entry = entries::decode_entry(&entry_key, &value)?;
        let live = Live {
            offset: entry.offset,
            bytes: size_of(&entry.body),
            expires_at_ms: entry.expires_at_ms,
        };
        self.remove_entry(&place.log, &live, Stay::Expired)?;
        Ok(true)
    }
}
