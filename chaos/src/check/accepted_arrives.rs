//! C01: what was accepted, or was shown to anybody, reaches all it is for.

use super::facts::Facts;
use super::owed::missed;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 1,
    name: "accepted-arrives",
    proves: "I1, I2, I3, I12",
    promise: "an accepted target reaches everybody who read its log before the push was made; so \
              does a push of unknown outcome that anybody got",
    check,
};

/// What may have expired is judged by C15, what a fault outside the model may have taken by C24.
fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    missed(facts, |missed| {
        if !missed.may_have_expired(facts) && !missed.may_be_lost(facts) {
            findings.say(|| missed.in_words(facts), &missed.proof(facts));
        }
    });
}
