//! The store's time (I11).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix milliseconds that never step back while the process lives: the monotonic clock plus the
/// largest difference to the wall clock that was seen. When the wall clock steps back, time goes on
/// from where it was.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Wall clock minus monotonic clock, milliseconds.
    difference_ms: AtomicI64,
    /// Tests: time that is added, or, when frozen, all there is.
    shift_ms: AtomicU64,
    frozen: bool,
}

impl Clock {
    pub(crate) fn system() -> Self {
        Self {
            start: Instant::now(),
            difference_ms: AtomicI64::new(i64::MIN),
            shift_ms: AtomicU64::new(0),
            frozen: false,
        }
    }

    pub(crate) fn frozen_at(time_ms: u64) -> Self {
        Self { shift_ms: AtomicU64::new(time_ms), frozen: true, ..Self::system() }
    }

    pub(crate) fn advance_ms(&self, by_ms: u64) {
        self.shift_ms.fetch_add(by_ms, Ordering::AcqRel);
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let shift_ms = self.shift_ms.load(Ordering::Acquire);
        if self.frozen {
            return shift_ms;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mono_ms = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        let wall_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        self.at(wall_ms, mono_ms).saturating_add(shift_ms)
    }

    fn at(&self, wall_ms: i64, mono_ms: i64) -> u64 {
        let seen = wall_ms.saturating_sub(mono_ms);
        let before = self.difference_ms.fetch_max(seen, Ordering::AcqRel);
        u64::try_from(mono_ms.saturating_add(before.max(seen))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_time_goes_on_when_the_wall_clock_steps_back() {
        let clock = Clock::system();
        assert_eq!(clock.at(1_000_000, 0), 1_000_000);
        assert_eq!(clock.at(1_000_500, 500), 1_000_500);
        assert_eq!(clock.at(400_000, 600), 1_000_600);
        assert_eq!(clock.at(400_100, 700), 1_000_700);
        assert_eq!(clock.at(2_000_000, 800), 2_000_000);
    }
}
