//! `clarion-chaos`: longer runs than the tests make, and judging histories of earlier ones.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clarion_chaos::check::{self, Violation};
use clarion_chaos::kill_loop::{self, HINTS_OFF, Settings};
use clarion_chaos::summary::Summary;
use clarion_chaos::{Failure, history};

/// Violations that are shown of a kind; the history has them all.
const SHOWN_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p clarion-chaos -- kill-loop --minutes 10
  cargo run --release -p clarion-chaos -- kill-loop --minutes 60 --seed 7 --pushes-per-s 500
  cargo run --release -p clarion-chaos -- kill-loop --hints-off --keep run-1
  cargo run --release -p clarion-chaos -- check run-1/history.jsonl

Exit codes: 0 every promise was kept; 1 one was broken, or the run failed; 2 wrong usage.";

/// Break a Clarion node and see whether it keeps its promises
#[derive(Debug, Parser)]
#[command(name = "clarion-chaos", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill the node again and again under load, and judge what came of it
    KillLoop(KillLoop),
    /// Judge a history that was kept
    Check {
        /// The history
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct KillLoop {
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
    hints_off: bool,
    /// Faults that the node commits by itself, such as `relay=1%,lane=1%`: actors panic
    #[arg(long)]
    faults: Option<String>,
    /// Keep the files of the run in this directory, also when nothing is wrong
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

impl KillLoop {
    fn settings(&self) -> Settings {
        let mut settings = Settings::short(self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)));
        settings.at_least = Duration::from_secs_f64((self.minutes * 60.0).clamp(0.0, 1e9));
        settings.accepted = 0;
        settings.size.products = self.products.max(1);
        settings.size.terminals = self.terminals.max(1);
        settings.size.pushes_per_s = self.pushes_per_s;
        settings.faults = match (self.hints_off, &self.faults) {
            (true, None) => Some(HINTS_OFF.to_owned()),
            (true, Some(faults)) => Some(format!("{HINTS_OFF},{faults}")),
            (false, faults) => faults.clone(),
        };
        settings.directory.clone_from(&self.keep);
        settings
    }

    /// The command that makes such a run again.
    fn command(&self, seed: u64) -> String {
        let Self { minutes, products, terminals, pushes_per_s, .. } = self;
        let hints = if self.hints_off { " --hints-off" } else { "" };
        let faults = self.faults.as_ref().map_or_else(String::new, |f| format!(" --faults {f}"));
        format!(
            "cargo run --release -p clarion-chaos -- kill-loop --minutes {minutes} --seed {seed} \
             --products {products} --terminals {terminals} --pushes-per-s {pushes_per_s}{hints}{faults}"
        )
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::KillLoop(arguments) => kill_loop(&arguments),
        Command::Check { file } => check(&file),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn kill_loop(arguments: &KillLoop) -> Result<bool, Failure> {
    let settings = arguments.settings();
    eprintln!("seed {}", settings.seed);
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of("no runtime"))?;
    let report = runtime.block_on(kill_loop::run(&settings));
    let again = arguments.command(settings.seed);
    let report = report.map_err(|failure| Failure::new(format!("{failure}\nagain: {again}")))?;
    println!("{}", report.summary);
    if let Some(directory) = &report.directory {
        println!("files                  {}", directory.display());
    }
    if !report.violations.is_empty() {
        println!("again                  {again}");
    }
    Ok(verdict(&report.violations))
}

fn check(file: &std::path::Path) -> Result<bool, Failure> {
    let name = file.display().to_string();
    let records = history::read(file).map_err(Failure::of(&name))?;
    println!("{}", Summary::of(&records));
    Ok(verdict(&check::check(&records)))
}

fn verdict(violations: &[Violation]) -> bool {
    let mut shown = std::collections::HashMap::new();
    for violation in violations {
        let count = shown.entry(violation.rule).or_insert(0);
        *count += 1;
        if *count <= SHOWN_MAX {
            println!("{violation}");
        }
    }
    match violations.len() {
        0 => println!("verdict                every promise was kept"),
        count => println!("verdict                {count} violations"),
    }
    violations.is_empty()
}
