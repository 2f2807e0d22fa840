//! C04: nothing is made up.

use super::facts::{Facts, Stored};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 4,
    name: "invented",
    proves: "nothing is forged",
    promise: "nothing is delivered that was not pushed before, or that was refused",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for &record in &facts.inventions {
        findings.say(|| "a terminal was given what nobody had pushed".to_owned(), &[record]);
    }
    for delivery in &facts.deliveries {
        let push = facts.push(delivery.push);
        let Some(target) = push.target(delivery.log) else { continue };
        let refused = target.answered && target.stored == Stored::No;
        if refused || delivery.at < push.invoked {
            let (who, key) = (facts.terminal(delivery.terminal).who, push.key);
            let why = if refused { "was refused" } else { "was pushed only afterwards" };
            let proof = [push.record, delivery.record];
            let refusal = push.refused.or(push.accepted).map(|answer| answer.record);
            let proof: Vec<u32> = proof.into_iter().chain(refusal).collect();
            findings.say(|| format!("{who} was given {key}, which {why}"), &proof);
        }
    }
}
