//! Injected faults: named points at which a build with the feature `fault-hooks` panics, drops
//! hints or breaks a promise when told to at run time. Without the feature every call is empty.
//!
//! Points are armed with `arm`, or by `CLARION_FAULTS` when the node starts:
//! `relay=3,session=1%,hints=off,mutant:skip-wait` panics at the next three visits of `relay`, at
//! one visit in a hundred of `session`, drops every hint, and is the [`Mutant`] of that name.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use clarion_core::fault::{Mutant, mutated};
use clarion_protocol::TerminalId;

/// Panics if the point is armed.
#[inline]
#[allow(unused_variables)]
pub(crate) fn point(name: &str) {
    #[cfg(feature = "fault-hooks")]
    hooks::visit(name);
}

/// Whether hints are to be dropped.
#[inline]
pub(crate) fn hints_off() -> bool {
    #[cfg(feature = "fault-hooks")]
    return hooks::hints_off();
    #[cfg(not(feature = "fault-hooks"))]
    false
}

/// The time by which a session judges what has expired: that of the store.
#[inline]
pub(crate) fn judged_ms(store_ms: u64) -> u64 {
    if !mutated(Mutant::WallClock) {
        return store_ms;
    }
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_millis()).unwrap_or(store_ms)
}

/// The terminal that a push to this one goes to: this one.
#[inline]
pub(crate) fn misled(terminal: &TerminalId) -> Cow<'_, TerminalId> {
    if !mutated(Mutant::WrongTerminal) || fastrand::u8(..8) > 0 {
        return Cow::Borrowed(terminal);
    }
    let mut name = terminal.as_str().to_owned();
    name.pop();
    TerminalId::new(&(name + "1")).map_or(Cow::Borrowed(terminal), Cow::Owned)
}

/// A link begins, with nothing that outlives it.
#[inline]
pub(crate) fn leak_a_file() {
    if mutated(Mutant::LeakFiles) {
        std::mem::forget(std::fs::File::open("/dev/null"));
    }
}

#[cfg(feature = "fault-hooks")]
pub use hooks::{arm, arm_from_environment, is_armed as armed, set_hints_off, visits};

#[cfg(feature = "fault-hooks")]
mod hooks {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    #[derive(Default)]
    struct Point {
        panics_left: u32,
        one_in: u32,
        visits: u64,
    }

    static ANY: AtomicBool = AtomicBool::new(false);
    static HINTS_OFF: AtomicBool = AtomicBool::new(false);
    static POINTS: LazyLock<Mutex<HashMap<String, Point>>> = LazyLock::new(Mutex::default);

    /// Arms `point`: the next `panics` visits panic (or one in `one_in`, if that is not 0).
    pub fn arm(point: &str, panics: u32, one_in: u32) {
        let mut points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = points.entry(point.to_owned()).or_default();
        entry.panics_left = panics;
        entry.one_in = one_in;
        ANY.store(true, Ordering::Release);
    }

    /// Whether panics that were ordered at `point` are still to come.
    #[must_use]
    pub fn is_armed(point: &str) -> bool {
        let points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
        points.get(point).is_some_and(|point| point.panics_left > 0)
    }

    /// How often `point` was visited since anything was armed.
    #[must_use]
    pub fn visits(point: &str) -> u64 {
        let points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
        points.get(point).map_or(0, |point| point.visits)
    }

    /// Arms what `CLARION_FAULTS` names; unreadable parts are reported by the returned text.
    ///
    /// # Errors
    /// The first part that is not of the form `point=N`, `point=N%` or `hints=off`, nor the name of a
    /// mutant.
    pub fn arm_from_environment() -> Result<(), String> {
        let Ok(text) = std::env::var("CLARION_FAULTS") else { return Ok(()) };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || {
                let forms = "point=N, point=N%, hints=off or mutant:NAME";
                format!("CLARION_FAULTS: `{part}` is not {forms}")
            };
            if let Some(name) = part.strip_prefix("mutant:") {
                if !clarion_core::fault::choose(name) {
                    return Err(bad());
                }
                continue;
            }
            let (point, value) = part.split_once('=').ok_or_else(bad)?;
            if (point, value) == ("hints", "off") {
                HINTS_OFF.store(true, Ordering::Release);
            } else if let Some(percent) = value.strip_suffix('%') {
                let percent: f64 = percent.parse().map_err(|_| bad())?;
                if !(percent > 0.0 && percent <= 100.0) {
                    return Err(bad());
                }
                arm(point, 0, (100.0 / percent).round() as u32);
            } else {
                arm(point, value.parse().map_err(|_| bad())?, 0);
            }
        }
        Ok(())
    }

    /// Whether every hint is dropped from now on.
    pub fn set_hints_off(off: bool) {
        HINTS_OFF.store(off, Ordering::Release);
    }

    pub(super) fn hints_off() -> bool {
        HINTS_OFF.load(Ordering::Relaxed)
    }

    #[allow(clippy::panic, reason = "the purpose of this file")]
    pub(super) fn visit(name: &str) {
        if !ANY.load(Ordering::Acquire) {
            return;
        }
        let strike = {
            let mut points = POINTS.lock().unwrap_or_else(PoisonError::into_inner);
            let point = points.entry(name.to_owned()).or_default();
            point.visits += 1;
            if point.panics_left > 0 {
                point.panics_left -= 1;
                true
            } else {
                point.one_in > 0 && fastrand::u32(0..point.one_in) == 0
            }
        };
        if strike {
            panic!("injected fault at {name}");
        }
    }
}
