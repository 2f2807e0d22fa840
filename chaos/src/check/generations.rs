//! C16: each session of a terminal is newer than the one before.

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 16,
    name: "generations",
    proves: "I7",
    promise: "every session of a terminal has a higher generation than the one before",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for terminal in &facts.terminals {
        for pair in terminal.sessions.windows(2) {
            let (before, session) = (&pair[0], &pair[1]);
            let rises = session.generation > before.generation;
            // A store that lost its history counts anew.
            if !rises && facts.lineage(before.opened) == facts.lineage(session.opened) {
                let (who, number) = (terminal.who, session.number);
                let (new, old) = (session.generation, before.generation);
                findings.say(
                    || format!("{who} session {number}: generation {new} after {old}"),
                    &[before.record, session.record],
                );
            }
        }
    }
}
