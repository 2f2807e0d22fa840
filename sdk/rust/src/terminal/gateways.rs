//! Where a terminal connects: to one address for good, or to the access points that a node lists
//! (`GET /v1/gateways`), in order, asked for again when the list is used up or too old.

use std::time::Duration;

use clarion_protocol::ProductId;
use clarion_protocol::http::Gateways;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::transport::{Connector, UrlError, http_url, link_url};

/// Largest list that is read, in bytes.
const LIST_BYTES_MAX: usize = 64 * 1024;
/// Access points of one list that are kept.
const GATEWAYS_KEPT: usize = 64;
/// How long one node may take to answer with the list.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds of how long a list is used, whatever it says.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// Where to connect next.
#[derive(Debug)]
pub(super) enum Route {
    /// Always there.
    Fixed(Url),
    /// To what a node lists.
    Listed(Listed),
}

/// A list of access points, and where to ask for one.
#[derive(Debug)]
pub(super) struct Listed {
    /// Where to ask, the one that answered last first.
    ask: Vec<Url>,
    found: Vec<Url>,
    /// The next of `found`.
    next: usize,
    /// Until when `found` may be used without asking again.
    until: Option<Instant>,
}

impl Route {
    /// The address of `url` for good.
    pub(super) fn fixed(url: &str) -> Result<Self, UrlError> {
        Ok(Self::Fixed(link_url(url)?))
    }

    /// What the HTTP APIs at `bases` list for terminals of `product`; there is at least one base.
    pub(super) fn listed(bases: &[String], product: &ProductId) -> Result<Self, UrlError> {
        let ask = bases.iter().map(|base| question(base, product)).collect::<Result<_, _>>()?;
        Ok(Self::Listed(Listed { ask, found: Vec::new(), next: 0, until: None }))
    }

    /// Where the next attempt goes; asks for a list first if need be.
    pub(super) async fn next(&mut self, connector: &dyn Connector) -> Result<Url, String> {
        match self {
            Self::Fixed(url) => Ok(url.clone()),
            Self::Listed(listed) => listed.next(connector).await,
        }
    }

    /// Whether the next attempt goes to another access point of the same list.
    pub(super) fn has_another(&self) -> bool {
        matches!(self, Self::Listed(listed) if listed.next < listed.found.len() && listed.fresh())
    }

    /// The node sends its terminals away, to these if it names any.
    pub(super) fn sent_away(&mut self, to: &[String]) {
        let Self::Listed(listed) = self else { return };
        let named = usable(to.iter().map(String::as_str));
        listed.next = 0;
        if named.is_empty() {
            listed.until = None;
        } else {
            listed.found = named;
            listed.until = Some(Instant::now() + TTL.0);
        }
    }
}

impl Listed {
    fn fresh(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    async fn next(&mut self, connector: &dyn Connector) -> Result<Url, String> {
        if self.next >= self.found.len() || !self.fresh() {
            let asked = self.ask(connector).await;
            // An old list is better than none: nodes outlive the address that was asked.
            if let Err(error) = asked
                && self.found.is_empty()
            {
                return Err(error);
            }
            self.next = 0;
        }
        let url = self.found.get(self.next).cloned();
        self.next += 1;
        url.ok_or_else(|| "no node takes terminals now".to_owned())
    }

    /// Asks each node in turn until one answers.
    async fn ask(&mut self, connector: &dyn Connector) -> Result<(), String> {
        let mut why = String::new();
        for at in 0..self.ask.len() {
            match timeout(ASK_TIMEOUT, fetch(connector, &self.ask[at])).await {
                Ok(Ok(list)) => {
                    self.ask[..=at].rotate_right(1);
                    self.found = usable(list.gateways.iter().map(|gateway| gateway.url.as_str()));
                    let ttl = Duration::from_secs(list.ttl_s).clamp(TTL.0, TTL.1);
                    self.until = Some(Instant::now() + ttl);
                    return Ok(());
                }
                Ok(Err(error)) => why = format!("{}: {error}", self.ask[at]),
                Err(_) => why = format!("{}: no answer", self.ask[at]),
            }
            tracing::debug!(why, "no list of access points");
        }
        Err(why)
    }
}

/// Those that are addresses, in their order. A node may be newer and know other schemes.
fn usable<'a>(urls: impl Iterator<Item = &'a str>) -> Vec<Url> {
    urls.filter_map(|url| link_url(url).ok()).take(GATEWAYS_KEPT).collect()
}

/// The URL at which a node is asked for the list.
fn question(base: &str, product: &ProductId) -> Result<Url, UrlError> {
    let mut url = http_url(base)?;
    let path = format!("{}/v1/gateways", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.set_query(None);
    url.query_pairs_mut().append_pair("product", product.as_str());
    Ok(url)
}

/// One request on a stream of its own: the list is asked for rarely.
async fn fetch(connector: &dyn Connector, url: &Url) -> Result<Gateways, String> {
    let stream = connector.connect(url).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err("the URL has no host".to_owned()),
    };
    let request = Request::get(target)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("clarion-rust/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LIST_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("answered {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("not a list: {error}"))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The answer may have come whole with the end of the connection.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> ProductId {
        ProductId::new("demo").unwrap()
    }

    #[test]
    fn the_question_goes_below_the_base() {
        let asked = |base| question(base, &product()).unwrap().to_string();
        assert_eq!(asked("http://a:8080"), "http://a:8080/v1/gateways?product=demo");
        assert_eq!(asked("https://a/api/?x=1"), "https://a/api/v1/gateways?product=demo");
        assert!(question("nonsense", &product()).is_err());
    }

    #[test]
    fn what_is_no_address_is_left_out_and_the_rest_is_bounded() {
        let urls = usable(["ws://a", "quic://b", "", "wss://c/x"].into_iter());
        let urls: Vec<&str> = urls.iter().map(Url::as_str).collect();
        assert_eq!(urls, ["ws://a/v1/link", "wss://c/x"]);
        assert_eq!(usable(std::iter::repeat_n("ws://a", 1000)).len(), GATEWAYS_KEPT);
    }

    #[test]
    fn one_address_stays_whatever_the_node_names() {
        let mut route = Route::fixed("ws://a").unwrap();
        route.sent_away(&["ws://b".to_owned()]);
        assert!(matches!(&route, Route::Fixed(url) if url.as_str() == "ws://a/v1/link"));
        assert!(!route.has_another());
    }
}
