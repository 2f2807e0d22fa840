//! What a session remembers of one log, and where it starts to read it (I3, I5).

use std::sync::Arc;

use clarion_protocol::terminal::{GapReason, LogAlias};
use clarion_protocol::{Epoch, Offset};

use crate::entry::Settled;
use crate::log::LogKey;

use super::budget::Budget;
use super::log_window::Window;
use super::reads::ReadState;
use super::types::{Effect, SessionLimits, StartLog};

/// From this many attempts on, the first entry behind the cursor is sent alone, and so are the
/// next `window_entries` ones: what makes a terminal fail is then known by its offset, and its
/// neighbours are not blamed (I10).
pub(super) const ISOLATE_FROM_ATTEMPTS: u8 = 3;

/// What the verbs of a log act on besides the log.
pub(super) struct Context<'a> {
    pub(super) now_ms: u64,
    pub(super) limits: &'a SessionLimits,
    pub(super) budget: &'a mut Budget,
    pub(super) effects: &'a mut Vec<Effect>,
}

/// One log of a session. 56 bytes when idle; everything else is in the box, which is there only
/// while something is unsettled, being read or failing.
#[derive(Debug)]
pub(super) struct LogState {
    pub(super) log: Arc<LogKey>,
    pub(super) epoch: Epoch,
    /// Everything up to here is settled. Just before the first delivered and unacknowledged entry
    /// (I9).
    pub(super) cursor: Offset,
    /// Everything up to here was delivered or passed in this pass.
    pub(super) position: Offset,
    /// The highest offset that the log is known to have. The log is live when `position` reached it.
    pub(super) target: Offset,
    pub(super) motion: Option<Box<Motion>>,
    pub(super) alias: LogAlias,
    /// How many more entries are sent one at a time (I10).
    pub(super) singles: u16,
    /// Attempts of the first entry behind the cursor, as last saved (I10).
    pub(super) attempts: u8,
    /// The owner confirmed the node's interest: the log may be read (I4).
    pub(super) interested: bool,
    /// Something was off (a hint of another lineage): a read must tell.
    pub(super) unsure: bool,
}

/// What a log needs only while it is not idle.
#[derive(Debug, Default)]
pub(super) struct Motion {
    pub(super) window: Window,
    pub(super) read: ReadState,
}

impl LogState {
    /// A log at its start position (I5): the higher of the terminal's own and the stored cursor.
    /// A cursor of another lineage, or above the durable head, speaks of history that is lost:
    /// the terminal is told, and reads from the oldest entry.
    pub(super) fn start(start: StartLog, alias: LogAlias, effects: &mut Vec<Effect>) -> Self {
        let mut log = Self {
            log: start.log,
            epoch: start.epoch,
            cursor: start.cursor,
            position: start.cursor,
            target: start.head,
            motion: None,
            alias,
            singles: 0,
            attempts: start.attempts,
            interested: false,
            unsure: false,
        };
        let judge = |epoch: Epoch, offset: Offset| {
            if epoch != start.epoch {
                Some(GapReason::Epoch)
            } else if offset > start.head {
                Some(GapReason::Ahead)
            } else {
                None
            }
        };
        let stored = judge(start.cursor_epoch, start.cursor);
        let own = start.own.map(|(epoch, offset)| (offset, judge(epoch, offset)));
        let gap = match (stored, own) {
            // What the terminal holds is of a history that is gone.
            (_, Some((from, Some(reason)))) => Some((from, reason)),
            // The stored cursor was never moved out of the former lineage, but the terminal has
            // been told of the new one: only frames of it carry its epoch.
            (Some(GapReason::Epoch), Some((offset, None))) => {
                log.begin_at(offset, effects);
                None
            }
            (Some(reason), _) => Some((start.cursor, reason)),
            (None, Some((offset, None))) if offset > start.cursor => {
                log.begin_at(offset, effects);
                None
            }
            (None, Some((_, None)) | None) => None,
        };
        if let Some((from, reason)) = gap {
            log.reset(from, reason, effects);
        }
        log
    }

    fn begin_at(&mut self, offset: Offset, effects: &mut Vec<Effect>) {
        self.cursor = offset;
        self.position = offset;
        self.save(Vec::new(), effects);
    }

    /// I5: goes back to the oldest entry of the present lineage, and says so to terminal and store.
    pub(super) fn reset(&mut self, from: Offset, reason: GapReason, effects: &mut Vec<Effect>) {
        let (log, epoch) = (self.alias, self.epoch);
        effects.push(Effect::Gap { log, epoch, from, to: Offset::ZERO, reason });
        self.begin_at(Offset::ZERO, effects);
    }

    /// Emits the cursor and the attempts of the first entry behind it.
    pub(super) fn save(&mut self, settled: Vec<Settled>, effects: &mut Vec<Effect>) {
        self.attempts = self.front_attempts_now();
        effects.push(Effect::Save {
            log: self.alias,
            epoch: self.epoch,
            cursor: self.cursor,
            attempts: self.attempts,
            settled,
        });
    }

    fn front_attempts_now(&self) -> u8 {
        let front = self.motion.as_ref().and_then(|motion| motion.window.front());
        front.map_or(0, |front| front.attempts)
    }

    /// Attempts of the first entry behind the cursor, delivered in this session or not yet.
    pub(super) fn front_attempts(&self) -> u8 {
        match &self.motion {
            Some(motion) if !motion.window.is_empty() => self.front_attempts_now(),
            Some(_) | None => self.attempts,
        }
    }

    /// Whether the first entry behind the cursor is suspected of making the terminal fail (I10).
    pub(super) fn is_suspect(&self, limits: &SessionLimits) -> bool {
        let from = ISOLATE_FROM_ATTEMPTS.min(limits.attempts_max.saturating_sub(1));
        self.front_attempts() >= from
    }

    /// How many entries may be on the way (I9, I10).
    pub(super) fn window_limit(&self, limits: &SessionLimits) -> usize {
        if self.singles > 0 || self.is_suspect(limits) {
            1
        } else {
            limits.window_entries.max(1) as usize
        }
    }

    pub(super) fn on_way(&self) -> usize {
        self.motion.as_ref().map_or(0, |motion| motion.window.on_way(self.position))
    }

    /// Whether something waits for being sent again.
    pub(super) fn is_again(&self) -> bool {
        let next = |motion: &Motion| motion.window.again(self.position).next().is_some();
        self.motion.as_deref().is_some_and(next)
    }

    pub(super) fn motion(&mut self) -> &mut Motion {
        self.motion.get_or_insert_default()
    }

    /// Whether hints that continue at `position` may be delivered directly (I4, I8).
    pub(super) const fn is_live(&self) -> bool {
        self.interested && !self.unsure && self.position.0 >= self.target.0
    }

    /// The log is known to go up to `offset`.
    pub(super) fn note(&mut self, offset: Offset) {
        if offset > self.target {
            self.target = offset;
            self.outdate_read();
        }
    }

    /// What a read in flight will find may be older than what is known now.
    pub(super) fn outdate_read(&mut self) {
        if let Some(motion) = &mut self.motion {
            motion.read.outdated = motion.read.in_flight;
        }
    }

    /// Moves the cursor over everything that is settled, and saves it if it moved.
    pub(super) fn advance(
        &mut self,
        cursor_before: Offset,
        mut settled: Vec<Settled>,
        effects: &mut Vec<Effect>,
    ) {
        // Nothing that was sent in this pass is unacknowledged.
        let mut clear = true;
        if let Some(motion) = &mut self.motion {
            if let Some(passed) = motion.window.pop_passed(&mut settled) {
                self.cursor = self.cursor.max(passed);
            }
            clear = !motion.window.owes(self.position);
        }
        if clear {
            self.cursor = self.cursor.max(self.position);
        }
        if self.position < self.cursor {
            // What was to be sent again is settled now.
            self.position = self.cursor;
            self.outdate_read();
        }
        if self.cursor != cursor_before || !settled.is_empty() {
            self.save(settled, effects);
        }
        self.rest();
    }

    /// Gives back the memory of what is over.
    pub(super) fn rest(&mut self) {
        if let Some(motion) = &mut self.motion {
            motion.window.shrink();
            if motion.window.is_empty() && motion.read.is_idle() {
                self.motion = None;
            }
        }
    }
}
