//! C27: nobody is told what must not be.

use super::facts::{Facts, ms};
use super::{Findings, Invariant};
use crate::history::{Event, Record};

pub static INVARIANT: Invariant = Invariant {
    number: 27,
    name: "trouble",
    proves: "I5, I7, I10",
    promise: "no session ends for good, and no terminal is told an error, but that the store is away \
              while or just after something was broken",
    check,
};

/// The name of the code that says so: nothing is lost, and it heals by itself.
const STORE_AWAY: &str = "store_unavailable";

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for &record in &facts.troubles {
        let Record { t, event, .. } = &facts.records[record as usize];
        if let Event::Trouble { who, what } = event {
            let since = t.saturating_sub(ms(findings.options.within_ms));
            if what.contains(STORE_AWAY) && !facts.busy.is_quiet(since, *t) {
                continue;
            }
            findings.say(|| format!("{who}: {what}"), &[record]);
        }
    }
}
