//! C07: with the SDK, order holds over all sessions.

use std::collections::{HashMap, HashSet};

use clarion_protocol::Offset;

use super::facts::{At, Facts};
use super::order_in_session::Rewound;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 7,
    name: "order-over-sessions",
    proves: "I8",
    promise: "what the SDK shows of a log goes forward over all sessions of a cursor store",
    check,
};

/// The highest offset that was shown, when and by which record.
#[derive(Clone, Copy)]
struct Shown {
    offset: Offset,
    at: At,
    record: u32,
    session: u32,
}

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for terminal in 0..facts.terminals.len() as u32 {
        if !facts.terminal(terminal).is_sdk() {
            continue;
        }
        let rewound = Rewound::of(facts, terminal);
        // Of each log and cursor store: the highest of the sessions before, and of this one.
        let mut shown: HashMap<(u32, usize), (Option<Shown>, Shown)> = HashMap::new();
        let mut given: HashSet<(usize, u32)> = HashSet::new();
        for delivery in facts.given_to(terminal) {
            let Some(offset) = delivery.offset else { continue };
            let life = facts.terminal(terminal).life(delivery.at);
            let repeated = !given.insert((life, delivery.push));
            let (at, record, session) = (delivery.at, delivery.record, delivery.session);
            let now = Shown { offset, at, record, session };
            let (before, this) = shown.entry((delivery.log, life)).or_insert((None, now));
            if rewound.between(delivery.log, this.at, at) {
                (*before, *this) = (None, now);
                continue;
            }
            if this.session != session {
                let highest = before.filter(|before| before.offset > this.offset);
                (*before, *this) = (Some(highest.unwrap_or(*this)), now);
            } else if offset > this.offset {
                *this = now;
            }
            let Some(before) = before.filter(|before| offset <= before.offset && !repeated) else {
                continue;
            };
            let (who, key) = (facts.terminal(terminal).who, facts.push(delivery.push).key);
            let log = &facts.log(delivery.log).title;
            let highest = before.offset;
            findings.say(
                || format!("{who} was given {log} {offset} ({key}) after {highest} in an earlier session"),
                &[before.record, record],
            );
        }
    }
}
