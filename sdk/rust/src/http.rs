//! Requests to the HTTP API of a node: one connection pool, signed or with a bearer token, repeated
//! while that is safe and may help.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clarion_protocol::oauth::{SignRequest, sign};
use clarion_protocol::{Code, Problem};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use crate::backend::PushError;
use crate::backend::error::Attempt;
use crate::backoff::Backoff;
use crate::transport::Tcp;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The bounds and times of requests. The defaults are right for nearly everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestTuning {
    /// The delays between attempts. `Retry-After` of the node comes on top.
    pub retry: Backoff,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long all attempts together may take, delays included.
    pub deadline: Duration,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; shorter than nodes and proxies do.
    pub idle_timeout: Duration,
    /// Requests in flight at once, each on a connection of its own; more wait.
    pub in_flight_max: usize,
}

impl Default for RequestTuning {
    fn default() -> Self {
        Self {
            retry: Backoff::REQUEST,
            attempt_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(30),
            in_flight_max: 512,
        }
    }
}

/// Who asks.
pub(crate) enum Identity {
    /// A back-end with a key of its product.
    Key { key: String, secret: String },
    /// An administrator.
    Bearer(HeaderValue),
}

/// A connection pool towards one node.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    identity: Identity,
    permits: Semaphore,
    pub(crate) tuning: RequestTuning,
}

/// A place of the API, its URL parsed once.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    uri: Uri,
    url: Arc<str>,
}

/// A request. It is sent as it is at every attempt; only the signature is new.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) place: &'a Place,
    pub(crate) body: Option<Bytes>,
    /// Whether to repeat it although the last attempt may have taken effect.
    pub(crate) idempotent: bool,
}

/// The base URL of a node, for the places below it.
#[derive(Debug, Clone)]
pub(crate) struct Base(String);

impl Base {
    pub(crate) fn new(url: &Url) -> Self {
        Self(url.as_str().trim_end_matches('/').to_owned())
    }

    /// The place of segments that need no encoding, or are encoded already.
    pub(crate) fn place(&self, path: &str) -> Result<Place, PushError> {
        Place::new(format!("{}{path}", self.0))
    }
}

impl Place {
    fn new(url: String) -> Result<Self, PushError> {
        let uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| {
            PushError::invalid(format!("the URL {url}: {error}"))
        })?;
        Ok(Self { uri, url: Arc::from(url) })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The same with a query. Values are identifiers and numbers; `@`, `:` and the like are
    /// allowed in a query (RFC 3986, section 3.4).
    pub(crate) fn with_query(&self, query: &[(&str, Option<&str>)]) -> Result<Self, PushError> {
        let mut url = self.url.to_string();
        let mut separator = '?';
        for (name, value) in query {
            let Some(value) = value else { continue };
            url.push(separator);
            url.push_str(name);
            url.push('=');
            url.extend(url::form_urlencoded::byte_serialize(value.as_bytes()));
            separator = '&';
        }
        Self::new(url)
    }
}

impl Identity {
    /// The header that authenticates one attempt.
    pub(crate) fn authorization(
        &self,
        method: &Method,
        url: &str,
        body: Option<&[u8]>,
    ) -> Result<HeaderValue, PushError> {
        match self {
            Self::Bearer(value) => Ok(value.clone()),
            Self::Key { key, secret } => {
                let mut nonce = String::with_capacity(32);
                // Writing to a `String` cannot fail.
                let _ = write!(nonce, "{:032x}", rand::random::<u128>());
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let header = sign(&SignRequest {
                    method: method.as_str(),
                    url,
                    body,
                    key,
                    secret,
                    nonce: &nonce,
                    timestamp: now.as_secs(),
                });
                let mut value = HeaderValue::try_from(header)
                    .map_err(|_| PushError::invalid("the key holds a control character"))?;
                value.set_sensitive(true);
                Ok(value)
            }
        }
    }
}

impl Http {
    pub(crate) fn new(identity: Identity, tcp: &Tcp, tuning: RequestTuning) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(tuning.connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tcp.tls_config())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(tuning.idle_timeout)
            .pool_max_idle_per_host(tuning.in_flight_max)
            .build(connector);
        let permits = Semaphore::new(tuning.in_flight_max);
        Self { client, identity, permits, tuning }
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends until there is an answer that stands, or no time left.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, PushError> {
        let bytes = self.call_bytes(call).await?;
        // An empty body reads as `null`, for answers without content.
        let text = if bytes.is_empty() { b"null".as_slice() } else { &bytes };
        serde_json::from_slice(text)
            .map_err(|error| PushError::unreadable(format!("the node's answer: {error}")))
    }

    async fn call_bytes(&self, call: Call<'_>) -> Result<Bytes, PushError> {
        let deadline = Instant::now() + self.tuning.deadline;
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        // The semaphore is never closed; time can run out.
        let Ok(Ok(_permit)) = permit else {
            return Err(PushError::gave_up(Attempt::waiting(), 0, false));
        };
        let mut attempts = 0;
        let mut unknown = false;
        loop {
            let end = deadline.min(Instant::now() + self.tuning.attempt_timeout);
            let failed = match timeout_at(end, self.attempt(&call)).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(failed)) => failed,
                Err(_) => Attempt::timed_out(),
            };
            attempts += 1;
            unknown |= failed.outcome_unknown;
            let retry_at = Instant::now() + failed.delay(&self.tuning.retry, attempts - 1);
            let repeat = failed.repeat && (call.idempotent || !failed.outcome_unknown);
            if !repeat || retry_at >= deadline {
                return Err(PushError::gave_up(failed, attempts, unknown));
            }
            tracing::debug!(attempts, error = %failed, "request is repeated");
            sleep_until(retry_at).await;
        }
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Bytes, Attempt> {
        let body = call.body.clone();
        let authorization =
            self.identity.authorization(&call.method, call.place.url(), body.as_deref());
        let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.place.uri.clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.map_err(|e| Attempt::invalid(e.to_string()))?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| Attempt::connection(error.is_connect(), explain(&error)))?;
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| Attempt::connection(false, error.to_string()))?
            .to_bytes();
        if head.status.is_success() {
            return Ok(bytes);
        }
        Err(refusal(head.status, &head.headers, &bytes))
    }
}

const AGENT: &str = concat!("clarion-rust/", env!("CARGO_PKG_VERSION"));

/// An error with its causes: hyper's own text alone says little.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Attempt {
    let retry_after_s =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Attempt::refused(problem, retry_after_s),
        Err(_) => Attempt::status(status.as_u16(), retry_after_s),
    }
}

/// Whether the push may have been stored although the node answered with this problem.
pub(crate) fn leaves_unknown(problem: &Problem) -> bool {
    match problem.known_code() {
        Some(code) => {
            matches!(code, Code::OutcomeUnknown | Code::Internal | Code::IdempotencyInProgress)
        }
        None => problem.status >= 500,
    }
}
