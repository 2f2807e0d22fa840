//! One WebSocket, read and written by one task. Writing never parks the task: frames are queued
//! here and move to the socket whenever the task waits for the next event, so a peer that does not
//! read cannot stop acknowledgements, time-outs or reading.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream};
use hyper::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use url::Url;

use crate::transport::{BoxedStream, Connector};

/// Most bytes of one message that a node may send.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What happens on a WebSocket.
pub(crate) enum WireEvent {
    /// A text frame.
    Text(Utf8Bytes),
    /// Something else was heard: a ping, a pong, a frame nobody needs.
    Heard,
    /// The node closed it.
    Closed(Option<(u16, String)>),
    /// It broke.
    Failed(tungstenite::Error),
}

/// Why a WebSocket could not be made.
#[derive(Debug)]
pub(crate) enum ConnectFailure {
    /// No connection, or not one that speaks this protocol.
    Io(String),
    /// The node answered something else than 101.
    Refused { status: u16, retry_after_s: Option<u64>, body: Vec<u8> },
}

/// A WebSocket with what waits to be written.
pub(crate) struct Wire {
    socket: WebSocketStream<BoxedStream>,
    out: VecDeque<Message>,
    unflushed_since: Option<Instant>,
    done: bool,
}

/// Connects and upgrades. `read_buffer_bytes` is what an idle connection keeps allocated.
pub(crate) async fn connect(
    connector: &dyn Connector,
    url: &Url,
    subprotocol: &'static str,
    authorization: Option<String>,
    read_buffer_bytes: usize,
) -> Result<Wire, ConnectFailure> {
    let io_error = |error: &dyn std::fmt::Display| ConnectFailure::Io(error.to_string());
    let mut request = url.as_str().into_client_request().map_err(|error| io_error(&error))?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    if let Some(text) = authorization {
        let mut value = HeaderValue::try_from(text).map_err(|error| io_error(&error))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let stream = connector.connect(url).await.map_err(|error| io_error(&error))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(read_buffer_bytes)
        .write_buffer_size(4096.max(read_buffer_bytes))
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    match upgraded {
        Ok((socket, _)) => {
            Ok(Wire { socket, out: VecDeque::new(), unflushed_since: None, done: false })
        }
        Err(tungstenite::Error::Http(response)) => Err(ConnectFailure::Refused {
            status: response.status().as_u16(),
            retry_after_s: response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok()),
            body: response.into_body().unwrap_or_default(),
        }),
        Err(error) => Err(io_error(&error)),
    }
}

impl Wire {
    /// Queues a text frame.
    pub(crate) fn text(&mut self, text: String) {
        self.queue(Message::Text(text.into()));
    }

    /// Queues a ping.
    pub(crate) fn ping(&mut self) {
        self.queue(Message::Ping(bytes::Bytes::new()));
    }

    /// Queues the closing handshake.
    pub(crate) fn close(&mut self) {
        self.queue(Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        })));
    }

    fn queue(&mut self, message: Message) {
        self.out.push_back(message);
        self.unflushed_since.get_or_insert_with(Instant::now);
    }

    /// Since when something waits to be written.
    pub(crate) const fn unflushed_since(&self) -> Option<Instant> {
        self.unflushed_since
    }

    /// Waits for what happens next and writes meanwhile. With `read` false it only writes. Safe to
    /// drop and call again.
    pub(crate) async fn event(&mut self, read: bool) -> WireEvent {
        poll_fn(|cx| self.poll_event(cx, read)).await
    }

    /// Writes everything that is queued.
    pub(crate) async fn drained(&mut self) -> Result<(), tungstenite::Error> {
        poll_fn(|cx| self.poll_write(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<WireEvent> {
        if self.done {
            return Poll::Pending;
        }
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            // What the node said before it closed may still be unread: its close code decides
            // whether to come back, so a failed write is not the last word.
            self.out.clear();
            self.unflushed_since = None;
            if !read || !is_closing(&error) {
                self.done = true;
                return Poll::Ready(WireEvent::Failed(error));
            }
        }
        if !read {
            return Poll::Pending;
        }
        let event = match std::task::ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(Ok(Message::Text(text))) => WireEvent::Text(text),
            Some(Ok(Message::Close(frame))) => WireEvent::Closed(
                frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())),
            ),
            Some(Ok(_)) => WireEvent::Heard,
            Some(Err(error)) => WireEvent::Failed(error),
            None => WireEvent::Closed(None),
        };
        self.done = matches!(event, WireEvent::Failed(_) | WireEvent::Closed(None));
        Poll::Ready(event)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tungstenite::Error>> {
        if self.unflushed_since.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut socket = Pin::new(&mut self.socket);
        while !self.out.is_empty() {
            std::task::ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(message) = self.out.pop_front() {
                socket.as_mut().start_send(message)?;
            }
        }
        std::task::ready!(socket.poll_flush(cx))?;
        self.unflushed_since = None;
        Poll::Ready(Ok(()))
    }
}

fn is_closing(error: &tungstenite::Error) -> bool {
    matches!(
        error,
        tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(_)
            | tungstenite::Error::Io(_)
    )
}
