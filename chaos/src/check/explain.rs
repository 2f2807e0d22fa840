//! Everything that a history says about one push, or one terminal, for people.

use std::fmt::Write as _;

use super::facts::{Facts, NONE, Stored, seconds};
use crate::history::{Event, Record};

/// Deliveries to a terminal that are shown, the last ones.
const SHOWN: usize = 200;

/// What became of a push: what was answered, who was to get it, and who did; none if there is no
/// such push.
#[must_use]
pub fn push(records: &[Record], key: &str) -> Option<String> {
    let facts = Facts::of(records);
    let push = facts.push(facts.find_push(key)?);
    let mut text = String::new();
    for record in records.iter().filter(|record| is_about(&record.event, key)) {
        text += &line(record);
    }
    for target in &push.targets {
        let log = facts.log(target.log);
        let stored = match target.stored {
            Stored::Yes => "accepted",
            Stored::Unknown => "outcome unknown",
            Stored::No => "refused",
        };
        let offset = target.offset.map_or_else(String::new, |offset| format!(" at {offset}"));
        let _ = writeln!(text, "{}: {stored}{offset}", log.title);
        for &reader in &log.readers {
            let given = facts.given(push.index).find(|given| given.terminal == reader);
            let state = if facts.member_throughout(reader, target.log, push) {
                "is a reader"
            } else if facts.member_perhaps(reader, target.log, push) {
                "may be a reader"
            } else {
                "is no reader"
            };
            let has = match given {
                Some(given) => format!("got it at {}", seconds(given.at)),
                None if facts.told_gone(reader, target.log, push, target) => {
                    "was told that it is gone".to_owned()
                }
                None => "did not get it".to_owned(),
            };
            let _ = writeln!(text, "    {} {state}, {has}", facts.terminal(reader).who);
        }
    }
    for fault in &facts.faults {
        let until = push.accepted.map_or(facts.end, |answer| answer.at);
        if fault.at <= until && fault.over().is_none_or(|over| over >= push.invoked) {
            text += &line(&records[fault.record as usize]);
        }
    }
    Some(text)
}

/// The life of a terminal: its sessions, what it joined and left, what it was told, and the last
/// things it was given; none if there is no such terminal.
#[must_use]
pub fn terminal(records: &[Record], who: &str) -> Option<String> {
    let facts = Facts::of(records);
    let number = facts.find_terminal(who)?;
    let given: Vec<u32> = facts.given_to(number).map(|given| given.record).collect();
    let shown = given.len().saturating_sub(SHOWN);
    let first = given.get(shown).copied().unwrap_or(NONE);
    let mut text = String::new();
    if shown > 0 {
        let _ = writeln!(text, "{shown} deliveries before are not shown");
    }
    for (index, record) in (0_u32..).zip(records) {
        let early = matches!(record.event, Event::Delivered { .. }) && index < first;
        if is_of(&record.event, who) && !early {
            text += &line(record);
        }
    }
    Some(text)
}

fn line(record: &Record) -> String {
    let event = serde_json::to_string(&record.event).unwrap_or_default();
    format!("{} {}: {event}\n", seconds(record.t), record.by)
}

/// Whether an event is about a push.
fn is_about(event: &Event, wanted: &str) -> bool {
    match event {
        Event::Invoke { key, .. }
        | Event::Accepted { key, .. }
        | Event::Refused { key, .. }
        | Event::Unknown { key, .. }
        | Event::Delivered { key, .. }
        | Event::Counted { key, .. } => &**key == wanted,
        _ => false,
    }
}

/// Whether an event is a terminal's.
fn is_of(event: &Event, wanted: &str) -> bool {
    match event {
        Event::Terminal { who, .. }
        | Event::Joining { who, .. }
        | Event::Joined { who, .. }
        | Event::Leaving { who, .. }
        | Event::LeftTopic { who, .. }
        | Event::Opened { who, .. }
        | Event::Delivered { who, .. }
        | Event::Acknowledged { who, .. }
        | Event::Left { who, .. }
        | Event::LostCursors { who }
        | Event::ToldGap { who, .. }
        | Event::Trouble { who, .. } => &**who == wanted,
        _ => false,
    }
}
