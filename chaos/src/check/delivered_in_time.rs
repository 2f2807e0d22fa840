//! C18: once all is whole, what is accepted arrives soon.

use std::collections::HashSet;

use super::facts::{Facts, ms};
use super::{Findings, Invariant};
use crate::history::Ending;

pub static INVARIANT: Invariant = Invariant {
    number: 18,
    name: "delivered-in-time",
    proves: "I12",
    promise: "what is accepted reaches a terminal that is online within the bound of the run, \
              counted from when all was whole again; and the SDK is back on a link within the same",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let within = ms(findings.options.within_ms);
    for (number, terminal) in (0_u32..).zip(&facts.terminals) {
        let mut given: HashSet<u32> = HashSet::new();
        for delivery in facts.given_to(number) {
            let push = facts.push(delivery.push);
            let session = terminal.sessions.get(delivery.session as usize);
            let (Some(session), Some(accepted)) = (session, push.accepted) else { continue };
            if !given.insert(delivery.push) || facts.floods(push.product, delivery.at) {
                continue;
            }
            let due = accepted.at.max(session.opened);
            let Some(since) = facts.busy.whole_since(due, delivery.at) else { continue };
            let took = delivery.at.saturating_sub(since);
            if took > within {
                let (who, key, ms) = (terminal.who, push.key, took / 1_000_000);
                findings.say(
                    || format!("{who} was given {key} after {ms} ms in which nothing was broken"),
                    &[accepted.record, session.record, delivery.record],
                );
            }
        }
        // What leaves without the SDK may have been called away meanwhile.
        for pair in terminal.sessions.windows(2).filter(|_| terminal.is_sdk()) {
            let (before, session) = (&pair[0], &pair[1]);
            let (Some(left), Some(Ending::Broken)) = (before.left, before.how) else { continue };
            let since = facts.busy.whole_since(left, session.opened);
            let took = since.map_or(0, |since| session.opened.saturating_sub(since));
            if took > within {
                let (who, ms) = (terminal.who, took / 1_000_000);
                findings.say(
                    || format!("{who} was without a link for {ms} ms in which nothing was broken"),
                    &[before.record, session.record],
                );
            }
        }
    }
}
