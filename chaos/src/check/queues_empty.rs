//! C22: at the end nothing waits in memory.

use super::facts::Facts;
use super::{Findings, Invariant};

/// Samples at the end in one of which a queue must be empty.
const TOGETHER: usize = 5;

pub static INVARIANT: Invariant = Invariant {
    number: 22,
    name: "queues-empty",
    proves: "everything is bounded",
    promise: "when all has arrived, no node has anything queued for another node or a terminal",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    for (process, samples) in facts.processes() {
        let last = samples.iter().rev().take(TOGETHER);
        let queued = last.filter_map(|sample| Some((sample.held?.queued_bytes?, sample.record)));
        if let Some((bytes, record)) = queued.min()
            && bytes > 0
        {
            findings.say(|| format!("{process} has {bytes} bytes queued at the end"), &[record]);
        }
    }
}
