//! The back-ends of a load process: pushers, whoever fills a topic and takes terminals out of it
//! again, and a flood when one is wanted.

use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::http::{PushAccepted, Target, TargetOutcome};
use clarion_protocol::{Code, TerminalId, TopicName};
use clarion_sdk::backend::RequestTuning;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::{Backend, PushError};
use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::plan::{Product, State, Wanted};
use super::teller::Teller;
use super::terminal::topic_log;
use super::{Doors, TOPIC_FILLED, flip_pause, flood, pushers};
use crate::Failure;
use crate::history::{Event, Name};

/// How long a change of a topic may take. It is asked for once: a request that stands unread before
/// a hung node may be done when that wakes, so after no answer it is left at that.
const CHANGE: Duration = Duration::from_secs(5);

/// What back-ends share.
#[derive(Clone)]
pub(super) struct Common {
    pub doors: Arc<Doors>,
    pub teller: Arc<Teller>,
    pub wanted: watch::Receiver<Wanted>,
    pub seed: u64,
}

impl Common {
    /// Waits until the back-ends are to end.
    pub async fn stops(&mut self) {
        // Nobody is left to want anything: the process ends.
        let _ = self.wanted.wait_for(|wanted| wanted.stop).await;
    }

    /// Tells what a push was answered, by the door at this place.
    pub fn answered(&self, key: &Name, at: usize, outcome: Result<PushAccepted, PushError>) {
        let key = Name::clone(key);
        self.teller.add(match outcome {
            Ok(PushAccepted { id, targets, replayed, .. }) => {
                let targets = targets.into_iter().filter_map(known).collect();
                Event::Accepted { key, id, targets, door: self.doors.http_name(at), replayed }
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

/// A back-end of a product for each door.
pub(super) fn at_all_doors(
    common: &Common,
    product: &Product,
    tune: impl Fn(&mut RequestTuning),
) -> Result<Vec<Backend>, Failure> {
    let backend = |door: &super::Door| {
        Backend::builder(&door.url, &product.name, &product.key, &product.secret)
            .tuning(&tune)
            .build()
            .map_err(Failure::of("cannot make a back-end"))
    };
    common.doors.http.iter().map(backend).collect()
}

/// Runs the back-ends until they are to end, and tells when they have.
pub(super) async fn run(
    common: Common,
    products: Vec<Product>,
    pushes_per_s: u32,
    members_change: bool,
) -> Result<(), Failure> {
    let every = pushers::pace(pushes_per_s, products.len());
    let mut tasks = JoinSet::new();
    for (number, product) in (0..).zip(&products) {
        pushers::start(&common, product, every, number, &mut tasks)?;
        if members_change {
            tasks.spawn(members(common.clone(), product.clone(), number));
        }
    }
    tasks.spawn(flood::run(common.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(Failure::of("a back-end"))??;
    }
    common.teller.state(State::Stopped);
    Ok(())
}

/// Takes terminals out of the filled topic and puts them back, one after the other.
async fn members(common: Common, product: Product, number: u64) -> Result<(), Failure> {
    let never = Duration::from_secs(86_400);
    let nodes = at_all_doors(&common, &product, |tuning| {
        tuning.retry = Backoff { base: never, cap: never };
        (tuning.attempt_timeout, tuning.deadline) = (CHANGE, CHANGE);
    })?;
    let mut rng = Rng::with_seed(common.seed ^ number << 8);
    // Every other stays where it is; who is in doubt is left alone.
    let mut inside: Vec<String> = product.filled.iter().step_by(2).cloned().collect();
    let mut outside: Vec<String> = Vec::new();
    let mut stops = common.clone();
    loop {
        tokio::select! {
            () = sleep(flip_pause(&mut rng)) => {}
            () = stops.stops() => return Ok(()),
        }
        let joins = !outside.is_empty() && (inside.is_empty() || rng.bool());
        let (from, to) =
            if joins { (&mut outside, &mut inside) } else { (&mut inside, &mut outside) };
        if from.is_empty() || nodes.is_empty() {
            continue;
        }
        let name = from.swap_remove(rng.usize(..from.len()));
        let node = &nodes[rng.usize(..nodes.len())];
        if change(&common, node, &product.name, &name, joins).await? {
            to.push(name);
        }
    }
}

/// Puts a terminal into the filled topic, or takes it out; false when nobody knows whether it was.
async fn change(
    common: &Common,
    node: &Backend,
    product: &Name,
    terminal: &str,
    joins: bool,
) -> Result<bool, Failure> {
    let topic = TopicName::new(TOPIC_FILLED).map_err(Failure::of("the topic"))?;
    let id = TerminalId::new(terminal).map_err(Failure::of("a terminal"))?;
    let Some(log) = topic_log(TOPIC_FILLED) else { return Ok(false) };
    let who = Name::from(format!("{product}/{terminal}"));
    let (before, after) = if joins {
        let (who2, log2) = (who.clone(), log.clone());
        (Event::Joining { who, log }, Event::Joined { who: who2, log: log2 })
    } else {
        let (who2, log2) = (who.clone(), log.clone());
        (Event::Leaving { who, log }, Event::LeftTopic { who: who2, log: log2 })
    };
    common.teller.add(before);
    let outcomes = if joins {
        node.put_members(&topic, vec![id]).await
    } else {
        node.remove_members(&topic, vec![id]).await
    };
    let done = outcomes.is_ok_and(|outcomes| {
        outcomes.iter().all(|outcome| outcome.error.is_none() && outcome.member == joins)
    });
    if done {
        common.teller.add(after);
    }
    Ok(done)
}
