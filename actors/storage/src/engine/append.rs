//! Appending, and making room for it (I2, I6, I8).

use clarion_core::LogKind;
use clarion_protocol::Offset;

use super::codec::{self, CountRow, PlaceRow, Stay};
use super::logs::{Live, LogState, size_of};
use super::tables::{Table, View};
use super::{Engine, entries, keys};
use crate::{Append, Appended, StoreError, StoreResult};

impl<B: View> Engine<B> {
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
        let value = entries::encode_entry(
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
            Some(value) => entries::decode_entry(&entry_key, &value)?.predecessor,
            None => Offset::ZERO,
        };
        let wide = self.log(key)?.kind != LogKind::Terminal;
        let audience =
            if wide { self.count_row(key, offset)?.map_or(0, |row| row.audience) } else { 1 };
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
}
