//! The one table of codes. HTTP problems (RFC 9457), `error` and `closed` frames, WebSocket close
//! codes (RFC 6455, section 7.4: 4000-4999 are the application's) and the documentation come from
//! here. Ranges say what to do:
//!
//! | range | meaning |
//! | --- | --- |
//! | 1000-1999 | an answer to a request; `retryable` says whether the same request may succeed later |
//! | 4000-4099 | the link or session ended; connect again, with back-off |
//! | 4100-4199 | connect again, but with a new token |
//! | 4200-4999 | do not reconnect: the same attempt will fail again |

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether the same attempt may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// No: the attempt itself must change.
    Never,
    /// Yes, after a pause (`Retry-After`, or back-off).
    Later,
    /// Yes, with fresh credentials (a new nonce and timestamp, a new token).
    Reauthenticate,
}

macro_rules! codes {
    ($( $name:ident = $number:literal, $http:literal, $retry:ident, $text:literal, $title:literal, $help:literal; )*) => {
        /// A code that Clarion answers with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $( #[doc = $title] $name, )* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[ $( Code::$name, )* ];

            /// The stable number.
            #[must_use]
            pub const fn number(self) -> u16 { match self { $( Code::$name => $number, )* } }

            /// The HTTP status it is answered with (RFC 9110).
            #[must_use]
            pub const fn http_status(self) -> u16 { match self { $( Code::$name => $http, )* } }

            /// Whether to try again.
            #[must_use]
            pub const fn retry(self) -> Retry { match self { $( Code::$name => Retry::$retry, )* } }

            /// The stable name, the `code` of a problem document.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $( Code::$name => $text, )* } }

            /// What happened, in one line.
            #[must_use]
            pub const fn title(self) -> &'static str { match self { $( Code::$name => $title, )* } }

            /// What to do about it.
            #[must_use]
            pub const fn help(self) -> &'static str { match self { $( Code::$name => $help, )* } }
        }
    };
}

codes! {
    // Requests: form
    BadRequest = 1000, 400, Never, "bad_request", "The request is not well formed.", "Compare it with the API document; `detail` names the place.";
    InvalidField = 1001, 422, Never, "invalid_field", "A field has a value that is not allowed.", "`detail` names the field and its bounds.";
    UnsupportedMediaType = 1002, 415, Never, "unsupported_media_type", "The body must be application/json.", "Send `Content-Type: application/json`.";
    BodyTooLarge = 1003, 413, Never, "body_too_large", "The body exceeds the limit of this listener.", "Send less, or raise `limits.body_bytes_max`.";
    PayloadTooLarge = 1004, 413, Never, "payload_too_large", "The payload exceeds the product's limit.", "Send less, or raise `limits.payload_bytes_max`.";
    TooManyTargets = 1005, 422, Never, "too_many_targets", "A push names at most 100 targets.", "Split the push, or use a topic.";
    NotFound = 1006, 404, Never, "not_found", "There is nothing at this path.", "See the list of paths in the API document.";
    MethodNotAllowed = 1007, 405, Never, "method_not_allowed", "This path does not take that method.", "The `Allow` header lists the methods.";
    RequestTimeout = 1008, 408, Later, "request_timeout", "The request was not complete in time.", "Send the whole request within `limits.request_timeout_ms`.";
    NotServedHere = 1009, 421, Never, "not_served_here", "This node does not have the role that serves this path.", "Send it to a node that has; `detail` names the role, `clarion cluster status` the nodes.";
    // Requests: who asks
    SignatureMissing = 1100, 401, Reauthenticate, "signature_missing", "The request carries no OAuth 1.0 signature.", "Sign it with a key of the product (RFC 5849, HMAC-SHA256).";
    SignatureMalformed = 1101, 401, Reauthenticate, "signature_malformed", "The OAuth parameters are incomplete or malformed.", "`detail` names the parameter (RFC 5849, section 3.1).";
    SignatureInvalid = 1102, 401, Reauthenticate, "signature_invalid", "The signature does not match the request.", "Check secret, URL, query parameters and encoding (RFC 5849, section 3.4).";
    SignatureMethodUnsupported = 1103, 401, Never, "signature_method_unsupported", "Only HMAC-SHA256 is accepted.", "Set oauth_signature_method=HMAC-SHA256.";
    BodyHashMissing = 1104, 401, Reauthenticate, "body_hash_missing", "A request with a body needs oauth_body_hash.", "Sign base64(SHA-256(body)) as oauth_body_hash.";
    BodyHashMismatch = 1105, 401, Reauthenticate, "body_hash_mismatch", "The body is not the one that was signed.", "Hash exactly the bytes that are sent.";
    BodyHashMethodForbidden = 1106, 401, Never, "body_hash_method_forbidden", "This product does not accept SHA-1 body hashes.", "Hash the body with SHA-256.";
    TimestampRefused = 1107, 401, Reauthenticate, "timestamp_refused", "oauth_timestamp is outside the accepted window.", "Set the clock, sign again; the window is `limits.oauth_window_s`.";
    NonceReplayed = 1108, 401, Reauthenticate, "nonce_replayed", "This nonce was used before.", "Sign again with a new oauth_nonce.";
    KeyUnknown = 1109, 401, Never, "key_unknown", "The product has no such key.", "Check oauth_consumer_key and the product in the path.";
    KeyRevoked = 1110, 401, Never, "key_revoked", "The key was revoked.", "Use the product's other key.";
    AdminTokenInvalid = 1111, 401, Never, "admin_token_invalid", "The admin token is missing or wrong.", "Send `Authorization: Bearer TOKEN` with the node's admin token.";
    Forbidden = 1112, 403, Never, "forbidden", "This credential may not do that.", "Use a credential of the product, or the admin token.";
    // Requests: what they speak of
    ProductUnknown = 1200, 404, Never, "product_unknown", "There is no such product.", "`clarion product list` shows the products.";
    ProductExists = 1201, 409, Never, "product_exists", "A product of this name exists.", "Choose another name, or change the existing one.";
    MessageUnknown = 1202, 404, Never, "message_unknown", "No record of this message.", "Records live until the message's TTL ends and a day longer; messages with ttl 0 have none.";
    TerminalUnknown = 1203, 404, Never, "terminal_unknown", "No such terminal has been registered.", "A terminal registers when it first connects, or when it is put into a topic.";
    TooManyTopics = 1204, 422, Never, "too_many_topics", "The terminal is in as many topics as it may be.", "Unsubscribe from one, or raise `session.topics_max`.";
    TooManyKeys = 1205, 409, Never, "too_many_keys", "The product has two live keys already.", "Revoke one first.";
    NodeUnknown = 1206, 404, Never, "node_unknown", "There is no such node in the cluster.", "`clarion cluster status` shows the nodes.";
    // Requests: idempotency
    IdempotencyInProgress = 1300, 409, Later, "idempotency_in_progress", "A request with this key is in progress.", "Wait for its answer, or repeat it after `Retry-After`.";
    IdempotencyMismatch = 1301, 422, Never, "idempotency_mismatch", "This key was used with another body.", "Use a new key for a new push.";
    IdempotencyHeaderMismatch = 1302, 400, Never, "idempotency_header_mismatch", "The Idempotency-Key header differs from the signed key.", "Put the key into the body; the header may only repeat it.";
    // Requests: limits and state of the node
    InboxFull = 1400, 429, Later, "inbox_full", "The inbox holds as many unread messages as it may.", "Push again when the terminal has been online, or when entries expired.";
    RateLimited = 1401, 429, Later, "rate_limited", "The product's quota for this mode is used up.", "Slow down; `Retry-After` says for how long.";
    LaneFull = 1402, 429, Later, "lane_full", "Too many pushes of this mode are in flight.", "Wait for answers before sending more.";
    Overloaded = 1403, 503, Later, "overloaded", "The node has no room for this request now.", "Try again after `Retry-After`.";
    Draining = 1404, 503, Later, "draining", "The node is shutting down.", "Connect to another node, or again in a moment.";
    StoreUnavailable = 1405, 503, Later, "store_unavailable", "The store does not answer.", "Nothing was accepted; push again after `Retry-After`.";
    StoreFull = 1406, 503, Later, "store_full", "The store's disk is below its free-space watermark.", "Free space on the data disk; pushes resume by themselves.";
    OutcomeUnknown = 1407, 504, Later, "outcome_unknown", "It is not known whether the push was stored.", "Push again with the same idempotency key: it will not be stored twice.";
    AllTargetsFailed = 1408, 422, Never, "all_targets_failed", "The push failed for every target.", "`targets` says why for each.";
    AllTargetsFailedRetryable = 1409, 503, Later, "all_targets_failed_retryable", "The push failed for every target, for some only for now.", "`targets` says which may be tried again.";
    OwnerUnreachable = 1410, 503, Later, "owner_unreachable", "The owner of the log cannot be reached, and no other node took its place in time.", "Nothing was accepted; push again after `Retry-After`.";
    Internal = 1500, 500, Later, "internal", "The node failed to answer.", "Push again with the same idempotency key; report the request id if it lasts.";
    // Links and sessions: reconnect with back-off
    GoingAway = 4000, 503, Later, "going_away", "The node is draining.", "Reconnect; another node, or this one after its restart, will serve.";
    HeartbeatTimeout = 4001, 408, Later, "heartbeat_timeout", "Nothing was heard for a heartbeat and its grace.", "Reconnect; send a heartbeat at least as often as the node names.";
    AckTimeout = 4002, 408, Later, "ack_timeout", "Deliveries were not acknowledged after three attempts.", "Reconnect; acknowledge, or skip what cannot be handled.";
    SlowTerminal = 4003, 408, Later, "slow_terminal", "The terminal does not read what is written to it.", "Reconnect when there is capacity.";
    OpenTimeout = 4004, 408, Later, "open_timeout", "No session was opened in time.", "Send `open` right after the connection is up.";
    SessionCrashed = 4005, 500, Later, "session_crashed", "The session failed too often on this link.", "Reconnect; nothing acknowledged is lost.";
    StoreAway = 4006, 503, Later, "store_away", "The session's cursors cannot be read now.", "Reconnect with back-off.";
    LinkLimit = 4007, 503, Later, "link_limit", "The node holds as many links as it may.", "Reconnect with back-off, to another node if there is one.";
    SessionClosed = 4008, 200, Later, "session_closed", "The session was closed as asked.", "Open it again when it is needed.";
    WrongGroup = 4009, 503, Later, "wrong_group", "This node does not serve the isolation group of the product.", "Ask `GET /v1/gateways?product=…` for the access points that do, and connect there.";
    // Links and sessions: a new token first
    TokenExpired = 4100, 401, Reauthenticate, "token_expired", "The token's time is over.", "Fetch a new token from the product's back-end.";
    TokenInvalid = 4101, 401, Reauthenticate, "token_invalid", "The token is not signed by a key of this product, or is malformed.", "Check aud, sub, kid and algorithm; see the token section of the specification.";
    TokenRevoked = 4102, 401, Reauthenticate, "token_revoked", "The token was revoked.", "Fetch a new token from the product's back-end.";
    // Links and sessions: do not reconnect
    Replaced = 4200, 409, Never, "replaced", "A newer session of this terminal took over.", "Do not reconnect by yourself: two devices or tabs share a terminal id.";
    Kicked = 4201, 403, Never, "kicked", "The product's back-end closed this session.", "Reconnect only when the user asks for it.";
    KindNotAccepted = 4202, 403, Never, "kind_not_accepted", "The product does not accept this kind of terminal.", "Use a kind that the product lists.";
    TopicForbidden = 4203, 403, Never, "topic_forbidden", "The token does not allow this topic.", "Ask for a token whose `topics` claim covers it.";
    TopicBanned = 4204, 403, Never, "topic_banned", "The product's back-end removed this terminal from the topic.", "Only the back-end can let it in again.";
    FrameMalformed = 4205, 400, Never, "frame_malformed", "A frame is not one of this protocol.", "Compare it with the specification; `detail` names the place.";
    FrameTooLarge = 4206, 413, Never, "frame_too_large", "A frame exceeds the limit for terminals.", "Send smaller frames.";
    FrameUnexpected = 4207, 400, Never, "frame_unexpected", "A frame came where the protocol does not allow it.", "See the states of a session in the specification.";
    AckAhead = 4208, 400, Never, "ack_ahead", "An acknowledgement names an entry that was not delivered to this session.", "Acknowledge only what was delivered.";
    TooManySessions = 4209, 409, Never, "too_many_sessions", "The link carries as many sessions as it may.", "Use another link.";
    SubprotocolMissing = 4210, 400, Never, "subprotocol_missing", "The connection does not offer a sub-protocol that the node speaks.", "Offer `clarion.v1.json` in Sec-WebSocket-Protocol.";
    RefreshMismatch = 4211, 403, Never, "refresh_mismatch", "A refreshed token speaks of another product, terminal or user.", "Open a new session for another identity.";
}

impl Code {
    /// Whether the same attempt may succeed without a change by its author.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self.retry(), Retry::Later)
    }

    /// Whether a terminal that is closed with this code connects again by itself.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        self.number() < 4200
    }

    /// The code of a number, if there is one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// The code of a name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom("no such code"))
    }
}

/// A problem document (RFC 9457), the body of every refused request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Identifies the code; also where it is documented.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`Code::title`].
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is special about this occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// [`Code::as_str`]. Text, so that a client older than the node can still read it.
    pub code: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Seconds to wait before that, as in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// The id of the request in the node's logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Where the code is documented.
    pub doc_url: String,
    /// What became of each target, when a push failed for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<crate::http::TargetOutcome>,
}

impl Problem {
    /// The problem of `code`, with what is special about it.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Option<String>>) -> Self {
        let doc_url = format!("/docs/codes#{code}");
        Self {
            kind: doc_url.clone(),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: detail.into(),
            code: code.as_str().to_owned(),
            retryable: code.retryable(),
            retry_after_s: code.retryable().then_some(1),
            request_id: None,
            doc_url,
            targets: Vec::new(),
        }
    }

    /// The code, unless a newer node sent one that this build does not know.
    #[must_use]
    pub fn known_code(&self) -> Option<Code> {
        Code::from_name(&self.code)
    }
}
