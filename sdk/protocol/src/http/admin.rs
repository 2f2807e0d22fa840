//! Bodies of the requests with which an administrator makes tokens and keys and ends sessions.

use serde::{Deserialize, Serialize};

use super::TerminalKind;
use crate::ids::{TerminalId, TopicPattern, UserId};

/// Seconds that a token lives when the request names no `ttl_s`: a day.
pub const TOKEN_TTL_S_DEFAULT: u64 = 24 * 3600;
/// The most seconds that a token may live: a year.
pub const TOKEN_TTL_S_MAX: u64 = 366 * 24 * 3600;

/// `POST /v1/products/{product}/tokens` (admin). Everything but `terminal` has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The terminal.
    pub terminal: TerminalId,
    /// Its user, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Its kind; `pc` if absent, or the first that the product accepts if it does not accept that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TerminalKind>,
    /// Patterns of topics that it may join by itself; none if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicPattern>,
    /// Seconds until the token ends; [`TOKEN_TTL_S_DEFAULT`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// The answer to a [`TokenRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintedToken {
    /// The token (JWT).
    pub token: String,
    /// When it ends, Unix seconds.
    pub expires_at_s: u64,
}

impl std::fmt::Debug for MintedToken {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintedToken")
            .field("expires_at_s", &self.expires_at_s)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/products/{product}/token-keys` (admin); the body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKeyCreate {
    /// An Ed25519 public key (SPKI PEM); an HS256 secret is made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_public_key_pem: Option<String>,
}

/// The answer to `POST /v1/products/{product}/terminals/{terminal}/kick`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KickOutcome {
    /// Whether there was a live session to close.
    pub kicked: bool,
}
