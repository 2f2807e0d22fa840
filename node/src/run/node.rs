//! A running node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clarion_actors::system::System;
use clarion_config::{Config, Environment};
use clarion_storage::{Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::doors::Door;
use super::error::StartError;
use super::signals::Signals;
use super::{raise_descriptor_limit, store};
use crate::telemetry::Metrics;
use crate::{gateway, http};

/// How often the store is asked whether it can go on.
const STORE_LOOK: Duration = Duration::from_millis(500);

/// What the drain may take beyond `node.drain_timeout_ms`: the last cursors and the last fsync.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// A node that serves.
pub struct Node {
    system: System,
    store: Arc<dyn Store>,
    config: Arc<Config>,
    http: SocketAddr,
    terminals: SocketAddr,
    signals: Signals,
    /// Listeners and upkeep; none ends before `stop` unless something is wrong.
    parts: JoinSet<(&'static str, Result<(), String>)>,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("http", &self.http)
            .field("terminals", &self.terminals)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node; it serves when this returns.
    ///
    /// # Errors
    /// What is wrong and how to mend it. Nothing was accepted then.
    pub async fn start(config: Config, environment: &Environment) -> Result<Self, StartError> {
        let signals = Signals::listen()?;
        let descriptors = raise_descriptor_limit();
        tracing::debug!(?descriptors, "open files that this process may have");
        let metrics = Metrics::install().map_err(|error| StartError::new(error.to_string()))?;
        let admin_token = admin_token(&config, environment)?;
        certificates(&config)?;
        let doors = (Door::http(&config)?, Door::terminals(&config)?);
        let store = store::open(&config).await?;
        let config = Arc::new(config);
        let system =
            System::start(Arc::clone(&config), Arc::clone(&store)).await.map_err(|failure| {
                let detail = failure.detail.unwrap_or_else(|| failure.code.help().to_owned());
                StartError::new(format!("the actors do not start: {}: {detail}", failure.code))
            })?;
        let (http_listener, http) = doors.0.open()?;
        let (terminals_listener, terminals) = doors.1.open()?;

        let stop = watch::Sender::new(false);
        let mut parts = JoinSet::new();
        let render = {
            let metrics = metrics.clone();
            Arc::new(move || metrics.render())
        };
        let served = http::serve(
            system.clone(),
            Arc::clone(&config),
            http::AdminToken::from(&admin_token),
            render,
            http_listener,
            stopped(&stop),
        );
        parts.spawn(async { ("http", served.await.map_err(|error| error.to_string())) });
        let served =
            gateway::serve(system.clone(), Arc::clone(&config), terminals_listener, stopped(&stop));
        parts.spawn(async { ("terminals", served.await.map_err(|error| error.to_string())) });
        let stopped = stopped(&stop);
        parts.spawn(async move {
            tokio::select! {
                () = metrics.keep_up() => {}
                () = stopped => {}
            }
            ("metrics", Ok(()))
        });
        Ok(Self { system, store, config, http, terminals, signals, parts, stop })
    }

    /// What is inside.
    #[must_use]
    pub const fn system(&self) -> &System {
        &self.system
    }

    /// Where the HTTP API is served.
    #[must_use]
    pub fn http_url(&self) -> String {
        url("http", "https", &self.config.http.tls_cert_file, self.http)
    }

    /// Where terminals connect.
    #[must_use]
    pub fn terminals_url(&self) -> String {
        url("ws", "wss", &self.config.terminals.tls_cert_file, self.terminals)
    }

    /// Runs until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
    ///
    /// # Errors
    /// When a part of the node ended, the store cannot go on, or the drain took too long.
    pub async fn run_until_signal(mut self) -> Result<(), StartError> {
        let mut store_looks = interval(STORE_LOOK);
        store_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = self.signals.next() => {
                    tracing::info!(signal, "draining");
                    break;
                }
                Some(ended) = self.parts.join_next() => return Err(too_early(ended)),
                _ = store_looks.tick() => {
                    if let Err(error @ StoreError::Fatal(_)) = self.store.health().writable {
                        // Draining would write to it.
                        return Err(fatal(&error));
                    }
                }
            }
        }
        self.drain().await
    }

    async fn drain(mut self) -> Result<(), StartError> {
        let started = Instant::now();
        let within = Duration::from_millis(self.config.node.drain_timeout_ms) + DRAIN_MARGIN;
        let (system, stop, mut parts) = (self.system, self.stop, self.parts);
        let drained = async move {
            system.drain().await;
            // Readiness, status and metrics were answered until here.
            stop.send_replace(true);
            while parts.join_next().await.is_some() {}
        };
        tokio::select! {
            drained = timeout(within, drained) => drained.map_err(|_| {
                StartError::new(format!("the drain was not done after {} s", within.as_secs()))
                    .mend("give node.drain_timeout_ms more time; nothing accepted is lost, some \
                           messages may be delivered again")
            })?,
            () = self.signals.end_at_once() => {}
        }
        tracing::info!(seconds = started.elapsed().as_secs_f64(), "drained");
        Ok(())
    }
}

fn admin_token(
    config: &Config,
    environment: &Environment,
) -> Result<clarion_config::AdminToken, StartError> {
    config
        .admin_token(environment)
        .map_err(|error| {
            StartError::new(format!("{}: {}", error.origin, error.reason)).mend(error.mend)
        })?
        .ok_or_else(|| {
            StartError::new("there is no admin token")
                .mend("set CLARION_ADMIN_TOKEN or auth.admin_token_file")
        })
}

/// What the doors would find out only when they open.
fn certificates(config: &Config) -> Result<(), StartError> {
    let (http, terminals) = (&config.http, &config.terminals);
    for (section, cert, key) in [
        ("http", &http.tls_cert_file, &http.tls_key_file),
        ("terminals", &terminals.tls_cert_file, &terminals.tls_key_file),
    ] {
        http::tls::server_config(cert.as_deref(), key.as_deref(), &["http/1.1"]).map_err(
            |error| {
                StartError::new(error.to_string()).mend(format!(
                "name the certificate chain in `{section}.tls_cert_file` and its private key in \
                 `{section}.tls_key_file`, both PEM"
            ))
            },
        )?;
    }
    Ok(())
}

fn url(
    plain: &str,
    secure: &str,
    certificate: &Option<std::path::PathBuf>,
    address: SocketAddr,
) -> String {
    let scheme = if certificate.is_some() { secure } else { plain };
    format!("{scheme}://{address}")
}

/// Resolves when the node stops.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        // A node that is gone has stopped, too.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

fn too_early(
    ended: Result<(&'static str, Result<(), String>), tokio::task::JoinError>,
) -> StartError {
    match ended {
        Ok((part, Ok(()))) => StartError::new(format!("the {part} part ended by itself")),
        Ok((part, Err(error))) => StartError::new(format!("the {part} part ended: {error}")),
        Err(error) => StartError::new(format!("a part of the node failed: {error}")),
    }
}

fn fatal(error: &StoreError) -> StartError {
    StartError::new(error.to_string()).mend(
        "nothing accepted was lost with it; start the node again, which checks the data. If it \
         stops again, restore a backup and run `clarion store restored FILE`",
    )
}
