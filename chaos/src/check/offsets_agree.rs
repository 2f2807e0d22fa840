//! C12: an offset of a log means one message, the same for all.

use std::collections::HashMap;

use clarion_protocol::{MessageId, Offset};

use super::facts::Facts;
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 12,
    name: "offsets-agree",
    proves: "I1, I2",
    promise: "an offset of a log means one id, and an id has one offset in it: for all terminals, \
              and in the answers",
    check,
};

/// What somebody was told: the place in the log, the id, and the record that says so.
type Place = (usize, Offset, MessageId, u32);

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    // Told by answers, then by deliveries; one log after the other, to be small.
    let mut told: HashMap<u32, Vec<Place>> = HashMap::new();
    for answered in &facts.answered {
        let place = (facts.lineage(answered.at), answered.offset, answered.id, answered.record);
        told.entry(answered.log).or_default().push(place);
    }
    for delivery in &facts.deliveries {
        let Some(offset) = delivery.offset else { continue };
        let place = (facts.lineage(delivery.at), offset, delivery.id, delivery.record);
        told.entry(delivery.log).or_default().push(place);
    }
    let mut logs: Vec<u32> = told.keys().copied().collect();
    logs.sort_unstable();
    for log in logs {
        let places = told.remove(&log).unwrap_or_default();
        judge(facts, findings, log, &places);
    }
}

fn judge(facts: &Facts<'_>, findings: &mut Findings<'_>, log: u32, places: &[Place]) {
    let mut offsets: HashMap<(usize, Offset), (MessageId, u32)> = HashMap::new();
    let mut ids: HashMap<(usize, MessageId), (Offset, u32)> = HashMap::new();
    let title = &facts.log(log).title;
    for (lineage, offset, id, record) in places {
        let there = *offsets.entry((*lineage, *offset)).or_insert((*id, *record));
        if there.0 != *id {
            let other = there.0;
            findings.say(
                || format!("{title} {offset} is {id}, and {other} for another"),
                &[there.1, *record],
            );
        }
        let place = *ids.entry((*lineage, *id)).or_insert((*offset, *record));
        if place.0 != *offset {
            let other = place.0;
            findings.say(
                || format!("{id} is at {offset} of {title}, and at {other} for another"),
                &[place.1, *record],
            );
        }
    }
}
