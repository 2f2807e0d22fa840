//! When to connect again: longer with every failure, never the same for two of us.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(40);
const LONGEST: Duration = Duration::from_millis(800);

/// Jittered exponential back-off.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Whether it is too early to try again.
    pub(super) fn waiting(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Notes a failure; the time until the next try.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let wait = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.until = Some(now + wait);
        wait
    }

    /// It works, or there is somewhere else to try: at once.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_bound_and_is_jittered() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert!(!backoff.waiting(now));
        let first = backoff.failed(now);
        assert!(first >= FIRST / 2 && first <= FIRST);
        assert!(backoff.waiting(now) && !backoff.waiting(now + FIRST));
        let waits: Vec<_> = (0..50).map(|_| backoff.failed(now)).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[20..].iter().any(|wait| *wait != waits[20]), "jitter");
        backoff.reset();
        assert!(!backoff.waiting(now));
    }
}
