//! How times are spread.

use std::fmt;

use serde::Serialize;

/// Percentiles of times, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Half were at most this.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Spread {
    /// Of these times, nanoseconds.
    #[must_use]
    pub fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |permille: usize| {
            let last = times.len().saturating_sub(1);
            let rank = (times.len() * permille).div_ceil(1000).saturating_sub(1).min(last);
            times.get(rank).map_or(0.0, |time| *time as f64 / 1e6)
        };
        let (p50_ms, p99_ms, p999_ms, max_ms) = (at(500), at(990), at(999), at(1000));
        Self { count: times.len(), p50_ms, p99_ms, p999_ms, max_ms }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50_ms, p99_ms, p999_ms, max_ms } = self;
        write!(
            f,
            "p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, p99.9 {p999_ms:.1} ms, longest {max_ms:.1} ms \
             of {count}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let spread = Spread::of((1..=1000).rev().map(|ms| ms * 1_000_000).collect());
        let of = (spread.p50_ms, spread.p99_ms, spread.p999_ms, spread.max_ms, spread.count);
        assert_eq!(of, (500.0, 990.0, 999.0, 1000.0, 1000));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        assert_eq!(Spread::of(vec![7_000_000]).p50_ms, 7.0);
    }
}
