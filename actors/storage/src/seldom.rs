//! What is said of each of many may be said of one: while a store is away everything that needs it
//! fails, and a log that says so each time hides all else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The pause between two that are said, milliseconds.
const PAUSE_MS: u64 = 1000;

/// Lets something be said once a second.
#[derive(Debug, Default)]
pub struct Seldom {
    began: OnceLock<Instant>,
    next_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Seldom {
    /// One that was never said.
    #[must_use]
    pub const fn new() -> Self {
        Self { began: OnceLock::new(), next_ms: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Whether it is to be said now: then how many times it was not since the last time.
    pub fn turn(&self) -> Option<u64> {
        let began = self.began.get_or_init(Instant::now);
        self.turn_at(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn turn_at(&self, now_ms: u64) -> Option<u64> {
        let (next_ms, order) = (self.next_ms.load(Ordering::Relaxed), Ordering::Relaxed);
        let turn = now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, now_ms + PAUSE_MS, order, order).is_ok();
        if turn {
            return Some(self.unsaid.swap(0, order));
        }
        self.unsaid.fetch_add(1, order);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_second_with_how_often_it_was_not() {
        let seldom = Seldom::new();
        let said: Vec<_> = [0, 1, 999, 1000, 1001, 9000].map(|ms| seldom.turn_at(ms)).into();
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
        assert_eq!(Seldom::new().turn(), Some(0));
    }
}
