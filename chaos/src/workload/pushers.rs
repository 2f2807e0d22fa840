//! Back-ends. Each product has three: one over HTTP that repeats until there is an answer, one over
//! HTTP that gives up soon and so leaves outcomes unknown, and one over a WebSocket with several
//! pushes in flight. Where there are several nodes the patient ones repeat a push at the next node,
//! under the same idempotency key.

use std::time::Duration;

use clarion_protocol::http::{PushAccepted, Target};
use clarion_protocol::{TerminalId, TopicName, UserId};
use clarion_sdk::backend::LinkTuning;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::{Backend, Push, PushError, PushLink};
use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::backends::{self, Common};
use super::payload::{self, CONTENT_TYPE, hash};
use super::plan::Product;
use crate::Failure;
use crate::history::{Event, Name};

/// Pushers of a product.
const PUSHERS: u32 = 3;
/// Pushes that a WebSocket has in flight.
const IN_FLIGHT: usize = 24;
/// One in so many accepted pushes is pushed once more: it must be the same message.
const REPEATED_ONE_IN: u32 = 25;
/// One in so many pushes is sent as bytes.
const BYTES_ONE_IN: u32 = 8;
/// One in so many pushes is larger than what a store keeps beside the entries of an inbox.
const LARGE_ONE_IN: u32 = 40;
/// The padding of these and of the others, at most.
const LARGE_BYTES_MAX: usize = 3000;
const PADDING_BYTES_MAX: usize = 200;
/// The TTL of a short-lived push, seconds: some end before an away terminal is back, some do not.
const SHORT_TTL_S: std::ops::RangeInclusive<u64> = 2..=20;
/// A TTL that outlives every run, in seconds.
const LONG_TTL_S: u64 = 24 * 3600;
/// Nodes that are killed come back soon: a longer back-off only makes the run longer.
pub(super) const RETRY: Backoff =
    Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(500) };
/// How long the patient ones go on.
const PATIENT: Duration = Duration::from_secs(60);
/// How long the impatient one does.
const IMPATIENT: Duration = Duration::from_millis(150);

/// The time between two pushes of a pusher.
pub(super) fn pace(pushes_per_s: u32, products: usize) -> Duration {
    let pushers = PUSHERS * u32::try_from(products).unwrap_or(1);
    Duration::from_secs(1) * pushers / pushes_per_s.max(1)
}

/// Starts the pushers of a product.
pub(super) fn start(
    common: &Common,
    product: &Product,
    every: Duration,
    number: u64,
    pushers: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    // One node is asked as long as it takes; of several each for a while, then the next.
    let each = common.doors.patience.push.min(PATIENT);
    let tuned = |deadline: Duration| {
        backends::at_all_doors(common, product, |tuning| {
            tuning.retry = RETRY;
            tuning.deadline = deadline;
            tuning.attempt_timeout = tuning.attempt_timeout.min(deadline);
        })
    };
    let (patient, impatient) = (tuned(each)?, tuned(IMPATIENT)?);
    let mut tuning = LinkTuning::default();
    (tuning.reconnect, tuning.retry, tuning.deadline) = (RETRY, RETRY, each);
    let link = |backend: &Backend| {
        let link = backend.connect_with(tuning.clone());
        link.map_err(Failure::of("cannot make a push link"))
    };
    let links = patient.iter().map(link).collect::<Result<Vec<PushLink>, _>>()?;
    let seed = common.seed ^ number;
    let pusher = |lane: &'static str, number: u64, patient: bool| Pusher {
        rng: Rng::with_seed(seed.wrapping_mul(31).wrapping_add(number)),
        lane: lane.into(),
        patient,
        pushed: 0,
        at: number as usize,
        every,
        product: product.clone(),
        common: common.clone(),
    };
    pushers.spawn(pusher("http", 1, true).one_by_one(patient, PATIENT));
    pushers.spawn(pusher("hasty", 2, false).one_by_one(impatient, Duration::ZERO));
    pushers.spawn(pusher("link", 3, true).several(links));
    Ok(())
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
    lane: Name,
    /// Repeats until there is an answer.
    patient: bool,
    pushed: u64,
    /// The node that answered last, as a place in the list of doors.
    at: usize,
    every: Duration,
    product: Product,
    common: Common,
}

/// A push that is about to be sent.
struct Made {
    key: Name,
    push: Push,
    /// Sent again it is the same push.
    keyed: bool,
}

impl Pusher {
    async fn one_by_one(mut self, nodes: Vec<Backend>, patience: Duration) -> Result<(), Failure> {
        let mut ticks = ticks(self.every);
        while self.goes_on(&mut ticks).await {
            let Made { key, push, keyed } = self.next()?;
            let send = |node: &Backend| {
                let (node, push) = (node.clone(), push.clone());
                async move { node.push(push).await }
            };
            let (at, outcome) = patiently(&nodes, self.at, patience, send).await;
            let accepted = outcome.is_ok();
            self.answered(&key, at, outcome);
            // The impatient do not stay where they waited in vain.
            self.at = if accepted { at } else { at + 1 };
            if accepted && keyed && self.rng.u32(..REPEATED_ONE_IN) == 0 {
                // Also at another node it is the same message.
                let (at, outcome) = patiently(&nodes, at + 1, patience, send).await;
                self.answered(&key, at, outcome);
            }
        }
        Ok(())
    }

    async fn several(mut self, links: Vec<PushLink>) -> Result<(), Failure> {
        let mut ticks = ticks(self.every);
        let mut in_flight = FuturesUnordered::new();
        loop {
            let room = in_flight.len() < IN_FLIGHT;
            tokio::select! {
                Some((key, (at, outcome))) = in_flight.next() => {
                    self.at = at;
                    self.answered(&key, at, outcome);
                }
                goes_on = self.goes_on(&mut ticks), if room => {
                    if !goes_on {
                        break;
                    }
                    // Some at once now and then, so that the node makes batches of them.
                    let burst = if self.rng.u32(..10) == 0 { IN_FLIGHT } else { 1 };
                    for _ in 0..burst {
                        let Made { key, push, .. } = self.next()?;
                        let (first, links) = (self.at, &links);
                        in_flight.push(async move {
                            let send = |link: &PushLink| link.send(push.clone());
                            (key, patiently(links, first, PATIENT, send).await)
                        });
                    }
                }
            }
        }
        while let Some((key, (at, outcome))) = in_flight.next().await {
            self.answered(&key, at, outcome);
        }
        Ok(())
    }

    /// Waits for the next turn; false when it is time to end.
    async fn goes_on(&mut self, ticks: &mut Interval) -> bool {
        tokio::select! {
            _ = ticks.tick() => true,
            () = self.common.stops() => false,
        }
    }

    /// Makes the next push and records that it will be sent.
    fn next(&mut self) -> Result<Made, Failure> {
        let product = Name::clone(&self.product.name);
        let key: Name = format!("{product}-{}-{}", self.lane, self.pushed).into();
        self.pushed += 1;
        let large = self.rng.u32(..LARGE_ONE_IN) == 0;
        let padding = if large { LARGE_BYTES_MAX } else { PADDING_BYTES_MAX };
        let payload = payload::payload(&key, self.rng.usize(..padding));
        let (addressed, targets) = self.audience()?;
        let push = if self.rng.u32(..BYTES_ONE_IN) == 0 {
            addressed.bytes(CONTENT_TYPE, payload.as_bytes())
        } else {
            let raw = RawValue::from_string(payload.clone()).map_err(Failure::of("the payload"))?;
            addressed.raw_json(raw)
        };
        let mut push = push.map_err(Failure::of("the push"))?;
        let ttl_s = match self.rng.u32(..100) {
            0..75 => None,
            75..82 => Some(LONG_TTL_S),
            82..95 => Some(self.rng.u64(SHORT_TTL_S)),
            _ => Some(0),
        };
        if let Some(ttl_s) = ttl_s {
            push = push.ttl(ttl_s);
        }
        // Who does not repeat himself may leave the key to the SDK; what is stored nowhere, and who
        // goes from node to node, must not.
        let keyed = self.patient || self.rng.bool();
        if keyed {
            push = push.idempotency_key(&*key);
        }
        self.common.teller.add(Event::Invoke {
            key: Name::clone(&key),
            product,
            targets,
            hash: hash(payload.as_bytes()).into(),
            ttl_ms: ttl_s.map(|seconds| seconds * 1000),
            lane: Name::clone(&self.lane),
            patient: self.patient,
            door: self.common.doors.http_name(self.at),
        });
        Ok(Made { key, push, keyed })
    }

    fn audience(&mut self) -> Result<(clarion_sdk::backend::Addressed, Vec<Target>), Failure> {
        let Self { rng, product, .. } = self;
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

    fn answered(&self, key: &Name, at: usize, outcome: Result<PushAccepted, PushError>) {
        self.common.answered(key, at, outcome);
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
