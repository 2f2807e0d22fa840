//! A node over a store in memory, and terminals on links without a network.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clarion_actors::{Failure, LinkIo, Push, System};
use clarion_config::Config;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::{Audience, PushAccepted, TerminalKind, TokenAlgorithm, TokenClaims};
use clarion_protocol::terminal::{
    Cursor, LogAlias, NodeFrame, Open, Opened, SUBPROTOCOL_JSON, TerminalFrame,
};
use clarion_protocol::{
    KeyId, LogName, MessageId, Offset, ProductId, TerminalId, TopicName, UserId,
};
use clarion_storage::memory::MemoryStore;
use clarion_storage::{ProductRecord, Read, Store, SubscriptionState, TokenKey};
use futures_util::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Nothing here takes that long: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
const _: &str = SUBPROTOCOL_JSON;

/// A running node with the product `demo`.
pub struct Node {
    pub system: System,
    pub store: Arc<MemoryStore>,
    pub product: Arc<ProductRecord>,
}

pub fn product_id(name: &str) -> ProductId {
    ProductId::new(name).unwrap()
}

pub fn terminal_id(name: &str) -> TerminalId {
    TerminalId::new(name).unwrap()
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub fn to_terminals(names: &[&str]) -> Audience {
    Audience::Terminals(names.iter().map(|name| terminal_id(name)).collect())
}

pub fn to_user(name: &str) -> Audience {
    Audience::Users(vec![UserId::new(name).unwrap()])
}

pub fn to_topic(name: &str) -> Audience {
    Audience::Topic(topic(name))
}

pub fn record(name: &str) -> ProductRecord {
    let key = TokenKey {
        kid: KeyId::new("k1").unwrap(),
        algorithm: TokenAlgorithm::HS256,
        key: b"0123456789abcdef0123456789abcdef".to_vec(),
        created_at_ms: 0,
        revoked_at_ms: None,
    };
    ProductRecord {
        product: product_id(name),
        created_at_ms: 0,
        kinds: vec![TerminalKind::Pc],
        allow_sha1_body_hash: true,
        pushes_per_s_max: None,
        isolation_group: clarion_storage::DEFAULT_GROUP.into(),
        api_keys: Vec::new(),
        token_keys: vec![key],
    }
}

/// A config for tests: few actors, no slow head check that would hide a lost hint.
pub fn config() -> Config {
    let mut config = Config::default();
    config.terminals.shards = 2;
    config.actors.inbox_shards = 4;
    config.actors.relays = 1;
    config.actors.head_check_ms = 3_600_000;
    config.session.cursor_flush_ms = 50;
    config.node.drain_timeout_ms = 4_000;
    config
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(Arc::new(MemoryStore::new()), change).await
    }

    pub async fn over(store: Arc<MemoryStore>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let dynamic: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        let system = System::start(Arc::new(config), dynamic).await.unwrap();
        if system.product(&product_id("demo")).await.unwrap().is_none() {
            system.create_product(record("demo")).await.unwrap();
        }
        let product = system.product(&product_id("demo")).await.unwrap().unwrap();
        Self { system, store, product }
    }

    pub async fn push(&self, audience: Audience, text: &str) -> Result<PushAccepted, Failure> {
        self.system.push(&self.product, push(audience, text)).await
    }

    /// Pushes and insists.
    pub async fn accepted(&self, audience: Audience, text: &str) -> PushAccepted {
        self.push(audience, text).await.unwrap()
    }

    /// Entries in the log of the first target.
    pub async fn entries(&self, audience: Audience) -> usize {
        let product = &self.product.product;
        let log = match &audience {
            Audience::All => LogKey::broadcast(product),
            Audience::Terminals(ids) => LogKey::terminal(product, &ids[0]),
            Audience::Users(ids) => LogKey::user(product, &ids[0]),
            Audience::Topic(name) => LogKey::topic(product, name),
        };
        let read = Read { log, after: Offset::ZERO, entries_max: 100_000, bytes_max: u32::MAX };
        self.store.read(vec![read]).await.pop().unwrap().unwrap().entries.len()
    }

    /// A link without a session.
    pub fn connect(&self) -> TestTerminal {
        self.connect_with(64 * 1024)
    }

    /// A link whose "kernel" takes so many bytes.
    pub fn connect_with(&self, buffer: usize) -> TestTerminal {
        let (near, far) = tokio::io::duplex(buffer);
        let system = self.system.clone();
        let ended = tokio::spawn(async move {
            let config = WebSocketConfig::default()
                .read_buffer_size(512)
                .write_buffer_size(4096)
                .max_write_buffer_size(4096 + 64 * 1024)
                .max_message_size(Some(16 * 1024))
                .max_frame_size(Some(16 * 1024));
            let io = LinkIo::new(near);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
            system.serve_link(socket, IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
        });
        TestTerminal { io: Some(far), socket: None, ended, kept: VecDeque::new() }
    }

    pub fn token(&self, claims: Claims<'_>) -> String {
        let claims = TokenClaims {
            aud: claims.product.to_owned(),
            sub: claims.terminal.to_owned(),
            user: claims.user.map(ToOwned::to_owned),
            kind: TerminalKind::Pc,
            topics: vec!["*".to_owned()],
            exp: self.store.time_ms() / 1000 + claims.ttl_s,
            jti: None,
        };
        self.system.mint_token(&self.product, &claims).unwrap()
    }

    /// An `open` frame for session 1.
    pub fn open_frame(&self, claims: Claims<'_>) -> Open {
        Open {
            s: claims.session,
            product: product_id(claims.product),
            token: self.token(claims),
            agent: None,
            cursors: Vec::new(),
            topics: Vec::new(),
        }
    }

    /// A terminal with an open session.
    pub async fn open(&self, terminal: &str) -> (TestTerminal, Opened) {
        self.open_as(Claims { terminal, ..Claims::default() }, &[]).await
    }

    pub async fn open_in(&self, terminal: &str, topics: &[&str]) -> (TestTerminal, Opened) {
        self.open_as(Claims { terminal, ..Claims::default() }, topics).await
    }

    pub async fn open_as(&self, claims: Claims<'_>, topics: &[&str]) -> (TestTerminal, Opened) {
        let mut link = self.connect();
        let mut open = self.open_frame(claims);
        open.topics = topics.iter().map(|name| topic(name)).collect();
        link.send(TerminalFrame::Open(open)).await;
        let opened = link.opened().await;
        (link, opened)
    }

    /// Waits for a condition.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
    }

    /// How often the first entry behind a stored cursor was sent; `None` once one was passed.
    pub async fn attempts(&self, terminal: &str, log: &LogName) -> Option<u8> {
        let id = terminal_id(terminal);
        let record = self.store.terminal(&self.product.product, &id).await.unwrap().unwrap();
        match record.subscriptions.iter().find(|s| s.log == *log).map(|s| s.state) {
            Some(SubscriptionState::Reading { attempts, cursor: Offset::ZERO, .. }) => {
                Some(attempts)
            }
            _ => None,
        }
    }

    /// The cursor of a terminal that is stored now.
    pub async fn stored(&self, terminal: &str, log: &LogName) -> Option<Offset> {
        let (product, id) = (&self.product.product, terminal_id(terminal));
        let info = self.system.terminal(product, &id).await.unwrap().unwrap();
        info.cursors.iter().find(|cursor| cursor.log == *log).map(|cursor| cursor.offset)
    }

    /// Waits until a cursor of a terminal is stored.
    pub async fn until_stored(&self, terminal: &str, log: LogName, offset: Offset) {
        let (product, id) = (self.product.product.clone(), terminal_id(terminal));
        self.until("the cursor is stored", async || {
            let info = self.system.terminal(&product, &id).await.unwrap().unwrap();
            info.cursors.iter().any(|cursor| cursor.log == log && cursor.offset == offset)
        })
        .await;
    }
}

/// What a token says.
#[derive(Clone, Copy)]
pub struct Claims<'a> {
    pub product: &'a str,
    pub terminal: &'a str,
    pub user: Option<&'a str>,
    pub session: u32,
    pub ttl_s: u64,
}

impl Default for Claims<'_> {
    fn default() -> Self {
        Self { product: "demo", terminal: "t1", user: None, session: 1, ttl_s: 3600 }
    }
}

pub fn push(audience: Audience, text: &str) -> Push {
    let text = serde_json::to_vec(text).unwrap();
    Push {
        audience,
        body: Body::Json(Bytes::from(text)),
        ttl_s: 3600,
        idempotency: None,
        turn: None,
    }
}

pub fn offset_of(accepted: &PushAccepted) -> Offset {
    accepted.targets[0].position.unwrap().offset
}

/// A message as a terminal got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub log: LogAlias,
    pub offset: Offset,
    pub id: MessageId,
    pub text: String,
    pub again: bool,
}

/// What comes from a node.
#[derive(Debug)]
pub enum Heard {
    Frame(NodeFrame),
    /// A close frame with this code, or the end without one (0).
    End(u16),
}

/// The other end of a link.
pub struct TestTerminal {
    io: Option<DuplexStream>,
    socket: Option<WebSocketStream<DuplexStream>>,
    /// Ends with the link's future on the node.
    pub ended: tokio::task::JoinHandle<()>,
    kept: VecDeque<NodeFrame>,
}

impl TestTerminal {
    pub async fn socket(&mut self) -> &mut WebSocketStream<DuplexStream> {
        if let Some(io) = self.io.take() {
            self.socket = Some(WebSocketStream::from_raw_socket(io, Role::Client, None).await);
        }
        self.socket.as_mut().unwrap()
    }

    pub async fn send(&mut self, frame: TerminalFrame) {
        let text = serde_json::to_string(&frame).unwrap();
        self.send_text(text).await;
    }

    pub async fn send_text(&mut self, text: String) {
        self.socket().await.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next frame from the wire.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let next = self.socket().await.next();
            let next = tokio::time::timeout(PATIENCE, next).await.expect("the node is silent");
            match next {
                Some(Ok(Message::Text(text))) => {
                    return Heard::Frame(NodeFrame::parse(&text).unwrap());
                }
                Some(Ok(Message::Close(frame))) => {
                    return Heard::End(frame.map_or(0, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::End(0),
            }
        }
    }

    /// The first frame that `pick` takes; others are kept for later.
    pub async fn expect<T>(&mut self, mut pick: impl FnMut(&NodeFrame) -> Option<T>) -> T {
        for at in 0..self.kept.len() {
            if let Some(found) = pick(&self.kept[at]) {
                self.kept.remove(at);
                return found;
            }
        }
        loop {
            match self.hear().await {
                Heard::Frame(frame) => match pick(&frame) {
                    Some(found) => return found,
                    None => self.kept.push_back(frame),
                },
                Heard::End(code) => panic!("the link ended ({code}); kept: {:?}", self.kept),
            }
        }
    }

    pub async fn opened(&mut self) -> Opened {
        self.expect(|frame| match frame {
            NodeFrame::Opened(opened) => Some(opened.clone()),
            NodeFrame::Closed { code, reason, .. } => panic!("refused: {code} {reason}"),
            _ => None,
        })
        .await
    }

    /// The code of the next `closed` frame.
    pub async fn closed(&mut self) -> (u32, u16) {
        self.expect(|frame| match frame {
            NodeFrame::Closed { s, code, .. } => Some((*s, *code)),
            _ => None,
        })
        .await
    }

    /// The code of the close frame, after whatever comes before it.
    pub async fn end(&mut self) -> u16 {
        loop {
            if let Heard::End(code) = self.hear().await {
                return code;
            }
        }
    }

    /// The messages of the next `deliver` frame.
    pub async fn deliver(&mut self) -> Vec<Got> {
        self.expect(|frame| match frame {
            NodeFrame::Deliver(deliver) => Some(
                deliver
                    .m
                    .iter()
                    .map(|message| Got {
                        log: deliver.l,
                        offset: message.o.unwrap_or(Offset::ZERO),
                        id: message.id,
                        text: serde_json::from_str(message.d.as_ref().unwrap().get()).unwrap(),
                        again: deliver.again,
                    })
                    .collect(),
            ),
            _ => None,
        })
        .await
    }

    /// So many messages, whatever their frames.
    pub async fn messages(&mut self, count: usize) -> Vec<Got> {
        let mut got = Vec::new();
        while got.len() < count {
            got.extend(self.deliver().await);
        }
        assert_eq!(got.len(), count, "{got:?}");
        got
    }

    /// So many messages, each acknowledged as it comes.
    pub async fn messages_acked(&mut self, count: usize) -> Vec<Got> {
        let mut got: Vec<Got> = Vec::new();
        while got.len() < count {
            let new = self.deliver().await;
            let last = new.last().unwrap();
            self.ack(last.log, last.offset).await;
            got.extend(new);
        }
        assert_eq!(got.len(), count, "{got:?}");
        got
    }

    pub async fn ack(&mut self, log: LogAlias, offset: Offset) {
        self.send(TerminalFrame::Ack { s: 1, a: vec![(log, offset)] }).await;
    }

    /// A `ping` and its `pong`: everything sent before was taken, and nothing but `kept` frames
    /// came.
    pub async fn settle(&mut self) {
        self.send(TerminalFrame::Ping { s: 0 }).await;
        self.expect(|frame| matches!(frame, NodeFrame::Pong { .. }).then_some(())).await;
    }

    pub fn kept(&self) -> &VecDeque<NodeFrame> {
        &self.kept
    }

    /// Drops the connection without a word.
    pub async fn cut(mut self) {
        self.socket = None;
        self.io = None;
        tokio::time::timeout(PATIENCE, self.ended).await.expect("the link ends").unwrap();
    }

    pub async fn subscribe(&mut self, id: u64, name: &str) {
        let topic = topic(name);
        self.send(TerminalFrame::Subscribe { s: 1, id, topic, cursor: None }).await;
    }
}

pub fn alias(opened: &Opened, log: &str) -> LogAlias {
    let of = |position: &&clarion_protocol::terminal::LogPosition| position.log.to_string() == log;
    opened.logs.iter().find(of).unwrap_or_else(|| panic!("no {log}: {opened:?}")).l
}

pub fn texts(got: &[Got]) -> Vec<&str> {
    got.iter().map(|got| got.text.as_str()).collect()
}

pub fn cursor(log: LogName, epoch: clarion_protocol::Epoch, offset: Offset) -> (LogName, Cursor) {
    (log, Cursor(epoch, offset))
}
