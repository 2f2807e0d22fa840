//! C03: a topic is for its members, while they are members.

use clarion_protocol::LogName;

use super::facts::{At, Delivery, Facts, Membership, Push, ms};
use super::{Findings, Invariant};

/// A session hears within this that a back-end took its terminal out of a topic; until then it goes
/// on, and what was on its way comes, too.
const HEARD_WITHIN_MS: u64 = 3_000;

pub static INVARIANT: Invariant = Invariant {
    number: 3,
    name: "members-only",
    proves: "I3",
    promise: "a terminal is given of a topic only what was pushed to it after the terminal was \
              about to join, and nothing more than 3 s after it has left, faults apart; what is \
              undecided while it joins or leaves may come or not",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for delivery in &facts.deliveries {
        if !matches!(facts.log(delivery.log).name, LogName::Topic(_)) {
            continue;
        }
        let (push, terminal) = (facts.push(delivery.push), facts.terminal(delivery.terminal));
        let memberships = terminal.memberships.get(&delivery.log);
        if !memberships
            .into_iter()
            .flatten()
            .any(|membership| covers(facts, membership, push, delivery))
        {
            let log = &facts.log(delivery.log).title;
            let (who, key) = (terminal.who, push.key);
            findings.say(
                || format!("{who} was given {key} of {log}, of which it was no member then"),
                &[push.record, delivery.record],
            );
        }
    }
}

/// Whether the push may have been stored in this time, and the delivery falls into it.
fn covers(
    facts: &Facts<'_>,
    membership: &Membership,
    push: &Push<'_>,
    delivery: &Delivery,
) -> bool {
    let hears = |parted: At| {
        let whole = facts.busy.whole_since(parted, delivery.at);
        whole.is_none_or(|whole| delivery.at <= whole.saturating_add(ms(HEARD_WITHIN_MS)))
    };
    membership.joining <= push.stored_until().min(delivery.at)
        && membership.parted.is_none_or(hears)
}
