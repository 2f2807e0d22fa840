//! `clarion doctor`: all that a node needs, looked at before it starts or while it runs. Changes
//! nothing.

mod checks;
mod report;
mod seeds;

use std::path::PathBuf;

use clap::Args;
use clarion_config::{Config, Environment, Mode};

use super::exit::{Exit, Failure};
use super::output::Output;
use report::{Finding, Report};

const EXAMPLES: &str = "\
Examples:
  clarion doctor node.toml
  clarion --json doctor node.toml | jq '.checks[] | select(.level != \"ok\")'

Looks at: the config and the files it names; the limit of open files; the addresses to listen on; the
store (a directory and its disk, or every Redis server against what the store needs of it: append-only
file, no eviction, replicas, sentinels); the clock of this machine against Redis and other nodes; whether
seeds and other nodes are reached and take this one as theirs (cookie, certificate, cluster.name, id). A
warning is worth a look, a failure keeps the node from starting or from keeping its promises: the exit
code is then 1.";

/// `clarion doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The config file
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let mut report = Report::default();
    match Config::load(&arguments.file, &environment, Mode::Start) {
        Ok(config) => {
            report.add("config", Finding::ok(format!("{} is fine", arguments.file.display())));
            crate::run::runtime()?.block_on(checks::all(&config, &environment, &mut report));
        }
        Err(errors) => {
            for error in &errors {
                let key =
                    if error.key.is_empty() { String::new() } else { format!("{}: ", error.key) };
                let message = format!("{}: {key}{}", error.origin, error.reason);
                report.add("config", Finding::fail(message, error.mend.clone()));
            }
        }
    }
    let file = arguments.file.display().to_string();
    report.name_file(&file);
    output.result(&report, || report.shown())?;
    match report.failures() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "1 check failed")),
        count => Err(Failure::new(Exit::Failed, format!("{count} checks failed"))),
    }
}
