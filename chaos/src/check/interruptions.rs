//! C30: what is broken interrupts no longer than is said.

use super::facts::Facts;
use super::{Findings, Invariant};
use crate::interruption::{judge, measure};

pub static INVARIANT: Invariant = Invariant {
    number: 30,
    name: "interruptions",
    proves: "there is no single point of failure",
    promise: "while something is broken, and until all is whole again, no push waits longer for its \
              202 and no terminal for its messages than is expected of that fault",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let measured = measure(facts.records);
    let judged = judge(&measured, facts.run.heartbeat_ms, facts.run.slack_ms);
    for one in judged.too_long.iter().filter(|one| !one.is_excused) {
        let faults = measured.windows.iter().enumerate();
        let concerns = |index: usize| one.of.iter().any(|(window, _)| *window == index);
        let numbers: Vec<u32> =
            faults.filter(|(index, _)| concerns(*index)).map(|(_, window)| window.n).collect();
        let records = facts.faults.iter().filter(|fault| numbers.contains(&fault.n));
        let mut proof: Vec<u32> = records.map(|fault| fault.record).collect();
        proof.extend(one.wait.records);
        findings.say(|| one.told(&measured), &proof);
    }
}
