//! Single changes to a good history, made anywhere in it, each of which must be found.
#![allow(clippy::ptr_arg, reason = "all mutations are of one type")]

use std::collections::{BTreeMap, BTreeSet};

use clarion_chaos::history::{Client, Event, Name, Record};
use clarion_protocol::{LogName, Offset};
use fastrand::Rng;

use super::tape::{MS, id_of};

/// A change; false where the history holds nothing that it could be made to.
pub type Mutation = fn(&mut Vec<Record>, &mut Rng) -> bool;

pub const ALL: [(&str, Mutation); 24] = [
    ("a delivery is left out", drop_delivery),
    ("a payload is altered", |records, rng| {
        delivery(
            records,
            rng,
            |_| true,
            |event| {
                if let Event::Delivered { hash, .. } = event {
                    *hash = "another".into();
                }
            },
        )
    }),
    ("a key is made up", |records, rng| {
        delivery(
            records,
            rng,
            |_| true,
            |event| {
                if let Event::Delivered { key, .. } = event {
                    *key = "nobody's".into();
                }
            },
        )
    }),
    ("another product's terminal gets it too", to_another_product),
    ("the SDK shows one twice", twice_by_sdk),
    ("two change places in a session", change_places),
    ("an offset is another for one", |records, rng| {
        let answered = answered_once(records);
        delivery(
            records,
            rng,
            |key| answered.contains(key),
            |event| {
                if let Event::Delivered { offset: Some(offset), .. } = event {
                    offset.0 += 1;
                }
            },
        )
    }),
    ("an id is another for one", |records, rng| {
        delivery(
            records,
            rng,
            |_| true,
            |event| {
                if let Event::Delivered { id, .. } = event {
                    *id = id_of("another");
                }
            },
        )
    }),
    ("a generation comes again", same_generation),
    ("a position goes back", lower_position),
    ("an acknowledgement is counted that was none", |records, rng| {
        one(records, rng, |record| match &mut record.event {
            Event::Counted { counts, .. } => {
                counts.acknowledged += 1;
                counts.delivered += 1;
                counts.audience += 1;
                true
            }
            _ => false,
        })
    }),
    ("one stays pending", |records, rng| {
        one(records, rng, |record| match &mut record.event {
            Event::Counted { counts, .. } if counts.acknowledged > 0 => {
                counts.acknowledged -= 1;
                counts.pending += 1;
                true
            }
            _ => false,
        })
    }),
    ("one is not counted", |records, rng| {
        remove(records, rng, |event| matches!(event, Event::Counted { .. }))
    }),
    ("there is trouble", |records, rng| {
        insert(records, rng, |who| Event::Trouble { who, what: "ended".to_owned() })
    }),
    ("a gap is told for nothing", |records, rng| {
        insert(records, rng, |who| Event::ToldGap {
            who,
            session: 1,
            log: LogName::Broadcast,
            from: Offset(3),
            to: Offset(5),
            epoch: clarion_protocol::Epoch(1),
            reason: "evicted".into(),
        })
    }),
    ("a fault is never mended", never_mended),
    ("a node keeps memory", |records, _| at_end(records, |sample| sample.rss_kib = Some(900_000))),
    ("a node keeps sockets", |records, _| at_end(records, |sample| sample.fds = Some(4_000))),
    ("a node keeps a queue", |records, _| at_end(records, |sample| sample.queued_bytes = Some(9))),
    ("the head check found something", |records, rng| {
        one(records, rng, |record| match &mut record.event {
            Event::HeadChecked { found } => {
                *found = 3;
                true
            }
            _ => false,
        })
    }),
    ("an answer comes late", |records, rng| {
        let once = answered_once(records);
        late(records, rng, |event| match event {
            Event::Accepted { key, .. } => once.contains(key) && key.starts_with("p1"),
            _ => false,
        })
    }),
    ("a delivery comes late", |records, rng| {
        let once = answered_once(records);
        let first = first_deliveries(records);
        late(records, rng, |event| match event {
            Event::Delivered { who, key, .. } => {
                once.contains(key)
                    && key.starts_with("p1")
                    && first.get(&(who.clone(), key.clone())) == Some(&1)
            }
            _ => false,
        })
    }),
    ("it was refused", refused),
    ("it was pushed afterwards", pushed_afterwards),
];

/// Changes one of the records that can be.
fn one(records: &mut [Record], rng: &mut Rng, mut change: impl FnMut(&mut Record) -> bool) -> bool {
    let mut order: Vec<usize> = (0..records.len()).collect();
    rng.shuffle(&mut order);
    order.into_iter().any(|index| change(&mut records[index]))
}

/// Changes one delivery of a push of which `of` says yes, but none that was sent again.
fn delivery(
    records: &mut [Record],
    rng: &mut Rng,
    of: impl Fn(&Name) -> bool,
    change: impl Fn(&mut Event),
) -> bool {
    one(records, rng, |record| {
        let is = matches!(&record.event, Event::Delivered { key, offset: Some(_), .. } if of(key));
        if is {
            change(&mut record.event);
        }
        is
    })
}

fn remove(records: &mut Vec<Record>, rng: &mut Rng, of: impl Fn(&Event) -> bool) -> bool {
    let numbered = records.iter().enumerate();
    let found: Vec<usize> =
        numbered.filter(|(_, record)| of(&record.event)).map(|(index, _)| index).collect();
    let chosen = rng.choice(found).map(|index| records.remove(index));
    chosen.is_some()
}

fn insert(records: &mut Vec<Record>, rng: &mut Rng, event: impl Fn(Name) -> Event) -> bool {
    let opened = records.iter().enumerate().filter_map(|(index, record)| match &record.event {
        Event::Opened { who, .. } => Some((index, record.t, who.clone())),
        _ => None,
    });
    let Some((index, t, who)) = rng.choice(opened.collect::<Vec<_>>()) else { return false };
    records.insert(index + 1, Record { t: t + 1, by: "load-0".into(), event: event(who) });
    true
}

/// Pushes that were accepted once, with every target, and live longer than the run.
fn answered_once(records: &[Record]) -> BTreeSet<Name> {
    let mut answers: BTreeMap<Name, u32> = BTreeMap::new();
    let mut lives = BTreeSet::new();
    for record in records {
        match &record.event {
            Event::Accepted { key, targets, .. } => {
                let whole = targets.iter().all(|(_, offset)| offset.is_some());
                *answers.entry(key.clone()).or_default() += if whole { 1 } else { 2 };
            }
            Event::Invoke { key, ttl_ms: None, .. } => {
                lives.insert(key.clone());
            }
            _ => {}
        }
    }
    answers.retain(|key, answers| *answers == 1 && lives.contains(key));
    answers.into_keys().collect()
}

/// How often each terminal was given each push.
fn first_deliveries(records: &[Record]) -> BTreeMap<(Name, Name), u32> {
    let mut times = BTreeMap::new();
    for record in records {
        if let Event::Delivered { who, key, .. } = &record.event {
            *times.entry((who.clone(), key.clone())).or_default() += 1;
        }
    }
    times
}

fn drop_delivery(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let answered = answered_once(records);
    let all = records.iter().filter_map(|record| match &record.event {
        Event::Delivered { who, key, log: LogName::Terminal, .. } if answered.contains(key) => {
            Some((who.clone(), key.clone()))
        }
        _ => None,
    });
    let Some((of, push)) = rng.choice(all.collect::<Vec<_>>()) else { return false };
    records.retain(|record| {
        !matches!(&record.event, Event::Delivered { who, key, .. } if *who == of && *key == push)
    });
    true
}

fn to_another_product(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let given = records.iter().enumerate();
    let given = given.filter(|(_, record)| matches!(record.event, Event::Delivered { .. }));
    let given: Vec<(usize, Record)> = given.map(|(index, r)| (index, r.clone())).collect();
    let Some((index, mut record)) = rng.choice(given) else { return false };
    if let Event::Delivered { who, .. } = &mut record.event {
        let other = match who.split_once('/') {
            Some(("p0", terminal)) => format!("p1/{terminal}"),
            Some((_, terminal)) => format!("p0/{terminal}"),
            None => return false,
        };
        *who = other.into();
    }
    records.insert(index + 1, record);
    true
}

fn clients(records: &[Record]) -> BTreeMap<Name, Client> {
    let terminals = records.iter().filter_map(|record| match &record.event {
        Event::Terminal { who, client, .. } => Some((who.clone(), *client)),
        _ => None,
    });
    terminals.collect()
}

fn twice_by_sdk(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let clients = clients(records);
    let given = records.iter().enumerate().filter(|(_, record)| {
        matches!(&record.event, Event::Delivered { who, .. } if clients[who] == Client::Sdk)
    });
    let given: Vec<usize> = given.map(|(index, _)| index).collect();
    let Some(index) = rng.choice(given) else { return false };
    let again = records[index].clone();
    records.insert(index + 1, again);
    true
}

fn change_places(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let mut last: BTreeMap<(Name, u64, LogName), usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for (index, record) in records.iter().enumerate() {
        if let Event::Delivered { who, session, log, offset: Some(offset), again: false, .. } =
            &record.event
        {
            let place = (who.clone(), *session, log.clone());
            if let Some(before) = last.insert(place, index)
                && matches!(&records[before].event, Event::Delivered { offset: Some(o), .. } if o < offset)
            {
                pairs.push((before, index));
            }
        }
    }
    let Some((first, second)) = rng.choice(pairs) else { return false };
    let event = records[first].event.clone();
    records[first].event = std::mem::replace(&mut records[second].event, event);
    true
}

fn same_generation(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    one(records, rng, |record| match &mut record.event {
        Event::Opened { session, generation, .. } if *session > 1 => {
            *generation -= 1;
            true
        }
        _ => false,
    })
}

fn lower_position(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    // Where the session before started: it may start there at the least.
    let mut before: BTreeMap<Name, BTreeMap<LogName, Offset>> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, record) in records.iter().enumerate() {
        if let Event::Opened { who, positions, .. } = &record.event {
            let told: BTreeMap<_, _> = positions.iter().cloned().collect();
            let last = before.insert(who.clone(), told);
            for (log, offset) in last.into_iter().flatten().filter(|(_, offset)| offset.0 > 0) {
                // Topics may have been left in between.
                let inbox = matches!(log, LogName::Terminal | LogName::User);
                if inbox {
                    found.push((index, log, offset));
                }
            }
        }
    }
    let Some((index, of, offset)) = rng.choice(found) else { return false };
    if let Event::Opened { positions, .. } = &mut records[index].event {
        for (log, position) in positions.iter_mut().filter(|(log, _)| *log == of) {
            *position = Offset(offset.0 - 1);
            let _ = log;
        }
    }
    true
}

fn never_mended(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let faults = records.iter().filter_map(|record| match record.event {
        Event::Fault { n, .. } => Some(n),
        _ => None,
    });
    let Some(of) = rng.choice(faults.collect::<Vec<_>>()) else { return false };
    records.retain(
        |record| !matches!(record.event, Event::Mended { n } | Event::Healed { n } if n == of),
    );
    true
}

fn at_end(records: &mut [Record], change: impl Fn(&mut clarion_chaos::history::Sample)) -> bool {
    let mut left = 6;
    for record in records.iter_mut().rev() {
        if let Event::Sample(sample) = &mut record.event
            && &*sample.process == "node:node-1"
            && left > 0
        {
            change(sample);
            left -= 1;
        }
    }
    left == 0
}

/// What is seen after the last fault comes long after it was. Not of the product that flooded: what
/// it waits for is its own.
fn late(records: &mut Vec<Record>, rng: &mut Rng, of: impl Fn(&Event) -> bool) -> bool {
    let healed = records.iter().rposition(|record| matches!(record.event, Event::Healed { .. }));
    let healed = healed.map_or(0, |index| records[index].t);
    let found =
        records.iter().enumerate().filter(|(_, record)| record.t > healed && of(&record.event));
    let found: Vec<usize> = found.map(|(index, _)| index).collect();
    let Some(index) = rng.choice(found) else { return false };
    records[index].t += 21_000 * MS;
    records.sort_by_key(|record| record.t);
    true
}

fn refused(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let once = answered_once(records);
    let given: BTreeSet<Name> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Delivered { key, .. } => Some(key.clone()),
            _ => None,
        })
        .collect();
    one(records, rng, |record| match &record.event {
        Event::Accepted { key, .. } if once.contains(key) && given.contains(key) => {
            record.event = Event::Refused { key: key.clone(), why: "overloaded".to_owned() };
            true
        }
        _ => false,
    })
}

fn pushed_afterwards(records: &mut Vec<Record>, rng: &mut Rng) -> bool {
    let mut first: BTreeMap<Name, u64> = BTreeMap::new();
    for record in records.iter() {
        if let Event::Delivered { key, .. } = &record.event {
            first.entry(key.clone()).or_insert(record.t);
        }
    }
    let done = one(records, rng, |record| match &record.event {
        Event::Invoke { key, .. } => first.get(key).is_some_and(|first| {
            record.t = first + 1;
            true
        }),
        _ => false,
    });
    records.sort_by_key(|record| record.t);
    done
}
