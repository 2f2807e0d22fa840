//! C08: a push made after another one was accepted stands behind it.

use clarion_protocol::Offset;

use super::facts::{At, Facts, Push};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 8,
    name: "real-time",
    proves: "I8",
    promise: "a push that was made after another one was accepted stands behind it in the log",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for (log, of) in (0_u32..).zip(&facts.logs) {
        let stored = of.stored.iter().filter_map(|push| {
            let push = facts.push(*push);
            let answer = push.accepted?;
            let offset = push.target(log)?.offset?;
            // A store that lost its history numbers anew.
            Some((facts.lineage(answer.at), offset, answer.at, push))
        });
        let mut stored: Vec<(usize, Offset, At, &Push<'_>)> = stored.collect();
        stored.sort_unstable_by_key(|(lineage, offset, ..)| (*lineage, *offset));
        let mut earliest: Option<(usize, At, &Push<'_>)> = None;
        for (lineage, _, accepted, push) in stored.into_iter().rev() {
            let same = earliest.filter(|(of, ..)| *of == lineage);
            if let Some((_, answered, behind)) = same
                && answered < push.invoked
            {
                let proof = [behind.accepted.map_or(behind.record, |a| a.record), push.record];
                findings.say(
                    || {
                        let title = &of.title;
                        let (first, second) = (behind.key, push.key);
                        format!("{first} was accepted before {second} was pushed, but stands behind it in {title}")
                    },
                    &proof,
                );
            }
            if same.is_none_or(|(_, answered, _)| accepted < answered) {
                earliest = Some((lineage, accepted, push));
            }
        }
    }
}
