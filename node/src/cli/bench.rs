//! `clarion bench`: what a node costs and how fast it is. The node is a process of its own (started
//! here with a temporary data directory, or one that runs), measured from `/proc`; the terminals
//! are in load processes ([`load`], [`worker`]); pushes are made here, with the SDK. Every bench is bounded and
//! ends by itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connection::ConnectionOptions;
use super::exit::Failure;
use super::output::Output;
use report::{Report, Reports};

mod all;
mod cluster;
mod connect;
mod fanout;
mod idle;
mod latency;
mod load;
mod node;
mod push;
mod raw;
mod report;
mod resume;
mod sdk_terminal;
mod stage;
mod tally;
mod worker;
mod ws;

const EXAMPLES: &str = "\
Examples:
  clarion bench idle --links 15000
  clarion bench latency --rate 2000 --seconds 20
  clarion bench all --out node/BENCHMARKS.md
  clarion bench cluster --help
  clarion bench push --running --pid $(pidof clarion) --server http://127.0.0.1:8080

Figures of server CPU and memory need the process id of the node: known when the node is started
here, and with --pid. Build with --release; leave the machine alone meanwhile.";

/// `clarion bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    common: Common,
}

/// Options of every bench.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Measure the node that runs at --server and --terminals instead of starting one
    #[arg(long, global = true)]
    running: bool,
    /// Process id of the running node, for figures of CPU and memory
    #[arg(long, global = true, requires = "running", value_name = "PID")]
    pid: Option<u32>,
    /// Where the node that is started keeps its data meanwhile; a real disk, for fsync to count
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = std::env::temp_dir(), hide_default_value = true)]
    data: PathBuf,
    /// Which client the terminals are; each bench has its default
    #[arg(long, global = true, value_name = "CLIENT")]
    client: Option<load::Client>,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Memory and CPU of terminals that only wait
    Idle(idle::Options),
    /// One message to a topic with many terminals
    Fanout(fanout::Options),
    /// Pushes accepted over HTTP, each signed and durable
    Push(push::Options),
    /// From push to message in the terminal, at a steady rate
    Latency(latency::Options),
    /// The same path at full speed over push WebSockets
    Ws(ws::Options),
    /// Terminals connecting: upgrade, token, cursors, session
    Connect(connect::Options),
    /// Terminals that come back all at once to messages that wait
    Resume(resume::Options),
    /// Every bench, each on a fresh node, as a Markdown table
    All(all::Options),
    /// A cluster of nodes with Redis on this machine
    Cluster(cluster::Arguments),
    /// A load process (internal)
    #[command(hide = true)]
    Load,
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    crate::run::raise_descriptor_limit();
    crate::run::runtime()?.block_on(async {
        let Arguments { bench, common } = arguments;
        if matches!(bench, Bench::Load) {
            // Ctrl-C reaches the whole group; the bench decides when its load ends.
            return tokio::select! {
                served = worker::serve() => served,
                () = ignore_interrupts() => Ok(()),
            };
        }
        tokio::select! {
            done = measure(bench, &common, output) => done,
            () = told_to_stop() => Err(Failure::interrupted()),
        }
    })
}

/// Ctrl-C or SIGTERM: what the bench started is taken down then.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn ignore_interrupts() {
    while tokio::signal::ctrl_c().await.is_ok() {}
}

async fn measure(bench: Bench, common: &Common, output: Output) -> Result<(), Failure> {
    let report: Report = match bench {
        Bench::Idle(options) => Box::pin(idle::run(options, common, output)).await?,
        Bench::Fanout(options) => Box::pin(fanout::run(options, common, output)).await?,
        Bench::Push(options) => Box::pin(push::run(options, common, output)).await?,
        Bench::Latency(options) => Box::pin(latency::run(options, common, output)).await?,
        Bench::Ws(options) => Box::pin(ws::run(options, common, output)).await?,
        Bench::Connect(options) => Box::pin(connect::run(options, common, output)).await?,
        Bench::Resume(options) => Box::pin(resume::run(options, common, output)).await?,
        Bench::All(options) => return Box::pin(all::run(options, common, output)).await,
        Bench::Cluster(arguments) => {
            return Box::pin(cluster::run(arguments, common, output)).await;
        }
        Bench::Load => return Ok(()),
    };
    let reports = Reports(vec![report]);
    output.result(&reports, || reports.to_string())
}
