//! `clarion start`: a node from a config file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::check_config::load;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::run::{self, Node};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  clarion check-config node.toml && clarion store init node.toml
  CLARION_ADMIN_TOKEN=$(cat token) clarion start node.toml

SIGTERM or Ctrl-C drains: links are told to go elsewhere, what was acknowledged is written down, and
the node exits with 0 within node.drain_timeout_ms (and a moment). A second signal ends it at once
with 130. Environment variables such as CLARION_HTTP__LISTEN=0.0.0.0:8080 go before the file.";

/// `clarion start`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The config file
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let (config, environment) = load(&arguments.file)?;
    telemetry::start_logging(&config.log)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let file = arguments.file.display().to_string();
    let id = config.node.id.clone();
    run::runtime()?.block_on(async {
        let node = Node::start(config, &environment)
            .await
            .map_err(|error| Failure::from(error).naming(&file))?;
        let (http, terminals) = (node.http_url(), node.terminals_url());
        tracing::info!(node = id, http, terminals = terminals.as_deref(), "ready");
        if output.is_json() {
            let pid = std::process::id();
            let ready = json!({
                "ready": true, "node": id, "http": http, "terminals": terminals, "pid": pid,
            });
            output.result(&ready, String::new)?;
        }
        node.run_until_signal().await?;
        Ok(())
    })
}
