//! The kill loop: SIGKILL to the node again and again under load, a third of the terminals away
//! around each of them; then everybody comes back, and the history is judged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::check::{self, Violation};
use crate::history::{About, Event, FORMAT, History};
use crate::interruption::Expects;
use crate::node_process::NodeProcess;
use crate::run::{HINTS_OFF, HISTORY_FILE};
use crate::settle::{self, CountsNearFaults, DEADLINE};
use crate::summary::Summary;
use crate::workload::{Size, Workload};
use crate::{Failure, binary};

/// What it is called in histories.
pub const NAME: &str = "kill-loop";
/// The node.
const COMPONENT: &str = "node:node";
/// The counter of what only the slow head check found.
const HEAD_CHECK: &str = "clarion_head_check_found_total";

/// Pushes that a run must be worth.
const ACCEPTED_MIN: u64 = 1000;

/// What a run is to be like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What everything random is made from, but for what the machine adds.
    pub seed: u64,
    /// Kills that are made at least.
    pub kills: u32,
    /// How long it goes on at least.
    pub at_least: Duration,
    /// Pushes that are accepted at least.
    pub accepted: u64,
    /// The load.
    pub size: Size,
    /// Faults that the node commits by itself, the value of `CLARION_FAULTS`. With [`HINTS_OFF`]
    /// among them only the slow head check finds what is new.
    pub faults: Option<String>,
    /// Where the run keeps its files; a temporary directory if none.
    pub directory: Option<PathBuf>,
    /// The arguments of `clarion-chaos` that make such a run again, if there are such.
    pub again: String,
}

impl Settings {
    /// A run short enough for every day.
    #[must_use]
    pub const fn short(seed: u64) -> Self {
        Self {
            seed,
            kills: 12,
            at_least: Duration::ZERO,
            accepted: 3000,
            size: Size { products: 2, terminals: 12, pushes_per_s: 80, members_change: true },
            faults: None,
            directory: None,
            again: String::new(),
        }
    }
}

/// How a run is asked for on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How long to go on
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// What everything random is made from; a random one if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Products
    #[arg(long, default_value_t = 2)]
    products: usize,
    /// Terminals of each product
    #[arg(long, default_value_t = 12)]
    terminals: usize,
    /// Pushes a second, all pushers together
    #[arg(long, default_value_t = 60)]
    pushes_per_s: u32,
    /// Let the node drop every hint: all is found by the slow head check
    #[arg(long)]
    no_hints: bool,
    /// Faults that the node commits by itself, such as `relay=1%,lane=1%`: actors panic
    #[arg(long)]
    faults: Option<String>,
    /// Keep the files of the run in this directory, also when nothing is wrong
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

impl Arguments {
    /// A minute.
    #[must_use]
    pub const fn short(seed: u64) -> Self {
        Self {
            minutes: 1.0,
            seed: Some(seed),
            products: 2,
            terminals: 12,
            pushes_per_s: 60,
            no_hints: false,
            faults: None,
            keep: None,
        }
    }

    /// The run that is asked for.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::short(self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)));
        settings.at_least = Duration::from_secs_f64((self.minutes * 60.0).clamp(0.0, 1e9));
        settings.accepted = ACCEPTED_MIN;
        settings.size.products = self.products.max(1);
        settings.size.terminals = self.terminals.max(1);
        settings.size.pushes_per_s = self.pushes_per_s;
        settings.faults = match (self.no_hints, &self.faults) {
            (true, None) => Some(HINTS_OFF.to_owned()),
            (true, Some(faults)) => Some(format!("{HINTS_OFF},{faults}")),
            (false, faults) => faults.clone(),
        };
        settings.directory.clone_from(&self.keep);
        settings.again = self.arguments(settings.seed);
        settings
    }

    /// The same, with its files kept there.
    #[must_use]
    pub fn kept_in(self, keep: Option<PathBuf>) -> Self {
        Self { keep, ..self }
    }

    /// The arguments of `clarion-chaos` that make such a run again.
    fn arguments(&self, seed: u64) -> String {
        let Self { minutes, products, terminals, pushes_per_s, .. } = self;
        let hints = if self.no_hints { " --no-hints" } else { "" };
        let faults = self.faults.as_ref().map_or_else(String::new, |f| format!(" --faults {f}"));
        format!(
            "kill-loop --minutes {minutes} --seed {seed} --products {products} \
             --terminals {terminals} --pushes-per-s {pushes_per_s}{hints}{faults}"
        )
    }

    /// The command that makes such a run again.
    #[must_use]
    pub fn command(&self, seed: u64) -> String {
        format!("cargo run --release -p clarion-chaos -- {}", self.arguments(seed))
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Report {
    /// Its figures.
    pub summary: Summary,
    /// What is wrong; empty if nothing is.
    pub violations: Vec<Violation>,
    /// Where its files are, if they were kept: when something is wrong, or it was asked for.
    pub directory: Option<PathBuf>,
}

/// Makes a run and judges it.
///
/// # Errors
/// When the run could not be made; its files are kept then, too, and named.
pub async fn run(settings: &Settings) -> Result<Report, Failure> {
    let (directory, temporary) = match &settings.directory {
        Some(directory) => (directory.clone(), None),
        None => {
            let made = TempDir::with_prefix("clarion-chaos-");
            let made = made.map_err(Failure::of("cannot make a directory"))?;
            (made.path().to_owned(), Some(made))
        }
    };
    let found = run_in(settings, &directory).await;
    let clean = matches!(&found, Ok((_, violations)) if violations.is_empty());
    if !clean {
        // Kept for whoever looks for the cause.
        let _ = temporary.map(TempDir::keep);
    }
    let kept = (!clean || settings.directory.is_some()).then(|| directory.clone());
    match found {
        Ok((summary, violations)) => Ok(Report { summary, violations, directory: kept }),
        Err(failure) => Err(Failure::new(format!("{failure}\nfiles: {}", directory.display()))),
    }
}

async fn run_in(
    settings: &Settings,
    directory: &Path,
) -> Result<(Summary, Vec<Violation>), Failure> {
    std::fs::create_dir_all(directory).map_err(Failure::of("cannot make the directory"))?;
    let program = binary::provide(settings.faults.is_some(), directory)?;
    let about = About {
        format: FORMAT,
        seed: settings.seed,
        scenario: NAME.to_owned(),
        world: "single".to_owned(),
        again: settings.again.clone(),
        ..About::default()
    };
    let history = History::create(&directory.join(HISTORY_FILE), about);
    let history = Arc::new(history.map_err(Failure::of("cannot write the history"))?);
    let (name, class) = (COMPONENT.into(), "node:gateway+push+broker".into());
    history.add(Event::Component { name, class, parts: Vec::new() });
    let faults = settings.faults.as_deref();
    let hints_off = faults.is_some_and(|faults| faults.contains(HINTS_OFF));
    let config = if hints_off { "[actors]\nhead_check_ms = 300\n" } else { "" };
    let node = NodeProcess::create(program, directory, config, faults).await?;
    let seed = settings.seed;
    let load = Workload::start(node.doors(), Arc::clone(&history), settings.size, directory, seed);
    let load = timeout(DEADLINE, load).await;
    let load = load.map_err(|_| Failure::new("the load does not start in time"))??;
    let rng = Rng::with_seed(seed);
    let mut kill_loop = KillLoop { node, load, history, rng, kills: 0, mended: 0 };
    let done = kill_loop.run(settings).await;
    let written = kill_loop.history.flush().map_err(Failure::of("cannot write the history"));
    done.and(written)?;
    // While the one node is down nothing is accepted: what counts is what was between the kills.
    let (overlap_min, overlap_total_min) = (0, 0);
    let options =
        check::Options { hints_off, overlap_min, overlap_total_min, ..check::Options::default() };
    let text = serde_json::to_string_pretty(&options).map_err(Failure::of("the options"))?;
    std::fs::write(directory.join(check::Options::FILE), text)
        .map_err(Failure::of("cannot write how to judge"))?;
    let looked = kill_loop
        .history
        .look(|records| (Summary::of(records), check::judge(records, &options).violations));
    looked.map_err(Failure::of("cannot read the history"))
}

struct KillLoop {
    node: NodeProcess,
    load: Workload,
    history: Arc<History>,
    rng: Rng,
    kills: u32,
    /// Of them it has started again after so many.
    mended: u32,
}

impl KillLoop {
    async fn run(&mut self, settings: &Settings) -> Result<(), Failure> {
        let started = Instant::now();
        let mut round = 0;
        let accepted = self.history.accepted();
        while self.kills < settings.kills
            || started.elapsed() < settings.at_least
            || *accepted.borrow() < settings.accepted
        {
            self.round(round).await?;
            round += 1;
        }
        self.finish().await
    }

    /// A third goes away, the node is killed under load, and they come back: while it is down,
    /// when it has just started, or later, in turn.
    async fn round(&mut self, round: u32) -> Result<(), Failure> {
        self.load.send_away(round);
        self.settled().await?;
        let pushes = self.rng.u64(30..90);
        self.pushes(pushes).await?;
        self.kill().await?;
        if round % 4 == 3 {
            self.kill_at_start().await?;
        }
        if round.is_multiple_of(3) {
            self.load.bring_back(round);
        }
        self.start().await?;
        if round % 3 == 1 {
            self.load.bring_back(round);
            // Once more, into the middle of everybody's return.
            let pushes = self.rng.u64(0..5);
            self.pushes(pushes).await?;
            self.kill().await?;
            self.start().await?;
        }
        let pushes = self.rng.u64(30..90);
        self.pushes(pushes).await?;
        self.load.bring_back(round);
        self.settled().await
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        self.head_check().await?;
        self.fault("SIGKILL");
        self.node.kill().await
    }

    fn fault(&mut self, what: &str) {
        self.kills += 1;
        self.history.add(Event::Fault {
            n: self.kills,
            component: COMPONENT.into(),
            kind: "killed".into(),
            what: what.to_owned(),
            // There is no other node.
            expects: Expects::INTERRUPTS.to_string(),
            outside_model: false,
        });
    }

    /// Kills it while it recovers from the last kill.
    async fn kill_at_start(&mut self) -> Result<(), Failure> {
        let after = Duration::from_millis(self.rng.u64(..150));
        self.fault("SIGKILL in the middle of its start");
        self.node.start_and_kill(after).await
    }

    async fn head_check(&self) -> Result<(), Failure> {
        let found = self.node.counter(HEAD_CHECK).await?;
        self.history.add(Event::HeadChecked { found });
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Failure> {
        self.node.start().await?;
        for n in self.mended + 1..=self.kills {
            self.history.add(Event::Mended { n });
            self.history.add(Event::Healed { n });
        }
        self.mended = self.kills;
        Ok(())
    }

    /// Waits for so many more accepted pushes.
    async fn pushes(&mut self, more: u64) -> Result<(), Failure> {
        let mut accepted = self.history.accepted();
        let until = *accepted.borrow() + more;
        tokio::select! {
            reached = timeout(DEADLINE, accepted.wait_for(|accepted| *accepted >= until)) => {
                reached.map(drop).map_err(|_| Failure::new(format!("no {more} pushes were accepted in time")))
            }
            failure = self.load.ended() => Err(failure),
        }
    }

    /// Waits until all terminals are what they are to be.
    async fn settled(&self) -> Result<(), Failure> {
        let settled = timeout(DEADLINE, self.load.settled()).await;
        settled.map_err(|_| Failure::new("a terminal does not connect, or leave, in time"))?
    }

    /// Nothing is pushed any more, everybody is online: now everything must arrive, and the node
    /// must have counted it.
    async fn finish(&mut self) -> Result<(), Failure> {
        let stopped = timeout(DEADLINE * 2, self.load.stop_pushing()).await;
        stopped.map_err(|_| Failure::new("the pushers do not end in time"))??;
        self.load.all_online();
        self.settled().await?;
        settle::everything_arrived(&self.history).await;
        self.node.must_run()?;
        self.head_check().await?;
        settle::count(&self.history, &self.load.backends()?, CountsNearFaults::Whole).await
    }
}
