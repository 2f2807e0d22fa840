//! Back-ends. Each product has three: one over HTTP that repeats until there is an answer, one over
//! HTTP that gives up soon and so leaves outcomes unknown, and one over a WebSocket with several
//! pushes in flight. Where there are several nodes the patient ones repeat a push at the next node,
//! under the same idempotency key.

use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::Code;
use clarion_protocol::http::{PushAccepted, Target, TargetOutcome};
use clarion_protocol::{TerminalId, TopicName, UserId};
use clarion_sdk::backend::{LinkTuning, RequestTuning};
use clarion_sdk::backoff::Backoff;
use clarion_sdk::{Backend, Push, PushError, PushLink};
use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::payload::{self, CONTENT_TYPE, hash};
use super::{Doors, Product, until};
use crate::Failure;
use crate::history::{Event, History, Name};

/// Pushers of a product.
const PUSHERS: u32 = 3;
/// Pushes that a WebSocket has in flight.
const IN_FLIGHT: usize = 24;
/// One in so many accepted pushes is pushed once more: it must be the same message.
const REPEATED_ONE_IN: u32 = 25;
/// One in so many pushes is sent as bytes.
const BYTES_ONE_IN: u32 = 8;
/// Nodes that are killed come back soon: a longer back-off only makes the run longer.
const RETRY: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(500) };
/// How long the patient ones go on.
const PATIENT: Duration = Duration::from_secs(60);
/// How long the impatient one does.
const IMPATIENT: Duration = Duration::from_millis(150);

/// What the pushers of a product share.
#[derive(Clone)]
pub(super) struct Common {
    pub product: Product,
    pub doors: Arc<Doors>,
    pub history: Arc<History>,
    pub stop: watch::Receiver<bool>,
    pub every: Duration,
    pub seed: u64,
}

/// The time between two pushes of a pusher.
pub(super) fn pace(pushes_per_s: u32, products: usize) -> Duration {
    let pushers = PUSHERS * u32::try_from(products).unwrap_or(1);
    Duration::from_secs(1) * pushers / pushes_per_s.max(1)
}

/// Starts the pushers of a product.
pub(super) fn start(
    common: Common,
    pushers: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    // One node is asked as long as it takes; of several each for a while, then the next.
    let each = common.doors.patience.push.min(PATIENT);
    let patient = backends(&common, each)?;
    let impatient = backends(&common, IMPATIENT)?;
    let mut tuning = LinkTuning::default();
    (tuning.reconnect, tuning.retry, tuning.deadline) = (RETRY, RETRY, each);
    let link = |backend: &Backend| {
        let link = backend.connect_with(tuning.clone());
        link.map_err(Failure::of("cannot make a push link"))
    };
    let links = patient.iter().map(link).collect::<Result<Vec<PushLink>, _>>()?;
    let pusher = |kind: &'static str, number: u64| Pusher {
        rng: Rng::with_seed(common.seed.wrapping_mul(31).wrapping_add(number)),
        prefix: format!("{}-{kind}", common.product.name),
        pushed: 0,
        at: number as usize,
        common: common.clone(),
    };
    pushers.spawn(pusher("http", 1).one_by_one(patient, PATIENT));
    pushers.spawn(pusher("hasty", 2).one_by_one(impatient, Duration::ZERO));
    pushers.spawn(pusher("link", 3).several(links));
    Ok(())
}

/// A back-end for each node.
fn backends(common: &Common, deadline: Duration) -> Result<Vec<Backend>, Failure> {
    let product = &common.product;
    let backend = |http: &String| {
        Backend::builder(http, &product.name, &product.key, &product.secret)
            .tuning(|tuning: &mut RequestTuning| {
                tuning.retry = RETRY;
                tuning.deadline = deadline;
                tuning.attempt_timeout = tuning.attempt_timeout.min(deadline);
            })
            .build()
            .map_err(Failure::of("cannot make a back-end"))
    };
    common.doors.http.iter().map(backend).collect()
}

/// Tries one node after the other, from the one at `first` on, until there is an answer that stands
/// or the patience is over; says at which node that was. That a push may have been stored by an
/// earlier attempt makes a later refusal unknown.
async fn patiently<P, F>(
    nodes: &[P],
    first: usize,
    patience: Duration,
    send: impl Fn(&P) -> F,
) -> (usize, Result<PushAccepted, PushError>)
where
    F: Future<Output = Result<PushAccepted, PushError>>,
{
    let end = Instant::now() + patience;
    let mut unknown = false;
    let mut at = first;
    loop {
        let outcome = send(&nodes[at % nodes.len()]).await;
        let mut error = match outcome {
            Ok(accepted) => return (at, Ok(accepted)),
            Err(error) => error,
        };
        unknown |= error.outcome_unknown;
        error.outcome_unknown = unknown;
        if !error.retryable || Instant::now() >= end {
            return (at, Err(error));
        }
        at += 1;
    }
}

struct Pusher {
    rng: Rng,
    prefix: String,
    pushed: u64,
    /// The node that answered last, as a place in the list of doors.
    at: usize,
    common: Common,
}

impl Pusher {
    async fn one_by_one(mut self, nodes: Vec<Backend>, patience: Duration) -> Result<(), Failure> {
        let mut ticks = ticks(self.common.every);
        while self.goes_on(&mut ticks).await {
            let (key, push) = self.next()?;
            let send = |node: &Backend| {
                let (node, push) = (node.clone(), push.clone());
                async move { node.push(push).await }
            };
            let (at, outcome) = patiently(&nodes, self.at, patience, send).await;
            let accepted = outcome.is_ok();
            self.answered(&key, outcome);
            // The impatient do not stay where they waited in vain.
            self.at = if accepted { at } else { at + 1 };
            if accepted && self.rng.u32(..REPEATED_ONE_IN) == 0 {
                // Also at another node it is the same message.
                let (_, outcome) = patiently(&nodes, at + 1, patience, send).await;
                self.answered(&key, outcome);
            }
        }
        Ok(())
    }

    async fn several(mut self, links: Vec<PushLink>) -> Result<(), Failure> {
        let mut ticks = ticks(self.common.every);
        let mut in_flight = FuturesUnordered::new();
        loop {
            let room = in_flight.len() < IN_FLIGHT;
            tokio::select! {
                Some((key, (at, outcome))) = in_flight.next() => {
                    self.at = at;
                    self.answered(&key, outcome);
                }
                goes_on = self.goes_on(&mut ticks), if room => {
                    if !goes_on {
                        break;
                    }
                    // Some at once now and then, so that the node makes batches of them.
                    let burst = if self.rng.u32(..10) == 0 { IN_FLIGHT } else { 1 };
                    for _ in 0..burst {
                        let (key, push) = self.next()?;
                        let (first, links) = (self.at, &links);
                        in_flight.push(async move {
                            let send = |link: &PushLink| link.send(push.clone());
                            (key, patiently(links, first, PATIENT, send).await)
                        });
                    }
                }
            }
        }
        while let Some((key, (_, outcome))) = in_flight.next().await {
            self.answered(&key, outcome);
        }
        Ok(())
    }

    /// Waits for the next turn; false when it is time to end.
    async fn goes_on(&mut self, ticks: &mut Interval) -> bool {
        tokio::select! {
            _ = ticks.tick() => true,
            _ = until(&mut self.common.stop, true) => false,
        }
    }

    /// Makes the next push and records that it will be sent.
    fn next(&mut self) -> Result<(Name, Push), Failure> {
        let key: Name = format!("{}-{}", self.prefix, self.pushed).into();
        self.pushed += 1;
        let payload = payload::payload(&key, self.rng.usize(0..200));
        let (addressed, targets) = self.audience()?;
        let push = if self.rng.u32(..BYTES_ONE_IN) == 0 {
            addressed.bytes(CONTENT_TYPE, payload.as_bytes())
        } else {
            let raw = RawValue::from_string(payload.clone()).map_err(Failure::of("the payload"))?;
            addressed.raw_json(raw)
        };
        let push = push.map_err(Failure::of("the push"))?.idempotency_key(&*key);
        self.common.history.add(Event::Invoke {
            key: key.clone(),
            product: self.common.product.name.clone(),
            targets,
            hash: hash(payload.as_bytes()),
        });
        Ok((key, push))
    }

    fn audience(&mut self) -> Result<(clarion_sdk::backend::Addressed, Vec<Target>), Failure> {
        let Self { rng, common, .. } = self;
        let product = &common.product;
        let some = |rng: &mut Rng, names: &[String], most: usize| {
            let count = rng.usize(1..=most.min(names.len()));
            rng.choose_multiple(names.iter(), count).into_iter().cloned().collect::<Vec<_>>()
        };
        let bad = Failure::of::<clarion_protocol::IdError>;
        Ok(match rng.u32(..100) {
            0..50 => {
                let most = if rng.u32(..3) == 0 { 5 } else { 1 };
                let names = some(rng, &product.terminals, most);
                let target = |name: &String| TerminalId::new(name).map(Target::Terminal);
                let targets = names.iter().map(target).collect::<Result<_, _>>();
                (Push::to_terminals(&names), targets.map_err(bad("a terminal"))?)
            }
            50..70 => {
                let most = if rng.u32(..3) == 0 { 3 } else { 1 };
                let names = some(rng, &product.users, most);
                let target = |name: &String| UserId::new(name).map(Target::User);
                let targets = names.iter().map(target).collect::<Result<_, _>>();
                (Push::to_users(&names), targets.map_err(bad("a user"))?)
            }
            70..85 => {
                let name = &product.topics[rng.usize(..product.topics.len())];
                let topic = TopicName::new(name).map_err(bad("a topic"))?;
                (Push::to_topic(name), vec![Target::Topic(topic)])
            }
            _ => (Push::to_all(), vec![Target::All]),
        })
    }

    fn answered(&self, key: &Name, outcome: Result<PushAccepted, PushError>) {
        let key = key.clone();
        self.common.history.add(match outcome {
            Ok(accepted) => {
                let targets = accepted.targets.into_iter().filter_map(known).collect();
                Event::Accepted { key, id: accepted.id, targets }
            }
            Err(error) if error.outcome_unknown => Event::Unknown { key, why: error.to_string() },
            Err(error) => Event::Refused { key, why: error.to_string() },
        });
    }
}

/// A target and its offset, none where it was refused; nothing where that is not known.
fn known(outcome: TargetOutcome) -> Option<(Target, Option<clarion_protocol::Offset>)> {
    let TargetOutcome { target, position, error } = outcome;
    let unknown = |code| matches!(code, Code::OutcomeUnknown | Code::Internal);
    if error.is_some_and(|error| unknown(error.code)) {
        return None;
    }
    Some((target, position.map(|position| position.offset)))
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
