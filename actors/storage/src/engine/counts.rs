//! Counts of entries with many readers (I13). Within a group they are held decoded, and what passes
//! over a range of entries is noted at its two ends only: fifteen thousand terminals that
//! acknowledge twenty entries cost fifteen thousand additions and twenty records.

use clarion_core::Settled;
use clarion_protocol::Offset;
use clarion_protocol::milestone::Milestone;

use super::codec::{self, CountRow, Outcome, Stay};
use super::logs::entries_between;
use super::tables::{Table, View};
use super::{Engine, keys};
use crate::StoreResult;

/// Evicted entries that one cursor can pass and have counted one by one; those between are left to
/// the remainder that `message` shows as evicted.
const EVICTED_ROWS_MAX: usize = 65_536;

/// How a reader came past a range of entries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Passing {
    /// Its cursor moved over them.
    Acknowledged,
    /// It was told a gap over those that had been evicted.
    Gap,
    /// It is no reader any more.
    Left,
}

const PASSINGS: [Passing; 3] = [Passing::Acknowledged, Passing::Gap, Passing::Left];

#[derive(Debug)]
struct Slot {
    offset: Offset,
    row: CountRow,
    dirty: bool,
    /// What starts here (added) or ended just before (subtracted), per [`Passing`].
    edge: [i64; 3],
}

/// Rows of one log behind `after` up to `up_to`.
#[derive(Debug, Default)]
pub(crate) struct LogCounts {
    after: Offset,
    up_to: Offset,
    slots: Vec<Slot>,
    /// What ended at the last slot: it starts to matter when there are further ones.
    end: [i64; 3],
}

impl CountRow {
    pub(crate) const fn new(bytes: u32, expires_at_ms: u64, audience: u64) -> Self {
        Self {
            stay: Stay::Live,
            bytes,
            expires_at_ms,
            audience,
            delivered: 0,
            acknowledged: 0,
            expired: 0,
            undeliverable: 0,
            suppressed: 0,
            evicted: 0,
        }
    }

    /// Everything that is counted.
    pub(crate) const fn sum(&self) -> u64 {
        self.acknowledged + self.expired + self.undeliverable + self.suppressed + self.evicted
    }

    fn count(&mut self, how: Passing, readers: u64, now_ms: u64) {
        let field = match (how, self.stay) {
            (_, Stay::Expired) => &mut self.expired,
            (Passing::Gap | Passing::Left, Stay::Evicted) => &mut self.evicted,
            (Passing::Left, _) if self.expires_at_ms <= now_ms => &mut self.expired,
            (Passing::Left, _) => &mut self.suppressed,
            (Passing::Acknowledged | Passing::Gap, _) => &mut self.acknowledged,
        };
        *field += readers;
    }

    fn settle(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Undeliverable => self.undeliverable += 1,
            Outcome::Suppressed => self.suppressed += 1,
            Outcome::Evicted => self.evicted += 1,
        }
    }
}

/// How an exception of a cursor save is counted.
pub(crate) const fn outcome_of(how: Milestone) -> Outcome {
    match how {
        Milestone::Expired => Outcome::Expired,
        Milestone::Undeliverable => Outcome::Undeliverable,
        Milestone::Recalled | Milestone::Filtered | Milestone::Suppressed => Outcome::Suppressed,
        Milestone::Evicted => Outcome::Evicted,
        Milestone::Accepted
        | Milestone::Persisted
        | Milestone::Routed
        | Milestone::Relayed
        | Milestone::Written
        | Milestone::Acknowledged => Outcome::Acknowledged,
    }
}

/// What speaks of one entry.
pub(crate) const fn is_exception(how: Milestone) -> bool {
    !matches!(how, Milestone::Evicted | Milestone::Acknowledged)
}

/// The gaps that a reader was told (I6): each from the acknowledgement noted before it, else from
/// the gap before it or the stored cursor.
pub(crate) fn gaps_of(settled: &[Settled]) -> impl Iterator<Item = (Offset, Offset)> {
    let mut after = Offset::ZERO;
    settled.iter().filter_map(move |settled| match settled.how {
        Milestone::Acknowledged => {
            after = settled.offset;
            None
        }
        Milestone::Evicted => Some((std::mem::replace(&mut after, settled.offset), settled.offset)),
        _ => None,
    })
}

impl LogCounts {
    fn position(&self, offset: Offset) -> usize {
        self.slots.partition_point(|slot| slot.offset <= offset)
    }

    fn find(&self, offset: Offset) -> Option<usize> {
        self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()
    }

    fn covers(&self, after: Offset, up_to: Offset) -> bool {
        self.after <= after && up_to <= self.up_to
    }

    /// Adds `readers` to the slots from `from` until before `to`.
    fn add(&mut self, from: usize, to: usize, how: Passing, readers: i64) {
        if from >= to {
            return;
        }
        self.slots[from].edge[how as usize] += readers;
        let end = self.slots.get_mut(to).map_or(&mut self.end, |slot| &mut slot.edge);
        end[how as usize] -= readers;
    }

    /// Adds rows behind the last.
    fn extend(&mut self, mut slots: Vec<Slot>) {
        if let Some(first) = slots.first_mut() {
            first.edge = std::mem::take(&mut self.end);
        }
        self.slots.append(&mut slots);
    }

    /// Brings what passed over slot `index` into its row, before the row is read or changes.
    fn settle(&mut self, index: usize, now_ms: u64) -> &mut Slot {
        for how in PASSINGS {
            let readers: i64 =
                self.slots[..=index].iter().map(|slot| slot.edge[how as usize]).sum();
            if readers > 0 {
                self.add(index, index + 1, how, -readers);
                let slot = &mut self.slots[index];
                slot.row.count(how, readers.unsigned_abs(), now_ms);
                slot.dirty = true;
            }
        }
        &mut self.slots[index]
    }

    fn settle_all(&mut self, now_ms: u64) {
        let mut passing = [0_i64; 3];
        for slot in &mut self.slots {
            for how in PASSINGS {
                let readers = &mut passing[how as usize];
                *readers += std::mem::take(&mut slot.edge[how as usize]);
                if *readers > 0 {
                    slot.row.count(how, readers.unsigned_abs(), now_ms);
                    slot.dirty = true;
                }
            }
        }
    }
}

impl<B: View> Engine<B> {
    /// Has the rows of a range at hand.
    fn counts(&mut self, log: &[u8], after: Offset, up_to: Offset) -> StoreResult<&mut LogCounts> {
        let evicted_to = Offset(self.log(log)?.row.evicted_to);
        let mut counts = self.counts.remove(log).unwrap_or_default();
        let loaded = if counts.covers(after, up_to) {
            Ok(())
        } else {
            self.counts_load(log, &mut counts, after, up_to, evicted_to)
        };
        let counts = self.counts.entry(log.into()).or_insert(counts);
        loaded.map(|()| counts)
    }

    fn counts_load(
        &self,
        log: &[u8],
        counts: &mut LogCounts,
        after: Offset,
        up_to: Offset,
        evicted_to: Offset,
    ) -> StoreResult<()> {
        if counts.up_to == Offset::ZERO {
            counts.slots = self.count_slots(log, after, up_to, evicted_to)?;
            (counts.after, counts.up_to) = (after, up_to);
            return Ok(());
        }
        if after < counts.after {
            let mut slots = self.count_slots(log, after, counts.after, evicted_to)?;
            slots.append(&mut counts.slots);
            counts.slots = slots;
            counts.after = after;
        }
        if up_to > counts.up_to {
            counts.extend(self.count_slots(log, counts.up_to, up_to, evicted_to)?);
            counts.up_to = up_to;
        }
        Ok(())
    }

    fn count_slots(
        &self,
        log: &[u8],
        after: Offset,
        up_to: Offset,
        evicted_to: Offset,
    ) -> StoreResult<Vec<Slot>> {
        let mut slots = Vec::new();
        let split = evicted_to.clamp(after, up_to.max(after));
        for (after, up_to, rows_max) in
            [(after, split, EVICTED_ROWS_MAX), (split, up_to, usize::MAX)]
        {
            if after >= up_to {
                continue;
            }
            let rows = self.txn.scan(Table::Counts, entries_between(log, after, up_to));
            for item in rows.take(rows_max) {
                let (key, value) = item?;
                let row = codec::decode(Table::Counts, &key, &value)?;
                let Some(offset) = keys::offset_of(&key) else { continue };
                slots.push(Slot { offset, row, dirty: false, edge: [0; 3] });
            }
        }
        Ok(slots)
    }

    /// The counts of a new entry.
    pub(crate) fn counts_push(&mut self, log: &[u8], offset: Offset, row: CountRow) {
        // A range at hand that does not end at the log's last entry is extended when needed, from
        // what is written here.
        let key = keys::entry(log, offset);
        let value = codec::encode(&row, &key);
        self.txn.put(Table::Counts, key, value);
    }

    /// The counts of one entry as they are now.
    pub(crate) fn count_row(
        &mut self,
        log: &[u8],
        offset: Offset,
    ) -> StoreResult<Option<CountRow>> {
        let now_ms = self.now_ms;
        if let Some((counts, index)) = self.counted(log, offset) {
            return Ok(Some(counts.settle(index, now_ms).row));
        }
        let key = keys::entry(log, offset);
        match self.txn.get(Table::Counts, &key)? {
            Some(value) => codec::decode(Table::Counts, &key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// The row, if it is at hand.
    fn counted(&mut self, log: &[u8], offset: Offset) -> Option<(&mut LogCounts, usize)> {
        let counts = self.counts.get_mut(log)?;
        let index = counts.find(offset)?;
        Some((counts, index))
    }

    /// Changes a row, at hand or not: a range at hand is not widened for it.
    fn change_row(
        &mut self,
        log: &[u8],
        offset: Offset,
        change: impl FnOnce(&mut CountRow),
    ) -> StoreResult<()> {
        let now_ms = self.now_ms;
        if let Some((counts, index)) = self.counted(log, offset) {
            let slot = counts.settle(index, now_ms);
            change(&mut slot.row);
            slot.dirty = true;
            return Ok(());
        }
        let Some(mut row) = self.count_row(log, offset)? else { return Ok(()) };
        change(&mut row);
        let key = keys::entry(log, offset);
        let value = codec::encode(&row, &key);
        self.txn.put(Table::Counts, key, value);
        Ok(())
    }

    /// The entry is not in its log any more; those who have yet to pass it are counted accordingly.
    pub(crate) fn count_stay(&mut self, log: &[u8], offset: Offset, stay: Stay) -> StoreResult<()> {
        self.change_row(log, offset, |row| row.stay = stay)
    }

    /// One more terminal has the entries of a range before it.
    pub(crate) fn count_reader(
        &mut self,
        log: &[u8],
        after: Offset,
        up_to: Offset,
    ) -> StoreResult<()> {
        let counts = self.counts(log, after, up_to)?;
        for slot in counts.slots.iter_mut().filter(|s| s.offset > after && s.offset <= up_to) {
            slot.row.audience += 1;
            slot.dirty = true;
        }
        Ok(())
    }

    /// Terminals that the entry was written to for the first time.
    pub(crate) fn count_delivered(
        &mut self,
        log: &[u8],
        offset: Offset,
        terminals: u32,
    ) -> StoreResult<()> {
        self.change_row(log, offset, |row| row.delivered += u64::from(terminals))
    }

    /// A reader came past the entries behind `after` up to `up_to`.
    pub(crate) fn count_passing(
        &mut self,
        log: &[u8],
        after: Offset,
        up_to: Offset,
        how: Passing,
        settled: &[Settled],
    ) -> StoreResult<()> {
        if after >= up_to {
            return Ok(());
        }
        let counts = self.counts(log, after, up_to)?;
        let (from, to) = (counts.position(after), counts.position(up_to));
        let gaps: Vec<(usize, usize)> = gaps_of(settled)
            .map(|(after, up_to)| {
                let gap_from = counts.position(after).clamp(from, to);
                (gap_from, counts.position(up_to).clamp(gap_from, to))
            })
            .collect();
        let mut next = from;
        for (gap_from, gap_to) in &gaps {
            counts.add(next, *gap_from, how, 1);
            counts.add((*gap_from).max(next), *gap_to, Passing::Gap, 1);
            next = next.max(*gap_to);
        }
        counts.add(next, to, how, 1);
        let exceptions = settled.iter().filter(|settled| is_exception(settled.how));
        for settled in exceptions {
            let Some(index) = counts.find(settled.offset) else { continue };
            if index < from || index >= to {
                continue;
            }
            let in_gap = gaps.iter().any(|gap| index >= gap.0 && index < gap.1);
            counts.add(index, index + 1, if in_gap { Passing::Gap } else { how }, -1);
            let slot = &mut counts.slots[index];
            slot.row.settle(outcome_of(settled.how));
            slot.dirty = true;
        }
        Ok(())
    }

    /// Writes what a log's counts became into the group, and forgets them.
    pub(crate) fn counts_flush(&mut self, log: &[u8]) {
        if let Some(mut counts) = self.counts.remove(log) {
            counts.settle_all(self.now_ms);
            for slot in counts.slots.into_iter().filter(|slot| slot.dirty) {
                let key = keys::entry(log, slot.offset);
                let value = codec::encode(&slot.row, &key);
                self.txn.put(Table::Counts, key, value);
            }
        }
    }

    pub(crate) fn flush_counts(&mut self) {
        let logs: Vec<Box<[u8]>> = self.counts.keys().cloned().collect();
        for log in logs {
            self.counts_flush(&log);
        }
    }
}
