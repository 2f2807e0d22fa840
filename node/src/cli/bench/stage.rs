//! What every bench sets up: a node, a product without quota, terminals in load processes.

use clarion_protocol::http::{ProductCreate, PushAccepted};
use clarion_protocol::{ProductId, TopicName};
use clarion_sdk::backend::Addressed;
use clarion_sdk::{Backend, Push, PushLink};
use futures_util::TryStreamExt;
use hdrhistogram::Histogram;
use serde_json::value::RawValue;

use super::Common;
use super::load::{Client, Loads, Terminals, identity};
use super::node::Node;
use crate::cli::credentials::ProductKeys;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::product::keys_of;

/// The topic that bench terminals are in.
pub(super) const TOPIC: &str = "bench";

/// Seconds that bench messages live: longer than a bench.
const TTL_S: u64 = 3600;

/// Connections that the SDK may have open to the API.
const HTTP_CONNECTIONS_MAX: usize = 4096;

/// Terminals that connect at the same time.
pub(super) const CONCURRENCY: usize = 128;

/// A node with a product.
pub(super) struct Stage {
    pub(super) node: Node,
    pub(super) keys: ProductKeys,
    pub(super) output: Output,
    bench: &'static str,
}

impl Stage {
    /// Finds or starts the node and makes a product for this bench.
    pub(super) async fn set(
        bench: &'static str,
        common: &Common,
        output: Output,
    ) -> Result<Self, Failure> {
        let node = Node::of(common).await?;
        let name = format!("bench-{bench}-{:08x}", rand::random::<u32>());
        let create = ProductCreate {
            product: made(ProductId::new(&name))?,
            kinds: None,
            allow_sha1_body_hash: None,
            pushes_per_s_max: None,
            isolation_group: None,
            token_public_key_pem: None,
        };
        let product = node.connection.admin()?.create_product(&create).await?;
        let keys = keys_of(&product)?;
        let stage = Self { node, keys, output, bench };
        stage.progress("node and product are ready");
        Ok(stage)
    }

    /// Says on stderr how far the bench is.
    pub(super) fn progress(&self, text: &str) {
        self.output.note(&format!("bench {}: {text}", self.bench));
    }

    /// What terminals of this stage are made with.
    pub(super) fn terminals(&self, client: Client) -> Result<Terminals, Failure> {
        let missing =
            || Failure::new(Exit::Failed, "the node made a product without a token secret");
        Ok(Terminals {
            nodes: vec![self.node.connection.terminals_url().to_owned()],
            product: self.keys.product.clone(),
            token_key: self.keys.token_key.clone().ok_or_else(missing)?,
            token_secret: self.keys.token_secret.clone().ok_or_else(missing)?,
            topics: vec![topic()?],
            client,
            concurrency: CONCURRENCY,
        })
    }

    /// Starts load processes and connects `count` terminals.
    pub(super) async fn connected(
        &self,
        client: Client,
        count: u32,
    ) -> Result<(Loads, Terminals), Failure> {
        let mut loads = Loads::start(count)?;
        let terminals = self.terminals(client)?;
        loads.connect(&terminals, count).await?;
        self.progress(&format!("{count} terminals are live"));
        Ok((loads, terminals))
    }

    /// Server CPU seconds since `before`.
    pub(super) fn cpu_since(&self, before: Option<f64>) -> Option<f64> {
        Some(self.cpu()? - before?)
    }

    /// Server CPU seconds so far.
    pub(super) fn cpu(&self) -> Option<f64> {
        self.node.usage().map(|usage| usage.cpu_s)
    }

    /// A back-end of the product.
    pub(super) fn backend(&self) -> Result<Pusher, Failure> {
        Ok(Pusher(self.node.connection.backend_with(&self.keys, HTTP_CONNECTIONS_MAX)?))
    }

    /// A push WebSocket of the product.
    pub(super) async fn push_link(&self) -> Result<LinkPusher, Failure> {
        let link = self.backend()?.0.connect()?;
        // Connected when the first push is confirmed: it is for nobody.
        let push = Push::to_topic("bench-nobody").json(&0)?;
        link.send(push).await?;
        Ok(LinkPusher(link))
    }

    /// Takes everything down.
    pub(super) async fn strike(self) -> Result<(), Failure> {
        self.node.stop().await
    }
}

/// Pushes over HTTP.
pub(super) struct Pusher(Backend);

/// Pushes over a push WebSocket.
pub(super) struct LinkPusher(PushLink);

impl Pusher {
    pub(super) async fn push(&self, to: Addressed, json: String) -> Result<(), Failure> {
        all_stored(&self.0.push(payload(to, json)?).await?)
    }
}

impl LinkPusher {
    pub(super) async fn push(&self, to: Addressed, json: String) -> Result<(), Failure> {
        all_stored(&self.0.send(payload(to, json)?).await?)
    }
}

pub(super) fn payload(to: Addressed, json: String) -> Result<Push, Failure> {
    let text = RawValue::from_string(json).map_err(|error| Failure::local("payload", error))?;
    Ok(to.raw_json(text)?.ttl(TTL_S))
}

fn all_stored(accepted: &PushAccepted) -> Result<(), Failure> {
    match accepted.targets.iter().find_map(|target| target.error.as_ref()) {
        None => Ok(()),
        Some(error) => Err(Failure::new(
            Exit::Refused,
            format!("a push was refused for a target: {}", error.code),
        )),
    }
}

/// The topic that bench terminals are in.
pub(super) fn topic() -> Result<TopicName, Failure> {
    made(TopicName::new(TOPIC))
}

/// To terminal number `index`.
pub(super) fn to_terminal(index: u32) -> Addressed {
    Push::to_terminal(&identity(index).0)
}

pub(super) fn made<T>(id: Result<T, clarion_protocol::IdError>) -> Result<T, Failure> {
    id.map_err(|error| Failure::new(Exit::Failed, format!("a made-up name {error}")))
}

/// A count as a number to calculate with.
#[allow(clippy::cast_precision_loss)] // counts of a bench stay far below 2^53
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// Times in nanoseconds, from one to a minute, to three digits.
pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .map_err(|error| Failure::local("histogram", error))
}

/// Runs `job` for every item with at most `in_flight` at the same time; stops at the first failure.
pub(super) async fn pipelined<T, F: Future<Output = Result<(), Failure>>>(
    items: impl Iterator<Item = T>,
    in_flight: usize,
    job: impl Fn(T) -> F,
) -> Result<(), Failure> {
    futures_util::stream::iter(items.map(Ok)).try_for_each_concurrent(in_flight, job).await
}
