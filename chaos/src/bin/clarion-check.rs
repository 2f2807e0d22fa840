//! `clarion-check`: judges histories of runs, and nothing else. It starts nothing and asks nobody.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clarion_chaos::check::{self, Options, Verdict, explain, lines};
use clarion_chaos::history::{self, Event, Record};

const EXAMPLES: &str = "\
Examples:
  clarion-check run-1/history.jsonl                     judge a history
  clarion-check run-*/history.jsonl --json              several, for programs
  clarion-check --list                                  what is checked
  clarion-check h.jsonl --explain product-0-http-17     everything about one push
  clarion-check h.jsonl --terminal product-0/t3         everything about one terminal
  clarion-check h.jsonl --only C01,C17 --shown 100      some invariants, more of each
  clarion-check h.jsonl --options judge.json            judged otherwise than by default

A file judge.json beside a history is read if no other is named; --print-options shows its keys.

Exit codes: 0 every promise was kept; 1 one was broken; 2 a history cannot be read, or wrong usage.";

/// Judge histories of runs by what Clarion promises
#[derive(Debug, Parser)]
#[command(name = "clarion-check", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Histories
    #[arg(required_unless_present_any = ["list", "print_options"])]
    histories: Vec<PathBuf>,
    /// Print the verdicts as JSON, one object a history
    #[arg(long)]
    json: bool,
    /// List the invariants
    #[arg(long)]
    list: bool,
    /// Check only these, by number (C01) or name
    #[arg(long, value_delimiter = ',', value_name = "INVARIANT")]
    only: Vec<String>,
    /// How the histories are to be judged
    #[arg(long, value_name = "FILE")]
    options: Option<PathBuf>,
    /// Print the default options and end
    #[arg(long)]
    print_options: bool,
    /// Accepted pushes that must overlap each fault
    #[arg(long, value_name = "PUSHES")]
    overlap_min: Option<u64>,
    /// Violations of an invariant that are shown
    #[arg(long, default_value_t = 5)]
    shown: usize,
    /// Print everything about one push and end
    #[arg(long, value_name = "KEY")]
    explain: Option<String>,
    /// Print everything about one terminal (PRODUCT/TERMINAL) and end
    #[arg(long, value_name = "WHO")]
    terminal: Option<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every promise was kept in all histories.
fn run(cli: &Cli) -> io::Result<bool> {
    if cli.list {
        print!("{}", list());
        return Ok(true);
    }
    if cli.print_options {
        println!("{}", serde_json::to_string_pretty(&Options::default())?);
        return Ok(true);
    }
    let only = only(&cli.only)?;
    let mut good = true;
    for path in &cli.histories {
        let named = |error| io::Error::other(format!("{}: {error}", path.display()));
        let history::Contents { records, torn } = history::read(path).map_err(named)?;
        if torn.is_some() {
            eprintln!("{}: the last line is torn and was left out", path.display());
        }
        let told = match (&cli.explain, &cli.terminal) {
            (Some(key), _) => Some(explain::push(&records, key)),
            (None, Some(who)) => Some(explain::terminal(&records, who)),
            (None, None) => None,
        };
        if let Some(told) = told {
            let told = told.ok_or_else(|| named(io::Error::other("nothing of that name")))?;
            print!("{told}");
            continue;
        }
        let mut options = options(cli, path)?;
        options.overlap_min = cli.overlap_min.unwrap_or(options.overlap_min);
        let mut verdict = check::judge_by(&records, &options, only.iter().copied());
        let mut shown = BTreeMap::new();
        verdict.violations.retain(|violation| {
            let count: &mut usize = shown.entry(violation.invariant.number).or_default();
            *count += 1;
            *count <= cli.shown
        });
        lines::find(path, &mut verdict.violations).map_err(named)?;
        if cli.json {
            println!("{}", json(path, &records, &verdict));
        } else {
            print!("{}", text(path, &records, &verdict));
        }
        good &= verdict.is_good();
    }
    Ok(good)
}

fn options(cli: &Cli, history: &Path) -> io::Result<Options> {
    let read =
        cli.options.as_ref().map_or_else(|| Options::beside(history), |path| Options::read(path));
    read.map_err(io::Error::other)
}

fn only(wanted: &[String]) -> io::Result<Vec<&'static check::Invariant>> {
    if wanted.is_empty() {
        return Ok(check::registry().collect());
    }
    let find = |wanted: &String| {
        let same = |one: &&check::Invariant| one.id() == *wanted || one.name == wanted;
        let found = check::registry().find(same);
        found.ok_or_else(|| io::Error::other(format!("there is no invariant {wanted}: see --list")))
    };
    wanted.iter().map(find).collect()
}

fn list() -> String {
    check::registry().fold(String::new(), |mut text, one| {
        let _ = writeln!(text, "{} {} ({})\n    {}", one.id(), one.name, one.proves, one.promise);
        text
    })
}

/// What run it was, and what was and was not done to it.
fn about(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        match &record.event {
            Event::Run(about) => {
                let _ = writeln!(
                    text,
                    "run         {} on {}, seed {}, {} ({})",
                    about.scenario, about.world, about.seed, about.program, about.commit
                );
                if !about.again.is_empty() {
                    let again = &about.again;
                    let _ = writeln!(
                        text,
                        "again       cargo run --release -p clarion-chaos -- {again}"
                    );
                }
            }
            Event::Skipped { component, kind, why } => {
                let _ = writeln!(text, "skipped     {component} {kind}: {why}");
            }
            _ => {}
        }
    }
    text
}

fn text(path: &Path, records: &[Record], verdict: &Verdict) -> String {
    let mut text = format!("history     {}, {} records\n", path.display(), records.len());
    text += &about(records);
    for (invariant, count) in &verdict.counts {
        let state = if *count == 0 { "kept".to_owned() } else { format!("BROKEN {count} times") };
        let _ = writeln!(text, "{invariant:?}: {state}");
        let shown = verdict.violations.iter().filter(|one| one.invariant == *invariant);
        for violation in shown {
            let indented = violation.to_string().replace('\n', "\n    ");
            let _ = writeln!(text, "    {indented}");
        }
    }
    match verdict.count() {
        0 => text += "verdict     every promise was kept\n",
        count => {
            let _ = writeln!(text, "verdict     {count} violations");
        }
    }
    text
}

fn json(path: &Path, records: &[Record], verdict: &Verdict) -> serde_json::Value {
    let run = records.iter().find_map(|record| match &record.event {
        Event::Run(about) => serde_json::to_value(about).ok(),
        _ => None,
    });
    let invariants: Vec<_> = verdict
        .counts
        .iter()
        .map(|(invariant, count)| {
            let of = verdict.violations.iter().filter(|one| one.invariant == *invariant);
            let violations: Vec<_> = of
                .map(|violation| {
                    let proof = violation.proof.iter();
                    let proof = proof.map(
                        |proof| serde_json::json!({ "line": proof.line, "record": proof.record }),
                    );
                    let proof: Vec<_> = proof.collect();
                    serde_json::json!({ "what": violation.what, "proof": proof })
                })
                .collect();
            serde_json::json!({
                "id": invariant.id(),
                "name": invariant.name,
                "proves": invariant.proves,
                "count": count,
                "violations": violations,
            })
        })
        .collect();
    serde_json::json!({
        "history": path.display().to_string(),
        "run": run,
        "good": verdict.is_good(),
        "invariants": invariants,
    })
}
