//! The stations of a message. One vocabulary for acknowledgements, counts, metrics and, later,
//! traces.

use serde::{Deserialize, Serialize};

/// What can happen to a message on its way to one terminal, in the order it usually does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// The push passed authentication, validation and admission.
    Accepted,
    /// Its entry is durable.
    Persisted,
    /// Its owner hinted the interested nodes.
    Routed,
    /// A relay offered it to a session.
    Relayed,
    /// It was written to the terminal's link.
    Written,
    /// The terminal acknowledged it.
    Acknowledged,
    /// Its TTL ended first.
    Expired,
    /// It was taken back before delivery.
    Recalled,
    /// The terminal is not in its audience.
    Filtered,
    /// The terminal left the audience before delivery (unsubscribed, erased).
    Suppressed,
    /// The terminal gave it up (`skip`) or never acknowledged it in `max_attempts` (I10).
    Undeliverable,
    /// The log had to evict it before the terminal read it; the terminal was told `gap` (I6).
    Evicted,
}

impl Milestone {
    /// The name used in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Persisted => "persisted",
            Self::Routed => "routed",
            Self::Relayed => "relayed",
            Self::Written => "written",
            Self::Acknowledged => "acknowledged",
            Self::Expired => "expired",
            Self::Recalled => "recalled",
            Self::Filtered => "filtered",
            Self::Suppressed => "suppressed",
            Self::Undeliverable => "undeliverable",
            Self::Evicted => "evicted",
        }
    }
}
