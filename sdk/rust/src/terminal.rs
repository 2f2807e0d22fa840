//! The client of a terminal: one link, one session, and a stream of what arrives.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use clarion_sdk::{Event, Terminal};
//!
//! let terminal = Terminal::builder("ws://127.0.0.1:8081", "demo", "TOKEN").topics(["news"]);
//! let (_handle, mut events) = terminal.connect().await?;
//! while let Some(event) = events.next().await {
//!     if let Event::Message(message) = event {
//!         println!("{}: {:?}", message.log, message.payload);
//!         message.ack();
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! What it promises is in the [crate's documentation](crate).

mod driver;
mod event;
mod gateways;
mod ledger;
mod limiter;
mod requests;
mod seen;
mod session;
mod shared;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::{IdError, ProductId, TopicName};
use tokio::sync::oneshot;

use crate::backoff::Backoff;
use crate::cursors::{CursorError, CursorStore, Snapshot};
use crate::transport::{CertificateError, Connector, Tcp, UrlError};

pub use event::{Closed, Event, Gap, Message, Opened, Payload, Receipt, Why, commit_token};
pub use shared::Events;
pub use token::{BoxError, TokenSource};

use gateways::Route;
use shared::{Command, Shared};

/// Starts a [`Builder`].
#[derive(Debug)]
pub struct Terminal;

/// What a terminal is to be like.
pub struct Builder {
    /// The address, or where to ask for one.
    place: Place,
    product: String,
    token: TokenSource,
    store: Option<Arc<dyn CursorStore>>,
    topics: Vec<String>,
    agent: String,
    auto_ack: bool,
    ids_remembered: usize,
    connector: Option<Arc<dyn Connector>>,
    tuning: Tuning,
}

#[derive(Debug)]
enum Place {
    Fixed(String),
    /// Bases of HTTP APIs; at least one.
    Listed(Vec<String>),
}

/// The bounds and times of a terminal. The defaults are right for nearly everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuning {
    /// The delays between attempts to connect.
    pub reconnect: Backoff,
    /// A session that lasted this long lets the back-off start over.
    pub stable_after: Duration,
    /// How long a connection may take until its session is open.
    pub connect_timeout: Duration,
    /// How long after a ping or request something must be heard.
    pub silence_max: Duration,
    /// How long frames may wait for the socket.
    pub write_timeout: Duration,
    /// How long an acknowledgement waits for others while messages are being handled. The last
    /// of a burst is sent at once.
    pub ack_delay: Duration,
    /// Acknowledgements that are sent without waiting for more.
    pub ack_batch: usize,
    /// Acknowledging frames a second; a node reads a link no faster than it allows frames.
    pub ack_frames_per_s: u32,
    /// Events that wait for the application before the socket is no longer read. What a node may
    /// send unacknowledged is bounded by its window, too.
    pub buffer: usize,
    /// The read buffer of the socket, in bytes.
    pub read_buffer_bytes: usize,
    /// How long an orderly end may take.
    pub close_timeout: Duration,
    /// When a failed save of the cursors is tried again.
    pub save_retry: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            reconnect: Backoff::RECONNECT,
            stable_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            ack_delay: Duration::from_millis(20),
            ack_batch: 32,
            ack_frames_per_s: 150,
            buffer: 1024,
            read_buffer_bytes: 4096,
            close_timeout: Duration::from_secs(5),
            save_retry: Duration::from_secs(1),
        }
    }
}

/// Why a terminal could not be started. Trouble with the node is not among it: that is told by
/// [`Event::Disconnected`] and [`Event::Closed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The URL cannot be used.
    #[error("the URL: {0}")]
    Url(#[from] UrlError),
    /// The product is not an identifier.
    #[error("the product {0}")]
    Product(IdError),
    /// A topic is not an identifier.
    #[error("a topic {0}")]
    Topic(IdError),
    /// The TLS library cannot be set up.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// There is no token.
    #[error("no token: {0}")]
    Token(#[source] BoxError),
    /// The cursor store cannot be read.
    #[error(transparent)]
    Cursors(#[from] CursorError),
}

/// Why a request of the application failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The node refused it.
    #[error("refused: {code} {reason}{}", detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// The code.
        code: u16,
        /// Its name.
        reason: String,
        /// What is special about it.
        detail: Option<String>,
    },
    /// The name is not an identifier.
    #[error("the topic {0}")]
    Topic(IdError),
    /// Too many requests wait already.
    #[error("too many requests wait for the node")]
    Busy,
    /// The link went down before the node answered; whether it was done is not known.
    #[error("the link went down before the node answered")]
    Interrupted,
    /// The terminal is closed.
    #[error("the terminal is closed")]
    Ended,
}

impl Terminal {
    /// A terminal of `product` at `url` (`ws` or `wss`; a URL without a path means `/v1/link`), with
    /// `token` or what asks for one.
    #[must_use]
    pub fn builder(url: &str, product: &str, token: impl Into<TokenSource>) -> Builder {
        Self::at(Place::Fixed(url.to_owned()), product, token.into())
    }

    /// A terminal of `product` that asks the HTTP API at `gateways_url` where to connect, and goes
    /// to another access point when one fails, drains or is full.
    #[must_use]
    pub fn discovering(
        gateways_url: &str,
        product: &str,
        token: impl Into<TokenSource>,
    ) -> Builder {
        Self::at(Place::Listed(vec![gateways_url.to_owned()]), product, token.into())
    }

    fn at(place: Place, product: &str, token: TokenSource) -> Builder {
        Builder {
            place,
            product: product.to_owned(),
            token,
            store: None,
            topics: Vec::new(),
            agent: concat!("clarion-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            auto_ack: false,
            ids_remembered: 1024,
            connector: None,
            tuning: Tuning::default(),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("place", &self.place)
            .field("product", &self.product)
            .field("token", &self.token)
            .field("topics", &self.topics)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Where cursors survive the process; see [`cursors`](crate::cursors). Without one they live
    /// as long as the terminal, and the node's count after a restart.
    #[must_use]
    pub fn cursor_store(mut self, store: impl CursorStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Another HTTP API to ask for access points, for when those named before do not answer. After
    /// [`Terminal::builder`] it takes the place of the fixed address.
    #[must_use]
    pub fn gateways_url(mut self, url: &str) -> Self {
        match &mut self.place {
            Place::Fixed(_) => self.place = Place::Listed(vec![url.to_owned()]),
            Place::Listed(bases) => bases.push(url.to_owned()),
        }
        self
    }

    /// Topics to be in, besides those the terminal is in already.
    #[must_use]
    pub fn topics<T: AsRef<str>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(|topic| topic.as_ref().to_owned()));
        self
    }

    /// Name and version of the application, for the operator of the node.
    #[must_use]
    pub fn agent(mut self, agent: &str) -> Self {
        agent.clone_into(&mut self.agent);
        self
    }

    /// Acknowledges every message when the next event is asked for, instead of by
    /// [`Message::ack`].
    #[must_use]
    pub const fn auto_ack(mut self, auto_ack: bool) -> Self {
        self.auto_ack = auto_ack;
        self
    }

    /// How many ids of handled messages are remembered to drop a message that arrives again, by
    /// another log or after a crash. 1024 unless changed; 16 bytes each in the cursor store.
    #[must_use]
    pub const fn ids_remembered(mut self, ids: usize) -> Self {
        self.ids_remembered = ids;
        self
    }

    /// How byte streams to the node are made, to trust own certificates or to use a proxy.
    #[must_use]
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Like [`Builder::connector`], for a connector that many terminals share.
    #[must_use]
    pub fn shared_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Changes bounds and times.
    #[must_use]
    pub fn tuning(mut self, change: impl FnOnce(&mut Tuning)) -> Self {
        change(&mut self.tuning);
        self
    }

    /// Loads the cursors and starts. Connecting goes on behind: that it is done, or cannot be, is
    /// among the events.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn connect(self) -> Result<(TerminalHandle, Events), StartError> {
        let product = ProductId::new(&self.product).map_err(StartError::Product)?;
        let route = match &self.place {
            Place::Fixed(url) => Route::fixed(url)?,
            Place::Listed(bases) => Route::listed(bases, &product)?,
        };
        let topics = self
            .topics
            .iter()
            .map(|topic| TopicName::new(topic).map_err(StartError::Topic))
            .collect::<Result<Vec<_>, _>>()?;
        let connector = match self.connector {
            Some(connector) => connector,
            None => Arc::new(Tcp::new()?),
        };
        let snapshot = match &self.store {
            Some(store) => store.load().await?,
            None => Snapshot::default(),
        };
        let token = self.token.token().await.map_err(StartError::Token)?;
        let owner = token::owner(product.as_str(), &token);
        let snapshot = snapshot.claimed_by(&owner)?;
        let ledger = ledger::Ledger::new(owner, snapshot, self.ids_remembered);
        let shared = Arc::new(Shared::new(ledger, self.tuning.ack_batch, self.tuning.buffer));
        let settings = Settings {
            product,
            agent: self.agent,
            source: self.token,
            store: self.store,
            connector,
            tuning: self.tuning,
        };
        let driver = driver::Driver::new(settings, route, Arc::clone(&shared), token, topics);
        crate::task::spawn(driver.run());
        let events = Events::new(Arc::clone(&shared), self.auto_ack);
        Ok((TerminalHandle { shared }, events))
    }
}

/// What does not change while a terminal lives.
struct Settings {
    product: ProductId,
    agent: String,
    source: TokenSource,
    store: Option<Arc<dyn CursorStore>>,
    connector: Arc<dyn Connector>,
    tuning: Tuning,
}

/// What the application can ask of its terminal. Cheap to clone; the terminal lives as long as its
/// [`Events`].
#[derive(Clone)]
pub struct TerminalHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for TerminalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminalHandle").finish_non_exhaustive()
    }
}

impl TerminalHandle {
    /// Joins a topic. While the link is down this waits for the next one.
    ///
    /// # Errors
    /// When the node refuses, or the terminal ends first.
    pub async fn subscribe(&self, topic: &str) -> Result<(), RequestError> {
        let topic = TopicName::new(topic).map_err(RequestError::Topic)?;
        self.request(|reply| Command::Subscribe(topic, reply)).await
    }

    /// Leaves a topic; its cursor is dropped.
    ///
    /// # Errors
    /// When the node refuses, or the terminal ends first.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), RequestError> {
        let topic = TopicName::new(topic).map_err(RequestError::Topic)?;
        self.request(|reply| Command::Unsubscribe(topic, reply)).await
    }

    /// Gives a new token of the same terminal to the running session; answers when that ends, in
    /// Unix seconds.
    ///
    /// # Errors
    /// When the node refuses it, or the link breaks first.
    pub async fn refresh(&self, token: &str) -> Result<u64, RequestError> {
        self.request(|reply| Command::Refresh(token.to_owned(), reply)).await
    }

    /// Ends in good order: what was acknowledged is saved and told to the node. The events end
    /// with [`Event::Closed`]; wait for that to know that it is done.
    pub fn close(&self) {
        self.shared.stop();
    }

    /// Deliveries that were dropped because the application had seen them.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.shared.lock().ledger.duplicates
    }

    async fn request<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Command,
    ) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.shared.command(command(reply))?;
        answer.await.unwrap_or(Err(RequestError::Ended))
    }
}

/// The only session of the link.
const SESSION: u32 = 1;
