//! The cluster: access points for terminals, its nodes, drain, and where something is.

use std::time::Instant;

use axum::http::StatusCode;
use clarion_core::LogKey;
use clarion_protocol::http::{
    ClusterStatus, DrainStarted, GATEWAYS_DEFAULT, GATEWAYS_MAX, Gateways, Load,
};
use clarion_protocol::{Code, IsolationGroup, ProductId, TerminalId, TopicName, UserId};

use super::app::Phase;
use super::problem::{Answer, Refusal};
use super::request::{Call, json};
use super::server::PeerAddress;

/// How long a list of access points may be used, in seconds: at least, and at most as much more.
const TTL_S: (u64, u64) = (45, 30);

/// `GET /v1/gateways`. Asks for no credential: what it tells, every terminal is to know.
pub(super) async fn gateways(call: Call) -> Answer {
    if let Some(PeerAddress(address)) = call.parts.extensions.get::<PeerAddress>()
        && let Err(pause) = call.app.asking.ask(address.ip(), Instant::now())
    {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let failure = clarion_actors::Failure {
            retry_after_ms: Some(pause_ms),
            ..clarion_actors::Failure::new(Code::RateLimited)
        };
        return Err(failure.detail("too many questions from this address").into());
    }
    let limit = match call.query.text("limit") {
        None => GATEWAYS_DEFAULT,
        Some(text) => match text.parse() {
            Ok(limit) if (1..=GATEWAYS_MAX).contains(&limit) => limit,
            _ => {
                let detail = format!("limit: a number from 1 to {GATEWAYS_MAX}");
                return Err((Code::InvalidField, detail).into());
            }
        },
    };
    let group = match call.query.id::<ProductId>("product")? {
        Some(product) => group_for_anyone(&call, &product).await,
        None => IsolationGroup::DEFAULT.into(),
    };
    let gateways = call.app.neighbours.gateways(&group, limit, fastrand::u64(..));
    let ttl_s = TTL_S.0 + fastrand::u64(0..=TTL_S.1);
    json(StatusCode::OK, &Gateways { gateways, ttl_s })
}

/// Who holds no key learns no names of products, and gets a list also while the store is away.
async fn group_for_anyone(call: &Call, product: &ProductId) -> std::sync::Arc<str> {
    match call.app.system.product(product).await {
        Ok(Some(record)) => std::sync::Arc::clone(&record.isolation_group),
        Ok(None) | Err(_) => IsolationGroup::DEFAULT.into(),
    }
}

/// `GET /v1/cluster`.
pub(super) async fn status(call: Call) -> Answer {
    let app = &call.app;
    let links = app.system.link_count() as u64;
    let alone = Load { links, links_max: app.config.terminals.links_max as u64, ..Load::default() };
    let draining = *app.phase.borrow() != Phase::Serving;
    let mut nodes = app.neighbours.nodes(alone, draining);
    let told = app.system.cluster_status().await;
    for node in &mut nodes {
        let own = told.iter().find(|told| told["node"] == *node.node);
        node.status = own.filter(|own| own["answers"] != false).cloned();
    }
    let cluster = app.neighbours.cluster().map(str::to_owned);
    json(StatusCode::OK, &ClusterStatus { node: app.config.node.id.clone(), cluster, nodes })
}

/// `POST /v1/cluster/nodes/{node}/drain`.
pub(super) async fn drain(call: Call) -> Answer {
    let node: TerminalId = call.params.id("node")?;
    let node = node.as_str();
    let known = call.app.neighbours.nodes(Load::default(), false);
    if !known.iter().any(|known| known.node == node) {
        return Err((Code::NodeUnknown, node).into());
    }
    let started = !known.iter().any(|known| known.node == node && known.draining);
    if !call.app.system.drain_node(node).await {
        let detail = format!("{node} does not answer this node");
        return Err((Code::Overloaded, detail).into());
    }
    tracing::info!(node, "asked to drain");
    json(StatusCode::ACCEPTED, &DrainStarted { node: node.to_owned(), started })
}

/// `GET /v1/where`.
pub(super) async fn place(call: Call) -> Answer {
    let product: ProductId =
        call.query.id("product")?.ok_or_else(|| missing("product: which product"))?;
    let log = log(&call, &product)?;
    let record = call.app.system.product(&product).await?.ok_or(Code::ProductUnknown)?;
    let mut place = call.app.neighbours.place(&log, &record.isolation_group);
    place.readers = call.app.system.readers(&log).await;
    json(StatusCode::OK, &place)
}

/// The log that the query names: a terminal's, a user's, a topic's, or the product's broadcast.
fn log(call: &Call, product: &ProductId) -> Result<std::sync::Arc<LogKey>, Refusal> {
    let terminal: Option<TerminalId> = call.query.id("terminal")?;
    let user: Option<UserId> = call.query.id("user")?;
    let topic: Option<TopicName> = call.query.id("topic")?;
    match (terminal, user, topic) {
        (None, None, None) => Ok(LogKey::broadcast(product)),
        (Some(terminal), None, None) => Ok(LogKey::terminal(product, &terminal)),
        (None, Some(user), None) => Ok(LogKey::user(product, &user)),
        (None, None, Some(topic)) => Ok(LogKey::topic(product, &topic)),
        _ => Err(missing("terminal, user, topic: one of them at most")),
    }
}

fn missing(detail: &str) -> Refusal {
    (Code::InvalidField, detail).into()
}
