//! C23: nobody is told of a loss that is none.

use super::facts::{Facts, Gap};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 23,
    name: "gap-called-for",
    proves: "I5, I6",
    promise: "a gap is told only where something called for it: another history after a fault \
              outside the model, a range that is gone where logs are filled until they evict, and \
              with a message in it that the terminal did not have",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for gap in &facts.gaps {
        let called_for = if gap.rewinds {
            facts.lineage(gap.at) > 0
        } else {
            findings.options.evicts && evicted(facts, gap)
        };
        if !called_for {
            let who = facts.terminal(gap.terminal).who;
            let log = &facts.log(gap.log).title;
            let (from, to) = (gap.from, gap.to);
            let what = || format!("{who} was told a gap in {log} from {from} to {to}, for nothing");
            findings.say(what, &[gap.record]);
        }
    }
}

/// Whether the range holds a message that the terminal was not given before, or may.
fn evicted(facts: &Facts<'_>, gap: &Gap) -> bool {
    let log = facts.log(gap.log);
    let had = |push: u32| {
        let mut given = facts.given(push);
        given.any(|given| given.terminal == gap.terminal && given.at < gap.at)
    };
    let stored = log.stored.iter().any(|push| {
        let offset = facts.push(*push).target(gap.log).and_then(|target| target.offset);
        offset.is_some_and(|offset| gap.covers(offset)) && !had(*push)
    });
    // One of unknown outcome that nobody got may be it.
    stored || log.unknown.iter().any(|push| facts.push(*push).invoked < gap.at)
}
