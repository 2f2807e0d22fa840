//! `clarion check-config` and `clarion config`: what a config file says, may say, and says wrongly.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clarion_config::{Config, Environment, Mode, Role, StoreKind};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion check-config node.toml
  clarion check-config node.toml --print           the config in force, defaults and environment in
  CLARION_HTTP__LISTEN=0.0.0.0:80 clarion check-config node.toml";

/// `clarion check-config`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The config file
    file: PathBuf,
    /// Print the config in force: every key, defaults and environment applied
    #[arg(long)]
    print: bool,
}

/// `clarion config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every section and key with its default, bounds and meaning (Markdown)
    #[command(after_help = "Examples:\n  clarion config reference | less")]
    Reference,
}

/// Reads a config, or tells all that is wrong with it.
pub(crate) fn load(file: &Path) -> Result<(Config, Environment), Failure> {
    let environment = Environment::of_process();
    let config =
        Config::load(file, &environment, Mode::Start).map_err(|errors| in_config(file, &errors))?;
    Ok((config, environment))
}

fn in_config(file: &Path, errors: &[clarion_config::ConfigError]) -> Failure {
    let count = match errors.len() {
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    let report = clarion_config::report(errors);
    Failure::new(Exit::Config, format!("{count} in {}\n{report}", file.display()))
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let environment = Environment::of_process();
    match Config::load(&arguments.file, &environment, Mode::Start) {
        Ok(config) => output
            .result(&json!({"ok": true, "file": arguments.file, "config": config}), || {
                summary(&arguments.file, &config, arguments.print)
            }),
        Err(errors) => {
            if output.is_json() {
                let document = json!({"ok": false, "file": arguments.file, "errors": errors});
                output.result(&document, String::new)?;
            }
            Err(in_config(&arguments.file, &errors))
        }
    }
}

fn summary(file: &Path, config: &Config, print: bool) -> String {
    if print {
        return config.to_toml();
    }
    let tls = |cert: &Option<PathBuf>| if cert.is_some() { "TLS" } else { "plain" };
    let (http, terminals, cluster) = (&config.http, &config.terminals, &config.cluster);
    let mut text = format!(
        "{} is fine\n  node       {}\n  API        {} ({})\n",
        file.display(),
        config.node.id,
        http.listen,
        tls(&http.tls_cert_file),
    );
    if config.node.roles.contains(&Role::Gateway) {
        let kind = tls(&terminals.tls_cert_file);
        text.push_str(&format!("  terminals  {} ({kind})\n", terminals.listen));
    }
    if let Some(listen) = cluster.listen {
        let roles: Vec<&str> = config.node.roles.iter().map(|role| role.as_str()).collect();
        text.push_str(&format!(
            "  cluster    {} at {listen} ({}), as {} of the group {}\n",
            cluster.name,
            tls(&cluster.tls_cert_file),
            roles.join(", "),
            config.node.isolation_group,
        ));
    }
    let place = crate::run::store::place(config);
    text.push_str(&match config.store.kind {
        StoreKind::Embedded => format!("  store      embedded in {place}\n"),
        StoreKind::Redis => format!("  store      {place}\n"),
    });
    text
}

pub(crate) fn reference(command: &ConfigCommand, output: Output) -> Result<(), Failure> {
    let ConfigCommand::Reference = command;
    let text = clarion_config::reference();
    output.result(&json!({"markdown": text}), || text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_what_a_node_would_be() {
        let environment = Environment::from_pairs([
            ("CLARION_ADMIN_TOKEN", "0123456789abcdef"),
            ("CLARION_COOKIE", "0123456789abcdef"),
        ]);
        let summary = |text: &str| {
            let file = Path::new("node.toml");
            summary(file, &Config::parse(file, text, &environment, Mode::Start).unwrap(), false)
        };
        insta::assert_snapshot!(summary(""));
        insta::assert_snapshot!(summary(
            "[node]\nroles = [\"push\", \"broker\"]\n[cluster]\nlisten = \"10.0.0.1:7946\"\n\
             [store]\nkind = \"redis\"\nredis_mode = \"sentinel\"\nredis_nodes = [\"a:1\", \"b:1\"]\n"
        ));
    }
}
