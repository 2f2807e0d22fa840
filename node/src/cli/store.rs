//! `clarion store`: the data directory of the embedded store. Only these commands give a store a
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
  clarion check-config node.toml && clarion store init node.toml && clarion start node.toml";

/// `clarion store`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the data directory that the config names; it must not hold a store yet
    #[command(after_help = INIT)]
    Init(File),
    /// Put a restored backup into service: gives it a new lineage
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
    let (config, _) = load(file)?;
    let path = config.store.path.display().to_string();
    let shown = file.display().to_string();
    run::runtime()?.block_on(async {
        match command {
            Command::Init(_) => {
                let epoch = run::store::init(&config)
                    .await
                    .map_err(|error| Failure::from(error).naming(&shown))?;
                output.result(&json!({"path": path, "epoch": epoch}), || {
                    format!("{path} is ready; start the node with `clarion start {shown}`\n")
                })
            }
            Command::Restored(_) => {
                let epoch = run::store::restored(&config)
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
