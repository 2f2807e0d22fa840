//! C25: what comes again is little.

use std::collections::{HashMap, HashSet};

use super::facts::Facts;
use super::{Findings, Invariant};
use crate::history::Ending;

/// The window of a run that does not say.
const WINDOW: u64 = 64;

pub static INVARIANT: Invariant = Invariant {
    number: 25,
    name: "redelivered",
    proves: "I9, I10",
    promise: "a terminal without the SDK is given again at most a window of each log with each \
              fault, and one more whenever it drops the connection itself",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let window = if facts.run.window == 0 { WINDOW } else { facts.run.window };
    for (number, terminal) in (0_u32..).zip(&facts.terminals) {
        if terminal.is_sdk() {
            continue;
        }
        let since = |at| facts.faults.partition_point(|fault| fault.at <= at);
        // By log, and by how many faults there were: how much came again, and the last of it.
        let mut again: HashMap<(u32, usize), (u64, u32)> = HashMap::new();
        let mut given: HashSet<(u32, u32)> = HashSet::new();
        for delivery in facts.given_to(number) {
            let rewound = facts.rewound_for(number, delivery.log, 0);
            if !given.insert((delivery.log, delivery.push)) && !rewound {
                let (count, last) =
                    again.entry((delivery.log, since(delivery.at))).or_insert((0, 0));
                *count += 1;
                *last = delivery.record;
            }
        }
        let mut drops: HashMap<usize, u64> = HashMap::new();
        for session in terminal.sessions.iter().filter(|s| s.how == Some(Ending::Dropped)) {
            *drops.entry(since(session.left.unwrap_or(session.opened))).or_default() += 1;
        }
        let mut again: Vec<_> = again.into_iter().collect();
        again.sort_unstable();
        for ((log, faults), (count, last)) in again {
            let dropped = drops.get(&faults).copied().unwrap_or_default();
            // What was dropped just before a fault comes again after it.
            let before = faults.checked_sub(1).and_then(|before| drops.get(&before));
            let windows = 1 + dropped + before.copied().unwrap_or_default();
            if count > window.saturating_mul(windows) {
                let (who, title) = (terminal.who, &facts.log(log).title);
                let fault = faults.checked_sub(1).and_then(|n| facts.faults.get(n));
                let proof: Vec<u32> =
                    fault.map(|fault| fault.record).into_iter().chain([last]).collect();
                findings.say(
                    || {
                        format!(
                            "{who} was given {count} messages of {title} again, the window is {window}"
                        )
                    },
                    &proof,
                );
            }
        }
    }
}
