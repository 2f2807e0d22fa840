//! Log lines, for people or for machines.

use std::io::IsTerminal;

use clarion_config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Below these levels the libraries only cost: an INFO span of `ractor` is half a kilobyte an actor.
const QUIET: [&str; 7] = [
    "ractor=warn",
    "ractor_cluster=error",
    "fjall=warn",
    "lsm_tree=warn",
    "hyper=warn",
    "rustls=warn",
    "tungstenite=warn",
];

/// Why no log can be written.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(String),
    /// The process has a log already.
    #[error("the log was started twice: {0}")]
    Twice(String),
}

/// Sends log lines to stderr as the config says. `RUST_LOG` goes before the configured level.
///
/// # Errors
/// When `RUST_LOG` is no filter, or the process logs already.
pub fn start_logging(config: &LogConfig) -> Result<(), LoggingError> {
    let filter = filter(config, std::env::var("RUST_LOG").ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Human => {
            builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| LoggingError::Twice(error.to_string()))
}

fn filter(config: &LogConfig, rust_log: Option<&str>) -> Result<EnvFilter, LoggingError> {
    if let Some(text) = rust_log.filter(|text| !text.is_empty()) {
        return EnvFilter::try_new(text).map_err(|error| LoggingError::Filter(error.to_string()));
    }
    let target = |part: &str| part.split(['=', '[']).next().unwrap_or(part).trim().to_owned();
    let named: Vec<String> = config.level.split(',').map(target).collect();
    let quiet = QUIET.into_iter().filter(|part| !named.contains(&target(part)));
    let parts: Vec<&str> = std::iter::once(config.level.as_str()).chain(quiet).collect();
    EnvFilter::try_new(parts.join(",")).map_err(|error| LoggingError::Filter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_the_config_names_them() {
        let text = |level: &str| {
            let config = LogConfig { level: level.to_owned(), ..LogConfig::default() };
            filter(&config, None).unwrap().to_string()
        };
        assert!(text("info").contains("ractor=warn"), "{}", text("info"));
        assert!(text("info,ractor=debug").contains("ractor=debug"));
        assert!(!text("info,ractor=debug").contains("ractor=warn"));
        assert!(text("info").contains("ractor_cluster=error"), "{}", text("info"));
        assert!(text("info,ractor_cluster=debug").contains("ractor=warn"));
    }

    #[test]
    fn rust_log_goes_before_the_config() {
        let filter = filter(&LogConfig::default(), Some("error,clarion=trace")).unwrap();
        assert!(filter.to_string().contains("clarion=trace"));
        assert!(super::filter(&LogConfig::default(), Some("clarion=loud")).is_err());
    }
}
