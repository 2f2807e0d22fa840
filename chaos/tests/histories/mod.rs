//! Histories for tests of the checker: good ones, and ways to make them bad.
#![allow(dead_code, reason = "not every test uses all of it")]

pub mod bad;
pub mod bad_runs;
pub mod mutations;
pub mod simulation;
pub mod tape;

use std::collections::BTreeSet;

use clarion_chaos::check::{self, Invariant, Options};
use clarion_chaos::history::Record;

/// How these histories are judged: they are small.
pub fn options() -> Options {
    Options { overlap_min: 3, overlap_total_min: 3, ..Options::default() }
}

/// The names of the invariants that are broken, with what was found.
pub fn broken(
    records: &[Record],
    options: &Options,
    invariants: impl IntoIterator<Item = &'static Invariant>,
) -> (BTreeSet<&'static str>, String) {
    let verdict = check::judge_by(records, options, invariants);
    let broken = verdict.counts.iter().filter(|(_, count)| *count > 0);
    let shown: Vec<String> = verdict.violations.iter().take(5).map(ToString::to_string).collect();
    (broken.map(|(invariant, _)| invariant.name).collect(), shown.join("\n"))
}
