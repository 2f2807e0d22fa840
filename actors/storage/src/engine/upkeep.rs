//! The paced sweep: what expired, and what is beyond its retention, goes. A call does a piece and
//! the next goes on from there. Nothing it does needs to be durable at once.

use clarion_protocol::{Offset, ProductId};

use super::codec::{self, ClaimRow, PlaceRow, TerminalRow};
use super::query::MESSAGE_KEPT_MS;
use super::tables::{Slice, Table, View, prefixed, prefixed_after};
use super::{Engine, keys};
use crate::{StoreResult, Upkeep};

/// An expired entry of a wide log or inbox stays this long, so that acknowledgements on their way
/// are still counted as such.
pub(crate) const EXPIRED_KEPT_MS: u64 = 60_000;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    phase: usize,
    after: Vec<u8>,
}

/// Messages lead to the entries and counts that go with them.
const PHASES: [Table; 4] = [Table::Messages, Table::Claims, Table::Nonces, Table::Terminals];

impl<B: View> Engine<B> {
    /// Looks at up to `budget` records. Records that cannot be read are skipped: they were told,
    /// and stay for whoever looks into it.
    pub(crate) fn upkeep(&mut self, budget: usize) -> StoreResult<Upkeep> {
        let mut done = Upkeep::default();
        self.shared.nonces.purge(self.now_ms / 1000);
        while (done.examined as usize) < budget {
            let table = PHASES[self.sweep.phase];
            let rows = self.next_rows(table, budget - done.examined as usize)?;
            done.examined += rows.len() as u64;
            let Some((last, _)) = rows.last() else {
                self.sweep.after.clear();
                self.sweep.phase = (self.sweep.phase + 1) % PHASES.len();
                if self.sweep.phase == 0 {
                    done.complete = true;
                    break;
                }
                continue;
            };
            self.sweep.after = last.to_vec();
            for (key, value) in rows {
                let swept = match table {
                    Table::Messages => self.sweep_message(&key, &value, &mut done),
                    Table::Claims => self.sweep_claim(&key, &value, &mut done),
                    Table::Nonces => {
                        self.sweep_nonces(&key, &mut done);
                        Ok(())
                    }
                    _ => self.sweep_terminal(&key, &value, &mut done),
                };
                if let Err(error) = swept {
                    tracing::warn!(%error, table = table.name(), "upkeep skips a record");
                }
            }
        }
        Ok(done)
    }

    fn next_rows(&self, table: Table, limit: usize) -> StoreResult<Vec<(Slice, Slice)>> {
        let range = match self.sweep.after.as_slice() {
            [] => prefixed(&[]),
            after => prefixed_after(&[], after.to_vec()),
        };
        let mut rows = Vec::new();
        for row in self.txn.scan(table, range).take(limit) {
            let (key, value) = row?;
            // Nonces are in the order of time: what follows is in its window still.
            if table == Table::Nonces && minute_of(&key) >= self.nonce_horizon() {
                break;
            }
            rows.push((key, value));
        }
        Ok(rows)
    }

    fn nonce_horizon(&self) -> u64 {
        self.shared.nonces.horizon(self.now_ms / 1000)
    }

    fn sweep_message(&mut self, key: &[u8], value: &[u8], done: &mut Upkeep) -> StoreResult<()> {
        let row: PlaceRow = codec::decode(Table::Messages, key, value)?;
        let Some(place) = keys::place_of(key) else {
            return Err(codec::damaged(Table::Messages, key, "its key is no place"));
        };
        if row.expires_at_ms.saturating_add(EXPIRED_KEPT_MS) <= self.now_ms
            && self.expire_entry(&place, &row)?
        {
            done.expired_entries += 1;
        }
        if row.expires_at_ms.saturating_add(MESSAGE_KEPT_MS) <= self.now_ms {
            self.counts_flush(&place.log);
            self.txn.remove(Table::Counts, keys::entry(&place.log, Offset(row.offset)));
            self.txn.remove(Table::Messages, key);
            done.expired_records += 1;
        }
        Ok(())
    }

    fn sweep_claim(&mut self, key: &[u8], value: &[u8], done: &mut Upkeep) -> StoreResult<()> {
        let row: ClaimRow = codec::decode(Table::Claims, key, value)?;
        if row.keep_until_ms <= self.now_ms {
            self.txn.remove(Table::Claims, key);
            done.expired_records += 1;
        }
        Ok(())
    }

    fn sweep_nonces(&mut self, key: &[u8], done: &mut Upkeep) {
        self.txn.remove(Table::Nonces, key);
        done.expired_records += 1;
    }

    fn sweep_terminal(&mut self, key: &[u8], value: &[u8], done: &mut Upkeep) -> StoreResult<()> {
        let row = TerminalRow::decode(key, value)?;
        // A session that only listens writes nothing: what is open in this boot was seen too.
        let seen_ms = self.shared.generations.seen_ms(key).unwrap_or(0).max(row.last_seen_ms);
        if seen_ms.saturating_add(self.limits.terminal_retention_ms) > self.now_ms {
            return Ok(());
        }
        let product =
            key.split(|&byte| byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
        if let Some(product) = product.and_then(|name| ProductId::new(name).ok()) {
            self.erase(&product, &codec::terminal_id(key)?)?;
            done.expired_records += 1;
        }
        Ok(())
    }
}

fn minute_of(key: &[u8]) -> u64 {
    key.get(..8).and_then(|minute| minute.try_into().ok()).map_or(0, u64::from_be_bytes)
}
