//! C14: what has expired is not shown any more.

use super::facts::{Facts, ms};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 14,
    name: "late-delivery",
    proves: "I11",
    promise: "nothing is given to a terminal once its `ttl` is over, but for what was on its way",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let slack = ms(findings.options.expiry_slack_ms);
    for delivery in &facts.deliveries {
        let push = facts.push(delivery.push);
        if push.only_online() {
            continue;
        }
        let Some(over) = push.expired_at() else { continue };
        let late = delivery.at.saturating_sub(over);
        // What hangs or is cut off may have sent it before, and it arrives when that is over.
        if late > slack && facts.busy.is_quiet(over, delivery.at) {
            let (who, key) = (facts.terminal(delivery.terminal).who, push.key);
            let accepted = push.accepted.map_or(push.record, |answer| answer.record);
            findings.say(
                || format!("{who} was given {key} {} ms after it had expired", late / 1_000_000),
                &[push.record, accepted, delivery.record],
            );
        }
    }
}
