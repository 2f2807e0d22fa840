//! Bodies of the HTTP API. Field order is the order on the wire.

mod admin;
mod cluster;
mod validate;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use admin::{
    KickOutcome, MintedToken, TOKEN_TTL_S_DEFAULT, TOKEN_TTL_S_MAX, TokenKeyCreate, TokenRequest,
};
pub use cluster::{
    ClusterNode, ClusterStatus, DrainStarted, GATEWAYS_DEFAULT, GATEWAYS_MAX, Gateway, Gateways,
    Load, ProductChange, Where, WhereNode,
};
pub use validate::{ValidPayload, ValidPush, parse_body};

use crate::codes::Code;
use crate::ids::{
    Epoch, IsolationGroup, KeyId, LogName, MessageId, Offset, ProductId, TerminalId, TopicName,
    UserId,
};

/// Most targets that one push may name.
pub const TARGETS_MAX: usize = 100;
/// Longest TTL, in seconds: 30 days.
pub const TTL_S_MAX: u64 = 30 * 24 * 3600;
/// TTL when the push names none, in seconds: 3 days.
pub const TTL_S_DEFAULT: u64 = 3 * 24 * 3600;
/// Largest payload by default, in bytes (of the JSON text, or of the decoded base64).
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 4096;
/// Deepest nesting of a JSON payload: every JSON reader, in its frame, takes that much.
pub const PAYLOAD_DEPTH_MAX: usize = 100;
/// Longest idempotency key, in bytes of printable ASCII without spaces.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Begins the idempotency keys that SDKs make for their own repetitions: their records live 15
/// minutes, those of other keys 24 hours.
pub const SDK_KEY_PREFIX: &str = "sdk-";
/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// Items on a page when the request names no `limit`, and the most it may name.
pub const PAGE_DEFAULT: usize = 100;
/// The most items a request may ask of a page.
pub const PAGE_MAX: usize = 1000;

/// Whom a push is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Every terminal of the product, online now or back before the TTL ends.
    All,
    /// These terminals, known or not.
    Terminals(Vec<TerminalId>),
    /// These users: each of their terminals.
    Users(Vec<UserId>),
    /// The members of a topic.
    Topic(TopicName),
}

/// `POST /v1/products/{product}/messages`. Exactly one of `payload` and `payload_base64` is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// Whom it is for.
    pub audience: Audience,
    /// The payload, any JSON (`null` too); passed on as it was written.
    #[serde(
        default,
        deserialize_with = "crate::frame::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub payload: Option<Box<RawValue>>,
    /// The payload, bytes in base64 (RFC 4648, section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// The content type of `payload_base64`; `application/octet-stream` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Seconds until the message expires; 0: only terminals that are online now. 3 days if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// The caller's key: the same key and body are stored once (24 h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// One target of a push, as it is named in answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every terminal.
    All,
    /// A terminal.
    Terminal(TerminalId),
    /// A user.
    User(UserId),
    /// A topic.
    Topic(TopicName),
}

/// Where the message of a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The lineage of the store.
    pub epoch: Epoch,
    /// The offset in the target's log.
    pub offset: Offset,
}

/// What became of one target: a position, an error, or neither for ttl 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetOutcome {
    /// The target.
    pub target: Target,
    /// Where its entry is, durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
}

/// Why a target failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetError {
    /// The code.
    pub code: Code,
    /// Whether the same push (with its key) may succeed for it later.
    pub retryable: bool,
    /// What is special about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The body of a 202.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushAccepted {
    /// The id of the message.
    pub id: MessageId,
    /// When it expires, Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// Whether this answers a repeated request: nothing was stored twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// What became of each target, in the order of the request.
    pub targets: Vec<TargetOutcome>,
}

/// `GET /v1/products/{product}/messages/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageState {
    /// The id of the message.
    pub id: MessageId,
    /// When it was accepted, Unix milliseconds.
    pub accepted_at_ms: u64,
    /// When it expires, Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// Over all targets.
    pub counts: Counts,
    /// Per target.
    pub targets: Vec<TargetState>,
}

/// One target of a [`MessageState`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    /// The target.
    pub target: Target,
    /// Where its entry is.
    pub position: Position,
    /// Its share of the counts.
    pub counts: Counts,
}

/// How many terminals a message reached (I13). `audience` is counted when the push is accepted:
/// the terminal, the user's terminals, the topic's members, the product's terminals. Every other
/// number is counted where it happens, and together they make up `audience`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Terminals it is for.
    pub audience: u64,
    /// Terminals it was written to at least once (at least `acknowledged`; not part of the sum).
    pub delivered: u64,
    /// Terminals that acknowledged it.
    pub acknowledged: u64,
    /// Terminals whose time ran out.
    pub expired: u64,
    /// Terminals that skipped it or never acknowledged it in `max_attempts`.
    pub undeliverable: u64,
    /// Terminals that left before it was delivered.
    pub suppressed: u64,
    /// Terminals that were told a gap instead.
    pub evicted: u64,
    /// Terminals that have it before them.
    pub pending: u64,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the order of their keys.
    pub items: Vec<T>,
    /// Give this as `after` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `PUT` and `DELETE /v1/products/{product}/topics/{topic}/members`; answered with a [`Page`] of
/// [`MemberOutcome`], whole and in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicMembers {
    /// At most [`TARGETS_MAX`] terminals.
    pub terminals: Vec<TerminalId>,
}

/// What became of one terminal of a [`TopicMembers`] request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberOutcome {
    /// The terminal.
    pub terminal: TerminalId,
    /// Whether it is a member now.
    pub member: bool,
    /// Why the change failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
}

/// A member of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMember {
    /// The terminal.
    pub terminal: TerminalId,
}

/// The kinds of terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalKind {
    /// A phone or tablet with Android.
    Android,
    /// An iPhone or iPad.
    Ios,
    /// A desktop program.
    Pc,
    /// A browser.
    Web,
    /// A device.
    Device,
}

/// A terminal, in lists and alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TerminalInfo {
    /// The terminal.
    pub terminal: TerminalId,
    /// Its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Its kind, once it connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TerminalKind>,
    /// Whether a session of it is live now.
    pub online: bool,
    /// When it was first registered, Unix milliseconds.
    pub registered_at_ms: u64,
    /// When a session of it was last opened or closed, Unix milliseconds.
    pub last_seen_ms: u64,
    /// The generation of its newest session.
    pub generation: u64,
    /// Its stored cursors.
    pub cursors: Vec<CursorInfo>,
}

/// A stored cursor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CursorInfo {
    /// The log.
    pub log: LogName,
    /// The lineage.
    pub epoch: Epoch,
    /// Everything up to here was acknowledged.
    pub offset: Offset,
}

/// `POST /v1/products` (admin). Everything but `product` has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductCreate {
    /// The product.
    pub product: ProductId,
    /// Kinds of terminals that are accepted; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<TerminalKind>>,
    /// Whether SHA-1 body hashes are accepted; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_sha1_body_hash: Option<bool>,
    /// Pushes a second and mode; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushes_per_s_max: Option<u32>,
    /// The group of nodes that serves it; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_group: Option<IsolationGroup>,
    /// An Ed25519 public key (SPKI PEM) that signs terminal tokens; an HS256 secret is made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_public_key_pem: Option<String>,
}

/// A product as the API shows it. Secrets appear only in the answer that created them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductInfo {
    /// The product.
    pub product: ProductId,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// Kinds of terminals that are accepted.
    pub kinds: Vec<TerminalKind>,
    /// Whether SHA-1 body hashes are accepted.
    pub allow_sha1_body_hash: bool,
    /// Pushes a second and mode; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushes_per_s_max: Option<u32>,
    /// The group of nodes that serves it.
    #[serde(default)]
    pub isolation_group: IsolationGroup,
    /// Terminals registered.
    pub terminals: u64,
    /// The keys that sign pushes, revoked ones included.
    pub api_keys: Vec<ApiKeyInfo>,
    /// The keys that sign terminal tokens.
    pub token_keys: Vec<TokenKeyInfo>,
}

/// A key that signs pushes (the OAuth consumer key and secret).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyInfo {
    /// `oauth_consumer_key`.
    pub key: KeyId,
    /// The secret, only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it was revoked, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
}

/// A key that signs terminal tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenKeyInfo {
    /// The `kid` of tokens.
    pub kid: KeyId,
    /// Its algorithm; tokens of another are refused.
    pub algorithm: TokenAlgorithm,
    /// The HS256 secret (base64url, unpadded), only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it was revoked, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
}

/// The algorithm a token key is bound to (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// Ed25519.
    EdDSA,
}

/// The claims of a terminal's token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The product.
    pub aud: String,
    /// The terminal.
    pub sub: String,
    /// The user, if the terminal belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The kind of the terminal.
    pub kind: TerminalKind,
    /// Patterns of topics that the terminal may join by itself; none if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// When the token ends, Unix seconds.
    pub exp: u64,
    /// The token's own id, for revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}
