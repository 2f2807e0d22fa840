//! C02: nobody is given what is not for him.

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 2,
    name: "for-whom",
    proves: "nobody receives another's messages",
    promise: "a terminal is given only pushes to itself, its user, its topics or all, of its own \
              product, each from the log it was pushed to",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for delivery in &facts.deliveries {
        let push = facts.push(delivery.push);
        if push.target(delivery.log).is_none() {
            let who = facts.terminal(delivery.terminal).who;
            let log = &facts.log(delivery.log).title;
            let what = || format!("{who} was given {} from {log}, which it is not for", push.key);
            findings.say(what, &[push.record, delivery.record]);
        }
    }
}
