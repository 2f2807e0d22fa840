//! One log of the ledger.

use std::collections::VecDeque;

use clarion_protocol::terminal::{Cursor, LogAlias};
use clarion_protocol::{Epoch, LogName, MessageId, Offset};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The application has it.
    Held,
    /// The application let it go unhandled.
    Released,
    /// The same message is held from another log; it shares its fate.
    Shadow,
    Handled,
    Skipped,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) offset: Offset,
    pub(super) id: MessageId,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) key: u32,
    pub(super) name: LogName,
    pub(super) alias: Option<LogAlias>,
    pub(super) epoch: Epoch,
    pub(super) cursor: Offset,
    pub(super) saving: Option<Offset>,
    pub(super) saved: Offset,
    pub(super) wired: Offset,
    pub(super) received: Offset,
    /// In the order of the log; at most the node's window of them.
    pub(super) slots: VecDeque<Slot>,
    /// Skipped entries behind `wired`, each with the position before it.
    pub(super) skips: VecDeque<(Offset, Offset)>,
}

impl Log {
    pub(super) fn new(key: u32, name: LogName, Cursor(epoch, at): Cursor) -> Self {
        Self {
            key,
            name,
            alias: None,
            epoch,
            cursor: at,
            saving: None,
            saved: at,
            wired: at,
            received: at,
            slots: VecDeque::new(),
            skips: VecDeque::new(),
        }
    }

    /// Passes what was settled without a hole.
    pub(super) fn advance(&mut self) {
        while let Some(slot) = self.slots.front() {
            match slot.state {
                State::Handled => {}
                State::Skipped => self.skips.push_back((self.cursor, slot.offset)),
                State::Held | State::Released | State::Shadow => return,
            }
            self.cursor = self.cursor.max(slot.offset);
            self.slots.pop_front();
        }
    }

    pub(super) fn find(&self, offset: Offset) -> Result<usize, usize> {
        match self.slots.front() {
            None => Err(0),
            Some(slot) if slot.offset == offset => Ok(0),
            _ => self.slots.binary_search_by_key(&offset, |slot| slot.offset),
        }
    }

    /// Starts over at `at`; says how many held entries it forgot.
    pub(super) fn reset(&mut self, epoch: Epoch, at: Offset, keep_above: bool) -> usize {
        let before = self.held();
        self.slots.retain(|slot| keep_above && slot.offset > at);
        self.skips.clear();
        self.epoch = epoch;
        self.cursor = at;
        self.saving = None;
        self.saved = at;
        self.wired = at;
        self.received = at;
        let forgotten = before - self.held();
        self.advance();
        forgotten
    }

    pub(super) fn held(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Held).count()
    }
}

/// The node went from `received` to `offset`: what lies between expired, was taken back, or was
/// filtered, and will not come again. It must not hold up the cursor. Says how many were held.
pub(super) fn forget_passed(log: &mut Log, offset: Offset) -> usize {
    let received = log.received;
    if log.slots.back().is_none_or(|last| last.offset <= received) {
        return 0;
    }
    let before = log.held();
    log.slots.retain(|slot| {
        slot.offset <= received
            || slot.offset >= offset
            || matches!(slot.state, State::Handled | State::Skipped)
    });
    log.advance();
    before - log.held()
}
