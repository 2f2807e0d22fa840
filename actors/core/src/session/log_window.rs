//! The entries of one log that are not settled yet: delivered and unacknowledged ones, and behind
//! them those that were passed silently but cannot move the cursor yet (I9).

use std::collections::VecDeque;

use clarion_protocol::Offset;
use clarion_protocol::milestone::Milestone;

use crate::entry::Settled;

/// Where an entry of the window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemState {
    /// Delivered, not acknowledged.
    Sent,
    /// Done with, but something before it is not. `None`: nobody counts it (a control entry).
    Passed(Option<Milestone>),
}

/// An entry of the window: 24 bytes, whatever its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) offset: Offset,
    pub(super) expires_at_ms: u64,
    pub(super) bytes: u32,
    pub(super) attempts: u8,
    pub(super) state: ItemState,
}

/// The window of one log. Its first item is always [`ItemState::Sent`] once [`Window::pop_passed`]
/// has run, and offsets increase. Bound: `window_entries` items.
#[derive(Debug, Default)]
pub(super) struct Window {
    items: VecDeque<Item>,
    /// The highest offset that this session was sent in this log, as long as something is
    /// unsettled; an acknowledgement above it is a protocol error (I5).
    pub(super) delivered_to: Offset,
    /// Since when the terminal has owed an acknowledgement: the first delivery, or its last
    /// progress. A terminal that works through a window slowly but steadily is not timed out.
    pub(super) waiting_since_ms: u64,
    /// Ack time-outs since the last progress (I10).
    pub(super) timeouts: u8,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    /// Items at or before `position`: what is on its way in the current pass. After a time-out the
    /// position is back at the cursor, and the items behind it wait for being sent again.
    pub(super) fn on_way(&self, position: Offset) -> usize {
        match self.items.back() {
            Some(last) if last.offset > position => {
                self.items.partition_point(|item| item.offset <= position)
            }
            Some(_) => self.items.len(),
            None => 0,
        }
    }

    /// Whether an acknowledgement is owed.
    pub(super) fn owes(&self, position: Offset) -> bool {
        self.front().is_some_and(|front| front.offset <= position)
    }

    /// The items behind `position`, if the log is being sent again.
    pub(super) fn again(&self, position: Offset) -> impl Iterator<Item = &Item> {
        self.items.iter().skip(self.on_way(position))
    }

    pub(super) fn find(&mut self, offset: Offset) -> Option<&mut Item> {
        let index = self.items.binary_search_by_key(&offset, |item| item.offset).ok()?;
        self.items.get_mut(index)
    }

    /// Adds an item in the order of offsets: at the end, but for what a former pass did not see.
    pub(super) fn insert(&mut self, item: Item) {
        if self.items.back().is_none_or(|last| last.offset < item.offset) {
            self.items.push_back(item);
        } else {
            let index = self.items.partition_point(|other| other.offset < item.offset);
            self.items.insert(index, item);
        }
    }

    pub(super) fn reserve(&mut self, items: usize) {
        self.items.reserve_exact(items);
    }

    /// Items strictly between the two offsets that still wait for their acknowledgement are no
    /// longer in the log: the pass goes over them. Returns the bytes they held.
    pub(super) fn pass_missing(&mut self, after: Offset, before: Offset) -> u32 {
        let from = self.on_way(after);
        let mut bytes = 0;
        for item in self.items.iter_mut().skip(from).take_while(|item| item.offset < before) {
            bytes += item.pass(Some(Milestone::Expired));
        }
        bytes
    }

    /// Forgets items up to `to`, which the log evicted. Returns their bytes.
    pub(super) fn forget(&mut self, to: Offset) -> u32 {
        let mut bytes = 0;
        while let Some(item) = self.items.pop_front_if(|item| item.offset <= to) {
            if item.state == ItemState::Sent {
                bytes += item.bytes;
            }
        }
        bytes
    }

    /// Removes items up to `to`. Returns how many were acknowledged by that, and their bytes.
    pub(super) fn acknowledge(&mut self, to: Offset, settled: &mut Vec<Settled>) -> (u16, u32) {
        let (mut count, mut bytes) = (0u16, 0);
        while let Some(item) = self.items.pop_front_if(|item| item.offset <= to) {
            match item.state {
                ItemState::Sent => {
                    count = count.saturating_add(1);
                    bytes += item.bytes;
                }
                ItemState::Passed(how) => settle(item.offset, how, settled),
            }
        }
        (count, bytes)
    }

    /// Gives the first item up. Returns its bytes.
    pub(super) fn pass_front(&mut self, how: Milestone) -> u32 {
        self.items.front_mut().map_or(0, |item| item.pass(Some(how)))
    }

    /// Removes what is done with at the front. Returns the offset of the last item removed.
    pub(super) fn pop_passed(&mut self, settled: &mut Vec<Settled>) -> Option<Offset> {
        let mut last = None;
        while let Some(item) = self.items.pop_front_if(|item| item.state != ItemState::Sent) {
            if let ItemState::Passed(how) = item.state {
                settle(item.offset, how, settled);
            }
            last = Some(item.offset);
        }
        last
    }

    /// All bytes on the way.
    pub(super) fn bytes(&self) -> u32 {
        let sent = self.items.iter().filter(|item| item.state == ItemState::Sent);
        sent.map(|item| item.bytes).sum()
    }

    /// Gives memory back once nothing is unsettled.
    pub(super) fn shrink(&mut self) {
        if self.items.is_empty() && self.items.capacity() > 0 {
            self.items = VecDeque::new();
        }
    }
}

impl Item {
    /// Marks it as done with. Returns the bytes that are no longer on the way.
    pub(super) fn pass(&mut self, how: Option<Milestone>) -> u32 {
        match self.state {
            ItemState::Sent => {
                self.state = ItemState::Passed(how);
                self.bytes
            }
            ItemState::Passed(_) => 0,
        }
    }
}

/// Notes how an entry was settled, unless nobody counts it.
pub(super) fn settle(offset: Offset, how: Option<Milestone>, settled: &mut Vec<Settled>) {
    if let Some(how) = how {
        settled.push(Settled { offset, how });
    }
}
