//! C31: a component that nothing was done to may be the single point of failure.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::options::Rows;
use super::{Findings, Invariant};
use crate::history::Event;

/// What is to be done to every process, and to a way.
const PROCESS: [&str; 3] = ["killed", "hung", "cut_off"];
const LINK: [&str; 1] = ["cut_off"];

pub static INVARIANT: Invariant = Invariant {
    number: 31,
    name: "complete",
    proves: "the run is worth its verdict",
    promise: "where the table of components is asked for, every one of them was killed, hung and cut \
              off, and every way, or one of each class, was cut; what the machine cannot do is named",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    if findings.options.rows == Rows::None {
        return;
    }
    let mut done: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut components: Vec<(u32, &str, &str)> = Vec::new();
    for (index, record) in (0_u32..).zip(facts.records) {
        match &record.event {
            Event::Fault { component, kind, .. } | Event::Skipped { component, kind, .. } => {
                done.entry(component).or_default().insert(kind);
            }
            Event::Component { name, class, .. } => components.push((index, name, class)),
            _ => {}
        }
    }
    let lacks = |name: &str, kinds: &[&'static str]| -> Vec<&'static str> {
        let done = done.get(name);
        let missing = kinds.iter().filter(|kind| !done.is_some_and(|done| done.contains(*kind)));
        missing.copied().collect()
    };
    let (links, processes): (Vec<_>, Vec<_>) =
        components.into_iter().partition(|(_, name, _)| name.starts_with("link:"));
    for (record, name, _) in processes {
        for kind in lacks(name, &PROCESS) {
            findings.say(|| format!("{name} was never {kind}"), &[record]);
        }
    }
    let whole = |name: &str| lacks(name, &LINK).is_empty();
    let classes: BTreeSet<&str> =
        links.iter().filter(|(_, name, _)| whole(name)).map(|(.., class)| *class).collect();
    let mut told = BTreeSet::new();
    for (record, name, class) in links {
        match findings.options.rows {
            Rows::All if !whole(name) => {
                findings.say(|| format!("{name} was never cut off"), &[record]);
            }
            Rows::EveryClass if !classes.contains(class) && told.insert(class) => {
                findings.say(|| format!("no {class} was ever cut off"), &[record]);
            }
            _ => {}
        }
    }
}
