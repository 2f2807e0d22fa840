//! Every part, each on clusters of its own, as a Markdown table.

use std::path::PathBuf;

use clap::Args;

use super::super::Common;
use super::super::all::{Paper, parse};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// `clarion bench cluster all`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Write the table to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Far smaller numbers, to see that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// The options of every part, as its own command line would read them.
struct Parts {
    latency: super::latency::Options,
    sessions: super::sessions::Options,
    wide: super::wide::Options,
    overload: super::overload::Options,
    detect: super::detect::Options,
    hang: super::hang::Options,
    redis: super::redis::Options,
}

/// The arguments of each part for `all --quick`, in its order.
const QUICK: [(&str, &str); 7] = [
    ("latency", "--links 60 --rate 100 --seconds 2"),
    ("sessions", "--nodes 1,2 --links 100 --heartbeat-s 1 --seconds 3"),
    ("wide", "--nodes 2 --links 200 --messages 2"),
    ("overload", "--links 60 --rate 200 --seconds 3 --normal 3"),
    ("detect", "--links 60 --rate 100 --seconds 8 --rounds 1"),
    ("hang", "--links 60 --callers 4 --seconds 5 --around 2"),
    ("redis", "--links 50 --messages 4"),
];

/// The arguments of each part for `all`: in full each has its own defaults.
fn arguments(quick: bool) -> [(&'static str, &'static str); 7] {
    if quick { QUICK } else { QUICK.map(|(part, _)| (part, "")) }
}

impl Parts {
    fn new(quick: bool) -> Result<Self, Failure> {
        let [latency, sessions, wide, overload, detect, hang, redis] = arguments(quick);
        Ok(Self {
            latency: parse(latency.1)?,
            sessions: parse(sessions.1)?,
            wide: parse(wide.1)?,
            overload: parse(overload.1)?,
            detect: parse(detect.1)?,
            hang: parse(hang.1)?,
            redis: parse(redis.1)?,
        })
    }
}

pub(super) async fn run(options: Options, common: &Common, output: Output) -> Result<(), Failure> {
    let parts = Parts::new(options.quick)?;
    let reports = vec![
        Box::pin(super::latency::run(parts.latency, common, output)).await?,
        Box::pin(super::sessions::run(parts.sessions, common, output)).await?,
        Box::pin(super::wide::run(parts.wide, common, output)).await?,
        Box::pin(super::overload::run(parts.overload, common, output)).await?,
        Box::pin(super::detect::run(parts.detect, common, output)).await?,
        Box::pin(super::hang::run(parts.hang, common, output)).await?,
        Box::pin(super::redis::run(parts.redis, common, output)).await?,
    ];
    let paper = Paper {
        title: "Benchmarks of a cluster",
        command: "clarion bench cluster",
        how: "each part on a cluster of its own: nodes and Redis are processes of their own, with the \
              load on the same machine",
        arguments: &arguments(options.quick),
        quick: options.quick,
    };
    paper.write(reports, options.out.as_deref(), output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_plans_are_options_that_the_parts_know() {
        assert_eq!(Parts::new(true).unwrap().detect.rounds, 1);
        let parts = Parts::new(false).unwrap();
        assert_eq!(parts.sessions.nodes, [1, 2, 4, 8]);
        assert_eq!(parts.wide.terminals, 120_000);
    }
}
