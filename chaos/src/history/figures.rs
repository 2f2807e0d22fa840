//! What is known of a run while it goes on.

use super::{Ending, Event};

/// How much of what has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pushes that were made.
    pub pushed: u64,
    /// Answers that a push was accepted; one that is pushed twice has two.
    pub accepted: u64,
    /// Answers that one was refused.
    pub refused: u64,
    /// Pushes without an answer.
    pub unknown: u64,
    /// Messages that applications were given, doubles included.
    pub delivered: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Sessions that ended though nobody wanted it.
    pub broken_sessions: u64,
    /// Things that were broken on purpose.
    pub faults: u64,
}

impl Figures {
    pub(super) fn add(&mut self, event: &Event) {
        let counter = match event {
            Event::Invoke { .. } => &mut self.pushed,
            Event::Accepted { .. } => &mut self.accepted,
            Event::Refused { .. } => &mut self.refused,
            Event::Unknown { .. } => &mut self.unknown,
            Event::Delivered { .. } => &mut self.delivered,
            Event::Opened { .. } => &mut self.sessions,
            Event::Left { how: Ending::Broken, .. } => &mut self.broken_sessions,
            Event::Fault { .. } => &mut self.faults,
            _ => return,
        };
        *counter += 1;
    }
}
