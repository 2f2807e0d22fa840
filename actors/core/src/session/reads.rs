//! When a log is read, and what happens when a read fails.

use clarion_protocol::Offset;

use super::log_state::{Context, LogState};
use super::types::Effect;

/// The first pause after a failed read; it doubles.
const BACK_OFF_MS_MIN: u64 = 500;
/// The longest pause after a failed read: so long at most, and a quarter, after the store is back what
/// waits in it stays where it is, whatever time it was away. While it is away a read fails at once.
const BACK_OFF_MS_MAX: u64 = 1_000;
/// Pages in a row that miss what cannot be gone before they are believed.
const DISTRUST_MAX: u8 = 3;

/// The read of one log.
#[derive(Debug, Default)]
pub(super) struct ReadState {
    /// When a failed read is tried again; 0 for none.
    pub(super) retry_at_ms: u64,
    /// Bytes that it was promised.
    pub(super) promised: u32,
    /// Bytes of the entry that did not fit last time.
    pub(super) needs: u32,
    /// Failures in a row.
    pub(super) failures: u8,
    pub(super) in_flight: bool,
    /// The answer to the read in flight is of no use: the position went back meanwhile.
    pub(super) void: bool,
    /// Since the read was asked for, the log grew or the position moved.
    pub(super) outdated: bool,
}

impl ReadState {
    /// Nothing to remember.
    pub(super) const fn is_idle(&self) -> bool {
        !self.in_flight && self.retry_at_ms == 0 && self.failures == 0 && self.needs == 0
    }

    pub(super) const fn is_trusted(&self) -> bool {
        self.failures >= DISTRUST_MAX
    }

    pub(super) const fn succeed(&mut self) {
        self.failures = 0;
        self.retry_at_ms = 0;
    }

    /// Half a second, then one, plus up to a quarter so that sessions spread.
    fn fail(&mut self, now_ms: u64, seed: u64) {
        let pause = (BACK_OFF_MS_MIN << self.failures.min(10)).min(BACK_OFF_MS_MAX);
        let jitter = crate::placement::mix(seed ^ now_ms) % (pause / 4);
        self.failures = self.failures.saturating_add(1);
        self.retry_at_ms = now_ms + pause + jitter;
    }
}

impl LogState {
    /// Whether it stands before something that it knows of.
    pub(super) fn is_behind(&self) -> bool {
        self.interested && (self.unsure || self.position < self.target)
    }

    /// Whether a read now would lead to deliveries, and not just to single ones: a quarter of
    /// window and bytes must be free, unless waiting for that could take for ever.
    pub(super) fn wants_read(&self, cx: &Context<'_>) -> bool {
        if !self.is_behind() {
            return false;
        }
        let (mut needs, mut owes) = (0, false);
        if let Some(motion) = &self.motion {
            if motion.read.in_flight || motion.read.retry_at_ms != 0 {
                return false;
            }
            (needs, owes) = (motion.read.needs, !motion.window.is_empty());
        }
        let limit = self.window_limit(cx.limits);
        let free = limit.saturating_sub(self.on_way());
        if self.is_again() {
            return free > 0;
        }
        let kind = self.log.kind;
        let clear = cx.budget.is_clear(kind) && cx.budget.reads_clear(kind);
        let quarter = if owes { super::budget::Budget::max(kind, cx.limits) / 4 } else { 1 };
        let room = cx.budget.room_to_read(kind, cx.limits);
        free >= (limit / 4).max(1) && (clear || room >= needs.max(quarter).max(1))
    }

    /// Asks for the next page. One read at a time per log.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) {
        let kind = self.log.kind;
        let free = self.window_limit(cx.limits).saturating_sub(self.on_way());
        let again = self.is_again();
        let room = cx.budget.room_to_read(kind, cx.limits);
        // What is sent again holds its bytes already.
        let bytes = if again { cx.limits.page_bytes } else { cx.limits.page_bytes.min(room) };
        let promised = if again { 0 } else { bytes };
        cx.budget.promise(kind, promised);
        self.unsure = false;
        let read = &mut self.motion().read;
        *read =
            ReadState { in_flight: true, promised, failures: read.failures, ..Default::default() };
        cx.effects.push(Effect::Read {
            log: self.alias,
            after: self.position,
            entries_max: u32::try_from(free).unwrap_or(u32::MAX).min(cx.limits.page_entries).max(1),
            bytes_max: bytes.max(1),
            known: self.target,
        });
    }

    /// The read came back, with a page or without. `None` if none was in flight (answered twice);
    /// else whether what came back may be outdated, and whether it is of no use.
    pub(super) fn end_read(&mut self, cx: &mut Context<'_>) -> Option<(bool, bool)> {
        let read = &mut self.motion.as_mut()?.read;
        if !read.in_flight {
            return None;
        }
        cx.budget.redeem(self.log.kind, read.promised);
        let (outdated, void) = (read.outdated, read.void);
        (read.in_flight, read.void, read.outdated, read.promised) = (false, false, false, 0);
        Some((outdated, void))
    }

    pub(super) fn back_off(&mut self, now_ms: u64) {
        let seed =
            self.cursor.0 ^ u64::from(self.alias) ^ crate::placement::hash_of(&self.log.name);
        self.motion().read.fail(now_ms, seed);
    }

    /// Lets a failed read be tried again when its time has come.
    pub(super) fn retry(&mut self, now_ms: u64) {
        let behind = self.is_behind();
        if let Some(motion) = &mut self.motion
            && motion.read.retry_at_ms != 0
            && motion.read.retry_at_ms <= now_ms
        {
            motion.read.retry_at_ms = 0;
            if !behind {
                motion.read.failures = 0;
            }
        }
        self.rest();
    }

    /// I10: goes back to the cursor; what is unsettled is read and sent again.
    pub(super) fn rewind(&mut self) {
        self.note(self.position);
        self.position = self.cursor;
        if let Some(motion) = &mut self.motion {
            motion.read.void = motion.read.in_flight;
        }
    }

    /// The next time it wants a tick.
    pub(super) fn deadline_ms(&self, ack_timeout_ms: u64) -> Option<u64> {
        let motion = self.motion.as_ref()?;
        let retry = (motion.read.retry_at_ms != 0).then_some(motion.read.retry_at_ms);
        let owes = motion.window.owes(self.position);
        let ack = owes.then(|| motion.window.waiting_since_ms.saturating_add(ack_timeout_ms));
        match (retry, ack) {
            (Some(retry), Some(ack)) => Some(retry.min(ack)),
            (one, other) => one.or(other),
        }
    }

    /// Whether nothing at all lies between the position and `offset`, as the log itself says.
    pub(super) const fn continues_at(&self, predecessor: Offset) -> bool {
        predecessor.0 <= self.position.0
    }
}
