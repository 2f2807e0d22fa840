//! Where the load goes: the nodes, and how long a client trusts one that says nothing.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clarion_sdk::transport::{BoxedStream, Connector, Tcp};
use url::Url;

use crate::Failure;

/// Nodes, or proxies before them; every client knows all and goes on to the next when one fails.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Base URLs of the API; the first is also asked for what the administrator does.
    pub http: Vec<String>,
    /// URLs for terminals.
    pub terminals: Vec<String>,
    /// The administrator's token.
    pub admin_token: String,
    /// How long a node is trusted.
    pub patience: Patience,
}

/// How long clients wait for a node that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A terminal, until its session is open.
    pub connect: Duration,
    /// A terminal, for an answer to its ping.
    pub silence: Duration,
    /// A back-end, until it asks another node.
    pub push: Duration,
}

impl Patience {
    /// There is nowhere else to go.
    pub const ONE_NODE: Self = Self {
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(10),
        push: Duration::MAX,
    };

    /// There are other nodes.
    pub const SEVERAL_NODES: Self = Self {
        connect: Duration::from_secs(3),
        silence: Duration::from_secs(2),
        push: Duration::from_secs(3),
    };
}

impl Doors {
    /// The terminals' URL of the n-th attempt.
    pub(super) fn terminals(&self, attempt: usize) -> &str {
        match self.terminals.len() {
            0 => "",
            count => &self.terminals[attempt % count],
        }
    }

    /// A URL for clients whose connector goes where it wants.
    pub(super) fn any(&self) -> &str {
        self.terminals(0)
    }

    /// A connector that goes to the next door with every attempt.
    pub(super) fn connector(&self, first: usize) -> Result<Turning, Failure> {
        let urls = self.terminals.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>();
        Ok(Turning {
            urls: urls.map_err(Failure::of("a terminals' URL"))?,
            tcp: Tcp::new().map_err(Failure::of("TLS"))?,
            next: AtomicUsize::new(first),
        })
    }
}

/// Connects to one door after the other.
pub(super) struct Turning {
    urls: Vec<Url>,
    tcp: Tcp,
    next: AtomicUsize,
}

#[async_trait]
impl Connector for Turning {
    async fn connect(&self, url: &Url) -> io::Result<BoxedStream> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let url = match self.urls.len() {
            0 => url,
            count => &self.urls[next % count],
        };
        self.tcp.connect(url).await
    }
}
