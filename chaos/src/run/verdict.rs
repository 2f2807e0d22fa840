//! The end of a run: everything must arrive, be counted, be let go of, and the checker must find
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Run, held};
use crate::Failure;
use crate::check::{self, lines};
use crate::history::Event;
use crate::report::Report;
use crate::settle::{self, CountsNearFaults, DEADLINE};
use crate::summary::Summary;
use crate::world::Component;

/// Violations that a failure quotes.
const VIOLATIONS: usize = 30;
/// A little more than the time between two samples.
const LAST_SAMPLE: Duration = Duration::from_millis(1_500);

impl Run {
    /// Nothing is pushed any more and everybody comes online; then everything must arrive, be
    /// counted, and be let go of. Everything broken must have been mended.
    pub(super) async fn settle_and_judge(
        &mut self,
        lived: Result<(), Failure>,
    ) -> Result<Summary, Failure> {
        let settled = match lived {
            Ok(()) => self.settle().await,
            Err(failure) => Err(failure),
        };
        self.history.flush().map_err(Failure::of("cannot write the history"))?;
        let options = self.judged();
        let text = serde_json::to_string_pretty(&options).map_err(Failure::of("the options"))?;
        std::fs::write(self.directory.join(check::Options::FILE), text)
            .map_err(Failure::of("cannot write how to judge"))?;
        let looked = self.history.look(|records| {
            let verdict = check::judge(records, &options);
            let report = Report::of(records, &verdict);
            (Summary::of(records), verdict.violations, report)
        });
        let (summary, mut violations, report) =
            looked.map_err(Failure::of("cannot read the history"))?;
        println!("{summary}");
        println!("{}", report.table());
        report.write(&self.directory)?;
        // Who could not be started, or does not settle, has told why; the checker may know better.
        let mut complaints: Vec<String> = settled.err().iter().map(ToString::to_string).collect();
        if !violations.is_empty() {
            let count = violations.len();
            violations.truncate(VIOLATIONS);
            lines::find(self.history.path(), &mut violations)
                .map_err(Failure::of("cannot read the history"))?;
            let shown: Vec<String> = violations.iter().map(ToString::to_string).collect();
            complaints.push(format!("{count} promises were broken:\n{}", shown.join("\n")));
        }
        if complaints.is_empty() {
            return Ok(summary);
        }
        Err(self.told(&complaints.join("\n")))
    }

    /// How the history of this run is judged.
    fn judged(&self) -> check::Options {
        let (asked, usual) = (&self.options, check::Options::default());
        check::Options {
            // A node that dies takes counts with it that were not written yet.
            counts_may_lack: true,
            hints_off: asked.no_hints,
            head_check_may_find: !asked.no_hints && !asked.no_head_check,
            overlap_min: self.setting.overlap_min.unwrap_or(asked.profile.overlap_min()),
            expiry_slack_ms: self.setting.expiry_slack_ms.unwrap_or(usual.expiry_slack_ms),
            ..usual
        }
    }

    async fn settle(&mut self) -> Result<(), Failure> {
        let stopped = timeout(DEADLINE * 2, self.load.stop_pushing()).await;
        stopped.map_err(|_| self.told("the pushers do not end in time"))??;
        self.load.all_online();
        let online = timeout(DEADLINE, self.load.settled()).await;
        online.map_err(|_| self.told("terminals do not connect in time"))??;
        settle::everything_arrived(&self.history).await;
        for name in self.running() {
            self.head_check(&name).await?;
        }
        let (backends, may_lack) = (self.backends()?, CountsNearFaults::MayLack);
        settle::count(&self.history, &backends, may_lack).await?;
        // Their connections are held as long as they are.
        drop(backends);
        let terminals = self.load.terminals();
        held::let_go(&mut self.world.cluster, &self.before, terminals).await?;
        // That is seen by whoever reads the history when one more sample has been taken.
        sleep(LAST_SAMPLE).await;
        Ok(())
    }

    /// That every one of these components has a row of every kind, done or skipped by name.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn complete(
        &self,
        rows: &[Component],
        kinds: impl Fn(&Component) -> BTreeSet<&'static str>,
    ) -> Result<(), Failure> {
        let looked = self.history.look(|records| {
            let mut done: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for record in records {
                if let Event::Fault { component, kind, .. }
                | Event::Skipped { component, kind, .. } = &record.event
                {
                    done.entry(component.to_string()).or_default().insert(kind.to_string());
                }
            }
            done
        });
        let done = looked.map_err(Failure::of("cannot read the history"))?;
        let missing: Vec<String> = rows
            .iter()
            .flat_map(|row| kinds(row).into_iter().map(|kind| (row.to_string(), kind)))
            .filter(|(row, kind)| !done.get(row).is_some_and(|kinds| kinds.contains(*kind)))
            .map(|(row, kind)| format!("{row} {kind}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("without a row: {}", missing.join(", "))))
    }
}
