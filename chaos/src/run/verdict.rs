//! The end of a run: everything must arrive, be counted, be let go of, and the checker must find
//! nothing.

use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Run, held};
use crate::Failure;
use crate::check::{self, Rows, lines};
use crate::history::History;
use crate::report::Report;
use crate::settle::{self, CountsNearFaults, DEADLINE};
use crate::summary::Summary;

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
        let complaints = settled.err().iter().map(ToString::to_string).collect();
        let judged = judge(&self.history, &self.judged(), &self.directory, complaints);
        judged.map_err(|failure| self.world.told(&failure.to_string()))
    }

    /// How the history of this run is judged.
    fn judged(&self) -> check::Options {
        let (asked, setting, usual) = (&self.options, &self.setting, check::Options::default());
        check::Options {
            counts_may_lack: self.counts_may_lack(),
            hints_off: asked.no_hints,
            head_check_may_find: !asked.no_hints && !asked.no_head_check,
            overlap_min: setting.overlap_min,
            overlap_total_min: setting.overlap_total_min,
            rows: match setting.rows {
                Rows::EveryClass if asked.profile.all_links() => Rows::All,
                rows => rows,
            },
            expiry_slack_ms: setting.expiry_slack_ms.unwrap_or(usual.expiry_slack_ms),
            ..usual
        }
    }

    /// Whether counts of pushes close to a fault may lack something. Of several shards the one that
    /// keeps where a message is may be away when it is accepted; nobody finds it then, if the node dies
    /// before it could write that later.
    fn counts_may_lack(&self) -> bool {
        self.redis_shards() > 1
    }

    async fn settle(&mut self) -> Result<(), Failure> {
        let stopped = timeout(DEADLINE * 2, self.load.stop_pushing()).await;
        stopped.map_err(|_| Failure::new("the pushers do not end in time"))??;
        self.load.all_online();
        let online = timeout(DEADLINE, self.load.settled()).await;
        online.map_err(|_| Failure::new("terminals do not connect in time"))??;
        settle::everything_arrived(&self.history).await;
        for name in self.running() {
            self.head_check(&name).await?;
        }
        let near_faults = match self.counts_may_lack() {
            true => CountsNearFaults::MayLack,
            false => CountsNearFaults::Whole,
        };
        let backends = self.backends()?;
        settle::count(&self.history, &backends, near_faults).await?;
        // Their connections are held as long as they are.
        drop(backends);
        let terminals = self.load.terminals();
        held::let_go(&mut self.world.cluster, &self.before, terminals).await?;
        // That is seen by whoever reads the history when one more sample has been taken.
        sleep(LAST_SAMPLE).await;
        Ok(())
    }
}

/// Judges a history, with the report beside it. Whoever could not be started, or does not settle, has
/// told why: those complaints count; but the checker may know better.
pub(crate) fn judge(
    history: &History,
    options: &check::Options,
    directory: &Path,
    mut complaints: Vec<String>,
) -> Result<Summary, Failure> {
    history.flush().map_err(Failure::of("cannot write the history"))?;
    let text = serde_json::to_string_pretty(options).map_err(Failure::of("the options"))?;
    std::fs::write(directory.join(check::Options::FILE), text)
        .map_err(Failure::of("cannot write how to judge"))?;
    let looked = history.look(|records| {
        let verdict = check::judge(records, options);
        let report = Report::of(records, &verdict);
        (Summary::of(records), verdict.violations, report)
    });
    let (summary, mut violations, report) =
        looked.map_err(Failure::of("cannot read the history"))?;
    println!("{summary}");
    println!("{}", report.table());
    report.write(directory)?;
    if !violations.is_empty() {
        let count = violations.len();
        violations.truncate(VIOLATIONS);
        lines::find(history.path(), &mut violations)
            .map_err(Failure::of("cannot read the history"))?;
        let shown: Vec<String> = violations.iter().map(ToString::to_string).collect();
        complaints.push(format!("{count} promises were broken:\n{}", shown.join("\n")));
    }
    if complaints.is_empty() { Ok(summary) } else { Err(Failure::new(complaints.join("\n"))) }
}
