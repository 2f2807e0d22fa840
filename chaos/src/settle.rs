//! The end of a run: nothing is pushed any more, everybody is online, and what is owed arrives.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use clarion_protocol::{Code, MessageId};
use clarion_sdk::Backend;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::check;
use crate::history::{Event, History, Name, Record};

/// How long anything that is waited for may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long counts that may have been lost in part are waited for.
const LOST_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Waits until nothing is missing. What is missing at the deadline is for the checker.
pub async fn everything_arrived(history: &History) {
    let arrived = async {
        while !history.look(check::missing).is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    };
    // Nothing is done about it here.
    let _ = timeout(DEADLINE, arrived).await;
}

/// Asks for the counts of every accepted push, until none is pending and all are what the history
/// says; the last answer is recorded (I13), for the checker to judge. Counts that may have been lost
/// in part with a node or a Redis server are waited for a little while only. `backends` is one for each product, with its name.
///
/// # Errors
/// When there is no answer.
pub async fn count(history: &History, backends: &[(String, Backend)]) -> Result<(), Failure> {
    let deadline = Instant::now() + DEADLINE;
    let lost = history.look(check::counts_may_be_lost);
    let lost_deadline = Instant::now() + LOST_DEADLINE;
    let mut rest = history.look(accepted);
    while !rest.is_empty() {
        let mut open = Vec::new();
        for push in rest {
            let (key, id, own) = &push;
            let product = |(name, _): &&(String, Backend)| key.starts_with(&format!("{name}-"));
            let Some((_, backend)) = backends.iter().find(product) else { continue };
            let may_lack = lost.contains(key);
            let counts = match backend.message(*id).await {
                Ok(state) => state.counts,
                Err(error) if may_lack && error.code() == Some(Code::MessageUnknown) => continue,
                // The store may have to come back first.
                Err(error) if error.retryable && Instant::now() < deadline => {
                    open.push(push);
                    continue;
                }
                Err(error) => return Err(Failure::of("cannot ask for counts")(error)),
            };
            let done = counts.pending == 0 && counts.acknowledged == *own;
            let end = if may_lack { lost_deadline } else { deadline };
            if done || Instant::now() > end {
                history.add(Event::Counted { key: key.clone(), counts });
            } else {
                open.push(push);
            }
        }
        rest = open;
        if !rest.is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Every accepted push, its id, and how many terminals have it.
fn accepted(records: &[Record]) -> Vec<(Name, MessageId, u64)> {
    let mut given: HashMap<&Name, HashSet<&Name>> = HashMap::new();
    let mut accepted = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::Delivered { key, who, .. } => {
                given.entry(key).or_default().insert(who);
            }
            Event::Accepted { key, id, .. } => {
                accepted.insert(key, *id);
            }
            _ => {}
        }
    }
    let have = |key: &Name| given.get(key).map_or(0, HashSet::len) as u64;
    accepted.into_iter().map(|(key, id)| (key.clone(), id, have(key))).collect()
}
