//! How many frames a second a terminal sends by itself. A node reads a link no faster than it
//! allows frames, so what is sent above that only waits.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that fills at a rate and holds a second's worth.
#[derive(Debug)]
pub(super) struct Limiter {
    per_s: f64,
    filled: f64,
    at: Instant,
}

impl Limiter {
    pub(super) fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s.max(1));
        Self { per_s, filled: per_s, at: now }
    }

    /// When a frame may be sent; `None` if now.
    pub(super) fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.filled = passed.mul_add(self.per_s, self.filled).min(self.per_s);
        self.at = now;
        let missing = 1.0 - self.filled;
        // A timer has a resolution of a millisecond: rounding up spares a wake-up in vain.
        (missing > 0.0)
            .then(|| now + Duration::from_secs_f64(missing / self.per_s) + Duration::from_millis(1))
    }

    /// Frames were sent.
    pub(super) fn spend(&mut self, frames: usize) {
        self.filled -= f64::from(u16::try_from(frames).unwrap_or(u16::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_frames_go_at_the_rate() {
        let start = Instant::now();
        let mut limiter = Limiter::new(100, start);
        let mut now = start;
        let mut sent = 0;
        while now < start + Duration::from_secs(10) {
            match limiter.wait_until(now) {
                None => {
                    limiter.spend(1);
                    sent += 1;
                }
                Some(at) => now = at,
            }
        }
        assert!((1000..=1101).contains(&sent), "{sent}");
    }
}
