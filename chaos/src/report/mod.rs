//! The report of a run: what was broken and what came of it, as figures, as a table that says of every
//! component whether it is a single point of failure, and as one HTML page that needs nothing else.

mod html;
mod table;
mod timeline;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Failure;
use crate::check::Verdict;
use crate::history::{About, Event, Record};
use crate::interruption::{self, Measured, Quiet, Window};

pub use table::{Cell, Row};
pub use timeline::Second;

/// The files, in the directory of the run.
pub const JSON_FILE: &str = "report.json";
/// The same for people.
pub const HTML_FILE: &str = "report.html";
/// Violations that are quoted.
const VIOLATIONS_MAX: usize = 50;

/// Everything that is told of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which run.
    pub run: About,
    /// How long it was, milliseconds.
    pub duration_ms: u64,
    /// What the checker demands, and how often it was broken.
    pub promises: Vec<Promise>,
    /// The first violations, in words.
    pub violations: Vec<String>,
    /// Pushes and deliveries while nothing was broken.
    pub quiet: Quiet,
    /// One for each component: what happened while it was killed, hung, cut off, …
    pub rows: Vec<Row>,
    /// Components that nothing was done to.
    pub untouched: Vec<String>,
    /// What this machine could not do, by name.
    pub skipped: Vec<Skipped>,
    /// Interruptions that were longer than is expected, in words.
    pub too_long: Vec<String>,
    /// Those that prove nothing: others used the machine too much to compare them.
    pub excused: Vec<String>,
    /// Every fault and what it interrupted.
    pub faults: Vec<Window>,
    /// What happened in each second.
    pub seconds: Vec<Second>,
}

/// A promise and whether it was kept.
#[derive(Debug, Serialize)]
pub struct Promise {
    /// As it is cited: `C01`.
    pub id: String,
    /// In a few words.
    pub name: &'static str,
    /// In a sentence.
    pub promise: &'static str,
    /// How often it was broken.
    pub violations: usize,
}

/// A fault that could not be made.
#[derive(Debug, Serialize)]
pub struct Skipped {
    /// Of which component.
    pub component: String,
    /// Which.
    pub kind: String,
    /// Why not.
    pub why: String,
}

impl Report {
    /// Makes it of a whole history, sorted by time, and of what the checker found in it.
    #[must_use]
    pub fn of(records: &[Record], verdict: &Verdict) -> Self {
        let (mut run, mut components, mut skipped) = (About::default(), Vec::new(), Vec::new());
        for record in records {
            match &record.event {
                Event::Run(about) => run = (**about).clone(),
                Event::Component { name, class, .. } => components.push((name, class)),
                Event::Skipped { component, kind, why } => skipped.push(Skipped {
                    component: component.to_string(),
                    kind: kind.to_string(),
                    why: why.clone(),
                }),
                _ => {}
            }
        }
        let mut measured = interruption::measure(records);
        let judged = interruption::judge(&measured, run.heartbeat_ms, run.slack_ms);
        let told = |one: &interruption::TooLong| one.told(&measured);
        let (excused, too_long): (Vec<_>, Vec<_>) =
            judged.too_long.iter().partition(|one| one.is_excused);
        let [excused, too_long] =
            [excused, too_long].map(|all| all.into_iter().map(told).collect());
        table::blame(&mut measured.windows, &verdict.violations);
        let Measured { windows, quiet, .. } = measured;
        let rows = table::rows(&components, &windows, &judged);
        let has_row = |name: &str| {
            rows.iter().any(|row| row.component == name)
                || skipped.iter().any(|skipped| skipped.component == name)
        };
        let untouched = components.iter().map(|(name, _)| name.to_string());
        let untouched = untouched.filter(|name| !has_row(name)).collect();
        let promise =
            |(invariant, violations): &(&'static crate::check::Invariant, usize)| Promise {
                id: invariant.id(),
                name: invariant.name,
                promise: invariant.promise,
                violations: *violations,
            };
        let violations = verdict.violations.iter().take(VIOLATIONS_MAX);
        Self {
            run,
            duration_ms: records.last().map_or(0, |record| interruption::ms(record.t)),
            promises: verdict.counts.iter().map(promise).collect(),
            violations: violations.map(ToString::to_string).collect(),
            quiet,
            rows,
            untouched,
            skipped,
            too_long,
            excused,
            faults: windows,
            seconds: timeline::seconds(records),
        }
    }

    /// Whether every promise was kept, and every interruption was within what is expected.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let kept = |promise: &Promise| promise.violations == 0;
        self.promises.iter().all(kept) && self.too_long.is_empty()
    }

    /// Writes both files into `directory`; returns the page.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let json = serde_json::to_string_pretty(self).map_err(Failure::of("the report"))?;
        let page = directory.join(HTML_FILE);
        for (file, text) in [(directory.join(JSON_FILE), json), (page.clone(), html::page(self))] {
            let what = format!("cannot write {}", file.display());
            std::fs::write(&file, text).map_err(Failure::of(&what))?;
        }
        Ok(page)
    }

    /// The table of components for a terminal, and as Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        table::markdown(&self.rows)
    }
}

#[cfg(test)]
mod tests;
