//! C08: a push made after another one was accepted stands behind it.

use std::collections::HashMap;

use clarion_protocol::Offset;

use super::facts::{Answered, Facts, Push};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 8,
    name: "real-time",
    proves: "I8",
    promise: "a push that was made after another one was accepted stands behind it in the log",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    // What an answer does not name it did not accept, though it accepted other targets.
    let mut told: HashMap<(u32, Offset), &Answered> = HashMap::new();
    for answer in &facts.answered {
        let first = told.entry((answer.log, answer.offset)).or_insert(answer);
        if answer.at < first.at {
            *first = answer;
        }
    }
    for (log, of) in (0_u32..).zip(&facts.logs) {
        let stored = of.stored.iter().filter_map(|push| {
            let push = facts.push(*push);
            let offset = push.target(log)?.offset?;
            let answer = told.get(&(log, offset))?;
            // A store that lost its history numbers anew.
            Some((facts.lineage(answer.at), offset, *answer, push))
        });
        let mut stored: Vec<(usize, Offset, &Answered, &Push<'_>)> = stored.collect();
        stored.sort_unstable_by_key(|(lineage, offset, ..)| (*lineage, *offset));
        let mut earliest: Option<(usize, &Answered, &Push<'_>)> = None;
        for (lineage, _, accepted, push) in stored.into_iter().rev() {
            let same = earliest.filter(|(of, ..)| *of == lineage);
            if let Some((_, answered, behind)) = same
                && answered.at < push.invoked
            {
                let proof = [answered.record, push.record];
                findings.say(
                    || {
                        let title = &of.title;
                        let (first, second) = (behind.key, push.key);
                        format!("{first} was accepted before {second} was pushed, but stands behind it in {title}")
                    },
                    &proof,
                );
            }
            if same.is_none_or(|(_, answered, _)| accepted.at < answered.at) {
                earliest = Some((lineage, accepted, push));
            }
        }
    }
}
