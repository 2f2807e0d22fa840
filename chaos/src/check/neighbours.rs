//! C20: who floods hurts nobody else.

use std::collections::HashSet;

use super::facts::{At, Facts, Fault, ms};
use super::{Findings, Invariant};
use crate::interruption::{BUSY_PERCENT, Machine};

/// Fewer times than this have no percentile.
const TIMES_MIN: usize = 50;

pub static INVARIANT: Invariant = Invariant {
    number: 20,
    name: "neighbours",
    proves: "faults stay where they are",
    promise: "while one product floods, the others' pushes are answered and delivered in their \
              usual time: the 99th percentile stays in the band of the run",
    check,
};

/// How long pushes took to be answered, and messages to come.
#[derive(Default)]
struct Times {
    answers: Vec<At>,
    ways: Vec<At>,
}

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let floods: Vec<&Fault<'_>> = facts.faults.iter().filter(|fault| fault.is_flood()).collect();
    if floods.is_empty() {
        return;
    }
    let calm = times(facts, |_, from, to| facts.untouched.is_quiet(from, to));
    let machine = Machine::of(facts.records);
    for flood in floods {
        let over = flood.mended.or(flood.healed).unwrap_or(facts.end);
        // What was before cannot be compared with a time in which others used the machine.
        if machine.others_percent(flood.at, over) > BUSY_PERCENT {
            continue;
        }
        let during = times(facts, |product, from, to| {
            flood.floods() != product
                && flood.at <= from
                && from <= over
                && facts.busy.is_quiet(from, to)
        });
        let pairs =
            [("answered", &calm.answers, &during.answers), ("delivered", &calm.ways, &during.ways)];
        for (what, calm, during) in pairs {
            let (Some(calm), Some(during)) = (percentile(calm), percentile(during)) else {
                continue;
            };
            let options = findings.options;
            let band = calm.saturating_mul(options.band_factor).max(ms(options.band_ms_min));
            if during > band {
                let (calm, during) = (calm / 1_000_000, during / 1_000_000);
                let floods = flood.floods();
                findings.say(
                    || {
                        format!(
                            "while {floods} flooded, others' messages were {what} in {during} ms \
                             (99th percentile), else in {calm} ms"
                        )
                    },
                    &[flood.record],
                );
            }
        }
    }
}

/// The times of pushes of which `counts` says yes, given the product and the stretch of time.
fn times(facts: &Facts<'_>, counts: impl Fn(&str, At, At) -> bool) -> Times {
    let mut times = Times::default();
    for push in &facts.pushes {
        let Some(accepted) = push.accepted else { continue };
        if !counts(push.product, push.invoked, accepted.at) {
            continue;
        }
        times.answers.push(accepted.at.saturating_sub(push.invoked));
        let mut seen = HashSet::new();
        for given in facts.given(push.index).filter(|given| seen.insert(given.terminal)) {
            let terminal = facts.terminal(given.terminal);
            let session = terminal.sessions.get(given.session as usize);
            // Who was away gets it when it comes.
            if session.is_some_and(|session| session.opened < push.invoked)
                && counts(push.product, push.invoked, given.at)
            {
                times.ways.push(given.at.saturating_sub(push.invoked));
            }
        }
    }
    times.answers.sort_unstable();
    times.ways.sort_unstable();
    times
}

/// The 99th percentile of sorted times.
fn percentile(times: &[At]) -> Option<At> {
    (times.len() >= TIMES_MIN).then(|| times[times.len() * 99 / 100])
}
