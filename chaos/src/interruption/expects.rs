//! What is expected of a fault, as the history has it in words.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::Failure;

/// How long something may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// No longer than without a fault in the same run (999 of 1,000).
    Baseline,
    /// So many milliseconds.
    Ms(u64),
    /// A heartbeat, and so many milliseconds.
    Heartbeat(u64),
    /// As long as the fault lasts: there is no second of it.
    None,
}

/// How long a fault may interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expects {
    /// Pushes.
    pub pushes: Bound,
    /// Deliveries to terminals that were not at the component.
    pub deliveries: Bound,
    /// Deliveries to those that were.
    pub own: Bound,
}

impl Expects {
    /// Nobody notices.
    pub const NOTHING: Self = Self::all(Bound::Baseline);
    /// It interrupts as long as it lasts.
    pub const INTERRUPTS: Self = Self::all(Bound::None);

    /// The same for everybody.
    #[must_use]
    pub const fn all(bound: Bound) -> Self {
        Self { pushes: bound, deliveries: bound, own: bound }
    }

    /// Whether pushes are accepted while it lasts.
    #[must_use]
    pub fn lets_pushes_pass(&self) -> bool {
        self.pushes != Bound::None
    }
}

const BASELINE: &str = "baseline";
const HEARTBEAT: &str = "a heartbeat + ";
const NONE: &str = "as long as it lasts";

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baseline => f.write_str(BASELINE),
            Self::Ms(ms) => write!(f, "{ms} ms"),
            Self::Heartbeat(ms) => write!(f, "{HEARTBEAT}{ms} ms"),
            Self::None => f.write_str(NONE),
        }
    }
}

impl Display for Expects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushes, deliveries, own } = self;
        write!(f, "pushes {pushes}; deliveries {deliveries}; its own terminals {own}")
    }
}

impl FromStr for Bound {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let ms = |text: &str| text.strip_suffix(" ms")?.parse().ok();
        let found = match text {
            BASELINE => Some(Self::Baseline),
            NONE => Some(Self::None),
            _ => match text.strip_prefix(HEARTBEAT) {
                Some(more) => ms(more).map(Self::Heartbeat),
                None => ms(text).map(Self::Ms),
            },
        };
        found.ok_or_else(|| Failure::new(format!("{text:?} is no bound")))
    }
}

impl FromStr for Expects {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parts = || {
            let (pushes, rest) = text.strip_prefix("pushes ")?.split_once("; deliveries ")?;
            let (deliveries, own) = rest.split_once("; its own terminals ")?;
            Some([pushes, deliveries, own])
        };
        let parts =
            parts().ok_or_else(|| Failure::new(format!("{text:?} expects nothing known")))?;
        let [pushes, deliveries, own] = parts.map(str::parse);
        Ok(Self { pushes: pushes?, deliveries: deliveries?, own: own? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_read_as_it_is_written() {
        let bounds = [Bound::Baseline, Bound::Ms(6_000), Bound::Heartbeat(10_000), Bound::None];
        for (pushes, deliveries) in bounds.into_iter().zip(bounds.into_iter().cycle().skip(1)) {
            for own in bounds {
                let expects = Expects { pushes, deliveries, own };
                assert_eq!(expects.to_string().parse(), Ok(expects));
            }
        }
        for text in ["", "baseline", "pushes 1; deliveries 2 ms; its own terminals baseline"] {
            assert!(text.parse::<Expects>().is_err(), "{text}");
        }
    }
}
