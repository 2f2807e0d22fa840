//! The client of a product's back-end: pushes, over HTTP or over one WebSocket, and what else a
//! key of the product may do.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use clarion_sdk::{Backend, Push};
//!
//! let backend = Backend::builder("http://127.0.0.1:8080", "demo", "KEY", "SECRET").build()?;
//! let push = Push::to_topic("news").json(&serde_json::json!({"text": "hello"}))?.ttl(3600);
//! println!("{}", backend.push(push).await?.id);
//! # Ok(()) }
//! ```

pub(crate) mod error;
mod link;
mod push;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use clarion_protocol::http::{
    KickOutcome, MemberOutcome, MessageState, Page, PushAccepted, TerminalInfo, TopicMember,
    TopicMembers,
};
use clarion_protocol::{IdError, MessageId, ProductId, TerminalId, TopicName};
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{Base, Call, Http, Identity, Place};
use crate::transport::{CertificateError, Connector, Tcp, UrlError, http_url};

pub use crate::http::RequestTuning;
pub use error::PushError;
pub use link::{LinkTuning, PushLink};
pub use push::{Addressed, Push};

/// A product's back-end. Cheap to clone; clones share the connection pool.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    http: Arc<Http>,
    base: Base,
    product: ProductId,
    messages: Place,
    connector: Arc<dyn Connector>,
}

/// What a [`Backend`] is to be like.
pub struct Builder {
    url: String,
    product: String,
    key: String,
    secret: String,
    tcp: Option<Tcp>,
    tuning: RequestTuning,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The URL cannot be used.
    #[error("the URL: {0}")]
    Url(#[from] UrlError),
    /// The product is not an identifier.
    #[error("the product {0}")]
    Product(IdError),
    /// The TLS library cannot be set up.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A path or token cannot be sent.
    #[error("{0}")]
    Request(PushError),
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.debug_struct("Backend").field("product", &inner.product).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    /// Without key and secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("url", &self.url)
            .field("product", &self.product)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Trusts own certificates.
    #[must_use]
    pub fn tcp(mut self, tcp: Tcp) -> Self {
        self.tcp = Some(tcp);
        self
    }

    /// Changes bounds and times.
    #[must_use]
    pub fn tuning(mut self, change: impl FnOnce(&mut RequestTuning)) -> Self {
        change(&mut self.tuning);
        self
    }

    /// The client. Connects when it is needed.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Backend, BuildError> {
        let base = Base::new(&http_url(&self.url)?);
        let product = ProductId::new(&self.product).map_err(BuildError::Product)?;
        let messages =
            base.place(&format!("/v1/products/{product}/messages")).map_err(BuildError::Request)?;
        let tcp = self.tcp.map_or_else(Tcp::new, Ok)?;
        let identity = Identity::Key { key: self.key, secret: self.secret };
        let http = Arc::new(Http::new(identity, &tcp, self.tuning));
        let connector = Arc::new(tcp);
        Ok(Backend(Arc::new(Inner { http, base, product, messages, connector })))
    }
}

impl Backend {
    /// A back-end of `product`, with a key and its secret, at the base URL of a node's HTTP API.
    #[must_use]
    pub fn builder(url: &str, product: &str, key: &str, secret: &str) -> Builder {
        Builder {
            url: url.to_owned(),
            product: product.to_owned(),
            key: key.to_owned(),
            secret: secret.to_owned(),
            tcp: None,
            tuning: RequestTuning::default(),
        }
    }

    /// Pushes over HTTP. Repeated with the same idempotency key while that may help, so it is
    /// stored once. Some of several targets may have failed all the same: see
    /// [`PushAccepted::targets`].
    ///
    /// # Errors
    /// When the node refuses the push, or does not answer before the deadline.
    pub async fn push(&self, push: Push) -> Result<PushAccepted, PushError> {
        let body = push.into_body()?;
        let call = Call {
            method: Method::POST,
            place: &self.0.messages,
            body: Some(body),
            idempotent: true,
        };
        self.0.http.call(call).await
    }

    /// A WebSocket for many pushes in flight: less work per push for both sides. Connects by
    /// itself, now and whenever it is needed again.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn connect(&self) -> Result<PushLink, PushError> {
        self.connect_with(LinkTuning::default())
    }

    /// Like [`Backend::connect`], with other bounds and times.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn connect_with(&self, tuning: LinkTuning) -> Result<PushLink, PushError> {
        let place = self.place("/push")?;
        PushLink::start(Arc::clone(&self.0.http), place, Arc::clone(&self.0.connector), tuning)
    }

    /// What became of a message.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn message(&self, id: MessageId) -> Result<MessageState, PushError> {
        self.get(&self.place(&format!("/messages/{id}"))?).await
    }

    /// Members of a topic, a page of at most `limit` behind `after`.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn topic_members(
        &self,
        topic: &TopicName,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Page<TopicMember>, PushError> {
        let place = self.members_place(topic)?;
        self.get(&page(&place, after, limit, None)?).await
    }

    /// Puts terminals into a topic, known or not.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn put_members(
        &self,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Result<Vec<MemberOutcome>, PushError> {
        self.change_members(Method::PUT, topic, terminals).await
    }

    /// Takes terminals out of a topic; they cannot join it again by themselves.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn remove_members(
        &self,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Result<Vec<MemberOutcome>, PushError> {
        self.change_members(Method::DELETE, topic, terminals).await
    }

    /// Terminals of the product, or of one of its users; a page of at most `limit` behind `after`.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn terminals(
        &self,
        user: Option<&str>,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Page<TerminalInfo>, PushError> {
        self.get(&page(&self.place("/terminals")?, after, limit, user)?).await
    }

    /// A terminal.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn terminal(&self, terminal: &TerminalId) -> Result<TerminalInfo, PushError> {
        self.get(&self.place(&format!("/terminals/{terminal}"))?).await
    }

    /// Closes a terminal's session; it does not reconnect by itself.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn kick(&self, terminal: &TerminalId) -> Result<KickOutcome, PushError> {
        let place = self.place(&format!("/terminals/{terminal}/kick"))?;
        let call = Call { method: Method::POST, place: &place, body: None, idempotent: true };
        self.0.http.call(call).await
    }

    // Identifiers need no encoding in a path: their alphabet is that of RFC 3986's `pchar`.
    fn place(&self, path: &str) -> Result<Place, PushError> {
        self.0.base.place(&format!("/v1/products/{}{path}", self.0.product))
    }

    async fn change_members(
        &self,
        method: Method,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Result<Vec<MemberOutcome>, PushError> {
        let place = self.members_place(topic)?;
        // A page that is whole: it has no next one.
        let page: Page<MemberOutcome> =
            self.send(method, &place, &TopicMembers { terminals }).await?;
        Ok(page.items)
    }

    fn members_place(&self, topic: &TopicName) -> Result<Place, PushError> {
        self.place(&format!("/topics/{topic}/members"))
    }

    async fn get<T: DeserializeOwned>(&self, place: &Place) -> Result<T, PushError> {
        self.0.http.call(Call { method: Method::GET, place, body: None, idempotent: true }).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        place: &Place,
        body: &impl Serialize,
    ) -> Result<T, PushError> {
        let body = Some(to_body(body)?);
        self.0.http.call(Call { method, place, body, idempotent: true }).await
    }
}

pub(crate) fn to_body(value: &impl Serialize) -> Result<Bytes, PushError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| PushError::invalid(format!("the request: {error}")))
}

pub(crate) fn page(
    place: &Place,
    after: Option<&str>,
    limit: Option<usize>,
    user: Option<&str>,
) -> Result<Place, PushError> {
    let limit = limit.map(|limit| limit.to_string());
    place.with_query(&[("after", after), ("limit", limit.as_deref()), ("user", user)])
}
