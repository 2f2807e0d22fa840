//! `clarion-chaos`: runs scenarios, and judges histories of earlier runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clarion_chaos::check::{self, Violation};
use clarion_chaos::report::Report;
use clarion_chaos::run::{Options, Profile};
use clarion_chaos::scenario::{self, Outcome};
use clarion_chaos::summary::Summary;
use clarion_chaos::target::{self, Refused};
use clarion_chaos::workload::process;
use clarion_chaos::world::interrupted;
use clarion_chaos::{Failure, history, kill_loop, mutants};

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
  cargo run --release -p clarion-chaos -- mutants

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
        /// Make the same run again
        #[arg(long)]
        run: bool,
        /// Keep the files of that run in this directory, also when nothing is wrong
        #[arg(long, value_name = "DIRECTORY", requires = "run")]
        keep: Option<PathBuf>,
    },
    /// Kill the embedded node again and again under load, and judge what came of it
    KillLoop(Box<kill_loop::Arguments>),
    /// Run mutants of the node, each of which breaks a promise: the checker must reject every one
    Mutants(Mutants),
    /// Break a running cluster, as far as a file allows it: `--example` shows one
    #[command(long_flag = "target")]
    Target(Box<target::Arguments>),
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
    /// Have the nodes break a promise: the name of a mutant, as `mutants --list` shows them
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Mutants {
    /// Some of them; all if none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Show them, and run none
    #[arg(long)]
    list: bool,
    /// Keep the files of each run in a directory of its mutant in this one
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List { tag } => {
            list(tag.as_deref());
            Ok(true)
        }
        Command::Run(arguments) => run(&arguments),
        Command::Replay { file, run, keep } => replay(&file, run.then_some(keep)),
        Command::KillLoop(arguments) => kill_loop(&arguments),
        Command::Mutants(arguments) => mutants(&arguments),
        Command::Target(arguments) => return target(&arguments),
        Command::Report { file } => report(&file),
        Command::Check { file } => replay(&file, None),
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

/// Does it, unless somebody ends the program: then what it made clears itself away, and nothing else
/// is begun.
fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of("no runtime"))?;
    runtime.block_on(async {
        tokio::select! {
            done = work => Ok(done),
            failure = interrupted() => Err(failure),
        }
    })
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
            mutant: arguments.mutant.clone(),
        };
        match unless_interrupted(scenario::run(scenario, options))? {
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
    let report = unless_interrupted(kill_loop::run(&settings))?;
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

fn mutants(arguments: &Mutants) -> Result<bool, Failure> {
    let chosen = mutants::named(&arguments.names)?;
    if arguments.list {
        print!("{}", mutants::table());
        return Ok(true);
    }
    let mut told = Vec::new();
    for mutant in chosen {
        println!("== {}: {}", mutant.name, mutant.breaks);
        let keep = arguments.keep.as_ref().map(|keep| keep.join(mutant.name));
        let end = unless_interrupted(mutants::run(mutant, keep))??;
        println!("{end}");
        told.push((mutant, end));
    }
    println!();
    for (mutant, end) in &told {
        println!("{:<22} {:<22} {end}", mutant.name, mutant.shown_by.to_string());
    }
    Ok(told.iter().all(|(_, end)| end.is_good()))
}

/// The only command that refuses by code: it is for clusters that are not ours.
fn target(arguments: &target::Arguments) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of("no runtime"));
    // It hears signals itself: first it mends.
    let done = runtime.map_err(Refused::from);
    match done.and_then(|runtime| runtime.block_on(target::run(arguments))) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(_)) => {
            println!("verdict                every promise was kept");
            ExitCode::SUCCESS
        }
        Err(Refused::Misuse(misuse)) => {
            eprintln!("error {misuse}");
            ExitCode::from(2)
        }
        Err(Refused::Failed(failure)) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Judges a history, and makes its run again if that is asked for, with its files kept or not.
fn replay(file: &Path, again: Option<Option<PathBuf>>) -> Result<bool, Failure> {
    let name = file.display().to_string();
    let contents = history::read(file).map_err(Failure::of(&name))?;
    println!("{}", Summary::of(&contents.records));
    let options = check::Options::beside(file)?;
    let kept = verdict(&check::judge(&contents.records, &options).violations);
    let Some(keep) = again else { return Ok(kept) };
    let about = contents.records.iter().find_map(|record| match &record.event {
        history::Event::Run(about) => Some(about),
        _ => None,
    });
    let arguments = about.map(|about| about.again.as_str()).unwrap_or_default();
    let words = std::iter::once("clarion-chaos").chain(arguments.split_whitespace());
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Run(arguments)) => run(&Run { keep, ..*arguments }),
        Ok(Command::KillLoop(arguments)) => kill_loop(&arguments.kept_in(keep)),
        Ok(Command::Target(_)) => Err(Failure::new(format!(
            "{name} is of a running cluster: `clarion-chaos {arguments}` makes such a run again"
        ))),
        _ => Err(Failure::new(format!("{name} does not say how its run was made"))),
    }
}

fn report(file: &Path) -> Result<bool, Failure> {
    let name = file.display().to_string();
    let contents = history::read(file).map_err(Failure::of(&name))?;
    let options = check::Options::beside(file)?;
    let report = Report::of(&contents.records, &check::judge(&contents.records, &options));
    let directory = file.parent().unwrap_or(Path::new("."));
    let page = report.write(directory)?;
    print!("{}", report.table());
    for too_long in &report.too_long {
        println!("too long: {too_long}");
    }
    println!("{}", page.display());
    Ok(report.is_good())
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
