//! Every bench, each on a fresh node, as a Markdown table with machine, commit and commands.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Parser};

use super::Common;
use super::report::{Report, Reports};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// `clarion bench all`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Write the table to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Far smaller numbers, to see that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// The options of every bench, as its own command line would read them.
struct Plan {
    idle: super::idle::Options,
    fanout: super::fanout::Options,
    push: super::push::Options,
    latency: super::latency::Options,
    ws: super::ws::Options,
    connect: super::connect::Options,
    resume: super::resume::Options,
}

#[derive(Parser)]
struct Parsed<T: Args> {
    #[command(flatten)]
    options: T,
}

/// Options of a bench, from its arguments.
pub(super) fn parse<T: Args>(arguments: &str) -> Result<T, Failure> {
    let words = std::iter::once("bench").chain(arguments.split_whitespace());
    Parsed::<T>::try_parse_from(words)
        .map(|parsed| parsed.options)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// The arguments of each bench for `all --quick`, in its order.
const QUICK: [(&str, &str); 7] = [
    ("idle", "--links 200 --seconds 2 --messages 3"),
    ("fanout", "--links 200 --paced 3 --burst 20"),
    ("push", "--callers 8 --seconds 1"),
    ("latency", "--links 100 --rate 200 --seconds 2"),
    ("ws", "--links 100 --messages 500 --in-flight 64"),
    ("connect", "--links 200 --rounds 1"),
    ("resume", "--links 100 --waiting 5"),
];

/// The arguments of each bench for `all`: in full each has its own defaults.
fn arguments(quick: bool) -> [(&'static str, &'static str); 7] {
    if quick { QUICK } else { QUICK.map(|(bench, _)| (bench, "")) }
}

impl Plan {
    fn new(quick: bool) -> Result<Self, Failure> {
        let [idle, fanout, push, latency, ws, connect, resume] = arguments(quick);
        Ok(Self {
            idle: parse(idle.1)?,
            fanout: parse(fanout.1)?,
            push: parse(push.1)?,
            latency: parse(latency.1)?,
            ws: parse(ws.1)?,
            connect: parse(connect.1)?,
            resume: parse(resume.1)?,
        })
    }
}

pub(super) async fn run(options: Options, common: &Common, output: Output) -> Result<(), Failure> {
    let plan = Plan::new(options.quick)?;
    let reports = vec![
        Box::pin(super::idle::run(plan.idle, common, output)).await?,
        Box::pin(super::fanout::run(plan.fanout, common, output)).await?,
        Box::pin(super::push::run(plan.push, common, output)).await?,
        Box::pin(super::latency::run(plan.latency, common, output)).await?,
        Box::pin(super::ws::run(plan.ws, common, output)).await?,
        Box::pin(super::connect::run(plan.connect, common, output)).await?,
        Box::pin(super::resume::run(plan.resume, common, output)).await?,
    ];
    let paper = Paper {
        title: "Benchmarks",
        command: "clarion bench",
        how: "each bench on a fresh node in a process of its own, with the load on the same machine",
        arguments: &arguments(options.quick),
        quick: options.quick,
    };
    paper.write(reports, options.out.as_deref(), output)
}

/// Several reports as Markdown.
pub(super) struct Paper<'a> {
    pub(super) title: &'static str,
    /// What comes before `all` and before the name of each bench.
    pub(super) command: &'static str,
    /// On what it was measured.
    pub(super) how: &'static str,
    /// Name and arguments of each bench, in the order of the reports.
    pub(super) arguments: &'a [(&'static str, &'static str)],
    pub(super) quick: bool,
}

impl Paper<'_> {
    /// Writes the reports to the file, or to stdout.
    pub(super) fn write(
        &self,
        reports: Vec<Report>,
        file: Option<&Path>,
        output: Output,
    ) -> Result<(), Failure> {
        let markdown = self.markdown(&reports);
        match file {
            Some(file) => {
                std::fs::write(file, &markdown).map_err(|error| {
                    Failure::local(format!("cannot write {}", file.display()), error)
                })?;
                output.note(&format!("written to {}", file.display()));
                output.result(&Reports(reports), String::new)
            }
            None => output.result(&Reports(reports), || markdown.clone()),
        }
    }

    fn markdown(&self, reports: &[Report]) -> String {
        let mut text = format!(
            "# {}\n\nMeasured by `{} all{}`, {}.\n\n- machine: {}\n- commit: {}\n- build: {}, \
             version {}\n",
            self.title,
            self.command,
            if self.quick { " --quick" } else { "" },
            self.how,
            machine(),
            commit(),
            if cfg!(debug_assertions) { "debug (figures mean nothing)" } else { "release" },
            env!("CARGO_PKG_VERSION"),
        );
        for (report, (name, options)) in reports.iter().zip(self.arguments) {
            let command = format!("{} {name} {options}", self.command);
            text.push_str(&format!(
                "\n## {}\n\n`{}`: {}\n\n| figure | measured | to reach | reached |\n| --- | --- | \
                 --- | --- |\n",
                report.bench,
                command.trim_end(),
                report.setup,
            ));
            for figure in &report.figures {
                let reached = match figure.reached() {
                    Some(true) => "yes",
                    Some(false) => "**no**",
                    None => "",
                };
                text.push_str(&format!(
                    "| {} | {} | {} | {reached} |\n",
                    figure.name,
                    figure.shown(),
                    figure.reach_shown(),
                ));
            }
        }
        text
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "?".to_owned());
    let memory_kb: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores ({model}), {} GB, Linux {}", memory_kb / 1_000_000, kernel.trim())
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} with changes"),
        (None, _) => "not known (no git repository)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_plans_are_options_that_the_benches_know() {
        assert!(Plan::new(true).is_ok());
        assert_eq!(Plan::new(false).unwrap().idle.terminals, 15_000);
    }

    #[test]
    fn the_table_shows_what_was_reached_and_what_not() {
        use super::super::report::Reach;
        let mut report = Report::new("idle", "setup".to_owned());
        report.figure("good", 1.0, "ms", Reach::AtMost(2.0));
        report.figure("bad", 3.0, "ms", Reach::AtMost(2.0));
        let paper = Paper {
            title: "Benchmarks",
            command: "clarion bench",
            how: "on a node",
            arguments: &[("idle", "--links 5")],
            quick: false,
        };
        let text = paper.markdown(&[report]);
        assert!(text.contains("`clarion bench idle --links 5`: setup"), "{text}");
        assert!(text.contains("| good | 1.00 ms | at most 2.00 | yes |"), "{text}");
        assert!(text.contains("| bad | 3.00 ms | at most 2.00 | **no** |"), "{text}");
    }
}
