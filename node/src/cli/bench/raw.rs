//! A terminal as light as one can be, for benches with more terminals than SDK clients would fit
//! beside the node on one machine: one task, one small read buffer, the protocol's frames, nothing
//! kept but the last offset of each log. It acknowledges what it got as soon as nothing more is
//! there to be read, and sends a WebSocket ping each heartbeat.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clarion_protocol::Offset;
use clarion_protocol::http::TerminalKind;
use clarion_protocol::terminal::{
    LINK_PATH, LogAlias, NodeFrame, Open, SUBPROTOCOL_JSON, TerminalFrame,
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::tally::Tally;

const READ_BUFFER_BYTES: usize = 1024;
/// How long a terminal tries to get a session.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// What a node answers that is busy: the terminal comes again, as those of the SDK do.
const BUSY: &str = "503 Service Unavailable";
/// … after this long.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// Terminals that share one source address: far below the ports that an address has.
const TERMINALS_PER_ADDRESS: u32 = 5000;

/// The kind that bench terminals claim.
pub(super) const KIND: TerminalKind = TerminalKind::Pc;

/// A live session.
pub(super) struct Raw {
    socket: WebSocketStream<TcpStream>,
    heartbeat: Duration,
    last: Vec<(LogAlias, Offset)>,
    unacknowledged: Vec<(LogAlias, Offset)>,
}

#[derive(Deserialize)]
struct Delivery<'a> {
    l: LogAlias,
    #[serde(borrow)]
    m: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    o: Option<Offset>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
}

impl Raw {
    /// Connects terminal number `index` to `node` and opens its session.
    pub(super) async fn connect(node: &str, index: u32, open: Open) -> Result<Self, String> {
        let tried = async {
            loop {
                match Self::connected(node, index, open.clone()).await {
                    Err(error) if error.contains(BUSY) => tokio::time::sleep(COME_AGAIN).await,
                    tried => return tried,
                }
            }
        };
        timeout(CONNECT_TIMEOUT, tried)
            .await
            .map_err(|_| format!("no session after {} s", CONNECT_TIMEOUT.as_secs()))?
    }

    async fn connected(node: &str, index: u32, open: Open) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let url = format!("{}{LINK_PATH}", node.trim_end_matches('/'));
        let mut request = url.into_client_request().map_err(|error| text(&error))?;
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL_JSON));
        let stream = dial(request.uri(), index).await.map_err(|error| text(&error))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(READ_BUFFER_BYTES);
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config))
                .await
                .map_err(|error| text(&error))?;
        let mut raw = Self {
            socket,
            heartbeat: Duration::from_secs(30),
            last: Vec::new(),
            unacknowledged: Vec::new(),
        };
        raw.send(TerminalFrame::Open(open)).await?;
        raw.opened().await?;
        Ok(raw)
    }

    async fn opened(&mut self) -> Result<(), String> {
        while let Some(message) = self.socket.next().await {
            let message = message.map_err(|error| error.to_string())?;
            let Message::Text(text) = message else { continue };
            match NodeFrame::parse(&text).map_err(|error| error.to_string())? {
                NodeFrame::Opened(opened) => {
                    self.heartbeat = Duration::from_millis(opened.heartbeat_ms);
                    self.last = opened.logs.iter().map(|log| (log.l, log.offset)).collect();
                    return Ok(());
                }
                NodeFrame::Closed { reason, detail, .. } => {
                    return Err(format!("{reason}: {}", detail.unwrap_or_default()));
                }
                _ => {}
            }
        }
        Err("the link ended before the session was open".to_owned())
    }

    /// Receives until `stop` changes or the link ends; what comes goes into `tally`.
    pub(super) async fn receive(
        mut self,
        tally: &Tally,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut beat = Instant::now() + self.heartbeat;
        loop {
            tokio::select! {
                message = self.socket.next() => self.burst(message, tally).await?,
                () = tokio::time::sleep_until(beat) => {
                    beat = Instant::now() + self.heartbeat;
                    self.socket.send(Message::Ping(Bytes::new())).await.map_err(|e| e.to_string())?;
                }
                // Stopped, or whoever stops us is gone.
                _ = stop.changed() => return self.leave().await,
            }
        }
    }

    /// Takes one message and all that is there already, then acknowledges them together.
    async fn burst(
        &mut self,
        first: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
        tally: &Tally,
    ) -> Result<(), String> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Some(Ok(Message::Text(text))) => self.take(&text, tally)?,
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or("closed".to_owned(), |frame| frame.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the link ended".to_owned()),
            }
            next = self.socket.next().now_or_never();
        }
        if self.unacknowledged.is_empty() {
            return Ok(());
        }
        let a = std::mem::take(&mut self.unacknowledged);
        self.send(TerminalFrame::Ack { s: 1, a }).await
    }

    fn take(&mut self, text: &str, tally: &Tally) -> Result<(), String> {
        if !text.starts_with("{\"t\":\"deliver\"") {
            return match NodeFrame::parse(text) {
                Ok(NodeFrame::Closed { reason, .. }) => Err(reason),
                Ok(NodeFrame::Heartbeat { ms, .. }) => {
                    self.heartbeat = Duration::from_millis(ms);
                    Ok(())
                }
                Ok(NodeFrame::Gap { .. }) => {
                    tally.gap();
                    Ok(())
                }
                Ok(_) | Err(_) => Ok(()),
            };
        }
        let Delivery { l, m } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut fresh = 0;
        for item in &m {
            if let Some(offset) = item.o {
                if !advance(&mut self.last, l, offset) {
                    tally.duplicate();
                    continue;
                }
                set(&mut self.unacknowledged, l, offset);
            }
            fresh += 1;
            if let Some(payload) = item.d {
                tally.payload(payload.get());
            }
        }
        tally.received(fresh);
        Ok(())
    }

    async fn send(&mut self, frame: TerminalFrame) -> Result<(), String> {
        self.socket.send(Message::text(frame.to_json())).await.map_err(|error| error.to_string())
    }

    async fn leave(mut self) -> Result<(), String> {
        self.socket.close(None).await.map_err(|error| error.to_string())?;
        // The node's answer; it flushes cursors first.
        let rest = async { while let Some(Ok(_)) = self.socket.next().await {} };
        timeout(CONNECT_TIMEOUT, rest).await.map_err(|_| "the node did not close".to_owned())
    }
}

/// Moves a log's position forward; false if the offset is not behind it.
fn advance(last: &mut Vec<(LogAlias, Offset)>, l: LogAlias, offset: Offset) -> bool {
    match last.iter_mut().find(|(alias, _)| *alias == l) {
        Some((_, position)) if *position >= offset => false,
        Some((_, position)) => {
            *position = offset;
            true
        }
        None => {
            last.push((l, offset));
            true
        }
    }
}

fn set(pairs: &mut Vec<(LogAlias, Offset)>, l: LogAlias, offset: Offset) {
    match pairs.iter_mut().find(|(alias, _)| *alias == l) {
        Some((_, position)) => *position = offset,
        None => pairs.push((l, offset)),
    }
}

/// The source address of a terminal of the node at this port: each some thousand have their own,
/// 127.0.0.1 to 127.0.0.254, others for each node, as a port that was bound serves one of them only.
pub(super) fn source(port: u16, index: u32) -> IpAddr {
    let group = u32::from(port).wrapping_mul(31).wrapping_add(index / TERMINALS_PER_ADDRESS);
    let host = u8::try_from(1 + group % 254).unwrap_or(1);
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))
}

async fn dial(
    uri: &tokio_tungstenite::tungstenite::http::Uri,
    index: u32,
) -> std::io::Result<TcpStream> {
    let wrong = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, what.to_owned());
    let host = uri.host().ok_or_else(|| wrong("the URL names no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    let address = tokio::net::lookup_host((host, port))
        .await?
        .find(SocketAddr::is_ipv4)
        .ok_or_else(|| wrong("the host has no IPv4 address"))?;
    let socket = TcpSocket::new_v4()?;
    if address.ip().is_loopback() {
        socket.bind(SocketAddr::new(source(port, index), 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_only_move_forward_so_that_repetitions_show() {
        let mut last = vec![(1, Offset(5))];
        assert!(!advance(&mut last, 1, Offset(5)));
        assert!(advance(&mut last, 1, Offset(6)));
        assert!(advance(&mut last, 2, Offset(1)));
        assert_eq!(last, [(1, Offset(6)), (2, Offset(1))]);
    }

    #[test]
    fn terminals_are_spread_over_source_addresses() {
        assert_eq!(source(7402, 0), source(7402, 4999));
        assert_ne!(source(7402, 0), source(7402, 5000));
        assert_ne!(source(7402, 0), source(7403, 0));
        assert!(source(u16::MAX, u32::MAX).is_loopback());
    }
}
