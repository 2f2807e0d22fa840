//! Going through entries: what is delivered, what is passed silently, what waits (I6, I8, I9).

use std::sync::Arc;

use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::GapReason;
use clarion_protocol::{Code, Offset};

use crate::entry::{Batch, Body, Entry, Page, Settled};
use crate::fault::{Mutant, mutated};

use super::log_state::{Context, LogState};
use super::log_window::{Item, ItemState, settle};
use super::types::{Effect, SessionLimits};

/// Why a session ends.
pub(super) type Closing = (Code, &'static str);

/// One way through some entries of one log.
struct Pass {
    cursor_before: Offset,
    /// How many entries may be on the way. Judged once: it is the attempts before this pass that
    /// make a suspect.
    limit: usize,
    deliver: Vec<Arc<Entry>>,
    again: bool,
    settled: Vec<Settled>,
}

/// What becomes of an entry by itself, whoever the reader is.
enum Fate {
    Deliver,
    /// Passed silently; `None`: nobody counts it.
    Pass(Option<Milestone>),
}

fn fate(entry: &Entry, now_ms: u64) -> Fate {
    match &entry.body {
        Body::Control(_) => Fate::Pass(None),
        Body::Tombstone => Fate::Pass(Some(Milestone::Recalled)),
        // I11: the TTL is an absolute time of the store.
        Body::Json(_) | Body::Bytes { .. } if entry.expires_at_ms <= now_ms => {
            Fate::Pass(Some(Milestone::Expired))
        }
        Body::Json(_) | Body::Bytes { .. } => Fate::Deliver,
    }
}

pub(super) fn bytes_of(entry: &Entry) -> u32 {
    u32::try_from(entry.body.len()).unwrap_or(u32::MAX)
}

impl LogState {
    /// Entries were appended: delivered directly if the log is live and nothing is missing between,
    /// else noted and read later.
    pub(super) fn hint(&mut self, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        if batch.epoch != self.epoch {
            // I5: only a read tells which lineage is the present one.
            self.unsure = true;
            self.outdate_read();
            return;
        }
        let Some(last) = batch.entries.last() else { return };
        if last.offset <= self.position {
            return;
        }
        if !self.is_live() && !mutated(Mutant::IgnorePredecessor) {
            self.note(last.offset);
            return;
        }
        if self.takes_whole(batch, cx) {
            self.deliver_whole(batch, cx);
            return;
        }
        let mut pass = self.begin_pass(cx.limits);
        for entry in &batch.entries {
            if entry.offset <= self.position {
                continue;
            }
            // I6: a predecessor judges the hint only; what is missing is read.
            let continues =
                self.continues_at(entry.predecessor) || mutated(Mutant::IgnorePredecessor);
            if !continues || !self.take(entry, &mut pass, cx) {
                self.note(last.offset);
                break;
            }
        }
        self.end_pass(pass, cx);
    }

    /// Whether a batch can go out as it is: it continues here, holds nothing to be passed, and fits.
    fn takes_whole(&self, batch: &Batch, cx: &Context<'_>) -> bool {
        let (mut at, mut bytes) = (self.position, 0u32);
        for entry in &batch.entries {
            let deliverable = matches!(fate(entry, cx.now_ms), Fate::Deliver);
            if entry.offset <= at || entry.predecessor > at || !deliverable {
                return false;
            }
            at = entry.offset;
            bytes = bytes.saturating_add(bytes_of(entry));
        }
        self.on_way() + batch.entries.len() <= self.window_limit(cx.limits)
            && bytes <= cx.budget.room(self.log.kind, cx.limits)
    }

    fn deliver_whole(&mut self, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        let pass = self.begin_pass(cx.limits);
        self.motion().window.reserve(batch.entries.len());
        for entry in &batch.entries {
            self.send(entry, cx);
        }
        cx.effects.push(Effect::DeliverBatch { log: self.alias, batch: Arc::clone(batch) });
        self.end_pass(pass, cx);
    }

    /// What a read found. Authoritative: what is not in it, up to its end, is not in the log (I6).
    pub(super) fn page(&mut self, page: &Page, cx: &mut Context<'_>) -> Result<(), Closing> {
        let Some((outdated, void)) = self.end_read(cx) else { return Ok(()) };
        if void {
            return Ok(());
        }
        if page.epoch != self.epoch {
            return self.change_lineage(page, cx);
        }
        if self.is_doubtful(page, cx.now_ms) {
            self.back_off(cx.now_ms);
            return Ok(());
        }
        self.motion().read.succeed();
        let position_before = self.position;
        let mut pass = self.begin_pass(cx.limits);
        self.tell_evicted(page, &mut pass.settled, cx);
        self.target = self.target.max(page.head);
        let behind = page.entries.partition_point(|entry| entry.offset <= self.position);
        let full = page.entries[behind..].iter().any(|entry| !self.take(entry, &mut pass, cx));
        if !full && !page.more && page.head > self.position {
            self.pass_missing(Offset(page.head.0 + 1), cx);
            self.position = page.head;
        }
        self.end_pass(pass, cx);
        // A page that shows less than what was known when it was asked for comes from a reader
        // that lags; asking again at once would spin.
        let stuck = !page.more || self.position == position_before;
        if self.position < self.target && !full && !outdated && stuck {
            self.back_off(cx.now_ms);
        }
        Ok(())
    }

    /// I5: the store's history is another one now. Acknowledgements that are on their way speak of
    /// the former; they cannot be told apart, so the session starts anew if any can be.
    fn change_lineage(&mut self, page: &Page, cx: &mut Context<'_>) -> Result<(), Closing> {
        if self.motion.as_ref().is_some_and(|motion| !motion.window.is_empty()) {
            return Err((Code::StoreAway, "the store's history changed under deliveries"));
        }
        let from = self.position;
        self.epoch = page.epoch;
        self.target = page.head;
        self.singles = 0;
        self.reset(from, GapReason::Epoch, cx.effects);
        self.rest();
        Ok(())
    }

    /// Whether a page lacks an entry that is to be sent again and cannot be gone: it neither
    /// expired nor was evicted, so the page answers an earlier read of a later position.
    fn is_doubtful(&self, page: &Page, now_ms: u64) -> bool {
        let Some(motion) = &self.motion else { return false };
        if motion.read.is_trusted() {
            return false;
        }
        let last = page.entries.last().map_or(Offset::ZERO, |entry| entry.offset);
        let covered = if page.more { last } else { last.max(page.head) };
        motion.window.again(self.position).take_while(|item| item.offset <= covered).any(|item| {
            let gone = item.expires_at_ms <= now_ms || item.offset <= page.evicted_to;
            let find = |entry: &Arc<Entry>| entry.offset.cmp(&item.offset);
            let waits = item.state == ItemState::Sent && !gone;
            waits && page.entries.binary_search_by(find).is_err()
        })
    }

    /// I5, I6: what was evicted before it was read is told. The terminal goes on behind the gap, so
    /// deliveries before it that it has not acknowledged are given up with what was never sent: the
    /// gap begins at the cursor then.
    fn tell_evicted(&mut self, page: &Page, settled: &mut Vec<Settled>, cx: &mut Context<'_>) {
        let to = page.evicted_to;
        if to <= self.position {
            return;
        }
        let from = if self.on_way() == 0 { self.position } else { self.cursor };
        let reason = GapReason::Evicted;
        cx.effects.push(Effect::Gap { log: self.alias, epoch: self.epoch, from, to, reason });
        if let Some(motion) = &mut self.motion {
            let bytes = motion.window.forget(to);
            cx.budget.release(self.log.kind, bytes);
        }
        // The attempts were those of an entry that is gone.
        self.attempts = 0;
        // I13: everything that is gone between the cursor and here counts as evicted.
        settled.push(Settled { offset: to, how: Milestone::Evicted });
        self.cursor = self.cursor.max(to);
        self.position = to;
    }

    fn begin_pass(&self, limits: &SessionLimits) -> Pass {
        let (cursor_before, limit) = (self.cursor, self.window_limit(limits));
        Pass { cursor_before, limit, deliver: Vec::new(), again: false, settled: Vec::new() }
    }

    fn end_pass(&mut self, mut pass: Pass, cx: &mut Context<'_>) {
        self.flush(&mut pass, cx);
        self.advance(pass.cursor_before, pass.settled, cx.effects);
    }

    fn flush(&self, pass: &mut Pass, cx: &mut Context<'_>) {
        if !pass.deliver.is_empty() {
            let mut entries = std::mem::take(&mut pass.deliver);
            if mutated(Mutant::LoseOrder) {
                entries.reverse();
            }
            let again = std::mem::take(&mut pass.again);
            cx.effects.push(Effect::Deliver { log: self.alias, again, entries });
        }
    }

    /// Takes the next entry behind the position. False if there is no room for it now.
    fn take(&mut self, entry: &Arc<Entry>, pass: &mut Pass, cx: &mut Context<'_>) -> bool {
        let again = match &mut self.motion {
            Some(motion) => motion.window.find(entry.offset).map(|item| item.state),
            None => None,
        };
        match (again, fate(entry, cx.now_ms)) {
            // I9: passed in an earlier pass; a control entry is carried out once.
            (Some(ItemState::Passed(_)), _) => {
                self.pass_to(entry.offset, cx);
                true
            }
            (Some(ItemState::Sent), Fate::Pass(how)) => {
                self.pass_to(entry.offset, cx);
                if let Some(item) = self.motion().window.find(entry.offset) {
                    let bytes = item.pass(how);
                    cx.budget.release(self.log.kind, bytes);
                }
                true
            }
            (Some(ItemState::Sent), Fate::Deliver) => self.take_again(entry, pass, cx),
            (None, Fate::Pass(how)) => self.take_silently(entry, how, pass, cx),
            (None, Fate::Deliver) => self.take_new(entry, pass, cx),
        }
    }

    fn take_again(&mut self, entry: &Arc<Entry>, pass: &mut Pass, cx: &mut Context<'_>) -> bool {
        let on_way = self.on_way();
        if on_way >= pass.limit {
            return false;
        }
        if on_way == 0 {
            self.isolate_suspect(cx);
        }
        self.pass_missing(entry.offset, cx);
        self.start_waiting(cx.now_ms);
        if let Some(item) = self.motion().window.find(entry.offset) {
            item.attempts = item.attempts.saturating_add(1);
        }
        self.position = entry.offset;
        pass.again = true;
        pass.deliver.push(Arc::clone(entry));
        true
    }

    fn take_new(&mut self, entry: &Arc<Entry>, pass: &mut Pass, cx: &mut Context<'_>) -> bool {
        if self.on_way() >= pass.limit {
            return false;
        }
        let bytes = bytes_of(entry);
        if !cx.budget.fits(self.log.kind, bytes, cx.limits) {
            self.motion().read.needs = bytes;
            return false;
        }
        self.send(entry, cx);
        pass.deliver.push(Arc::clone(entry));
        true
    }

    /// Puts a new entry on its way.
    fn send(&mut self, entry: &Entry, cx: &mut Context<'_>) {
        self.pass_missing(entry.offset, cx);
        let mut attempts = 0;
        if self.motion().window.is_empty() {
            // I10: earlier sessions' attempts are those of the entry that was first behind the
            // cursor then. If that one is gone, this one starts afresh.
            if entry.predecessor <= self.cursor {
                attempts = self.attempts;
            } else {
                self.attempts = 0;
            }
            // I9: the cursor is just before the first delivered and unacknowledged entry.
            if entry.predecessor < entry.offset {
                self.cursor = self.cursor.max(self.position).max(entry.predecessor);
            }
            self.isolate_suspect(cx);
        }
        self.start_waiting(cx.now_ms);
        let bytes = bytes_of(entry);
        cx.budget.take(self.log.kind, bytes);
        let window = &mut self.motion().window;
        window.delivered_to = window.delivered_to.max(entry.offset);
        window.insert(Item {
            offset: entry.offset,
            expires_at_ms: entry.expires_at_ms,
            bytes,
            attempts: attempts.saturating_add(1),
            state: ItemState::Sent,
        });
        self.position = entry.offset;
    }

    fn take_silently(
        &mut self,
        entry: &Entry,
        how: Option<Milestone>,
        pass: &mut Pass,
        cx: &mut Context<'_>,
    ) -> bool {
        let blocked = self.motion.as_ref().is_some_and(|motion| !motion.window.is_empty());
        // What the cursor cannot pass yet must be remembered, and memory is bounded.
        if blocked && self.on_way() >= pass.limit {
            return false;
        }
        if let Body::Control(control) = &entry.body {
            self.flush(pass, cx);
            cx.effects.push(Effect::Control(control.clone()));
        }
        self.pass_to(entry.offset, cx);
        if blocked {
            self.motion().window.insert(Item {
                offset: entry.offset,
                expires_at_ms: entry.expires_at_ms,
                bytes: 0,
                attempts: 0,
                state: ItemState::Passed(how),
            });
        } else {
            self.cursor = entry.offset;
            self.attempts = 0;
            settle(entry.offset, how, &mut pass.settled);
        }
        true
    }

    /// Goes on to the entry at `offset`.
    fn pass_to(&mut self, offset: Offset, cx: &mut Context<'_>) {
        if offset > self.position {
            self.pass_missing(offset, cx);
            self.position = offset;
        }
    }

    /// What was to be sent again between the position and `before` is no longer in the log.
    fn pass_missing(&mut self, before: Offset, cx: &mut Context<'_>) {
        if let Some(motion) = &mut self.motion {
            let bytes = motion.window.pass_missing(self.position, before);
            cx.budget.release(self.log.kind, bytes);
        }
    }

    fn start_waiting(&mut self, now_ms: u64) {
        let position = self.position;
        let window = &mut self.motion().window;
        if !window.owes(position) {
            window.waiting_since_ms = now_ms;
        }
    }

    /// I10: a suspect goes alone, and so do those after it for a window's length.
    fn isolate_suspect(&mut self, cx: &Context<'_>) {
        if self.is_suspect(cx.limits) {
            self.singles = u16::try_from(cx.limits.window_entries).unwrap_or(u16::MAX).max(1);
        }
    }
}
