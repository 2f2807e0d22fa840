//! A node that does what the test says: links are in memory, so that time can be paused.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::protocol::terminal::{
    Cursor, Deliver, LogPosition, Message, NodeFrame, Open, Opened, TerminalFrame,
};
use clarion_sdk::protocol::{Epoch, LogName, MessageId, Offset, TopicName};
use clarion_sdk::terminal::Builder;
use clarion_sdk::transport::{BoxedStream, Connector};
use clarion_sdk::{Event, Events, Terminal};
use futures_util::{SinkExt, StreamExt};
use serde_json::value::to_raw_value;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Ws;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use url::Url;

pub const EPOCH: Epoch = Epoch(7);
pub const TERMINAL: u16 = 0;
pub const BROADCAST: u16 = 1;
pub const NEWS: u16 = 2;

/// The node's end of the connector.
pub struct FakeNode {
    streams: Mutex<mpsc::Receiver<BoxedStream>>,
    dialler: Dialler,
}

/// The terminal's end.
#[derive(Clone)]
pub struct Dialler {
    streams: mpsc::Sender<BoxedStream>,
    pub dials: Arc<AtomicU64>,
    wrap: Arc<dyn Fn(BoxedStream) -> BoxedStream + Send + Sync>,
}

#[async_trait]
impl Connector for Dialler {
    async fn connect(&self, _url: &Url) -> io::Result<BoxedStream> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.streams.send(Box::new(far)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok((self.wrap)(Box::new(near)))
    }
}

impl FakeNode {
    pub fn new() -> Self {
        Self::wrapping(|stream| stream)
    }

    /// A node whose terminals' streams go through `wrap`.
    pub fn wrapping(wrap: impl Fn(BoxedStream) -> BoxedStream + Send + Sync + 'static) -> Self {
        let (sender, streams) = mpsc::channel(16);
        let dialler =
            Dialler { streams: sender, dials: Arc::new(AtomicU64::new(0)), wrap: Arc::new(wrap) };
        Self { streams: Mutex::new(streams), dialler }
    }

    pub fn dialler(&self) -> Dialler {
        self.dialler.clone()
    }

    pub fn dials(&self) -> u64 {
        self.dialler.dials.load(Ordering::SeqCst)
    }

    pub fn terminal(&self) -> Builder {
        Terminal::builder("ws://node/", "demo", "token").connector(self.dialler())
    }

    /// The next connection, not yet upgraded.
    pub async fn stream(&self) -> BoxedStream {
        self.streams.lock().await.recv().await.unwrap()
    }

    /// The next connection, upgraded.
    pub async fn link(&self) -> NodeLink {
        NodeLink::accept(self.stream().await).await
    }

    /// The next connection with an open session over three logs, at the terminal's own cursors.
    pub async fn session(&self) -> (NodeLink, Open) {
        let mut link = self.link().await;
        let open = link.open().await;
        link.opened(&open, |_| {}).await;
        (link, open)
    }
}

pub struct NodeLink(pub WebSocketStream<BoxedStream>);

impl NodeLink {
    pub async fn accept(stream: BoxedStream) -> Self {
        #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
        fn echo(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
            let offered = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", offered);
            Ok(response)
        }
        Self(tokio_tungstenite::accept_hdr_async(stream, echo).await.unwrap())
    }

    pub async fn send(&mut self, frame: &NodeFrame) {
        self.send_text(frame.to_json()).await;
    }

    pub async fn send_text(&mut self, text: String) {
        self.0.send(Ws::text(text)).await.unwrap();
    }

    /// The next frame; `None` when the terminal closed the link.
    pub async fn recv(&mut self) -> Option<TerminalFrame> {
        loop {
            match self.0.next().await {
                Some(Ok(Ws::Text(text))) => return Some(TerminalFrame::parse(&text).unwrap()),
                Some(Ok(Ws::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    pub async fn open(&mut self) -> Open {
        match self.recv().await {
            Some(TerminalFrame::Open(open)) => open,
            other => panic!("not open: {other:?}"),
        }
    }

    /// Opens the session where the terminal's own cursors say.
    pub async fn opened(&mut self, open: &Open, change: impl FnOnce(&mut Opened)) {
        let position = |l: u16, log: LogName| {
            let own = open.cursors.iter().find(|(name, _)| *name == log).map(|(_, cursor)| cursor);
            let Cursor(epoch, offset) = own.copied().unwrap_or(Cursor(EPOCH, Offset::ZERO));
            LogPosition { l, log, epoch, offset }
        };
        let logs = vec![
            position(TERMINAL, LogName::Terminal),
            position(BROADCAST, LogName::Broadcast),
            position(NEWS, LogName::Topic(topic("news"))),
        ];
        let mut opened = Opened {
            s: open.s,
            node: "fake".to_owned(),
            generation: 1,
            time_ms: 1,
            heartbeat_ms: 60_000,
            window: 64,
            ack_timeout_ms: 30_000,
            exp: 1,
            logs,
            refused: Vec::new(),
        };
        change(&mut opened);
        self.send(&NodeFrame::Opened(opened)).await;
    }

    /// Delivers messages whose offset, id and payload are the given numbers.
    pub async fn deliver(&mut self, l: u16, numbers: impl IntoIterator<Item = u64>) {
        let m = numbers.into_iter().map(|n| message(n, u128::from(n))).collect();
        self.deliver_messages(l, m).await;
    }

    pub async fn deliver_messages(&mut self, l: u16, m: Vec<Message>) {
        self.send(&NodeFrame::Deliver(Deliver { s: 1, l, again: false, m })).await;
    }

    /// The next frame, which is an acknowledgement.
    pub async fn ack(&mut self) -> Vec<(u16, u64)> {
        match self.recv().await {
            Some(TerminalFrame::Ack { s: 1, a }) => a.iter().map(|(l, o)| (*l, o.0)).collect(),
            other => panic!("not an ack: {other:?}"),
        }
    }

    pub async fn closed(&mut self, code: u16, reconnect: bool) {
        let reason = "because".to_owned();
        self.send(&NodeFrame::Closed { s: 1, code, reason, reconnect, detail: None }).await;
    }

    pub async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "because".into() };
        self.0.close(Some(frame)).await.unwrap();
    }
}

pub fn message(offset: u64, id: u128) -> Message {
    Message {
        o: Some(Offset(offset)),
        id: MessageId(id),
        d: Some(to_raw_value(&offset).unwrap()),
        b: None,
        ct: None,
    }
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// The next message; other events before it are passed.
pub async fn next_message(events: &mut Events) -> clarion_sdk::Message {
    loop {
        match events.next().await.expect("the events ended") {
            Event::Message(message) => return message,
            Event::Closed(closed) => panic!("closed: {closed}"),
            _ => {}
        }
    }
}

/// Passes events until one fits.
pub async fn until<T>(events: &mut Events, mut fits: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the events ended");
        if let Some(found) = fits(event) {
            return found;
        }
    }
}

/// No more is queued for the application. Time must be paused.
pub async fn nothing_comes(events: &mut Events) -> bool {
    tokio::time::timeout(Duration::from_secs(1), events.next()).await.is_err()
}

pub fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

pub const NO_DELAY: Backoff = Backoff { base: Duration::ZERO, cap: Duration::ZERO };
