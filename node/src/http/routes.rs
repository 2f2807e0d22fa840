//! The table of all paths. The router, the API document (`/openapi.json`) and the labels of the
//! metrics come from it, so none of them can differ from the others.

use std::future::Future;
use std::pin::Pin;

use axum::http::Method;
use clarion_config::Role;
use clarion_protocol::Code;

use super::auth::Access;
use super::problem::Answer;
use super::request::Call;
use super::{
    cluster, docs, health, openapi, products, push, push_link, status, terminals, tokens, topics,
};

/// A handler at work.
pub(super) type Running = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a route answers with when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON of a schema in `schemas`.
    Json(&'static str),
    /// Another content type.
    Text(&'static str),
    /// None.
    Nothing,
}

/// One path with one method.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) summary: &'static str,
    /// Parameters of the query that it knows.
    pub(super) query: &'static [&'static str],
    /// The schema of its body.
    pub(super) body: Option<&'static str>,
    /// Whether the body may be left out.
    pub(super) body_optional: bool,
    /// Status and content of its answers, other than problems.
    pub(super) answers: &'static [(u16, Content)],
    /// Codes of its problems, besides those of its credential and its body.
    pub(super) codes: &'static [Code],
    pub(super) run: fn(Call) -> Running,
}

impl Route {
    /// The role that a node must have to serve it; none when every node does.
    pub(super) fn role(&self) -> Option<Role> {
        self.path.starts_with("/v1/products").then_some(Role::Push)
    }

    /// Whether a parameter of the query must be given.
    pub(super) fn needs(&self, parameter: &str) -> bool {
        self.path == "/v1/where" && parameter == "product"
    }

    /// What to say when the handler does not answer in time.
    pub(super) fn on_timeout(&self) -> Code {
        if self.method == Method::GET { Code::StoreUnavailable } else { Code::OutcomeUnknown }
    }
}

macro_rules! run {
    ($handler:path) => {
        |call| Box::pin($handler(call))
    };
}

const NO_BODY: (Option<&str>, bool) = (None, false);

const fn required(schema: &'static str) -> (Option<&'static str>, bool) {
    (Some(schema), false)
}

const fn optional(schema: &'static str) -> (Option<&'static str>, bool) {
    (Some(schema), true)
}

const PAGE: &[&str] = &["after", "limit"];

macro_rules! routes {
    ($( $method:ident $path:literal $access:ident $run:path,
        $summary:literal, query $query:expr, body $body:expr, answers $answers:expr, codes $codes:expr; )*) => {
        /// Every route.
        pub(super) static ROUTES: &[Route] = &[ $( Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            summary: $summary,
            query: $query,
            body: $body.0,
            body_optional: $body.1,
            answers: $answers,
            codes: $codes,
            run: run!($run),
        }, )* ];
    };
}

use Code::{
    AllTargetsFailed, AllTargetsFailedRetryable, Draining, IdempotencyHeaderMismatch,
    IdempotencyInProgress, IdempotencyMismatch, InboxFull, InvalidField, LaneFull, LinkLimit,
    MessageUnknown, NodeUnknown, NotFound, OutcomeUnknown, Overloaded, PayloadTooLarge,
    ProductExists, ProductUnknown, RateLimited, StoreFull, StoreUnavailable, SubprotocolMissing,
    TerminalUnknown, TooManyKeys, TooManyTargets,
};
use Content::{Json, Nothing, Text};

routes! {
    POST "/v1/products/{product}/messages" Product push::post,
        "Push a message. It is durable when this answers 202.",
        query &[], body required("PushRequest"), answers &[(202, Json("PushAccepted"))],
        codes &[PayloadTooLarge, TooManyTargets, IdempotencyInProgress, IdempotencyMismatch,
            IdempotencyHeaderMismatch, InboxFull, RateLimited, LaneFull, Overloaded, Draining,
            StoreFull, OutcomeUnknown, AllTargetsFailed, AllTargetsFailedRetryable];
    GET "/v1/products/{product}/messages/{id}" ProductOrAdmin push::get,
        "State and counts of a message.",
        query &[], body NO_BODY, answers &[(200, Json("MessageState"))], codes &[MessageUnknown];
    GET "/v1/products/{product}/push" Product push_link::open,
        "Upgrade to a WebSocket that takes many pushes (sub-protocol clarion.push.v1.json).",
        query &[], body NO_BODY, answers &[(101, Nothing)],
        codes &[SubprotocolMissing, LinkLimit, Draining];
    GET "/v1/products/{product}/topics/{topic}/members" ProductOrAdmin topics::list,
        "Members of a topic, in the order of their ids.",
        query PAGE, body NO_BODY, answers &[(200, Json("TopicMemberPage"))], codes &[];
    PUT "/v1/products/{product}/topics/{topic}/members" ProductOrAdmin topics::put,
        "Put terminals into a topic; lifts a ban.",
        query &[], body required("TopicMembers"), answers &[(200, Json("MemberOutcomePage"))],
        codes &[TooManyTargets];
    DELETE "/v1/products/{product}/topics/{topic}/members" ProductOrAdmin topics::remove,
        "Take terminals out of a topic; they may not join again by themselves.",
        query &[], body required("TopicMembers"), answers &[(200, Json("MemberOutcomePage"))],
        codes &[TooManyTargets];
    GET "/v1/products/{product}/terminals" ProductOrAdmin terminals::list,
        "Terminals of a product, or of one of its users, in the order of their ids.",
        query &["after", "limit", "user"], body NO_BODY,
        answers &[(200, Json("TerminalInfoPage"))], codes &[];
    GET "/v1/products/{product}/terminals/{terminal}" ProductOrAdmin terminals::get,
        "One terminal: whether it is online, and its cursors.",
        query &[], body NO_BODY, answers &[(200, Json("TerminalInfo"))],
        codes &[TerminalUnknown];
    POST "/v1/products/{product}/terminals/{terminal}/kick" ProductOrAdmin terminals::kick,
        "Close the live session of a terminal.",
        query &[], body NO_BODY, answers &[(200, Json("KickOutcome"))],
        codes &[TerminalUnknown];
    POST "/v1/products" Admin products::create,
        "Create a product. The answer holds the secrets of its first keys, this once.",
        query &[], body required("ProductCreate"), answers &[(201, Json("ProductInfo"))],
        codes &[ProductExists];
    GET "/v1/products" Admin products::list,
        "Products, in the order of their names.",
        query PAGE, body NO_BODY, answers &[(200, Json("ProductInfoPage"))], codes &[];
    GET "/v1/products/{product}" Admin products::get,
        "One product.",
        query &[], body NO_BODY, answers &[(200, Json("ProductInfo"))], codes &[ProductUnknown];
    PATCH "/v1/products/{product}" Admin products::change,
        "Change a product: the isolation group that serves it.",
        query &[], body required("ProductChange"), answers &[(200, Json("ProductInfo"))],
        codes &[ProductUnknown];
    POST "/v1/products/{product}/keys" Admin products::create_key,
        "Make another key that signs pushes. The answer holds its secret, this once.",
        query &[], body NO_BODY, answers &[(201, Json("ApiKeyInfo"))],
        codes &[ProductUnknown, TooManyKeys];
    DELETE "/v1/products/{product}/keys/{key}" Admin products::revoke_key,
        "Revoke a key that signs pushes.",
        query &[], body NO_BODY, answers &[(204, Nothing)], codes &[ProductUnknown, NotFound];
    POST "/v1/products/{product}/token-keys" Admin products::create_token_key,
        "Make or name another key that signs terminal tokens.",
        query &[], body optional("TokenKeyCreate"), answers &[(201, Json("TokenKeyInfo"))],
        codes &[ProductUnknown, TooManyKeys];
    DELETE "/v1/products/{product}/token-keys/{kid}" Admin products::revoke_token_key,
        "Revoke a key that signs terminal tokens.",
        query &[], body NO_BODY, answers &[(204, Nothing)], codes &[ProductUnknown, NotFound];
    POST "/v1/products/{product}/tokens" Admin tokens::mint,
        "Mint a terminal's token with the product's newest HS256 key.",
        query &[], body required("TokenRequest"), answers &[(200, Json("MintedToken"))],
        codes &[ProductUnknown, NotFound];
    GET "/v1/status" Admin status::get,
        "What the node is doing.",
        query &[], body NO_BODY, answers &[(200, Json("Status"))], codes &[];
    GET "/v1/gateways" Open cluster::gateways,
        "Where terminals connect, the best first.",
        query &["product", "limit"], body NO_BODY, answers &[(200, Json("Gateways"))],
        codes &[RateLimited];
    GET "/v1/cluster" Admin cluster::status,
        "The nodes of the cluster, as this one sees them.",
        query &[], body NO_BODY, answers &[(200, Json("ClusterStatus"))], codes &[];
    POST "/v1/cluster/nodes/{node}/drain" Admin cluster::drain,
        "Send what a node does elsewhere, then end it.",
        query &[], body NO_BODY, answers &[(202, Json("DrainStarted"))],
        codes &[NodeUnknown, Overloaded];
    GET "/v1/where" Admin cluster::place,
        "Which node the log of a terminal, a user, a topic or a product is on, and why.",
        query &["product", "terminal", "user", "topic"], body NO_BODY,
        answers &[(200, Json("Where"))], codes &[ProductUnknown];
    GET "/livez" Open health::live,
        "Whether the node's parts make progress; 503 if not.",
        query &[], body NO_BODY, answers &[(200, Json("Liveness")), (503, Json("Liveness"))],
        codes &[];
    GET "/readyz" Open health::ready,
        "Whether the doors serve, or the one named; 503 if not, or 404 as `unready` says.",
        query &["door", "unready"], body NO_BODY,
        answers &[(200, Json("Readiness")), (404, Json("Readiness")), (503, Json("Readiness"))], codes &[InvalidField];
    GET "/metrics" Open health::metrics,
        "Metrics, as Prometheus reads them.",
        query &[], body NO_BODY, answers &[(200, Text(health::METRICS_TYPE))], codes &[];
    GET "/docs/codes" Open docs::codes,
        "Every code, what it means and what to do.",
        query &[], body NO_BODY, answers &[(200, Text(docs::HTML_TYPE))], codes &[];
    GET "/openapi.json" Open openapi::get,
        "This document.",
        query &[], body NO_BODY, answers &[(200, Json("Any"))], codes &[];
}

/// Codes that any route that reaches the store may answer with.
pub(super) const STORE_CODES: &[Code] = &[StoreUnavailable, Code::Internal];
