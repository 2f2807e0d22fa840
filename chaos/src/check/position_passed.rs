//! C10: what lies at or below the position of a session does not come again.

use super::facts::{Facts, Session};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 10,
    name: "position-passed",
    proves: "I7, I9",
    promise: "without the SDK: a session is given nothing at or below the position it started at, \
              but for what was sent on the same link before",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for delivery in facts.deliveries.iter().filter(|delivery| !delivery.again) {
        let terminal = facts.terminal(delivery.terminal);
        let session: Option<&Session<'_>> = terminal.sessions.get(delivery.session as usize);
        let (Some(session), Some(offset)) = (session, delivery.offset) else { continue };
        let name = &facts.log(delivery.log).name;
        let Some((_, start)) = session.positions.iter().find(|(log, _)| log == name) else {
            continue;
        };
        if offset <= *start && !facts.rewound_for(delivery.terminal, delivery.log, session.opened) {
            let (who, key, number) = (terminal.who, facts.push(delivery.push).key, session.number);
            findings.say(
                || {
                    format!(
                        "{who} session {number} was given {name} {offset} ({key}) but started at {start}"
                    )
                },
                &[session.record, delivery.record],
            );
        }
    }
}
