//! Judges a history by what Clarion promises. It knows nothing of the servers and of how the history
//! was made; every promise is one numbered [`Invariant`] in a file of its own, and all of them read
//! the same [`Facts`], which are made from the records once.

pub mod explain;
pub mod lines;

mod facts;
mod options;
mod owed;

mod accepted_arrives;
mod altered;
mod answered_in_time;
mod at_most_once;
mod complete;
mod counts;
mod delivered_in_time;
mod early_expiry;
mod for_whom;
mod gap_called_for;
mod generations;
mod hints_suffice;
mod interruptions;
mod invented;
mod late_delivery;
mod leaks;
mod loss_is_told;
mod members_only;
mod neighbours;
mod offsets_agree;
mod order_in_session;
mod order_over_sessions;
mod position_kept;
mod position_passed;
mod queues_empty;
mod real_time;
mod redelivered;
mod refusals;
mod stored_once;
mod trouble;
mod worth;

use std::fmt;

use crate::history::Record;

use facts::Facts;
pub use options::{Options, Rows};

/// Violations of an invariant that are kept with their proof; the rest are counted.
const KEPT_MAX: usize = 200;

/// A promise, and how a history shows that it was kept.
pub struct Invariant {
    /// The number it is cited by: `C07` is 7.
    pub number: u8,
    /// A few words, with dashes.
    pub name: &'static str,
    /// The invariants of the design it stands for, or the words of a promise that has no number.
    pub proves: &'static str,
    /// What must hold, in a sentence.
    pub promise: &'static str,
    /// Looks for where it does not.
    pub(crate) check: fn(&Facts<'_>, &mut Findings<'_>),
}

/// Everything that is checked, in the order of the numbers: promises, and what a run itself must be
/// worth for its verdict to say anything.
pub static INVARIANTS: [&Invariant; 31] = [
    &accepted_arrives::INVARIANT,
    &for_whom::INVARIANT,
    &members_only::INVARIANT,
    &invented::INVARIANT,
    &altered::INVARIANT,
    &order_in_session::INVARIANT,
    &order_over_sessions::INVARIANT,
    &real_time::INVARIANT,
    &at_most_once::INVARIANT,
    &position_passed::INVARIANT,
    &position_kept::INVARIANT,
    &offsets_agree::INVARIANT,
    &stored_once::INVARIANT,
    &late_delivery::INVARIANT,
    &early_expiry::INVARIANT,
    &generations::INVARIANT,
    &counts::INVARIANT,
    &delivered_in_time::INVARIANT,
    &answered_in_time::INVARIANT,
    &neighbours::INVARIANT,
    &leaks::INVARIANT,
    &queues_empty::INVARIANT,
    &gap_called_for::INVARIANT,
    &loss_is_told::INVARIANT,
    &redelivered::INVARIANT,
    &hints_suffice::INVARIANT,
    &trouble::INVARIANT,
    &worth::INVARIANT,
    &refusals::INVARIANT,
    &interruptions::INVARIANT,
    &complete::INVARIANT,
];

/// See [`INVARIANTS`].
pub fn registry() -> impl Iterator<Item = &'static Invariant> {
    INVARIANTS.iter().copied()
}

impl Invariant {
    /// Its number as it is cited: `C07`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("C{:02}", self.number)
    }
}

impl fmt::Debug for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{:02} {}", self.number, self.name)
    }
}

impl PartialEq for Invariant {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Invariant {}

/// A record that proves a violation.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Its place among the records of the history, in the order of time.
    pub index: usize,
    /// Its line in the file, once [`lines::find`] has looked for it.
    pub line: Option<usize>,
    /// The record.
    pub record: Record,
}

/// One place where a promise was broken.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Which promise.
    pub invariant: &'static Invariant,
    /// Where, in words.
    pub what: String,
    /// The records that show it.
    pub proof: Vec<Proof>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)?;
        for Proof { line, record, .. } in &self.proof {
            let line = line.map_or_else(String::new, |line| format!(" line {line}"));
            write!(f, "\n    {}{line} {}: ", facts::seconds(record.t), record.by)?;
            f.write_str(&serde_json::to_string(&record.event).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// What an invariant finds.
pub(crate) struct Findings<'a> {
    /// How the run is to be judged.
    pub options: &'a Options,
    invariant: &'static Invariant,
    records: &'a [Record],
    kept: Vec<Violation>,
    count: usize,
}

impl Findings<'_> {
    /// The promise was broken; `proof` are the places of the records that show it.
    pub fn say(&mut self, what: impl FnOnce() -> String, proof: &[u32]) {
        self.count += 1;
        if self.kept.len() >= KEPT_MAX {
            return;
        }
        let mut proof: Vec<usize> = proof.iter().map(|index| *index as usize).collect();
        proof.sort_unstable();
        proof.dedup();
        let proof = proof.into_iter().filter_map(|index| {
            let record = self.records.get(index)?.clone();
            Some(Proof { index, line: None, record })
        });
        let proof = proof.collect();
        self.kept.push(Violation { invariant: self.invariant, what: what(), proof });
    }
}

/// What a whole history says of every promise.
#[derive(Debug)]
pub struct Verdict {
    /// How often each was broken, in the order of the registry.
    pub counts: Vec<(&'static Invariant, usize)>,
    /// The first violations of each, with proof.
    pub violations: Vec<Violation>,
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.counts.iter().all(|(_, count)| *count == 0)
    }

    /// How many violations there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// Judges a finished run by everything there is.
#[must_use]
pub fn judge(records: &[Record], options: &Options) -> Verdict {
    judge_by(records, options, registry())
}

/// Judges a finished run by some invariants only.
#[must_use]
pub fn judge_by(
    records: &[Record],
    options: &Options,
    invariants: impl IntoIterator<Item = &'static Invariant>,
) -> Verdict {
    let facts = Facts::of(records);
    let (mut counts, mut violations) = (Vec::new(), Vec::new());
    for invariant in invariants {
        let (kept, count) = (Vec::new(), 0);
        let mut findings = Findings { options, invariant, records, kept, count };
        (invariant.check)(&facts, &mut findings);
        counts.push((invariant, findings.count));
        violations.append(&mut findings.kept);
    }
    Verdict { counts, violations }
}

/// What is wrong with a short run, for which nothing but the promises themselves is demanded: see
/// [`Options::short`].
#[must_use]
pub fn check(records: &[Record]) -> Vec<Violation> {
    judge(records, &Options::short()).violations
}

/// The invariants as a table of the README.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| | promise | stands for | file |\n| --- | --- | --- | --- |\n");
    for invariant in registry() {
        let file = invariant.name.replace('-', "_");
        let Invariant { proves, promise, .. } = invariant;
        text += &format!("| {} | {promise} | {proves} | `{file}.rs` |\n", invariant.id());
    }
    text
}
