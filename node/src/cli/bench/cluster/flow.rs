//! Pushes through several nodes, of which some may be refused, and what became of each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clarion_launch::Node;
use clarion_sdk::backend::Addressed;
use clarion_sdk::{Backend, Push};
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::load::Loads;
use super::super::stage::{histogram, payload, to_terminal};
use super::super::tally::{Counts, Payload, monotonic_ns};
use crate::cli::credentials::ProductKeys;
use crate::cli::exit::{Exit, Failure};

/// Pushes that one node has unanswered at most; a further one is not sent, and counted so.
const IN_FLIGHT_PER_NODE: usize = 2048;

/// So much later than the last push was due none is sent any more: the load did not keep up.
const LATE: Duration = Duration::from_millis(100);

/// How long a push is tried: longer than a node takes to notice that another one hangs.
const DEADLINE: Duration = Duration::from_secs(15);

/// When nothing more came for so long, nothing more comes.
const QUIET: Duration = Duration::from_secs(2);

/// Back-ends, each at another node.
#[derive(Clone)]
pub(super) struct Pushers(Arc<Vec<Backend>>);

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Durable: it must be received.
    Accepted,
    /// Surely not stored for its terminal.
    Refused,
    /// It may be stored or not.
    Unknown,
    /// Not sent, because too many were unanswered or the load itself did not keep up.
    Held,
}

/// A push.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// Its number, which is its payload.
    pub(super) n: u64,
    /// The terminal it is for.
    pub(super) terminal: u32,
    /// When it was to start, monotonic nanoseconds.
    pub(super) due_ns: u64,
    /// When it was answered, monotonic nanoseconds.
    pub(super) answered_ns: u64,
    /// What became of it.
    pub(super) outcome: Outcome,
}

/// Where push number `n` goes: through which back-end, to which terminal.
pub(super) type Aim = Arc<dyn Fn(u64) -> (usize, u32) + Send + Sync>;

impl Pushers {
    pub(super) fn new(nodes: &[&Node], keys: &ProductKeys) -> Result<Self, Failure> {
        let backend = |node: &&Node| {
            let (product, key) = (keys.product.as_str(), keys.api_key.as_str());
            Backend::builder(&node.http_url(), product, key, &keys.api_secret)
                .tuning(|tuning| {
                    tuning.in_flight_max = IN_FLIGHT_PER_NODE;
                    tuning.deadline = DEADLINE;
                })
                .build()
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
        };
        Ok(Self(Arc::new(nodes.iter().map(backend).collect::<Result<_, _>>()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// One push through the back-end with this number.
    pub(super) async fn push(&self, through: usize, push: Push) -> Outcome {
        let Some(backend) = self.0.get(through) else { return Outcome::Refused };
        match backend.push(push).await {
            Ok(accepted) if accepted.targets.iter().all(|target| target.error.is_none()) => {
                Outcome::Accepted
            }
            Ok(_) => Outcome::Refused,
            Err(error) if error.outcome_unknown => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        }
    }

    /// The same, which must be accepted.
    pub(super) async fn must(
        &self,
        through: usize,
        to: Addressed,
        json: String,
    ) -> Result<(), Failure> {
        match self.push(through, payload(to, json)?).await {
            Outcome::Accepted => Ok(()),
            other => Err(Failure::new(Exit::Failed, format!("a push was not accepted: {other:?}"))),
        }
    }

    /// Pushes at a steady rate, numbered from `first`, whether or not earlier ones are answered
    /// (open loop).
    pub(super) async fn at_rate(
        &self,
        rate: u32,
        length: Duration,
        first: u64,
        bytes: usize,
        aim: &Aim,
    ) -> Result<Vec<Sent>, Failure> {
        let count = u64::try_from(length.as_millis()).unwrap_or(0) * u64::from(rate) / 1000;
        let mut all = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut pushes: JoinSet<Result<Sent, Failure>> = JoinSet::new();
        let (start, start_ns) = (Instant::now(), monotonic_ns());
        for turn in 0..count {
            let due = Duration::from_nanos(turn * 1_000_000_000 / u64::from(rate));
            tokio::time::sleep_until(start + due).await;
            while let Some(done) = pushes.try_join_next() {
                all.push(joined(done)?);
            }
            let n = first + turn;
            let (through, terminal) = aim(n);
            let due_ns = start_ns + u64::try_from(due.as_nanos()).unwrap_or(0);
            let sent = Sent { n, terminal, due_ns, answered_ns: due_ns, outcome: Outcome::Held };
            let late = Instant::now() > start + length + LATE;
            if late || pushes.len() >= IN_FLIGHT_PER_NODE * self.len() {
                all.push(sent);
                continue;
            }
            let pushers = self.clone();
            pushes.spawn(async move { pushers.one(sent, through, bytes).await });
        }
        while let Some(done) = pushes.join_next().await {
            all.push(joined(done)?);
        }
        all.sort_unstable_by_key(|sent| sent.n);
        Ok(all)
    }

    /// Pushes as fast as `callers` can that each wait for the answer (closed loop), numbered from
    /// `first`, until `stop` says so.
    pub(super) async fn closed_loop(
        &self,
        callers: u32,
        first: u64,
        bytes: usize,
        aim: &Aim,
        stop: &watch::Sender<bool>,
    ) -> Result<Vec<Sent>, Failure> {
        let next = Arc::new(AtomicU64::new(first));
        let mut loops: JoinSet<Result<Vec<Sent>, Failure>> = JoinSet::new();
        for _ in 0..callers {
            let (pushers, next, aim) = (self.clone(), Arc::clone(&next), Arc::clone(aim));
            let stop = stop.subscribe();
            loops.spawn(async move {
                let mut own = Vec::new();
                while !*stop.borrow() {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let (through, terminal) = aim(n);
                    let due_ns = monotonic_ns();
                    let outcome = Outcome::Held;
                    let sent = Sent { n, terminal, due_ns, answered_ns: due_ns, outcome };
                    own.push(pushers.one(sent, through, bytes).await?);
                }
                Ok(own)
            });
        }
        let mut all = Vec::new();
        while let Some(done) = loops.join_next().await {
            all.extend(done.map_err(|error| Failure::local("push", error))??);
        }
        all.sort_unstable_by_key(|sent| sent.n);
        Ok(all)
    }

    async fn one(&self, mut sent: Sent, through: usize, bytes: usize) -> Result<Sent, Failure> {
        let push = payload(to_terminal(sent.terminal), Payload::json(sent.n, bytes))?;
        sent.outcome = self.push(through, push).await;
        sent.answered_ns = monotonic_ns();
        Ok(sent)
    }
}

fn joined(done: Result<Result<Sent, Failure>, tokio::task::JoinError>) -> Result<Sent, Failure> {
    done.map_err(|error| Failure::local("push", error))?
}

/// An aim in which every one of `nodes` back-ends pushes to each of `terminals` in turn.
pub(super) fn everywhere(nodes: usize, terminals: u32) -> Aim {
    to_each(nodes, (0..terminals.max(1)).collect())
}

/// The same for these terminals.
pub(super) fn to_each(nodes: usize, terminals: Vec<u32>) -> Aim {
    let (nodes, count) = (divisor(nodes), divisor(terminals.len()));
    Arc::new(move |n| {
        // Scattered: in turns, a terminal might get all its messages through the same node.
        let scattered = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let turn = usize::try_from(n % count).unwrap_or(0);
        let terminal = terminals.get(turn).copied().unwrap_or(0);
        (usize::try_from(scattered % nodes).unwrap_or(0), terminal)
    })
}

/// A number to divide by.
fn divisor(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(1).max(1)
}

/// Waits until everything that was accepted was received, and, when it is not known of more whether
/// they were accepted, until no more come. Receipts must be recorded.
pub(super) async fn all_in(
    loads: &mut Loads,
    sent: &[&[Sent]],
    within: Duration,
) -> Result<(Counts, Arrivals), Failure> {
    let deadline = Instant::now() + within;
    let of = |outcome| sent.iter().map(|sent| count(sent, outcome)).sum::<u64>();
    let mut counts = loads.received(of(Outcome::Accepted), within).await?;
    let mut arrivals = Arrivals::of(loads.receipts().await?);
    loop {
        // Late messages of earlier pushes are counted, too: the number alone does not tell.
        let lost: u64 = sent.iter().map(|sent| arrivals.lost(sent)).sum();
        if (lost == 0 && of(Outcome::Unknown) == 0) || Instant::now() >= deadline {
            return Ok((counts, arrivals));
        }
        let now = loads.received(counts.received + 1, QUIET).await?;
        let quiet = now.received == counts.received;
        counts = now;
        arrivals.add(loads.receipts().await?);
        if quiet && lost == 0 {
            return Ok((counts, arrivals));
        }
    }
}

/// How many had this outcome.
pub(super) fn count(sent: &[Sent], outcome: Outcome) -> u64 {
    u64::try_from(sent.iter().filter(|sent| sent.outcome == outcome).count()).unwrap_or(u64::MAX)
}

/// When each message was received first.
pub(super) struct Arrivals {
    first: HashMap<u64, u64>,
    again: u64,
}

impl Arrivals {
    pub(super) fn of(receipts: Vec<(u64, u64)>) -> Self {
        let mut arrivals = Self { first: HashMap::with_capacity(receipts.len()), again: 0 };
        arrivals.add(receipts);
        arrivals
    }

    fn add(&mut self, receipts: Vec<(u64, u64)>) {
        for (n, at) in receipts {
            match self.first.entry(n) {
                Entry::Vacant(entry) => {
                    entry.insert(at);
                }
                Entry::Occupied(mut entry) => {
                    self.again += 1;
                    entry.insert(at.min(*entry.get()));
                }
            }
        }
    }

    pub(super) fn get(&self, n: u64) -> Option<u64> {
        self.first.get(&n).copied()
    }

    /// Messages that came again as if they were other ones.
    pub(super) const fn again(&self) -> u64 {
        self.again
    }

    /// Accepted ones that never came.
    pub(super) fn lost(&self, sent: &[Sent]) -> u64 {
        let lost = |sent: &&Sent| sent.outcome == Outcome::Accepted && self.get(sent.n).is_none();
        u64::try_from(sent.iter().filter(lost).count()).unwrap_or(u64::MAX)
    }
}

/// Times of messages from two moments on until they were received.
pub(super) struct Latencies {
    /// From the moment the push was to start.
    pub(super) due: Histogram<u64>,
    /// From the answer.
    pub(super) accepted: Histogram<u64>,
}

impl Latencies {
    /// Of those that were accepted and came.
    pub(super) fn of<'a>(
        sent: impl IntoIterator<Item = &'a Sent>,
        arrivals: &Arrivals,
    ) -> Result<Self, Failure> {
        let mut all = Self { due: histogram()?, accepted: histogram()? };
        for sent in sent {
            let Some(at) = arrivals.get(sent.n) else { continue };
            if sent.outcome == Outcome::Accepted {
                all.due.saturating_record(at.saturating_sub(sent.due_ns));
                all.accepted.saturating_record(at.saturating_sub(sent.answered_ns));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sent(n: u64, due_ns: u64, outcome: Outcome) -> Sent {
        Sent { n, terminal: 0, due_ns, answered_ns: due_ns + 10, outcome }
    }

    #[test]
    fn every_node_pushes_to_terminals_of_every_node() {
        for (nodes, terminals) in [(3, 300), (3, 100), (2, 2), (8, 40), (3, 5001)] {
            let aim = everywhere(nodes, terminals);
            let mut pairs: BTreeMap<(usize, usize), u32> = BTreeMap::new();
            let mut own: BTreeMap<u32, std::collections::BTreeSet<usize>> = BTreeMap::new();
            for n in 0..u64::from(terminals) * 24 {
                let (through, terminal) = aim(n);
                assert!(through < nodes && terminal < terminals);
                let gateway = usize::try_from(terminal).unwrap() % nodes;
                *pairs.entry((through, gateway)).or_default() += 1;
                own.entry(terminal).or_default().insert(through);
            }
            assert_eq!(pairs.len(), nodes * nodes, "{nodes} {terminals}: {pairs:?}");
            assert!(own.values().all(|throughs| throughs.len() > 1), "{nodes} {terminals}");
        }
    }

    #[test]
    fn only_what_was_accepted_can_be_lost_and_the_first_receipt_counts() {
        let all = [
            sent(1, 100, Outcome::Accepted),
            sent(2, 100, Outcome::Accepted),
            sent(3, 100, Outcome::Unknown),
            sent(4, 100, Outcome::Refused),
        ];
        let arrivals = Arrivals::of(vec![(1, 900), (1, 600)]);
        assert_eq!((arrivals.get(1), arrivals.lost(&all), arrivals.again()), (Some(600), 1, 1));
        assert_eq!(count(&all, Outcome::Accepted), 2);
        let latencies = Latencies::of(&all, &arrivals).unwrap();
        assert_eq!((latencies.due.len(), latencies.due.max()), (1, 500));
        assert_eq!(latencies.accepted.max(), 490);
    }
}
