//! C29: who refuses everything loses nothing.

use super::facts::{Facts, Stored};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 29,
    name: "refusals",
    proves: "the run is worth its verdict",
    promise: "pushes are made, and while nothing is broken no more of them are refused than the \
              run allows",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    if facts.pushes.is_empty() {
        findings.say(|| "nothing was pushed".to_owned(), &[]);
    }
    let (mut answered, mut refused, mut proof) = (0_u64, 0_u64, Vec::new());
    for push in &facts.pushes {
        let answers = [push.accepted, push.refused, push.unknown];
        let Some(last) = answers.into_iter().flatten().map(|answer| answer.at).max() else {
            continue;
        };
        if !facts.untouched.is_quiet(push.invoked, last) {
            continue;
        }
        answered += 1;
        let none = push.targets.iter().all(|target| target.stored == Stored::No);
        if none && push.accepted.is_none() {
            refused += 1;
            proof.extend(push.refused.map(|answer| answer.record).filter(|_| proof.len() < 3));
        }
    }
    let percent = findings.options.refused_percent_max;
    if refused * 100 > answered * percent {
        findings.say(
            || format!("{refused} of {answered} pushes were refused while nothing was broken"),
            &proof,
        );
    }
}
