//! Pacing of accepts: a token bucket that holds a tenth of a second's worth.

use std::time::Duration;

use tokio::time::Instant;

/// Lets at most so many through in a second.
pub(super) struct Pace {
    interval: Duration,
    burst: Duration,
    /// When the bucket would be full of what was used: the theoretical arrival time of the generic
    /// cell rate algorithm (ITU-T I.371).
    next: Instant,
}

impl Pace {
    /// `per_s` is at least 1.
    pub(super) fn new(per_s: u32) -> Self {
        let interval = Duration::from_secs(1) / per_s.max(1);
        Self { interval, burst: Duration::from_millis(100).max(interval), next: Instant::now() }
    }

    /// Waits for the next place; whether it had to.
    pub(super) async fn wait(&mut self) -> bool {
        let now = Instant::now();
        self.next = self.next.max(now) + self.interval;
        if let Some(ahead) = self.next.checked_sub(self.burst)
            && ahead > now
        {
            tokio::time::sleep_until(ahead).await;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_its_rate_and_the_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(1000);
        let mut waited = 0;
        for _ in 0..1100 {
            waited += usize::from(pace.wait().await);
        }
        assert_eq!(waited, 1000, "a tenth of a second's worth went at once");
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(999) && took < Duration::from_millis(1100),
            "{took:?}"
        );
    }
}
