//! Cursors: written `max` within the epoch, fenced by generation, counted once (I5, I7, I13).

use clarion_core::LogKind;
use clarion_core::fault::{Mutant, mutated};
use clarion_protocol::{LogName, Offset};

use super::codec::{Outcome, Sub};
use super::counts::{Passing, outcome_of};
use super::tables::View;
use super::{Engine, keys};
use crate::{CursorSave, SaveOutcome, StoreResult};

impl<B: View> Engine<B> {
    /// Whether the generation is that of the newest session; a session that was never opened in
    /// this boot is judged by the record.
    fn is_newest(&self, terminal: &[u8], stored: u64, generation: u64) -> bool {
        let newest = self.shared.generations.newest(terminal).unwrap_or(0).max(stored);
        generation >= newest
    }

    /// One cursor. The entries of an inbox that every reader has passed go with it.
    pub(crate) fn save_cursor(&mut self, save: &CursorSave) -> StoreResult<SaveOutcome> {
        let product = &save.log.product;
        let key = keys::pair(product.as_str(), save.terminal.as_str());
        let Some(row) = self.terminal(&key)? else { return Ok(SaveOutcome::NotSubscribed) };
        let stored_generation = row.generation;
        let is_own = match save.log.kind {
            LogKind::Terminal => *save.log.name == *save.terminal.as_str(),
            LogKind::User => row.user.as_ref().is_some_and(|user| *user.as_str() == *save.log.name),
            LogKind::Topic | LogKind::Broadcast => true,
        };
        let name = save.log.local_name();
        let sub = row.sub(&name).filter(|sub| is_own && !sub.banned).cloned();
        if !self.is_newest(&key, stored_generation, save.generation)
            && !mutated(Mutant::StaleCursor)
        {
            return Ok(SaveOutcome::Stale);
        }
        let Some(sub) = sub else { return Ok(SaveOutcome::NotSubscribed) };
        let mut prefix = std::mem::take(&mut self.scratch);
        keys::log(&mut prefix, &save.log);
        let outcome = self.save_in(&key, &prefix, &name, &sub, save);
        self.scratch = prefix;
        outcome
    }

    fn save_in(
        &mut self,
        key: &[u8],
        log: &[u8],
        name: &LogName,
        sub: &Sub,
        save: &CursorSave,
    ) -> StoreResult<SaveOutcome> {
        // I5: nothing above the durable head, nothing of a history that is gone.
        if save.epoch != self.epoch || save.cursor > self.log(log)?.last() {
            return Ok(SaveOutcome::AboveHead);
        }
        if mutated(Mutant::ForgetCursor) {
            return Ok(SaveOutcome::Saved);
        }
        let replaces = sub.epoch != save.epoch
            || (mutated(Mutant::StaleCursor) && !self.is_newest(key, 0, save.generation));
        if save.cursor < sub.cursor && !replaces {
            return Ok(SaveOutcome::Saved);
        }
        self.settle(log, sub.settled(), save)?;
        let Some(row) = self.terminal(key)? else { return Ok(SaveOutcome::NotSubscribed) };
        let unchanged = !replaces
            && save.cursor == sub.cursor
            && save.attempts == sub.attempts
            && save.generation == row.generation
            && (save.heartbeat_ms.is_none() || save.heartbeat_ms == row.heartbeat_ms);
        if unchanged {
            return Ok(SaveOutcome::Saved);
        }
        self.sync = true;
        let Some(row) = self.terminal_to_change(key)? else {
            return Ok(SaveOutcome::NotSubscribed);
        };
        row.generation = save.generation;
        row.heartbeat_ms = save.heartbeat_ms.or(row.heartbeat_ms);
        if let Some(stored) = row.subs.iter_mut().find(|stored| stored.log == *name) {
            // A cursor of another epoch may be replaced by a lower one; what it had counted stays.
            stored.counted = stored.settled();
            stored.epoch = save.epoch;
            stored.cursor = save.cursor;
            stored.attempts = save.attempts;
            if stored.counted <= stored.cursor {
                stored.counted = Offset::ZERO;
            }
        }
        Ok(SaveOutcome::Saved)
    }

    /// Counts what the cursor passes, and removes it from an inbox nobody else reads.
    fn settle(&mut self, log: &[u8], after: Offset, save: &CursorSave) -> StoreResult<()> {
        let up_to = save.cursor;
        if after >= up_to {
            return Ok(());
        }
        match save.log.kind {
            LogKind::Terminal => {
                let product_len = save.log.product.as_str().len();
                let inside = |offset: Offset| offset > after && offset <= up_to;
                for settled in save.settled.iter().filter(|settled| inside(settled.offset)) {
                    let outcome = outcome_of(settled.how);
                    if outcome != Outcome::Acknowledged {
                        let entry = keys::entry(log, settled.offset);
                        self.settle_place(log, product_len, &entry, outcome)?;
                    }
                }
                self.remove_passed(log, up_to)
            }
            LogKind::User | LogKind::Topic | LogKind::Broadcast => {
                self.count_passing(log, after, up_to, Passing::Acknowledged, &save.settled)?;
                if save.log.kind == LogKind::User {
                    self.trims.insert(log.into());
                }
                Ok(())
            }
        }
    }
}
