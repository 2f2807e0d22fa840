//! A running node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clarion_actors::System;
use clarion_config::{Config, Environment};
use clarion_storage::{Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::doors::Door;
use super::error::StartError;
use super::signals::Signals;
use super::{cluster, raise_descriptor_limit, store};
use crate::telemetry::Metrics;
use crate::{gateway, http};

/// How often the store is asked whether it can go on.
const STORE_LOOK: Duration = Duration::from_millis(500);

/// Other access points that a terminal is told when it is sent away.
const GOAWAY_NAMES: usize = 3;

/// What the drain may take beyond `node.drain_timeout_ms`: the last cursors and the last fsync.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// A node that serves.
pub struct Node {
    system: System,
    store: Arc<dyn Store>,
    config: Arc<Config>,
    http: SocketAddr,
    /// None without the gateway role.
    terminals: Option<SocketAddr>,
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
    pub async fn start(mut config: Config, environment: &Environment) -> Result<Self, StartError> {
        let signals = Signals::listen()?;
        let descriptors = raise_descriptor_limit();
        tracing::debug!(?descriptors, "open files that this process may have");
        let metrics = Metrics::install().map_err(|error| StartError::new(error.to_string()))?;
        let admin_token = admin_token(&config, environment)?;
        let cookie = cluster::cookie(&config, environment)?;
        certificates(&config)?;
        let doors = (Door::http(&config)?, Door::terminals(&config)?);
        cluster::addresses(&mut config, doors.0.address(), doors.1.as_ref().map(Door::address));
        let store = store::open(&config, environment).await?;
        let config = Arc::new(config);
        let system = cluster::start(&config, &store, cookie).await?;
        let (http_listener, http) = doors.0.open()?;
        let terminals = doors.1.map(Door::open).transpose()?;
        let neighbours = cluster::neighbours(&config, &system);
        let others = neighbours.clone();
        system.set_elsewhere(move || others.elsewhere(GOAWAY_NAMES, fastrand::u64(..)));

        let stop = watch::Sender::new(false);
        let mut parts = JoinSet::new();
        let render = {
            let metrics = metrics.clone();
            Arc::new(move || metrics.render())
        };
        let served = http::serve(
            system.clone(),
            Arc::clone(&config),
            neighbours.clone(),
            http::AdminToken::from(&admin_token),
            render,
            http_listener,
            stopped(&stop),
        );
        parts.spawn(async { ("http", served.await.map_err(|error| error.to_string())) });
        let terminals = terminals.map(|(listener, address)| {
            let (system, config) = (system.clone(), Arc::clone(&config));
            let served =
                gateway::serve(system, config, neighbours.clone(), listener, stopped(&stop));
            parts.spawn(async { ("terminals", served.await.map_err(|error| error.to_string())) });
            address
        });
        if config.node.roles.contains(&clarion_config::Role::Gateway) {
            let (system, terminals) = (system.clone(), config.terminals.clone());
            crate::task::spawn(neighbours.clone().balance(system, terminals));
        }
        crate::task::spawn(neighbours.judge());
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

    /// Where terminals connect; none without the gateway role.
    #[must_use]
    pub fn terminals_url(&self) -> Option<String> {
        let certificate = &self.config.terminals.tls_cert_file;
        self.terminals.map(|address| url("ws", "wss", certificate, address))
    }

    /// Runs until SIGTERM, SIGINT or an operator's `cluster drain`, then drains. A second signal ends the
    /// process at once; one that follows an operator's drain, as from a service manager that stops
    /// what was drained, is the first.
    ///
    /// # Errors
    /// When a part of the node ended, the store cannot go on, or the drain took too long.
    pub async fn run_until_signal(mut self) -> Result<(), StartError> {
        let mut store_looks = interval(STORE_LOOK);
        store_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let signalled = loop {
            tokio::select! {
                signal = self.signals.next() => {
                    tracing::info!(signal, "draining");
                    break true;
                }
                () = self.system.drain_wanted() => {
                    tracing::info!("draining: an operator asked for it");
                    break false;
                }
                Some(ended) = self.parts.join_next() => return Err(too_early(ended)),
                _ = store_looks.tick() => {
                    if let Err(error @ StoreError::Fatal(_)) = self.store.health().writable {
                        // Draining would write to it.
                        return Err(fatal(&error));
                    }
                }
            }
        };
        self.drain(signalled).await
    }

    async fn drain(mut self, signalled: bool) -> Result<(), StartError> {
        let started = Instant::now();
        let within = Duration::from_millis(self.config.node.drain_timeout_ms) + DRAIN_MARGIN;
        let (system, stop, mut parts) = (self.system, self.stop, self.parts);
        let drained = async move {
            system.drain().await;
            // Readiness, status and metrics were answered until here.
            stop.send_replace(true);
            while parts.join_next().await.is_some() {}
        };
        let told_twice = async {
            if !signalled {
                let signal = self.signals.next().await;
                tracing::info!(signal, "draining already");
            }
            self.signals.end_at_once().await;
        };
        tokio::select! {
            drained = timeout(within, drained) => drained.map_err(|_| {
                StartError::new(format!("the drain was not done after {} s", within.as_secs()))
                    .mend("give node.drain_timeout_ms more time; nothing accepted is lost, some \
                           messages may be delivered again")
            })?,
            () = told_twice => {}
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

pub(super) fn url(
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
