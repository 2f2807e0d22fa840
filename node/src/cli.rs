//! The command line: `clarion dev` and `clarion start` are a node; everything else is a client of a
//! running one, through the SDK. Results go to stdout, what happens meanwhile to stderr.
//!
//! [`exit`] is the vocabulary of exit codes, [`output`] writes for people or scripts,
//! [`connection`] finds the node and the credentials; each other module is one command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod bench;
mod check_config;
mod cluster;
mod connection;
mod credentials;
mod dev;
mod doctor;
mod exit;
mod listen;
mod message;
mod output;
mod place;
mod product;
mod push;
pub mod reference;
mod start;
mod status;
mod store;
mod terminal;
mod token;
mod topic;
mod values;

pub use exit::{Exit, Failure};
use output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion dev                                      a node to try things with
  clarion listen phone-1                           a terminal that shows what it receives
  clarion push --terminal phone-1 --text hello     a message for it
  clarion start node.toml                          a node for real
  clarion cluster up PROFILE.toml                  several nodes and their Redis, on this machine

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 errors in a config file; 4 refused by the node (the
same will be refused again); 5 node not reachable or busy (try again); 130 interrupted.";

/// Push messages to terminals, and lose none that were accepted.
#[derive(Debug, Parser)]
#[command(name = "clarion", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Write results as JSON for scripts, one document or one line each; errors too, on stderr
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node to try things with: loopback only, made-up keys, a product `demo`
    Dev(dev::Arguments),
    /// Run a node from a config file
    Start(start::Arguments),
    /// Tell everything that is wrong with a config file
    CheckConfig(check_config::Arguments),
    /// Show what can be configured
    #[command(subcommand)]
    Config(check_config::ConfigCommand),
    /// Make a store, or put a restored one into service
    #[command(subcommand)]
    Store(store::Command),
    /// Check all that a node needs before it starts: config, store, clocks, other nodes
    Doctor(doctor::Arguments),
    /// Bring up a cluster on this machine, look at one, drain a node
    Cluster(cluster::Arguments),
    /// Show which node something is on, and why
    Where(place::Arguments),
    /// Create, list and show products and their keys
    Product(product::Arguments),
    /// Make a token that lets a terminal in
    Token(token::Arguments),
    /// Push a message
    Push(push::Arguments),
    /// Be a terminal: show messages as they come
    Listen(listen::Arguments),
    /// Show what became of a message
    Message(message::Arguments),
    /// List, show and kick terminals
    Terminal(terminal::Arguments),
    /// List, add and remove members of topics
    Topic(topic::Arguments),
    /// Show how a node is
    Status(status::Arguments),
    /// Measure a node
    Bench(bench::Arguments),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = error.print();
            let usage = error.use_stderr();
            return if usage { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let output = Output::new(cli.json);
    match run(cli.command, output) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => dev::run(&arguments, output),
        Command::Start(arguments) => start::run(&arguments, output),
        Command::CheckConfig(arguments) => check_config::run(&arguments, output),
        Command::Config(command) => check_config::reference(&command, output),
        Command::Store(command) => store::run(&command, output),
        Command::Doctor(arguments) => doctor::run(&arguments, output),
        Command::Cluster(arguments) => cluster::run(arguments, output),
        Command::Where(arguments) => client(place::run(arguments, output)),
        Command::Product(arguments) => client(product::run(arguments, output)),
        Command::Token(arguments) => client(token::run(arguments, output)),
        Command::Push(arguments) => client(push::run(arguments, output)),
        Command::Listen(arguments) => client(listen::run(arguments, output)),
        Command::Message(arguments) => client(message::run(arguments, output)),
        Command::Terminal(arguments) => client(terminal::run(arguments, output)),
        Command::Topic(arguments) => client(topic::run(arguments, output)),
        Command::Status(arguments) => client(status::run(arguments, output)),
        Command::Bench(arguments) => bench::run(arguments, output),
    }
}

/// Runs a command that talks to a node; Ctrl-C ends it.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            done = command => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    })
}
