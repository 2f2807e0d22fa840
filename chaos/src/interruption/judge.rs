//! Which interruptions were longer than they may be.

use serde::Serialize;

use super::{BUSY_PERCENT, Bound, Expects, Kind, Measured, Quiet, Wait, Window, ms};

/// No fault is asked to be better than this, milliseconds, however quick the machine is without one;
/// the README says why.
pub const NOISE_MS: f64 = 500.0;

/// How long pushes and deliveries may stand still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Limit {
    /// Pushes, milliseconds; without a number as long as the fault lasts.
    pub push_ms: Option<f64>,
    /// Deliveries to terminals that are not at the component, milliseconds.
    pub delivery_ms: Option<f64>,
    /// Deliveries to those that are, milliseconds.
    pub own_ms: Option<f64>,
}

impl Limit {
    /// What a fault expects in a run of which this is known. What is not understood sets no limit: it
    /// stands in no history of a run.
    #[must_use]
    pub fn of(expects: &str, quiet: &Quiet, heartbeat_ms: u64, slack_ms: u64) -> Self {
        let expects = expects.parse().unwrap_or(Expects::INTERRUPTS);
        let limit = |bound, usual: f64| {
            let ms = match bound {
                // What is slow by itself, as all is without hints, has the noise on top.
                Bound::Baseline if usual > NOISE_MS => usual + NOISE_MS,
                Bound::Baseline => NOISE_MS,
                Bound::Ms(ms) => ms as f64,
                Bound::Heartbeat(ms) => (heartbeat_ms + ms) as f64,
                Bound::None => return None,
            };
            Some(ms + slack_ms as f64)
        };
        let (push, delivery) = (quiet.push.p999_ms, quiet.delivery.p999_ms);
        Self {
            push_ms: limit(expects.pushes, push),
            delivery_ms: limit(expects.deliveries, delivery),
            own_ms: limit(expects.own, delivery),
        }
    }

    const fn of_kind(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Push => self.push_ms,
            Kind::Delivery => self.delivery_ms,
            Kind::Own => self.own_ms,
        }
    }
}

/// An interruption above its limit.
#[derive(Debug, Clone)]
pub struct TooLong {
    /// The faults that it may be of, as places among the windows, and what it is for each.
    pub of: Vec<(usize, Kind)>,
    /// It.
    pub wait: Wait,
    /// What it may be at most: what all of them may together, milliseconds.
    pub limit_ms: f64,
    /// How much of the machine's time others had meanwhile, percent.
    pub others_percent: u64,
    /// Whether that makes it worthless to compare it with another time.
    pub is_excused: bool,
}

/// The limit of each fault, and what was longer.
#[derive(Debug, Default)]
pub struct Judged {
    /// Of each window.
    pub limits: Vec<Limit>,
    /// The longest of those that the same faults concern.
    pub too_long: Vec<TooLong>,
}

/// Judges what was measured. A wait that several faults concern may be as long as all of them may be
/// together: nobody knows which it was.
#[must_use]
pub fn judge(measured: &Measured, heartbeat_ms: u64, slack_ms: u64) -> Judged {
    let Measured { windows, quiet, longest, machine } = measured;
    let limit = |window: &Window| Limit::of(&window.expects, quiet, heartbeat_ms, slack_ms);
    let limits: Vec<Limit> = windows.iter().map(limit).collect();
    let too_long = longest.iter().filter_map(|(of, wait)| {
        let parts = of.iter().map(|(window, kind)| limits[*window].of_kind(*kind));
        let limit_ms: f64 = parts.sum::<Option<f64>>()?;
        if (wait.net as f64) <= limit_ms * 1e6 {
            return None;
        }
        let others_percent = machine.others_percent(wait.from, wait.to);
        let compared =
            of.iter().all(|(window, kind)| is_compared(&windows[*window].expects, *kind));
        let is_excused = compared && others_percent > BUSY_PERCENT;
        Some(TooLong { of: of.clone(), wait: *wait, limit_ms, others_percent, is_excused })
    });
    let too_long = too_long.collect();
    Judged { limits, too_long }
}

/// Whether the bound is what nothing cost at another time of the run.
fn is_compared(expects: &str, kind: Kind) -> bool {
    let Ok(Expects { pushes, deliveries, own }) = expects.parse() else { return false };
    let bound = match kind {
        Kind::Push => pushes,
        Kind::Delivery => deliveries,
        Kind::Own => own,
    };
    bound == Bound::Baseline
}

impl TooLong {
    /// It, in words.
    #[must_use]
    pub fn told(&self, measured: &Measured) -> String {
        let faults = self.of.iter().map(|(window, kind)| {
            let window = &measured.windows[*window];
            let what = match kind {
                Kind::Push => "a push",
                Kind::Delivery => "a delivery",
                Kind::Own => "a delivery to a terminal of its own",
            };
            format!("fault {}, {} {}: {what}", window.n, window.component, window.kind)
        });
        let faults: Vec<String> = faults.collect();
        let (net, limit) = (ms(self.wait.net), self.limit_ms);
        let stood = ms(self.wait.to - self.wait.from - self.wait.net);
        let others = self.others_percent;
        format!(
            "{} stood for {net} of at most {limit:.0} ms (besides {stood} ms in which the machine let \
             nobody run; others had {others} % of its time)",
            faults.join(", and ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interruption::Spread;

    #[test]
    fn limits_are_what_is_expected() {
        let slow = Spread { p999_ms: 2_500.0, ..Spread::default() };
        let quiet = Quiet { push: slow, delivery: Spread::default() };
        let with = |expects: Expects, slack_ms| {
            let Limit { push_ms, delivery_ms, own_ms } =
                Limit::of(&expects.to_string(), &quiet, 2_000, slack_ms);
            (push_ms, delivery_ms, own_ms)
        };
        let of = |expects| with(expects, 0);
        let hung = Expects { own: Bound::Heartbeat(10_000), ..Expects::all(Bound::Ms(6_000)) };
        assert_eq!(of(hung), (Some(6e3), Some(6e3), Some(12e3)));
        assert_eq!(of(Expects::NOTHING), (Some(3e3), Some(500.0), Some(500.0)));
        assert_eq!(of(Expects::INTERRUPTS), (None, None, None));
        assert_eq!(with(hung, 10), (Some(6_010.0), Some(6_010.0), Some(12_010.0)));
        assert_eq!(with(Expects::INTERRUPTS, 10), (None, None, None));
    }
}
