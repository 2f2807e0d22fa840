//! C05: payloads arrive as they were pushed.

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 5,
    name: "altered",
    proves: "nothing is altered",
    promise: "every payload arrives as it was pushed",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for delivery in facts.deliveries.iter().filter(|delivery| !delivery.whole) {
        let push = facts.push(delivery.push);
        let (who, key) = (facts.terminal(delivery.terminal).who, push.key);
        findings.say(
            || format!("{who} was given {key} with another payload"),
            &[push.record, delivery.record],
        );
    }
}
