//! The end of a run: nothing is pushed any more, everybody is online, and what is owed arrives.

mod ledger;

use std::time::{Duration, Instant};

use clarion_protocol::Code;
use clarion_protocol::http::Counts;
use clarion_sdk::Backend;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::history::{Event, History};

use ledger::Countable;
pub(crate) use ledger::Ledger;

/// How long anything that is waited for may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long counts that may have been lost in part are waited for.
const LOST_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pushes whose counts are asked for; of more, so many are drawn.
const COUNTED_MAX: usize = 20_000;
/// Requests for counts under way.
const IN_FLIGHT: usize = 16;

/// Whether counts of pushes close to a fault may be lost in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsNearFaults {
    /// Nothing is lost: whoever left something uncounted is found by the next session.
    Whole,
    /// Some are, for a reason that the run names.
    MayLack,
}

/// Waits until nothing is missing. What is missing at the deadline is for the checker.
pub async fn everything_arrived(history: &History) {
    let arrived = async {
        while history.ledger(Ledger::missing) > 0 {
            sleep(LOOK_AGAIN).await;
        }
    };
    // Nothing is done about it here.
    let _ = timeout(DEADLINE, arrived).await;
}

/// Asks for the counts of accepted pushes, until none is pending and all are what the history says;
/// the last answer is recorded (I13), for the checker to judge. `backends` is one for each product,
/// with its name; of products that are not among them nothing is asked.
///
/// # Errors
/// When there is no answer.
pub async fn count(
    history: &History,
    backends: &[(String, Backend)],
    near_faults: CountsNearFaults,
) -> Result<(), Failure> {
    let products: Vec<&str> = backends.iter().map(|(name, _)| name.as_str()).collect();
    let (mut rest, of) = history.ledger(|ledger| ledger.countable(&products, COUNTED_MAX));
    history.add(Event::Counting { asked: rest.len() as u64, of: of as u64 });
    let asking = Asking { history, backends, near_faults, since: Instant::now() };
    while !rest.is_empty() {
        rest = asking.round(rest).await?;
        if !rest.is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

struct Asking<'a> {
    history: &'a History,
    backends: &'a [(String, Backend)],
    near_faults: CountsNearFaults,
    since: Instant,
}

impl Asking<'_> {
    /// Asks about each once; says which to ask about again.
    async fn round(&self, pushes: Vec<Countable>) -> Result<Vec<Countable>, Failure> {
        let (mut open, mut asked) = (Vec::new(), FuturesUnordered::new());
        let mut pushes = pushes.into_iter();
        loop {
            while asked.len() < IN_FLIGHT
                && let Some(push) = pushes.next()
            {
                asked.push(self.one(push));
            }
            match asked.next().await {
                Some(again) => open.extend(again?),
                None => return Ok(open),
            }
        }
    }

    async fn one(&self, push: Countable) -> Result<Option<Countable>, Failure> {
        let of = |(name, _): &&(String, Backend)| *name == *push.product;
        let Some((_, backend)) = self.backends.iter().find(of) else { return Ok(None) };
        let near_fault = push.near_fault && self.near_faults == CountsNearFaults::MayLack;
        let may_lack = near_fault || push.may_be_gone;
        let deadline = if may_lack { LOST_DEADLINE } else { DEADLINE };
        let late = self.since.elapsed() > deadline;
        match backend.message(push.id).await {
            Ok(state) if late || is_done(&state.counts, &push) => {
                self.history.add(Event::Counted { key: push.key, counts: state.counts });
                Ok(None)
            }
            Ok(_) => Ok(Some(push)),
            Err(error) if may_lack && error.code() == Some(Code::MessageUnknown) => Ok(None),
            // The store may have to come back first.
            Err(error) if error.retryable && self.since.elapsed() < DEADLINE => Ok(Some(push)),
            Err(error) => Err(Failure::of("cannot ask for counts")(error)),
        }
    }
}

fn is_done(counts: &Counts, push: &Countable) -> bool {
    // What expires meanwhile may have been given without being acknowledged in time, and so may what
    // is given to a terminal that is about to leave the topic.
    let settled = counts.acknowledged + counts.suppressed >= push.given;
    counts.pending == 0 && (push.short_lived || settled)
}
