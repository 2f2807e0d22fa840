//! C09: nothing is shown twice where it is promised to be shown once.

use std::collections::HashMap;

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 9,
    name: "at-most-once",
    proves: "once per cursor store of the SDK",
    promise: "the SDK shows an id once per cursor store, over all restarts of servers and terminal; \
              a push with `ttl` 0 comes to any terminal at most once",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for (number, terminal) in (0_u32..).zip(&facts.terminals) {
        let mut shown = HashMap::new();
        for delivery in facts.given_to(number) {
            let push = facts.push(delivery.push);
            if !terminal.is_sdk() && !push.only_online() {
                continue;
            }
            let life = if push.only_online() { 0 } else { terminal.life(delivery.at) };
            let first = *shown.entry((life, delivery.id)).or_insert(delivery.record);
            if first != delivery.record {
                let (who, key, id) = (terminal.who, push.key, delivery.id);
                findings.say(
                    || format!("{who} was given {key} ({id}) again"),
                    &[first, delivery.record],
                );
            }
        }
    }
}
