//! The machine's monotonic clock, which all its processes share.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The time since the start of a run. Handed on to another process of the machine it means the same
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The reading of the clock at the start, nanoseconds.
    started_ns: u64,
}

impl Clock {
    /// A run starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started_ns: reading_ns() }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(self) -> u64 {
        reading_ns().saturating_sub(self.started_ns)
    }
}

/// `CLOCK_MONOTONIC`: nobody sets it, and it means the same in every process until the machine
/// starts again.
fn reading_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative.
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}
