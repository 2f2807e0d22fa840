//! The terminals' door: accepts connections, speaks TLS if the config says so, upgrades them to
//! WebSocket and hands them over as links. Accepting is paced and every phase has a time-out, so
//! that a storm of reconnecting terminals costs neither the links that stand nor the pushes.

mod addresses;
mod pace;
mod queue;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clarion_actors::{LinkIo, System, first_message};
use clarion_config::{Config, TerminalsConfig};
use clarion_protocol::terminal::{LINK_PATH, SUBPROTOCOL_JSON, TERMINAL_FRAME_BYTES_MAX};
use clarion_protocol::{Code, Problem};
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::http::tls::server_config;
use crate::neighbours::Neighbours;

use addresses::{Addresses, Place};
use pace::Pace;
use queue::{Queue, Turn};

type LinkFuture = Pin<Box<dyn Future<Output = ()> + Send>>;
/// An upgraded connection that waits for its first message.
type UpgradedFuture = Pin<Box<dyn Future<Output = Option<LinkFuture>> + Send>>;

/// Accepts links until `shutdown` resolves. Links that stand go on: the system ends them.
///
/// # Errors
/// The TLS files of the config cannot be used.
pub async fn serve(
    system: System,
    config: Arc<Config>,
    neighbours: Neighbours,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (cert, key) = (&config.terminals.tls_cert_file, &config.terminals.tls_key_file);
    let tls = server_config(cert.as_deref(), key.as_deref(), &["http/1.1"])
        .map_err(std::io::Error::other)?
        .map(TlsAcceptor::from);
    let door = Arc::new(Door {
        addresses: Addresses::new(config.terminals.links_per_ip_max),
        queue: Queue::new(config.terminals.handshakes_max),
        waiting: Arc::default(),
        system,
        config,
        neighbours,
        tls,
    });
    let mut pace = Pace::new(door.config.terminals.accepts_per_s_max);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        if pace.wait().await {
            metrics::counter!("clarion_accept_pauses_total").increment(1);
        }
        let accepted = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: pausing lets some be freed.
                tracing::warn!(%error, "a connection was not accepted");
                metrics::counter!("clarion_accept_errors_total").increment(1);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(turn) = door.queue.join(peer.ip()) else {
            metrics::counter!("clarion_handshakes_total", "outcome" => "crowded").increment(1);
            continue;
        };
        let door = Arc::clone(&door);
        crate::task::spawn(async move {
            // Each phase is boxed, so that the memory of one is gone while the next one lives.
            let Some(upgraded) = Box::pin(door.open(stream, peer, turn)).await else { return };
            drop(door);
            // Not in the condition: it would keep the ended phase alive beside the link.
            let link = upgraded.await;
            if let Some(link) = link {
                link.await;
            }
        });
    }
}

struct Door {
    system: System,
    config: Arc<Config>,
    neighbours: Neighbours,
    tls: Option<TlsAcceptor>,
    addresses: Arc<Addresses>,
    /// Connections that are in their handshake or wait for it.
    queue: Arc<Queue>,
    /// Connections that are upgraded but have not said anything yet.
    waiting: Arc<AtomicUsize>,
}

impl Door {
    async fn open(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        turn: Turn,
    ) -> Option<UpgradedFuture> {
        let terminals = &self.config.terminals;
        tune(&stream, terminals);
        let place = self.addresses.enter(peer.ip());
        let links = self.system.link_count() + self.waiting.load(Ordering::Relaxed);
        let refusal = self.refusal(place.is_some(), links);
        let patience = Duration::from_millis(terminals.handshake_timeout_ms);
        let handshake = async {
            let _place = turn.come().await.ok_or("closed")?;
            match &self.tls {
                Some(tls) => {
                    let stream = tls.accept(stream).await.map_err(|_| "tls")?;
                    self.upgrade(stream, peer, place, refusal).await
                }
                None if asks_for_no_upgrade(&stream).await => {
                    answer_http(stream).await;
                    Err("no_upgrade")
                }
                None => self.upgrade(stream, peer, place, refusal).await,
            }
        };
        let outcome = match tokio::time::timeout(patience, handshake).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("timeout"),
        };
        let label = outcome.as_ref().err().copied().unwrap_or("ok");
        metrics::counter!("clarion_handshakes_total", "outcome" => label).increment(1);
        outcome.ok()
    }

    /// Why a newcomer is not let in, if it is not.
    fn refusal(&self, has_place: bool, links: usize) -> Option<Code> {
        let links_max = self.config.terminals.links_max;
        let draining = self.system.draining().now_or_never().is_some();
        if draining {
            // While it drains it sends those away that it has.
            return Some(Code::Draining);
        }
        if !has_place || links >= links_max {
            return Some(Code::LinkLimit);
        }
        let elsewhere = self.neighbours.sends_away(links as u64, links_max as u64);
        elsewhere.then_some(Code::Overloaded)
    }

    #[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
    async fn upgrade<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        place: Option<Place>,
        refusal: Option<Code>,
    ) -> Result<UpgradedFuture, &'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = socket_config(&self.config.terminals);
        let check = |request: &Request, response: Response| match refusal {
            Some(code) => Err(refuse(code, None)),
            None => accept(request, response),
        };
        let socket = accept_hdr_async_with_config(LinkIo::new(stream), check, Some(config))
            .await
            .map_err(|_| "refused")?;
        let patience = Duration::from_millis(self.config.terminals.open_timeout_ms);
        let waits = Waits::new(&self.waiting);
        let system = self.system.clone();
        Ok(Box::pin(async move {
            let (socket, first) = first_in_time(socket, config, patience).await?;
            let link = system.serve_link_from(socket, Some(first), peer.ip());
            drop(waits);
            let link: LinkFuture = Box::pin(async move {
                let _place = place;
                link.await;
            });
            Some(link)
        }))
    }
}

/// Counts a connection that waits for its first message.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn new(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The first message of a link; one that stays silent is closed with `open_timeout`.
async fn first_in_time<S>(
    socket: WebSocketStream<LinkIo<S>>,
    config: WebSocketConfig,
    patience: Duration,
) -> Option<(WebSocketStream<LinkIo<S>>, Message)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut socket = Some(socket);
    let first = first_message(&mut socket, config);
    if let Ok(first) = tokio::time::timeout(patience, first).await {
        return first;
    }
    metrics::counter!("clarion_links_ended_total", "reason" => "open_timeout").increment(1);
    let mut socket = socket?;
    let code = Code::OpenTimeout;
    let close = CloseFrame { code: code.number().into(), reason: code.as_str().into() };
    // A peer that takes nothing is not waited for.
    let goodbye = socket.close(Some(close));
    let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    None
}

/// The settings of the WebSocket layer; the node's tests run the Autobahn cases against them.
#[must_use]
pub fn socket_config(terminals: &TerminalsConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(terminals.read_buffer_bytes)
        .write_buffer_size(terminals.write_buffer_bytes)
        .max_write_buffer_size(terminals.write_buffer_bytes + 64 * 1024)
        .max_message_size(Some(TERMINAL_FRAME_BYTES_MAX))
        .max_frame_size(Some(TERMINAL_FRAME_BYTES_MAX))
}

/// Whether a whole HTTP request has come that asks for no upgrade: a probe, or somebody who took
/// this listener for the API. The WebSocket layer would close without a word.
async fn asks_for_no_upgrade(stream: &TcpStream) -> bool {
    let mut head = [0; 1024];
    let Ok(length) = stream.peek(&mut head).await else { return false };
    let head = head[..length].to_ascii_lowercase();
    let has = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    has(b" http/1.") && has(b"\r\n\r\n") && !has(b"\r\nupgrade:")
}

async fn answer_http(mut stream: TcpStream) {
    let detail = format!("this listener takes WebSocket links at {LINK_PATH}, the API is another");
    let response = refuse(Code::SubprotocolMissing, Some(detail));
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body().as_deref().unwrap_or_default().as_bytes());
    // The request is read first: closing over unread bytes would reset the connection.
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

fn tune(stream: &TcpStream, terminals: &TerminalsConfig) {
    // None of these is worth refusing a link for.
    let _ = stream.set_nodelay(true);
    if terminals.send_buffer_bytes > 0 {
        let socket = socket2::SockRef::from(stream);
        let _ = socket.set_send_buffer_size(terminals.send_buffer_bytes);
    }
}

#[allow(clippy::result_large_err, reason = "the library's own type")]
fn accept(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != LINK_PATH {
        return Err(refuse(Code::NotFound, Some(format!("links are opened at {LINK_PATH}"))));
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    if !offered.any(|protocol| protocol.trim() == SUBPROTOCOL_JSON) {
        return Err(refuse(Code::SubprotocolMissing, None));
    }
    let protocol = HeaderValue::from_static(SUBPROTOCOL_JSON);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

/// Refuses an upgrade with a problem document, and when it is for now with a jittered delay.
fn refuse(code: Code, detail: Option<String>) -> ErrorResponse {
    let mut problem = Problem::new(code, detail);
    let delay_s = code.retryable().then(|| fastrand::u32(1..=10));
    problem.retry_after_s = delay_s;
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let mut response = ErrorResponse::new(None);
    *response.status_mut() =
        StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Some(delay_s) = delay_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(delay_s));
    }
    *response.body_mut() = Some(body);
    response
}
