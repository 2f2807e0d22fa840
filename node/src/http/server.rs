//! The listener of the API: one task for each connection, TLS if configured, HTTP/1.1. Connections
//! are bounded: further ones wait in the kernel. At the end nothing more is accepted, what is in
//! flight is finished, idle connections are closed, and what is left after the drain time-out is
//! dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use clarion_actors::System;
use clarion_config::Config;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::app::{AdminToken, MetricsRender, Phase, PushLinks, Shared, reached};
use super::asking::Asking;
use super::kept;
use super::measures::{self, Measures};
use super::pipeline::router;
use super::tls::{self, TlsError};
use super::upgrade::Slot;
use crate::neighbours::Neighbours;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without a request is kept, and the least that a head may take. Longer
/// than clients keep theirs, so that they close first and no request meets a closing connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Pause when the process cannot take another connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lists of access points that one address may ask for in a second, and at once after a while of
/// silence: terminals of a whole company may stand behind it.
const GATEWAYS_PER_S: u32 = 50;
const GATEWAYS_AT_ONCE: u32 = 200;

/// Where a connection comes from, among the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Its certificate or key does not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Listens on `address`, with SO_REUSEADDR and a long backlog.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the API on `listener` until `shutdown` resolves and what was in flight then has ended,
/// at most `node.drain_timeout_ms` later. Push connections are told to go as soon as the system
/// drains. Metrics must be recorded already.
///
/// # Errors
/// See [`HttpError`]; nothing was accepted then.
pub async fn serve(
    system: System,
    config: Arc<Config>,
    neighbours: Neighbours,
    admin_token: AdminToken,
    metrics: MetricsRender,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    let http = &config.http;
    let tls = tls::server_config(
        http.tls_cert_file.as_deref(),
        http.tls_key_file.as_deref(),
        &["http/1.1"],
    )?;
    measures::describe();
    let request_timeout = Duration::from_millis(config.limits.request_timeout_ms);
    let drain_timeout = Duration::from_millis(config.node.drain_timeout_ms);
    let places = Arc::new(Semaphore::new(http.connections_max.min(Semaphore::MAX_PERMITS)));
    let (keeper, abandoned) = kept::channel();
    let (phase, phases) = watch::channel(Phase::Serving);
    let app = Arc::new(Shared {
        measures: Measures::new(),
        scheme: if tls.is_some() { "https" } else { "http" },
        external_url: http.external_url.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
        request_timeout,
        phase: phases.clone(),
        push_links: PushLinks::default(),
        keeper,
        neighbours,
        asking: Asking::new(GATEWAYS_PER_S, GATEWAYS_AT_ONCE),
        started: Instant::now(),
        system: system.clone(),
        config: Arc::clone(&config),
        admin_token,
        metrics,
    });
    let connections = Connections {
        tls: tls.map(TlsAcceptor::from),
        head_timeout: request_timeout.max(KEEP_ALIVE),
        router: router(app),
        phases,
    };
    let mut keeping = JoinSet::new();
    keeping.spawn(kept::run(abandoned, request_timeout));
    let mut tasks = JoinSet::new();
    connections.accept(&listener, places, &system, &phase, shutdown, &mut tasks).await;
    drop(listener);
    phase.send_replace(Phase::Stopping);
    let ended = async {
        while let Some(task) = tasks.join_next().await {
            report(task);
        }
        // Nobody can abandon a request now: what was abandoned is all there is.
        drop(connections);
        keeping.join_next().await;
    };
    if timeout(drain_timeout, ended).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections did not end in time");
        tasks.shutdown().await;
    }
    Ok(())
}

/// A connection's task has ended. A panic ends that connection alone, and is told.
fn report(task: Result<(), JoinError>) {
    if let Err(error) = task
        && error.is_panic()
    {
        metrics::counter!("clarion_http_connection_panics_total").increment(1);
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct Connections {
    tls: Option<TlsAcceptor>,
    router: Router,
    head_timeout: Duration,
    phases: watch::Receiver<Phase>,
}

impl Connections {
    /// Accepts until `shutdown`.
    async fn accept(
        &self,
        listener: &TcpListener,
        places: Arc<Semaphore>,
        system: &System,
        phase: &watch::Sender<Phase>,
        shutdown: impl Future<Output = ()>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut draining = std::pin::pin!(system.draining());
        let mut next = std::pin::pin!(next(listener, &places));
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                () = &mut draining, if *phase.borrow() == Phase::Serving => {
                    phase.send_replace(Phase::Draining);
                }
                Some(task) = tasks.join_next() => report(task),
                (stream, place) = &mut next => {
                    next.set(self::next(listener, &places));
                    tasks.spawn(Box::pin(self.clone().serve(stream, place)));
                }
            }
        }
    }

    /// One connection, to its end.
    async fn serve(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        // Answers are written whole: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        // One that is gone already has no address.
        let Ok(peer) = stream.peer_addr() else { return };
        match &self.tls {
            None => self.serve_http(stream, peer).await,
            Some(tls) => match timeout(TLS_TIMEOUT, Box::pin(tls.accept(stream))).await {
                Ok(Ok(stream)) => self.serve_http(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    }

    async fn serve_http<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let slot = Slot::default();
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(slot.clone());
            request.extensions_mut().insert(PeerAddress(peer));
            router.call(request.map(Body::new))
        });
        let mut phases = self.phases.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = Box::pin(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = reached(&mut phases, Phase::Stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        drop(connection);
        match served {
            Ok(()) => {
                if let Some(upgraded) = slot.take() {
                    upgraded.await;
                }
            }
            Err(error) => tracing::debug!(%error, "a connection failed"),
        }
    }
}

/// The next connection, once there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = match Arc::clone(places).acquire_owned().await {
        Ok(place) => place,
        // Nobody closes this semaphore.
        Err(_) => std::future::pending().await,
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) if of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the connection failed before it was accepted, so that the next one can be.
fn of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
