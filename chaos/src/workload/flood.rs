//! A product that pushes as fast as it can, whatever it is answered: others must not notice.

use std::time::Duration;

use clarion_protocol::TerminalId;
use clarion_protocol::http::Target;
use clarion_sdk::Push;
use clarion_sdk::backoff::Backoff;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval};

use super::backends::{self, Common};
use super::payload::{hash, payload};
use super::plan::{Flood, Wanted};
use crate::Failure;
use crate::history::{Event, Name};

/// Its pusher, in the history.
const LANE: &str = "flood";
/// Turns a second in which it sends what is due.
const TURNS_PER_S: u32 = 50;
/// Pushes under way at most; the rest of what is due waits.
const IN_FLIGHT: usize = 128;
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What it pushes is gone soon: nobody comes back for it.
const TTL_S: u64 = 60;
/// The padding of its payloads.
const PADDING_BYTES: usize = 500;

/// Floods whenever that is wanted; ends with the back-ends.
pub(super) async fn run(mut common: Common) -> Result<(), Failure> {
    let mut pushed = 0;
    loop {
        let next = |wanted: &Wanted| wanted.stop || wanted.flood.is_some();
        let flood = match common.wanted.wait_for(next).await.as_deref() {
            Ok(Wanted { stop: false, flood: Some(flood), .. }) => flood.clone(),
            _ => return Ok(()),
        };
        one(&mut common, &flood, &mut pushed).await?;
    }
}

/// One flood, until another thing is wanted.
async fn one(common: &mut Common, flood: &Flood, pushed: &mut u64) -> Result<(), Failure> {
    let never = Duration::from_secs(86_400);
    let nodes = backends::at_all_doors(common, &flood.product, |tuning| {
        tuning.retry = Backoff { base: never, cap: never };
        (tuning.attempt_timeout, tuning.deadline) = (PATIENCE, PATIENCE);
    })?;
    let terminals = &flood.product.terminals;
    if nodes.is_empty() || terminals.is_empty() {
        return Err(Failure::new("a flood needs doors and terminals"));
    }
    let mut turns = interval(Duration::from_secs(1) / TURNS_PER_S);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = FuturesUnordered::new();
    let mut wanted = common.wanted.clone();
    let other = |now: &Wanted| now.stop || now.flood.as_ref() != Some(flood);
    loop {
        tokio::select! {
            _ = wanted.wait_for(other) => break,
            Some((key, at, outcome)) = under_way.next() => common.answered(&key, at, outcome),
            _ = turns.tick() => {
                for _ in 0..(flood.pushes_per_s / TURNS_PER_S).max(1) {
                    if under_way.len() >= IN_FLIGHT {
                        break;
                    }
                    let place = *pushed as usize;
                    let terminal = &terminals[place % terminals.len()];
                    let (key, push) = make(common, flood, terminal, *pushed)?;
                    *pushed += 1;
                    let node = nodes[place % nodes.len()].clone();
                    under_way.push(async move { (key, place, node.push(push).await) });
                }
            }
        }
    }
    while let Some((key, at, outcome)) = under_way.next().await {
        common.answered(&key, at, outcome);
    }
    Ok(())
}

fn make(
    common: &Common,
    flood: &Flood,
    terminal: &str,
    number: u64,
) -> Result<(Name, Push), Failure> {
    let product = &flood.product.name;
    let key: Name = format!("{product}-{LANE}-{number}").into();
    let payload = payload(&key, PADDING_BYTES);
    let id = TerminalId::new(terminal).map_err(Failure::of("a terminal"))?;
    let push = Push::to_terminal(terminal).bytes(super::payload::CONTENT_TYPE, payload.as_bytes());
    let push = push.map_err(Failure::of("the push"))?.ttl(TTL_S).idempotency_key(&*key);
    common.teller.add(Event::Invoke {
        key: Name::clone(&key),
        product: Name::clone(product),
        targets: vec![Target::Terminal(id)],
        hash: hash(payload.as_bytes()).into(),
        ttl_ms: Some(TTL_S * 1000),
        lane: LANE.into(),
        patient: false,
        door: common.doors.http_name(number as usize),
    });
    Ok((key, push))
}
