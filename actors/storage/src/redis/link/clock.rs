//! A shard's time without asking it: a lower bound on the monotonic clock, corrected by every sample.

use std::time::Duration;

use tokio::time::Instant;

/// TIME of a server, and when it was asked and answered here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) server: Duration,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// The newest bound: at `at` the server's clock stood at `server` or later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    server: Duration,
    at: Instant,
}

impl Clock {
    pub(super) fn new(sample: Sample) -> Self {
        Self { server: sample.server, at: sample.answered }
    }

    /// A lower bound of the server's time now.
    pub(super) fn now(&self, now: Instant) -> Duration {
        self.server + now.saturating_duration_since(self.at)
    }

    /// The bound so far is kept while it can be true, for it may be the tighter one. It cannot when
    /// it is above the highest the server's clock can have been: that clock was set back.
    pub(super) fn correct(&mut self, sample: Sample) {
        let before = self.now(sample.answered);
        let took = sample.answered.saturating_duration_since(sample.asked);
        let possible = sample.server..=sample.server + took;
        if !possible.contains(&before) {
            *self = Self::new(sample);
        } else {
            *self = Self { server: before, at: sample.answered };
        }
    }
}

impl Sample {
    /// How far the server's clock is ahead of ours, milliseconds, at the least. `ours` is our wall
    /// clock when the answer came.
    pub(super) fn skew_ms(&self, ours: Duration) -> i64 {
        let took = self.answered.saturating_duration_since(self.asked);
        let (low, high) = (self.server.as_millis() as i64, (self.server + took).as_millis() as i64);
        let ours = ours.as_millis() as i64;
        if ours < low {
            low - ours
        } else if ours > high {
            high - ours
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample(zero: Instant, server: u64, asked: u64, answered: u64) -> Sample {
        Sample { server: ms(server), asked: zero + ms(asked), answered: zero + ms(answered) }
    }

    #[test]
    fn it_is_a_lower_bound_and_the_tighter_one_is_kept() {
        let zero = Instant::now();
        // The server's clock is 1000 ahead; it is read when the question arrives.
        let mut clock = Clock::new(sample(zero, 1001, 0, 2));
        assert_eq!(clock.now(zero + ms(2)), ms(1001));
        clock.correct(sample(zero, 1150, 100, 200));
        assert_eq!(clock.now(zero + ms(200)), ms(1199), "the slow answer does not loosen it");
        clock.correct(sample(zero, 1300, 300, 300));
        assert_eq!(clock.now(zero + ms(300)), ms(1300), "a better one tightens it");
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed() {
        let zero = Instant::now();
        let mut clock = Clock::new(sample(zero, 10_000, 0, 1));
        clock.correct(sample(zero, 5000, 100, 101));
        assert_eq!(clock.now(zero + ms(101)), ms(5000));
    }

    #[test]
    fn skew_counts_only_what_the_round_trip_cannot_explain() {
        let sample = sample(Instant::now(), 5000, 0, 100);
        assert_eq!(sample.skew_ms(ms(5050)), 0);
        assert_eq!(sample.skew_ms(ms(4000)), 1000);
        assert_eq!(sample.skew_ms(ms(9000)), -3900);
    }
}
