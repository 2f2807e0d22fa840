//! C26: hints bring everything; the slow head check is a last net that catches nothing.

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 26,
    name: "hints-suffice",
    proves: "I12",
    promise: "with hints between actors, the slow comparison of heads finds nothing; without them \
              it finds something, and it was asked either way",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let found: u64 = facts.head_checks.iter().map(|(_, found)| found).sum();
    if facts.head_checks.is_empty() {
        if facts.pushes.iter().any(|push| push.accepted.is_some()) {
            findings.say(|| "nobody asked what the head check found".to_owned(), &[]);
        }
    } else if findings.options.hints_off {
        if found == 0 {
            findings.say(|| "with no hints, the head check found nothing either".to_owned(), &[]);
        }
    } else if !findings.options.head_check_may_find {
        for &(record, found) in facts.head_checks.iter().filter(|(_, found)| *found > 0) {
            findings.say(|| format!("the head check alone found {found} logs grown"), &[record]);
        }
    }
}
