//! Records as the rest of Clarion sees them. How a back end lays them out is its own affair.

use std::sync::Arc;

use clarion_protocol::http::{Counts, Target, TerminalKind, TokenAlgorithm};
use clarion_protocol::{Epoch, KeyId, LogName, MessageId, Offset, ProductId, TerminalId, UserId};

/// The isolation group of products and nodes that name none.
pub const DEFAULT_GROUP: &str = "default";

/// A product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductRecord {
    /// Its name.
    pub product: ProductId,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// Kinds of terminals it accepts.
    pub kinds: Vec<TerminalKind>,
    /// Whether SHA-1 body hashes are accepted.
    pub allow_sha1_body_hash: bool,
    /// Pushes a second and mode.
    pub pushes_per_s_max: Option<u32>,
    /// The nodes that serve it: those of the same group. [`DEFAULT_GROUP`] if none was named.
    pub isolation_group: Arc<str>,
    /// Keys that sign pushes; at most two live ones, and eight in all (the oldest revoked goes).
    pub api_keys: Vec<ApiKey>,
    /// Keys that sign terminal tokens; bounded the same way.
    pub token_keys: Vec<TokenKey>,
}

/// A key that signs pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The OAuth consumer key.
    pub key: KeyId,
    /// The OAuth consumer secret.
    pub secret: String,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at_ms: Option<u64>,
}

/// A key that signs terminal tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// The `kid`.
    pub kid: KeyId,
    /// What it is bound to.
    pub algorithm: TokenAlgorithm,
    /// HS256: the secret bytes. `EdDSA`: the public key, SPKI PEM.
    pub key: Vec<u8>,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at_ms: Option<u64>,
}

/// A terminal: the truth about its subscriptions and cursors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalRecord {
    /// The terminal.
    pub terminal: TerminalId,
    /// Its user.
    pub user: Option<UserId>,
    /// Its kind, once it connected.
    pub kind: Option<TerminalKind>,
    /// When it was registered, Unix milliseconds.
    pub registered_at_ms: u64,
    /// When its record was last written, Unix milliseconds. The retention slides from here.
    pub last_seen_ms: u64,
    /// The newest session's generation.
    pub generation: u64,
    /// The heartbeat to start the next session with.
    pub heartbeat_ms: Option<u64>,
    /// Its cursors.
    pub subscriptions: Vec<Subscription>,
}

/// What a terminal is to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The log.
    pub log: LogName,
    /// Cursor or ban.
    pub state: SubscriptionState,
}

/// Cursor or ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    /// It reads the log.
    Reading {
        /// Lineage of the cursor.
        epoch: Epoch,
        /// The cursor.
        cursor: Offset,
        /// Attempts of the first entry behind it.
        attempts: u8,
    },
    /// The back-end removed it: it may not join by itself.
    Banned,
}

/// A message with its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// The message.
    pub message: MessageId,
    /// Its targets.
    pub targets: Vec<MessageTarget>,
}

/// One target of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageTarget {
    /// The target.
    pub target: Target,
    /// The lineage.
    pub epoch: Epoch,
    /// Where it is.
    pub offset: Offset,
    /// When it expires, Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// Its counts.
    pub counts: Counts,
}
