//! Where the load goes: the nodes, and how long a client trusts one that says nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clarion_sdk::transport::{BoxedStream, Connector, Tcp};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::Failure;
use crate::history::Name;

/// A node, or a proxy before nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Its name in the history.
    pub name: Name,
    /// Its URL.
    pub url: String,
}

impl Door {
    /// The door of this name at this URL.
    pub fn new(name: impl Into<Name>, url: impl Into<String>) -> Self {
        Self { name: name.into(), url: url.into() }
    }
}

/// Nodes, or proxies before them; every client knows all and goes on to the next when one fails.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Doors {
    /// The API's; the first is also asked for what the administrator does.
    pub http: Vec<Door>,
    /// The terminals'.
    pub terminals: Vec<Door>,
    /// The administrator's token.
    pub admin_token: String,
    /// How long a node is trusted.
    pub patience: Patience,
}

/// How long clients wait for a node that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        push: Duration::from_secs(2),
    };
}

impl Doors {
    /// The door of a terminal's n-th attempt.
    pub(super) fn terminals(&self, attempt: usize) -> Option<&Door> {
        self.terminals.get(attempt.checked_rem(self.terminals.len())?)
    }

    /// The name of the door that is asked for the n-th time.
    pub(super) fn http_name(&self, attempt: usize) -> Name {
        let place = attempt.checked_rem(self.http.len());
        let door = place.and_then(|place| self.http.get(place));
        door.map_or_else(|| "".into(), |door| Name::clone(&door.name))
    }

    /// A connector that goes to the next door with every attempt.
    pub(super) fn connector(&self, first: usize) -> Result<Arc<Turning>, Failure> {
        let url = |door: &Door| Ok((Name::clone(&door.name), Url::parse(&door.url)?));
        let doors = self.terminals.iter().map(url).collect::<Result<Vec<_>, url::ParseError>>();
        Ok(Arc::new(Turning {
            doors: doors.map_err(Failure::of("a terminals' URL"))?,
            tcp: Tcp::new().map_err(Failure::of("TLS"))?,
            next: AtomicUsize::new(first),
        }))
    }
}

/// Connects to one door after the other.
pub(super) struct Turning {
    doors: Vec<(Name, Url)>,
    tcp: Tcp,
    next: AtomicUsize,
}

impl Turning {
    fn door(&self, attempt: usize) -> Option<&(Name, Url)> {
        self.doors.get(attempt.checked_rem(self.doors.len())?)
    }

    /// The door that it went to last.
    pub(super) fn last(&self) -> Name {
        let last = self.next.load(Ordering::Relaxed).wrapping_sub(1);
        self.door(last).map_or_else(|| "".into(), |(name, _)| Name::clone(name))
    }
}

#[async_trait]
impl Connector for Turning {
    async fn connect(&self, url: &Url) -> io::Result<BoxedStream> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.tcp.connect(self.door(next).map_or(url, |(_, url)| url)).await
    }
}
