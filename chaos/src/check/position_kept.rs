//! C11: where a session starts, nothing that was saved is forgotten.

use clarion_protocol::{LogName, Offset};

use super::facts::{Acknowledged, At, Facts, Session, Terminal, ms};
use super::{Findings, Invariant};
use crate::history::Ending;

/// An acknowledgement this old is in the store: a node writes it down within about a second.
const SAVED_WITHIN: At = ms(15_000);
/// An acknowledgement is read by the node within this, if the link holds.
const HEARD_WITHIN: At = ms(1_000);

pub static INVARIANT: Invariant = Invariant {
    number: 11,
    name: "position-kept",
    proves: "I5, I7, I9",
    promise: "positions never go back, and never lie below the cursor that was sent, below an \
              acknowledgement of a session that was closed in order with no fault since, or below \
              one that had 15 s without a fault to be saved",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for (number, terminal) in (0_u32..).zip(&facts.terminals) {
        for (index, session) in terminal.sessions.iter().enumerate() {
            for (name, position) in session.positions {
                let Some(log) = facts.log_of(number, name) else { continue };
                let before =
                    index.checked_sub(1).map_or(0, |before| terminal.sessions[before].opened);
                if facts.rewound_for(number, log, before) {
                    continue;
                }
                let Some((due, why, record)) = due(facts, terminal, index, log, name) else {
                    continue;
                };
                if *position < due {
                    let (who, session_number) = (terminal.who, session.number);
                    findings.say(
                        || {
                            format!(
                                "{who} session {session_number} starts {name} at {position}, but {due} {why}"
                            )
                        },
                        &[record, session.record],
                    );
                }
            }
        }
    }
}

/// The lowest position from which a session may start a log, why, and what proves it.
fn due(
    facts: &Facts<'_>,
    terminal: &Terminal<'_>,
    index: usize,
    log: u32,
    name: &LogName,
) -> Option<(Offset, &'static str, u32)> {
    let session = &terminal.sessions[index];
    let of = |list: &[(LogName, Offset)]| {
        list.iter().find(|(log, _)| log == name).map(|(_, offset)| *offset)
    };
    let sent = of(session.sent).map(|offset| (offset, "was sent", session.record));
    let before = index.checked_sub(1).map(|before| &terminal.sessions[before]);
    // A log that was left and joined again starts anew.
    let member = facts.member_since(terminal, log, session.opened);
    let told = before.filter(|before| before.opened > member).and_then(|before| {
        of(before.positions).map(|offset| (offset, "was its position before", before.record))
    });
    let saved = before.and_then(|before| {
        let last = index as u32 - 1;
        let acks = terminal.acknowledged.iter().rev();
        let acks = acks.skip_while(|ack| ack.session > last);
        let mut acks = acks.take_while(|ack| ack.session == last);
        let ack = acks
            .find(|ack| ack.log == log && ack.at > member && is_saved(facts, before, session, ack));
        ack.map(|ack| (ack.offset, "was acknowledged and must be saved", ack.record))
    });
    [sent, told, saved].into_iter().flatten().max_by_key(|(offset, ..)| *offset)
}

/// Whether what was acknowledged in one session must be known to the next.
fn is_saved(
    facts: &Facts<'_>,
    before: &Session<'_>,
    session: &Session<'_>,
    ack: &Acknowledged,
) -> bool {
    let ended = before.left.unwrap_or(session.opened).min(session.opened);
    let orderly =
        before.how == Some(Ending::Closed) && facts.untouched.is_quiet(ack.at, session.opened);
    let aged = ack.at.saturating_add(HEARD_WITHIN) <= ended
        && ack.at.saturating_add(SAVED_WITHIN) <= session.opened
        && facts.untouched.is_quiet(ack.at, ack.at.saturating_add(SAVED_WITHIN));
    orderly || aged
}
