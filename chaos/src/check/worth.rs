//! C28: a fault that nothing met proves nothing.

use super::facts::{At, Facts};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 28,
    name: "worth",
    proves: "the run is worth its verdict",
    promise: "every fault is over before the end, and as many accepted pushes overlapped each of \
              them, and all of them together, as the run demands",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let accepted = facts.pushes.iter().filter_map(|push| Some((push.invoked, push.accepted?.at)));
    let (mut begun, mut answered): (Vec<At>, Vec<At>) = accepted.clone().unzip();
    begun.sort_unstable();
    answered.sort_unstable();
    for fault in &facts.faults {
        let (n, component, kind) = (fault.n, fault.component, fault.kind);
        let Some(over) = fault.over() else {
            let what = || format!("fault {n}, {component} {kind}, was never mended");
            findings.say(what, &[fault.record]);
            continue;
        };
        let until = begun.partition_point(|at| *at <= over);
        let before = answered.partition_point(|at| *at < fault.at);
        let overlapped = until.saturating_sub(before) as u64;
        let demanded = findings.options.overlap_min;
        if overlapped < demanded {
            findings.say(
                || {
                    format!(
                        "fault {n}, {component} {kind}: {overlapped} accepted pushes overlapped it, \
                         {demanded} are demanded"
                    )
                },
                &[fault.record],
            );
        }
    }
    // Each push once, however many faults it overlapped.
    let met = accepted.filter(|(from, to)| !facts.untouched.is_quiet(*from, *to)).count() as u64;
    let demanded = findings.options.overlap_total_min;
    if met < demanded {
        findings.say(
            || format!("{met} accepted pushes overlapped any fault, {demanded} are demanded"),
            &[],
        );
    }
}
