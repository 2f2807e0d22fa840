//! What is expected of a fault: the words that the history has, as times.

use serde::Serialize;

use super::measure::Quiet;

/// No fault is asked to be better than this, milliseconds, however quick the machine is without one:
/// a run takes place on machines that do other things, too.
const NOISE_MS: f64 = 1_000.0;

/// How long pushes and deliveries may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Pushes, milliseconds; without a number as long as the fault lasts.
    pub push_ms: Option<f64>,
    /// Deliveries to terminals that are not at the component, milliseconds.
    pub delivery_ms: Option<f64>,
    /// Deliveries to those that are, milliseconds.
    pub own_ms: Option<f64>,
}

impl Limit {
    /// Reads what a fault expects: `baseline`, `5000 ms`, `6000 ms, its own terminals a heartbeat +
    /// 10000 ms`; anything else sets no limit.
    #[must_use]
    pub fn parse(expects: &str, quiet: &Quiet, heartbeat_ms: u64) -> Self {
        if expects == "baseline" {
            let of = |p999: f64| Some(p999.max(NOISE_MS));
            let (push_ms, delivery_ms) = (of(quiet.push.p999_ms), of(quiet.delivery.p999_ms));
            return Self { push_ms, delivery_ms, own_ms: delivery_ms };
        }
        let (most, own) = match expects.split_once(", its own terminals a heartbeat + ") {
            Some((most, own)) => (ms(most), ms(own).map(|ms| ms + heartbeat_ms as f64)),
            None => (ms(expects), ms(expects)),
        };
        Self { push_ms: most, delivery_ms: most, own_ms: own }
    }
}

/// `5000 ms`.
fn ms(text: &str) -> Option<f64> {
    text.strip_suffix(" ms")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Expects;
    use crate::report::Spread;

    #[test]
    fn what_faults_expect_is_understood() {
        let slow = Spread { p999_ms: 2_500.0, ..Spread::default() };
        let quiet = Quiet { push: slow, delivery: Spread::default() };
        let of = |expects: Expects| {
            let Limit { push_ms, delivery_ms, own_ms } =
                Limit::parse(&expects.to_string(), &quiet, 2_000);
            (push_ms, delivery_ms, own_ms)
        };
        let within = |own_by_heartbeat| Expects::Within { ms: 6_000, own_by_heartbeat };
        assert_eq!(of(within(false)), (Some(6e3), Some(6e3), Some(6e3)));
        assert_eq!(of(within(true)), (Some(6e3), Some(6e3), Some(12e3)));
        assert_eq!(of(Expects::Nothing), (Some(2.5e3), Some(1e3), Some(1e3)));
        assert_eq!(of(Expects::Interrupts), (None, None, None));
    }
}
