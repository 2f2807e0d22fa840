//! `clarion bench cluster`: what a cluster costs, how fast it is, and how long it takes to get over a
//! fault. Each part starts a cluster of its own with [`clarion_launch`]: nodes of this very program and
//! Redis on this machine, in a temporary directory; it ends what it started. The terminals are in load
//! processes, pushes are made here, as in the other benches.

use clap::{Args, Subcommand};

use super::Common;
use super::report::{Report, Reports};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

mod all;
mod census;
mod detect;
mod flow;
mod ground;
mod hang;
mod latency;
mod overload;
mod redis;
mod sessions;
mod usage;
mod wide;

const EXAMPLES: &str = "\
Examples:
  clarion bench cluster latency --rate 1000 --seconds 30
  clarion bench cluster sessions --nodes 1,4 --links 5000
  clarion bench cluster wide --nodes 8 --links 120000
  clarion bench cluster detect --rounds 10
  clarion bench cluster all --out node/BENCHMARKS-CLUSTER.md
  clarion bench cluster all --quick               see that everything works

Needs `redis-server`. Nodes, Redis and load share this machine: build with --release and leave it
alone meanwhile. A process takes at most as many terminals as it may open files (ulimit -Hn).";

const LATENCY: &str = "\
Examples:
  clarion bench cluster latency
  clarion bench cluster latency --nodes 5 --links 5000 --rate 2000 --seconds 60";

const SESSIONS: &str = "\
Examples:
  clarion bench cluster sessions
  clarion bench cluster sessions --nodes 1,8 --links 15000 --seconds 120";

const WIDE: &str = "\
Examples:
  clarion bench cluster wide
  clarion bench cluster wide --nodes 3 --links 45000 --messages 10";

const OVERLOAD: &str = "\
Examples:
  clarion bench cluster overload
  clarion bench cluster overload --rate 3000 --times 4 --seconds 30";

const DETECT: &str = "\
Examples:
  clarion bench cluster detect
  clarion bench cluster detect --rounds 20 --rate 1000";

const HANG: &str = "\
Examples:
  clarion bench cluster hang
  clarion bench cluster hang --callers 256 --seconds 120";

const REDIS: &str = "\
Examples:
  clarion bench cluster redis
  clarion bench cluster redis --links 5000 --messages 4 --bytes 1000";

const ALL: &str = "\
Examples:
  clarion bench cluster all --out node/BENCHMARKS-CLUSTER.md
  clarion bench cluster all --quick";

/// `clarion bench cluster`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// From push to message in the terminal across nodes, at a steady rate
    #[command(after_help = LATENCY)]
    Latency(latency::Options),
    /// What an idle session costs with one node and with more
    #[command(after_help = SESSIONS)]
    Sessions(sessions::Options),
    /// One message to as many terminals as fit on the machine
    #[command(after_help = WIDE)]
    Wide(wide::Options),
    /// Twice the capacity for a while: when latency is normal again
    #[command(after_help = OVERLOAD)]
    Overload(overload::Options),
    /// A node is killed or hangs: when its logs are served elsewhere
    #[command(after_help = DETECT)]
    Detect(detect::Options),
    /// A node hangs under full load: memory of the others
    #[command(after_help = HANG)]
    Hang(hang::Options),
    /// Bytes in Redis for a push, by kind of record
    #[command(after_help = REDIS)]
    Redis(redis::Options),
    /// Every part, as a Markdown table
    #[command(after_help = ALL)]
    All(all::Options),
}

pub(super) async fn run(
    arguments: Arguments,
    common: &Common,
    output: Output,
) -> Result<(), Failure> {
    if common.running {
        return Err(Failure::usage("a part of `bench cluster` starts its own nodes")
            .hint("leave --running away"));
    }
    let report: Report = match arguments.part {
        Part::Latency(options) => Box::pin(latency::run(options, common, output)).await?,
        Part::Sessions(options) => Box::pin(sessions::run(options, common, output)).await?,
        Part::Wide(options) => Box::pin(wide::run(options, common, output)).await?,
        Part::Overload(options) => Box::pin(overload::run(options, common, output)).await?,
        Part::Detect(options) => Box::pin(detect::run(options, common, output)).await?,
        Part::Hang(options) => Box::pin(hang::run(options, common, output)).await?,
        Part::Redis(options) => Box::pin(redis::run(options, common, output)).await?,
        Part::All(options) => return Box::pin(all::run(options, common, output)).await,
    };
    let reports = Reports(vec![report]);
    output.result(&reports, || reports.to_string())
}
