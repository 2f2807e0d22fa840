//! How often an address may ask without a credential: so many a second on average, more at once
//! after a while of silence.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered; 65,536 of them take some 5 MiB.
const ADDRESSES_MAX: usize = 65_536;

/// How often room is made in a full table.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Asking {
    interval: Duration,
    burst: Duration,
    /// For each address the time at which it would have used up what it asked (the theoretical
    /// arrival time of the generic cell rate algorithm, ITU-T I.371). Those in the past say nothing.
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    until: HashMap<IpAddr, Instant>,
    /// When those in the past were last removed: a full table is not searched for each question.
    swept: Option<Instant>,
}

impl Asking {
    /// `per_s` is at least 1, `at_once` is how many may come together.
    pub(super) fn new(per_s: u32, at_once: u32) -> Self {
        let interval = Duration::from_secs(1) / per_s.max(1);
        Self { interval, burst: interval * at_once, used: Mutex::default() }
    }

    /// Counts a question; how long to wait with it when there were too many.
    pub(super) fn ask(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        // An IPv6 user has a whole /64.
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => IpAddr::V4(v4),
                None => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
            },
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.until.len() >= ADDRESSES_MAX && !used.until.contains_key(&address) {
            if used.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_EVERY) {
                used.swept = Some(now);
                used.until.retain(|_, until| *until > now);
            }
            if used.until.len() >= ADDRESSES_MAX {
                return Err(SWEEP_EVERY);
            }
        }
        let until = used.until.entry(address).or_insert(now);
        let after = (*until).max(now) + self.interval;
        if let Some(early) = after.checked_duration_since(now + self.burst)
            && !early.is_zero()
        {
            return Err(early);
        }
        *until = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn an_address_gets_its_burst_and_then_its_rate() {
        let (asking, now) = (Asking::new(10, 5), Instant::now());
        let at = |ms| asking.ask(address(1), now + Duration::from_millis(ms));
        assert_eq!((0..9).filter(|_| at(0).is_ok()).count(), 5);
        assert_eq!(at(0), Err(Duration::from_millis(100)));
        assert!(at(99).is_err() && at(100).is_ok() && at(100).is_err());
        assert_eq!(
            (0..9).filter(|_| at(60_000).is_ok()).count(),
            5,
            "no more after a long silence"
        );
    }

    #[test]
    fn addresses_do_not_share_and_neighbours_in_a_64_do() {
        let (asking, now) = (Asking::new(1, 1), Instant::now());
        let ask = |text: &str| asking.ask(text.parse().unwrap(), now).is_ok();
        assert!(ask("10.0.0.1") && ask("10.0.0.2") && !ask("10.0.0.1"));
        assert!(!ask("::ffff:10.0.0.1"), "the same address, written otherwise");
        assert!(ask("fd00:0:0:1::1") && !ask("fd00:0:0:1::2") && ask("fd00:0:0:2::1"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_room() {
        let (asking, now) = (Asking::new(1, 1), Instant::now());
        let room = u32::try_from(ADDRESSES_MAX).unwrap();
        assert!((0..room).all(|n| asking.ask(address(n), now).is_ok()));
        assert!(asking.ask(address(room), now).is_err(), "full of those that asked just now");
        assert!(asking.ask(address(room), now + Duration::from_secs(2)).is_ok());
        assert_eq!(asking.used.lock().unwrap().until.len(), 1);
    }
}
