//! `clarion store`: the data directory of the embedded store, or the keys in Redis. Only these commands give a store a
//! lineage (I5): `init` a first one, `restored` a new one after a backup was put back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::check_config::load;
use super::exit::Failure;
use super::output::Output;
use crate::run;

const RESTORED: &str = "\
After a backup was put back, the store has forgotten what happened since the backup. This gives it
a new lineage, so that every terminal that knows more is told of the gap instead of missing messages
without a word. Run it once after each restore, before `clarion start`.

Examples:
  clarion store restored node.toml";

const INIT: &str = "\
Examples:
  clarion check-config node.toml && clarion store init node.toml && clarion start node.toml

A node alone keeps its store in a directory. The nodes of a cluster share one in Redis: make it once,
with the config of any of them. What holds a store already is refused and stays as it is.";

/// `clarion store`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the store that the config names: a directory, or keys in Redis; once for all nodes
    #[command(after_help = INIT)]
    Init(File),
    /// Put a restored backup into service: give it a new lineage
    #[command(after_help = RESTORED)]
    Restored(File),
}

/// The config.
#[derive(Debug, Args)]
pub(crate) struct File {
    /// The config file
    file: PathBuf,
}

pub(crate) fn run(command: &Command, output: Output) -> Result<(), Failure> {
    let (Command::Init(File { file }) | Command::Restored(File { file })) = command;
    let (config, environment) = load(file)?;
    let path = run::store::place(&config);
    let shown = file.display().to_string();
    run::runtime()?.block_on(async {
        match command {
            Command::Init(_) => {
                let epoch = run::store::init(&config, &environment)
                    .await
                    .map_err(|error| Failure::from(error).naming(&shown))?;
                output.result(&json!({"path": path, "epoch": epoch}), || {
                    format!("{path} is ready; start the node with `clarion start {shown}`\n")
                })
            }
            Command::Restored(_) => {
                let epoch = run::store::restored(&config, &environment)
                    .await
                    .map_err(|error| Failure::from(error).naming(&shown))?;
                output.result(&json!({"path": path, "epoch": epoch}), || {
                    format!(
                        "{path} has a new lineage; terminals that know more will be told of the \
                         gap\n"
                    )
                })
            }
        }
    })
}
