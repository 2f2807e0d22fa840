//! What the terminal says of its deliveries, and what happens when it says nothing (I5, I9, I10).

use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Code, Offset};

use super::budget::Budget;
use super::delivery::Closing;
use super::log_state::{Context, LogState};
use super::log_window::ItemState;
use super::types::Effect;

/// The ack time-out without progress that ends the session (I10).
const TIMEOUTS_MAX: u8 = 3;

pub(super) const ACK_AHEAD: Closing =
    (Code::AckAhead, "the offset was not delivered to this session");
const SKIP_NOT_FIRST: Closing =
    (Code::FrameUnexpected, "only the first unacknowledged delivery of a log can be skipped");
const SILENT: Closing = (Code::AckTimeout, "no acknowledgement after three attempts");

impl LogState {
    /// Everything up to `offset` was handled.
    pub(super) fn ack(&mut self, offset: Offset, cx: &mut Context<'_>) -> Result<(), Closing> {
        if offset <= self.cursor {
            return Ok(());
        }
        let Some(motion) = &mut self.motion else { return Err(ACK_AHEAD) };
        // I5: above what this session was sent.
        if motion.window.is_empty() || offset > motion.window.delivered_to {
            return Err(ACK_AHEAD);
        }
        let mut settled = Vec::new();
        let (count, bytes) = motion.window.acknowledge(offset, &mut settled);
        cx.budget.release(self.log.kind, bytes);
        let cursor_before = self.cursor;
        self.cursor = offset;
        self.progress(count, cx.now_ms);
        self.advance(cursor_before, settled, cx.effects);
        Ok(())
    }

    /// The terminal gives its first unacknowledged delivery up. What the session settled meanwhile
    /// may still be skipped: the frames crossed.
    pub(super) fn skip(&mut self, offset: Offset, cx: &mut Context<'_>) -> Result<(), Closing> {
        if offset <= self.cursor {
            return Ok(());
        }
        let Some(motion) = &mut self.motion else { return Err(SKIP_NOT_FIRST) };
        let delivered = offset <= motion.window.delivered_to;
        match motion.window.find(offset).map(|item| item.state) {
            Some(ItemState::Passed(_)) if delivered => return Ok(()),
            Some(ItemState::Sent) if motion.window.front().map(|i| i.offset) == Some(offset) => {}
            Some(ItemState::Sent | ItemState::Passed(_)) | None => return Err(SKIP_NOT_FIRST),
        }
        self.give_up_front(cx.now_ms, cx.budget, cx.effects);
        Ok(())
    }

    /// Passes the first delivery as undeliverable.
    fn give_up_front(&mut self, now_ms: u64, budget: &mut Budget, effects: &mut Vec<Effect>) {
        let cursor_before = self.cursor;
        let Some(motion) = &mut self.motion else { return };
        let bytes = motion.window.pass_front(Milestone::Undeliverable);
        budget.release(self.log.kind, bytes);
        let mut settled = Vec::new();
        if let Some(passed) = motion.window.pop_passed(&mut settled) {
            self.cursor = self.cursor.max(passed);
        }
        self.progress(1, now_ms);
        self.advance(cursor_before, settled, effects);
    }

    /// The cursor moved by the terminal's doing.
    fn progress(&mut self, count: u16, now_ms: u64) {
        self.singles = self.singles.saturating_sub(count);
        if let Some(motion) = &mut self.motion {
            motion.window.timeouts = 0;
            motion.window.waiting_since_ms = now_ms;
        }
    }

    /// I10: the first and second time-out send again, the third ends the session. An entry that
    /// used up its attempts is passed.
    pub(super) fn time_out(&mut self, cx: &mut Context<'_>) -> Result<(), Closing> {
        let position = self.position;
        let Some(motion) = &mut self.motion else { return Ok(()) };
        let window = &mut motion.window;
        let since_ms = window.waiting_since_ms;
        if !window.owes(position) || cx.now_ms < since_ms.saturating_add(cx.limits.ack_timeout_ms) {
            return Ok(());
        }
        window.timeouts += 1;
        let timeouts = window.timeouts;
        if timeouts >= TIMEOUTS_MAX {
            return Err(SILENT);
        }
        if self.front_attempts() >= cx.limits.attempts_max {
            self.give_up_front(cx.now_ms, cx.budget, cx.effects);
            // Giving up is no progress of the terminal.
            if let Some(motion) = &mut self.motion {
                motion.window.timeouts = timeouts;
            }
        }
        self.rewind();
        self.rest();
        Ok(())
    }

    /// I10: what the next session must know. An entry that used up its attempts is passed here,
    /// so that no entry is ever passed on the attempts of another one before it was sent.
    pub(super) fn finish(
        &mut self,
        attempts_max: u8,
        budget: &mut Budget,
        effects: &mut Vec<Effect>,
    ) {
        while self.window_front_attempts().is_some_and(|attempts| attempts >= attempts_max) {
            self.give_up_front(0, budget, effects);
        }
        if self.window_front_attempts().is_some_and(|attempts| attempts != self.attempts) {
            self.save(Vec::new(), effects);
        }
    }

    fn window_front_attempts(&self) -> Option<u8> {
        Some(self.motion.as_ref()?.window.front()?.attempts)
    }

    /// The bytes it holds, given back when the session forgets it.
    pub(super) fn release_all(&self, budget: &mut Budget) {
        if let Some(motion) = &self.motion {
            budget.release(self.log.kind, motion.window.bytes());
            budget.redeem(self.log.kind, motion.read.promised);
        }
    }
}

/// Closes a session.
pub(super) fn close((code, detail): Closing) -> Effect {
    Effect::Close { code, detail }
}
