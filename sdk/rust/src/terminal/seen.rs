//! The ids handled lately, bounded.

use std::collections::{HashSet, VecDeque};

use clarion_protocol::MessageId;

/// Forgets the oldest above its bound.
#[derive(Debug)]
pub(super) struct Seen {
    order: VecDeque<MessageId>,
    ids: HashSet<MessageId>,
    max: usize,
}

impl Seen {
    pub(super) fn new(max: usize, ids: impl IntoIterator<Item = MessageId>) -> Self {
        let mut seen = Self { order: VecDeque::new(), ids: HashSet::new(), max };
        ids.into_iter().for_each(|id| {
            seen.insert(id);
        });
        seen
    }

    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether it was new.
    pub(super) fn insert(&mut self, id: MessageId) -> bool {
        if self.max == 0 || !self.ids.insert(id) {
            return self.max == 0;
        }
        self.order.push_back(id);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    /// All of them and `more`, within the bound, the oldest first.
    pub(super) fn with(&self, more: &[MessageId]) -> Vec<MessageId> {
        let new = more.iter().filter(|id| !self.contains(**id));
        let all: Vec<MessageId> = self.order.iter().chain(new).copied().collect();
        all[all.len().saturating_sub(self.max)..].to_vec()
    }
}
