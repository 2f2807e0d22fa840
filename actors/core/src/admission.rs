//! What a lane lets in: so many pushes in flight, so many a second. Refusing costs nothing and
//! changes nothing; the answer says when to come back.

use clarion_protocol::Code;

/// When to come back while the lane is full: an append takes a few milliseconds, so soon.
const LANE_FULL_RETRY_MS: u64 = 100;
/// One push of quota.
const TOKEN: i64 = 1000;

/// The bounds of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Pushes in flight at most.
    pub in_flight_max: u32,
    /// Pushes a second at most, with a burst of one second's worth; `None` for no quota.
    pub per_s_max: Option<u32>,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}, again in {retry_after_ms} ms")]
pub struct Refusal {
    /// [`Code::LaneFull`] or [`Code::RateLimited`].
    pub code: Code,
    /// When to try again.
    pub retry_after_ms: u64,
}

/// The gate of one lane.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    incarnation: u64,
    in_flight: u32,
    /// Quota in thousandths of a push; below zero while a large push is being paid off.
    tokens: i64,
    refilled_at_ms: u64,
}

impl Admission {
    /// An empty lane with a full bucket. `incarnation` differs from that of every gate that stood
    /// here before: what those let in does not count here.
    #[must_use]
    pub fn new(incarnation: u64, limits: AdmissionLimits, now_ms: u64) -> Self {
        let tokens = Self::burst(limits).unwrap_or(0);
        Self { limits, incarnation, in_flight: 0, tokens, refilled_at_ms: now_ms }
    }

    /// What [`Admission::release`] must be called with for what is admitted here.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Pushes in flight.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Other bounds from now on. What is in flight stays; a smaller bucket spills.
    pub fn set_limits(&mut self, limits: AdmissionLimits, now_ms: u64) {
        self.refill(now_ms);
        if limits.per_s_max != self.limits.per_s_max {
            let burst = Self::burst(limits).unwrap_or(0);
            self.tokens =
                if self.limits.per_s_max.is_none() { burst } else { self.tokens.min(burst) };
        }
        self.limits = limits;
    }

    /// Lets `n` pushes in, all or none. More than the lane or the bucket can ever hold are let in
    /// when it is empty or full respectively, and paid off: nothing is refused for ever.
    ///
    /// # Errors
    /// The refusal, with nothing changed.
    pub fn admit(&mut self, n: u32, now_ms: u64) -> Result<(), Refusal> {
        self.refill(now_ms);
        let in_flight = self.in_flight.saturating_add(n);
        if in_flight > self.limits.in_flight_max && self.in_flight > 0 {
            return Err(Refusal { code: Code::LaneFull, retry_after_ms: LANE_FULL_RETRY_MS });
        }
        if let Some(burst) = Self::burst(self.limits) {
            let cost = i64::from(n) * TOKEN;
            let missing = cost.min(burst) - self.tokens;
            if missing > 0 {
                return Err(self.rate_limited(missing));
            }
            self.tokens -= cost;
        }
        self.in_flight = in_flight;
        Ok(())
    }

    /// `n` pushes that the gate of `incarnation` let in are over. Those of a former one never
    /// counted here.
    pub const fn release(&mut self, incarnation: u64, n: u32) {
        if incarnation == self.incarnation {
            self.in_flight = self.in_flight.saturating_sub(n);
        }
    }

    fn rate_limited(&self, missing: i64) -> Refusal {
        // A quota of n a second refills n thousandths in a millisecond.
        let per_ms = i64::from(self.limits.per_s_max.unwrap_or(0)).max(1);
        let retry_after_ms = u64::try_from((missing + per_ms - 1) / per_ms).unwrap_or(0).max(1);
        Refusal { code: Code::RateLimited, retry_after_ms }
    }

    /// A second's worth, and at least one push.
    fn burst(limits: AdmissionLimits) -> Option<i64> {
        limits.per_s_max.map(|per_s| i64::from(per_s.max(1)) * TOKEN)
    }

    fn refill(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_at_ms);
        self.refilled_at_ms = self.refilled_at_ms.max(now_ms);
        if let Some(burst) = Self::burst(self.limits) {
            let elapsed_ms = i64::try_from(elapsed_ms).unwrap_or(i64::MAX);
            let gained = (burst / TOKEN).saturating_mul(elapsed_ms);
            self.tokens = self.tokens.saturating_add(gained).min(burst);
        }
    }
}

#[cfg(test)]
mod tests;
