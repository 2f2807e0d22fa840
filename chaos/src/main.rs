//! `clarion-chaos`: runs scenarios, and judges histories of earlier runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clarion_chaos::check::{self, Violation};
use clarion_chaos::report::Report;
use clarion_chaos::run::{Options, Profile};
use clarion_chaos::scenario::{self, Outcome};
use clarion_chaos::summary::Summary;
use clarion_chaos::workload::process;
use clarion_chaos::world::interrupted;
use clarion_chaos::{Failure, history, kill_loop};

/// Violations that are shown of a kind; the history has them all.
const SHOWN_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p clarion-chaos -- list
  cargo run --release -p clarion-chaos -- run node-killed redis-master-hung
  cargo run --release -p clarion-chaos -- run spof --profile spof --keep run-1
  cargo run --release -p clarion-chaos -- run random --seed 7 --minutes 60 --no-hints
  cargo run --release -p clarion-chaos -- run --profile ci
  cargo run --release -p clarion-chaos -- replay run-1/history.jsonl
  cargo run --release -p clarion-chaos -- report run-1/history.jsonl
  cargo run --release -p clarion-chaos -- kill-loop --minutes 10

Exit codes: 0 every promise was kept; 1 one was broken, or a run failed; 2 wrong usage.";

/// Break Clarion and see whether it keeps its promises
#[derive(Debug, Parser)]
#[command(name = "clarion-chaos", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the scenarios
    List {
        /// Only those with this tag
        tag: Option<String>,
    },
    /// Run scenarios, one after the other, and judge what came of each
    Run(Box<Run>),
    /// Judge a history that was kept, and run the same again if asked to
    Replay {
        /// The history
        file: PathBuf,
        /// Run its scenario again with its seed
        #[arg(long)]
        run: bool,
    },
    /// Kill the embedded node again and again under load, and judge what came of it
    KillLoop(Box<kill_loop::Arguments>),
    /// Make the report of a history that was kept, beside it: a page and JSON
    Report {
        /// The history
        file: PathBuf,
    },
    /// Judge a history that was kept
    Check {
        /// The history
        file: PathBuf,
    },
    /// A part of the load, for the driver of a run
    #[command(hide = true)]
    Load,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Run {
    /// Names of scenarios, as `list` shows them; those of the profile if none is given
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// How long and how thoroughly
    #[arg(long, value_enum, default_value_t = Profile::Ci)]
    profile: Profile,
    /// What everything random is made from; a random one if absent
    #[arg(long)]
    seed: Option<u64>,
    /// How long scenarios without an end go on
    #[arg(long)]
    minutes: Option<f64>,
    /// Keep the files of each run in a directory of its name in this one, also when nothing is wrong
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// Drop every hint between nodes: all is found by the slow head check
    #[arg(long)]
    no_hints: bool,
    /// Switch the slow head check off: hints and hand-overs must bring everything
    #[arg(long, conflicts_with = "no_hints")]
    no_head_check: bool,
    /// Let terminals join and leave topics during the run. Known to fail where links to Redis or
    /// between nodes are cut: the node's count of a topic's members may then be one too many
    #[arg(long)]
    members: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List { tag } => {
            list(tag.as_deref());
            Ok(true)
        }
        Command::Run(arguments) => run(&arguments),
        Command::Replay { file, run } => replay(&file, run),
        Command::KillLoop(arguments) => kill_loop(&arguments),
        Command::Report { file } => report(&file),
        Command::Check { file } => check(&file),
        Command::Load => return process::main(),
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

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(Failure::of("no runtime"))
}

fn list(tag: Option<&str>) {
    for scenario in scenario::ALL {
        if tag.is_some_and(|tag| !scenario.tags.contains(&tag)) {
            continue;
        }
        println!("{:<22} {}", scenario.name, scenario.about);
        let needs: Vec<String> = scenario.needs.iter().map(ToString::to_string).collect();
        let needs = if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
        let (world, tags) = (scenario.world, scenario.tags.join(", "));
        println!("{:22} world: {world}; needs: {needs}; tags: {tags}", "");
    }
    if tag.is_none_or(|tag| tag == "ci") {
        println!("{:<22} the embedded node: SIGKILL again and again", "kill-loop");
        println!("{:22} a command of its own: `kill-loop --help`", "");
    }
}

fn run(arguments: &Run) -> Result<bool, Failure> {
    let named = arguments.scenarios.iter().map(|name| scenario::named(name));
    let mut scenarios = named.collect::<Result<Vec<_>, _>>()?;
    let of_profile = scenarios.is_empty();
    if of_profile {
        let tag = arguments.profile.tag();
        scenarios.extend(scenario::ALL.iter().filter(|one| one.tags.contains(&tag)));
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let runtime = runtime()?;
    let mut all_kept = true;
    for scenario in scenarios {
        println!("== {} (seed {seed}): {}", scenario.name, scenario.about);
        let options = Options {
            seed,
            profile: arguments.profile,
            minutes: arguments.minutes,
            keep: arguments.keep.as_ref().map(|keep| keep.join(scenario.name)),
            no_hints: arguments.no_hints,
            no_head_check: arguments.no_head_check,
            members: arguments.members,
        };
        // Dropped in the middle, the world clears itself away.
        let done = runtime.block_on(async {
            tokio::select! {
                done = scenario::run(scenario, options) => done,
                failure = interrupted() => Err(failure),
            }
        });
        match done {
            Ok(Outcome::Kept(_)) => println!("verdict                every promise was kept"),
            Ok(Outcome::Skipped(why)) => println!("skipped                {why}"),
            Err(failure) => {
                eprintln!("error: {failure}");
                all_kept = false;
            }
        }
    }
    if of_profile && arguments.profile == Profile::Ci {
        println!("== kill-loop (seed {seed})");
        all_kept &= kill_loop(&kill_loop::Arguments::short(seed))?;
    }
    Ok(all_kept)
}

fn kill_loop(arguments: &kill_loop::Arguments) -> Result<bool, Failure> {
    let settings = arguments.settings();
    eprintln!("seed {}", settings.seed);
    let runtime = runtime()?;
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

fn replay(file: &Path, again: bool) -> Result<bool, Failure> {
    let kept = check(file)?;
    if !again {
        return Ok(kept);
    }
    let name = file.display().to_string();
    let contents = history::read(file).map_err(Failure::of(&name))?;
    let about = contents.records.iter().find_map(|record| match &record.event {
        history::Event::Run(about) => Some(about),
        _ => None,
    });
    let about = about.ok_or_else(|| Failure::new("the history does not say its run"))?;
    if about.scenario == kill_loop::NAME {
        return kill_loop(&kill_loop::Arguments::short(about.seed));
    }
    let scenario = scenario::named(&about.scenario)?;
    let options = Options::of_kept(file, about.seed)?;
    let runtime = runtime()?;
    runtime.block_on(scenario::run(scenario, options)).map(|_| true)
}

fn report(file: &Path) -> Result<bool, Failure> {
    let name = file.display().to_string();
    let contents = history::read(file).map_err(Failure::of(&name))?;
    let options = check::Options::beside(file)?;
    let report = Report::of(&contents.records, &check::judge(&contents.records, &options));
    let directory = file.parent().unwrap_or(Path::new("."));
    let page = report.write(directory)?;
    print!("{}", report.table());
    for too_long in report.too_long() {
        println!("too long: {too_long}");
    }
    println!("{}", page.display());
    Ok(report.is_good())
}

fn check(file: &Path) -> Result<bool, Failure> {
    let name = file.display().to_string();
    let contents = history::read(file).map_err(Failure::of(&name))?;
    println!("{}", Summary::of(&contents.records));
    Ok(verdict(&check::check(&contents.records)))
}

fn verdict(violations: &[Violation]) -> bool {
    let mut shown = std::collections::HashMap::new();
    for violation in violations {
        let count = shown.entry(violation.invariant.number).or_insert(0);
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
