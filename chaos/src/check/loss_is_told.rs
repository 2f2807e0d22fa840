//! C24: outside the fault model loss is possible, but not silent.

use super::facts::Facts;
use super::owed::missed;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 24,
    name: "loss-is-told",
    proves: "I5",
    promise: "what a fault outside the model took away is told: every terminal that misses \
              something was told of a gap in that log, or came for the first time afterwards",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    missed(facts, |missed| {
        if missed.may_be_lost(facts) && !missed.may_have_expired(facts) {
            let words = missed.in_words(facts);
            findings.say(|| format!("{words}, and was told of no gap"), &missed.proof(facts));
        }
    });
}
