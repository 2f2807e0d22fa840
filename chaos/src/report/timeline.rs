//! What happened in each second of a run.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::history::{Event, Name, Record};
use crate::interruption::Spread;

const SECOND: u64 = 1_000_000_000;

/// One second.
#[derive(Debug, Default, Serialize)]
pub struct Second {
    /// Pushes that were made.
    pub pushed: u32,
    /// That were accepted.
    pub accepted: u32,
    /// That were refused, or whose outcome stayed unknown.
    pub failed: u32,
    /// Messages that terminals were given.
    pub delivered: u32,
    /// Sessions that are open at its end.
    pub sessions: u32,
    /// From push to acceptance, for those that were accepted in it; milliseconds.
    pub push_p50_ms: f64,
    /// The longest of them.
    pub push_max_ms: f64,
    /// From acceptance to delivery.
    pub delivery_p50_ms: f64,
    /// 99 of 100 of them.
    pub delivery_p99_ms: f64,
}

pub(super) fn seconds(records: &[Record]) -> Vec<Second> {
    let end = records.last().map_or(0, |record| record.t);
    let count = usize::try_from(end / SECOND + 1).unwrap_or(0);
    let mut all: Vec<Second> = Vec::with_capacity(count);
    let (mut invoked, mut accepted) = (HashMap::<&Name, u64>::new(), HashMap::<&Name, u64>::new());
    let mut open: HashSet<&Name> = HashSet::new();
    let (mut second, mut pushes, mut ways) = (Second::default(), Vec::new(), Vec::new());
    let mut close =
        |second: &mut Second, open: &HashSet<&Name>, pushes: &mut Vec<u64>, ways: &mut Vec<u64>| {
            second.sessions = u32::try_from(open.len()).unwrap_or(u32::MAX);
            let push = Spread::of(std::mem::take(pushes));
            (second.push_p50_ms, second.push_max_ms) = (push.p50_ms, push.max_ms);
            let way = Spread::of(std::mem::take(ways));
            (second.delivery_p50_ms, second.delivery_p99_ms) = (way.p50_ms, way.p99_ms);
            all.push(std::mem::take(second));
        };
    let mut number = 0;
    for Record { t, event, .. } in records {
        while number < t / SECOND {
            close(&mut second, &open, &mut pushes, &mut ways);
            number += 1;
        }
        match event {
            Event::Invoke { key, .. } => {
                second.pushed += 1;
                invoked.insert(key, *t);
            }
            Event::Accepted { key, .. } if accepted.insert(key, *t).is_none() => {
                second.accepted += 1;
                pushes.extend(invoked.get(key).map(|since| t - since));
            }
            Event::Refused { .. } | Event::Unknown { .. } => second.failed += 1,
            Event::Delivered { key, .. } => {
                second.delivered += 1;
                ways.push(accepted.get(key).map_or(0, |since| t - since));
            }
            Event::Opened { who, .. } => drop(open.insert(who)),
            Event::Left { who, .. } => drop(open.remove(who)),
            _ => {}
        }
    }
    close(&mut second, &open, &mut pushes, &mut ways);
    all
}
