//! Names of logs.

use std::fmt;
use std::sync::Arc;

use clarion_protocol::{LogName, ProductId, TerminalId, TopicName, UserId};

/// What kind of destination a log is. The order is that of delivery: unicast before broadcast (I9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LogKind {
    /// A terminal's inbox.
    Terminal = 1,
    /// A user's inbox, read by each of the user's terminals.
    User = 2,
    /// A topic.
    Topic = 3,
    /// A product's broadcast.
    Broadcast = 4,
}

/// The lane a push travels in. Modes never wait for each other. Attachments will be the fourth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// To terminals and users.
    Unicast,
    /// To topics.
    Multicast,
    /// To every terminal of a product.
    Broadcast,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Unicast, Self::Multicast, Self::Broadcast];

    /// The name used in metrics and config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        }
    }
}

impl LogKind {
    /// The lane of pushes to this kind of log.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::Terminal | Self::User => Mode::Unicast,
            Self::Topic => Mode::Multicast,
            Self::Broadcast => Mode::Broadcast,
        }
    }

    /// Whether entries of one log have many readers (stored statistics, eviction when full).
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::Topic | Self::Broadcast)
    }
}

/// The full name of a log. Held behind an `Arc`: sessions, relays and owners share one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogKey {
    /// The product.
    pub product: ProductId,
    /// What it is.
    pub kind: LogKind,
    /// Terminal, user or topic; empty for the broadcast.
    pub name: Arc<str>,
}

impl LogKey {
    /// The inbox of a terminal.
    #[must_use]
    pub fn terminal(product: &ProductId, terminal: &TerminalId) -> Arc<Self> {
        Self::of(product, LogKind::Terminal, terminal.as_str())
    }

    /// The inbox of a user.
    #[must_use]
    pub fn user(product: &ProductId, user: &UserId) -> Arc<Self> {
        Self::of(product, LogKind::User, user.as_str())
    }

    /// A topic.
    #[must_use]
    pub fn topic(product: &ProductId, topic: &TopicName) -> Arc<Self> {
        Self::of(product, LogKind::Topic, topic.as_str())
    }

    /// The broadcast log of a product.
    #[must_use]
    pub fn broadcast(product: &ProductId) -> Arc<Self> {
        Self::of(product, LogKind::Broadcast, "")
    }

    fn of(product: &ProductId, kind: LogKind, name: &str) -> Arc<Self> {
        Arc::new(Self { product: product.clone(), kind, name: Arc::from(name) })
    }

    /// The name that the reading terminal gives it.
    #[must_use]
    pub fn local_name(&self) -> LogName {
        match self.kind {
            LogKind::Terminal => LogName::Terminal,
            LogKind::User => LogName::User,
            LogKind::Topic => match TopicName::new(&self.name) {
                Ok(topic) => LogName::Topic(topic),
                Err(_) => unreachable!("the name of a topic's log is a topic name"),
            },
            LogKind::Broadcast => LogName::Broadcast,
        }
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LogKind::Terminal => "terminal",
            LogKind::User => "user",
            LogKind::Topic => "topic",
            LogKind::Broadcast => return write!(f, "{}/broadcast", self.product),
        };
        write!(f, "{}/{kind}/{}", self.product, self.name)
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
