//! `clarion cluster`: bring a cluster up on this machine, look at one, drain a node of it.

mod drain;
mod status;
mod up;
mod up_log;

use clap::{Args, Subcommand};

use super::connection::ConnectionOptions;
use super::exit::Failure;
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion cluster up cluster-config/profiles/three-nodes.toml
  clarion cluster status
  clarion cluster drain node-2 --wait";

const STATUS: &str = "\
Examples:
  clarion cluster status
  clarion cluster status --server http://10.0.0.2:8080 --admin-token-file token
  clarion --json cluster status | jq '.nodes[] | {node, owns, why, load}'

Shows what the asked node knows of the others and what each says of itself. A node that is there
but not reachable lives, and has no link to the asked one.";

const DRAIN: &str = "\
Examples:
  clarion cluster drain node-2
  clarion cluster drain node-2 --wait && systemctl stop clarion@node-2

Its logs get other owners, its terminals are sent to other nodes (node.drain_links_per_s, or spread
over node.drain_timeout_ms), then its process ends with 0.";

/// `clarion cluster`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring up all processes of a profile on this machine, until Ctrl-C
    #[command(after_help = up::EXAMPLES)]
    Up(up::Arguments),
    /// Show the nodes, what they carry and how they reach each other
    #[command(after_help = STATUS)]
    Status {
        #[command(flatten)]
        connection: ConnectionOptions,
    },
    /// Send everything a node does elsewhere, then end it
    #[command(after_help = DRAIN)]
    Drain {
        /// The node
        node: String,
        /// Return when the node has left the cluster
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        connection: ConnectionOptions,
    },
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    match arguments.action {
        Action::Up(arguments) => up::run(&arguments, output),
        Action::Status { connection } => super::client(status::run(connection, output)),
        Action::Drain { node, wait, connection } => {
            super::client(drain::run(node, wait, connection, output))
        }
    }
}
