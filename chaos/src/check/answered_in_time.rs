//! C19: once all is whole, pushes are answered soon.

use super::facts::{Facts, ms};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 19,
    name: "answered-in-time",
    proves: "I2, I12",
    promise: "an accepted push is answered within the bound of the run, counted from when all was \
              whole again",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let within = ms(findings.options.within_ms);
    for push in &facts.pushes {
        let Some(accepted) = push.accepted else { continue };
        let since = facts.busy.whole_since(push.invoked, accepted.at);
        let took = since.map_or(0, |since| accepted.at.saturating_sub(since));
        if took > within && !facts.floods(push.product, accepted.at) {
            let (key, ms) = (push.key, took / 1_000_000);
            findings.say(
                || format!("{key} was accepted after {ms} ms in which nothing was broken"),
                &[push.record, accepted.record],
            );
        }
    }
}
