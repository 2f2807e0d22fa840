//! C06: within a session and log, offsets rise.

use std::collections::{HashMap, HashSet};

use clarion_protocol::Offset;

use super::facts::{At, Facts};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 6,
    name: "order-in-session",
    proves: "I8",
    promise: "within a session, what comes of a log comes in its order; only what the node says it \
              sent on this link before may come again",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for terminal in 0..facts.terminals.len() as u32 {
        let who = facts.terminal(terminal).who;
        let rewound = Rewound::of(facts, terminal);
        // The highest of each log in the session, and who showed it.
        let mut last: HashMap<u32, (u32, Offset, At, u32)> = HashMap::new();
        let mut given: HashSet<u32> = HashSet::new();
        for delivery in facts.given_to(terminal) {
            let Some(offset) = delivery.offset else { continue };
            // The SDK's application is told nothing twice: that is C09's.
            let repeated = !given.insert(delivery.push) && facts.terminal(terminal).is_sdk();
            let before = last.get(&delivery.log).filter(|(session, _, at, _)| {
                *session == delivery.session && !rewound.between(delivery.log, *at, delivery.at)
            });
            if let Some((_, highest, _, record)) =
                before.filter(|(_, highest, ..)| offset <= *highest)
            {
                if !delivery.again && !repeated {
                    let log = &facts.log(delivery.log).title;
                    let key = facts.push(delivery.push).key;
                    findings.say(
                        || format!("{who} was given {log} {offset} ({key}) after {highest}"),
                        &[*record, delivery.record],
                    );
                }
                continue;
            }
            let seen = (delivery.session, offset, delivery.at, delivery.record);
            last.insert(delivery.log, seen);
        }
    }
}

/// When a terminal was told that the history of a log is another one from there on.
pub struct Rewound {
    gaps: Vec<(u32, At)>,
}

impl Rewound {
    pub fn of(facts: &Facts<'_>, terminal: u32) -> Self {
        let gaps = facts.gaps.iter().filter(|gap| gap.terminal == terminal && gap.rewinds);
        Self { gaps: gaps.map(|gap| (gap.log, gap.at)).collect() }
    }

    pub fn between(&self, log: u32, from: At, to: At) -> bool {
        self.gaps.iter().any(|(of, at)| *of == log && from <= *at && *at <= to)
    }
}
