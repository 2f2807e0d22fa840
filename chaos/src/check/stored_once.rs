//! C13: an idempotency key is one message.

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 13,
    name: "stored-once",
    proves: "I2",
    promise: "a push under one idempotency key has one id, however often and wherever it is sent",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for push in &facts.pushes {
        for pair in push.ids.windows(2) {
            let ((first, since, before), (second, at, record)) = (pair[0], pair[1]);
            // The memory of keys may be lost with the rest.
            if facts.lineage(since) == facts.lineage(at) {
                let key = push.key;
                findings.say(|| format!("{key} is {first}, and {second}"), &[before, record]);
            }
        }
    }
}
