//! Exponential back-off with full jitter. Pure: the caller gives the random number and sleeps.

use std::time::Duration;

/// The bounds of a back-off. The cap is applied before the jitter, so that clients that all wait
/// the longest still spread over the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first delay.
    pub base: Duration,
    /// The bound of every delay.
    pub cap: Duration,
}

impl Backoff {
    /// What terminals and push links reconnect with: 0.5 s, doubling up to 30 s.
    pub const RECONNECT: Self =
        Self { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

    /// What requests are repeated with: 0.1 s, doubling up to 5 s.
    pub const REQUEST: Self =
        Self { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

    /// The bound of the delay after `failures` earlier ones: `min(cap, base * 2^failures)`.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The delay after `failures` earlier ones, where `unit` is uniform in `[0, 1)`.
    #[must_use]
    pub fn delay(&self, failures: u32, unit: f64) -> Duration {
        self.ceiling(failures).mul_f64(unit.clamp(0.0, 1.0))
    }

    /// The delay with a random number of its own (not a secret one).
    #[must_use]
    pub fn random_delay(&self, failures: u32) -> Duration {
        self.delay(failures, fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_lies_between_zero_and_the_capped_exponential(
            base_ms in 1_u64..10_000, cap_ms in 1_u64..100_000, failures in 0_u32..200, unit in 0.0..1.0_f64,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base_ms),
                cap: Duration::from_millis(cap_ms),
            };
            let exponential = f64::from(2.0_f32).powi(failures.min(60) as i32) * base_ms as f64;
            let bound_ms = exponential.min(cap_ms as f64);
            let delay = backoff.delay(failures, unit);
            prop_assert!(delay.as_secs_f64() * 1e3 <= bound_ms + 1e-3);
        }

        #[test]
        fn the_jitter_is_full(failures in 0_u32..40) {
            let backoff = Backoff::RECONNECT;
            prop_assert_eq!(backoff.delay(failures, 0.0), Duration::ZERO);
            let half = backoff.delay(failures, 0.5);
            prop_assert_eq!(half, backoff.ceiling(failures).mul_f64(0.5));
        }
    }

    #[test]
    fn the_first_delays_double_until_the_cap() {
        let ceilings: Vec<u64> = (0..9)
            .map(|n| u64::try_from(Backoff::RECONNECT.ceiling(n).as_millis()).unwrap())
            .collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    }
}
