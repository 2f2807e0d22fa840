//! What a deployment is made of: every one of these can be broken, and has its row in the report.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::Failure;

/// A component. Its text is `node:node-1`, `redis:0/1`, `sentinel:2`, `proxy:0`, `client:0`, and for
/// the way from one to another `link:node-1>redis-0/1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// A node, by its name.
    Node(String),
    /// A Redis server.
    Redis {
        /// The shard it was started in.
        shard: usize,
        /// Its place in the shard; at the start the first is master.
        index: usize,
    },
    /// A sentinel.
    Sentinel(usize),
    /// A proxy.
    Proxy(usize),
    /// Where back-ends and terminals are. Nobody kills it.
    Client,
    /// What the first sends to the second.
    Link(Box<Self>, Box<Self>),
}

impl Component {
    /// The way from one to another.
    #[must_use]
    pub fn link(from: &Self, to: &Self) -> Self {
        Self::Link(Box::new(from.clone()), Box::new(to.clone()))
    }

    /// Its sort: `node`, `redis`, …, and of links the sorts of both ends: `link:node>redis`.
    #[must_use]
    pub fn class(&self) -> String {
        match self {
            Self::Node(_) => "node".to_owned(),
            Self::Redis { .. } => "redis".to_owned(),
            Self::Sentinel(_) => "sentinel".to_owned(),
            Self::Proxy(_) => "proxy".to_owned(),
            Self::Client => "client".to_owned(),
            Self::Link(from, to) => format!("link:{}>{}", from.class(), to.class()),
        }
    }

    /// Whether it is a process, of which there is one host.
    #[must_use]
    pub const fn is_process(&self) -> bool {
        !matches!(self, Self::Link(..) | Self::Client)
    }

    /// As it is called where only one end of a link stands.
    fn end(&self) -> String {
        match self {
            Self::Node(name) => name.clone(),
            Self::Redis { shard, index } => format!("redis-{shard}/{index}"),
            Self::Sentinel(index) => format!("sentinel-{index}"),
            Self::Proxy(index) => format!("proxy-{index}"),
            Self::Client => "client".to_owned(),
            Self::Link(..) => self.to_string(),
        }
    }

    fn parse_end(text: &str) -> Option<Self> {
        if text == "client" {
            return Some(Self::Client);
        }
        if let Some(found) = text.strip_prefix("redis-").and_then(redis) {
            return Some(found);
        }
        let number = |prefix: &str| text.strip_prefix(prefix)?.parse().ok();
        let other = number("sentinel-").map(Self::Sentinel);
        let other = other.or_else(|| number("proxy-").map(Self::Proxy));
        other.or_else(|| node(text))
    }
}

/// `SHARD/INDEX`.
fn redis(text: &str) -> Option<Component> {
    let (shard, index) = text.split_once('/')?;
    Some(Component::Redis { shard: shard.parse().ok()?, index: index.parse().ok()? })
}

fn node(text: &str) -> Option<Component> {
    (!text.is_empty() && !text.contains(['>', ':', '/'])).then(|| Component::Node(text.to_owned()))
}

impl Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Redis { shard, index } => write!(f, "redis:{shard}/{index}"),
            Self::Sentinel(index) => write!(f, "sentinel:{index}"),
            Self::Proxy(index) => write!(f, "proxy:{index}"),
            Self::Client => f.write_str("client:0"),
            Self::Link(from, to) => write!(f, "link:{}>{}", from.end(), to.end()),
        }
    }
}

impl FromStr for Component {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (kind, rest) = text.split_once(':').unwrap_or_default();
        let number = || rest.parse().ok();
        let found = match kind {
            "node" => node(rest),
            "redis" => redis(rest),
            "sentinel" => number().map(Self::Sentinel),
            "proxy" => number().map(Self::Proxy),
            "client" => (rest == "0").then_some(Self::Client),
            "link" => rest.split_once('>').and_then(|(from, to)| {
                Some(Self::link(&Self::parse_end(from)?, &Self::parse_end(to)?))
            }),
            _ => None,
        };
        found.ok_or_else(|| Failure::new(format!("{text:?} is no component")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_read_as_it_is_written() {
        for text in [
            "node:node-1",
            "redis:0/1",
            "sentinel:2",
            "proxy:0",
            "client:0",
            "link:node-1>node-2",
            "link:node-1>redis-0/2",
            "link:node-1>sentinel-0",
            "link:proxy-1>gateway-2",
            "link:client>proxy-0",
        ] {
            let component: Component = text.parse().unwrap();
            assert_eq!(component.to_string(), text);
        }
        for text in ["", "node:", "node-1", "redis:1", "link:a", "link:a>", "client:1", "proxy:x"] {
            assert!(text.parse::<Component>().is_err(), "{text}");
        }
    }

    #[test]
    fn links_are_classed_by_their_ends() {
        let class = |text: &str| text.parse::<Component>().unwrap().class();
        assert_eq!(class("link:node-1>node-2"), "link:node>node");
        assert_eq!(class("link:push-1>redis-0/2"), "link:node>redis");
        assert_eq!(class("link:client>proxy-0"), "link:client>proxy");
    }
}
