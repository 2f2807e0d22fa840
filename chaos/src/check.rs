//! Judges a history by what Clarion promises. It knows nothing of the node and of how the history
//! was made: two records are compared by their order alone.

mod facts;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use clarion_protocol::http::Counts;
use clarion_protocol::{LogName, MessageId, Offset};

use crate::history::{Client, Ending, Event, Name, Record};
use facts::{Facts, LogKey, Push, Stored};

pub use facts::{Owed, counts_may_be_lost, missing};

/// An acknowledgement this old is in the store: a node writes it down within about a second.
const SAVED_WITHIN_MS: u64 = 15_000;

/// A promise that was broken, with the invariants of the design that stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// N1, I1, I3: what was accepted, or was shown to anybody, reaches all it is for.
    Lost,
    /// N1, once per SDK cursor store: an SDK terminal is given no id twice.
    Repeated,
    /// I7, I9: a terminal without SDK is given again only what was not acknowledged or not saved.
    Unsaved,
    /// I8: within a log, a session goes forward.
    Order,
    /// I8: a push made after another one was accepted stands behind it.
    RealTime,
    /// I1, I2: an offset of a log means one message, the same for all.
    Disagreement,
    /// I2: a key is stored once.
    StoredTwice,
    /// F10: nothing is delivered that was not pushed, or was refused.
    Invented,
    /// F10: payloads arrive as they were pushed.
    Altered,
    /// F10: nobody is given what is not for him.
    Misdelivered,
    /// I7: every session of a terminal is newer than the one before.
    Generation,
    /// I13: the node's counts add up, and are what happened.
    Counts,
    /// I5, I6: no gap, and no session ended for good, where nothing calls for it.
    Trouble,
}

/// One place where a rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Where.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Everything that is wrong with a finished run, in the order of the history per rule.
#[must_use]
pub fn check(records: &[Record]) -> Vec<Violation> {
    let facts = Facts::of(records);
    let mut judge = Judge::default();
    judge.deliveries(records, &facts);
    judge.pushes(&facts);
    judge.sessions(records);
    for owed in facts.missing() {
        judge.say(Rule::Lost, format!("{owed}"));
    }
    judge.found
}

#[derive(Default)]
struct Judge {
    found: Vec<Violation>,
}

impl Judge {
    fn say(&mut self, rule: Rule, what: String) {
        self.found.push(Violation { rule, what });
    }

    /// What was given to terminals, one delivery at a time.
    fn deliveries(&mut self, records: &[Record], facts: &Facts<'_>) {
        let mut given: HashSet<(&Name, MessageId)> = HashSet::new();
        let mut last: HashMap<(&Name, u64, &LogName), Offset> = HashMap::new();
        for record in records {
            let Event::Delivered { who, session, log, offset, id, key, again, .. } = &record.event
            else {
                continue;
            };
            self.content(&record.event, facts);
            let sdk = facts.client(who) == Some(Client::Sdk);
            if sdk && !given.insert((who, *id)) {
                self.say(Rule::Repeated, format!("{who} was given {key} ({id}) again"));
            }
            // What an SDK's application sees goes forward across its sessions, too.
            let pass = if sdk { 0 } else { *session };
            let before = last.insert((who, pass, log), *offset).unwrap_or_default();
            if *offset <= before && !again {
                self.say(
                    Rule::Order,
                    format!("{who} was given {log} {offset} ({key}) after {before}"),
                );
            }
        }
    }

    /// Whether a delivery is a push's, unchanged, and for this terminal.
    fn content(&mut self, event: &Event, facts: &Facts<'_>) {
        let Event::Delivered { who, log, id, key, hash, .. } = event else { return };
        let Some(push) = facts.pushes.get(key) else {
            return self
                .say(Rule::Invented, format!("{who} was given {key} ({id}): nobody's push"));
        };
        if push.hash != hash {
            self.say(Rule::Altered, format!("{who} was given {key} with another payload"));
        }
        let Some(target) = facts.target_of(who, log) else {
            return self.say(Rule::Misdelivered, format!("{who} was given {key} from {log}"));
        };
        match push.target(&target) {
            Some(_) if facts.product(who) != push.product => {
                self.say(Rule::Misdelivered, format!("{who} was given {key} of {}", push.product));
            }
            None => self.say(Rule::Misdelivered, format!("{who} was given {key} from {log}")),
            Some(Stored::No) => {
                self.say(Rule::Invented, format!("{who} was given {key}, which was refused"));
            }
            Some(_) => {}
        }
    }

    /// What the node answered about pushes, against each other and against the deliveries.
    fn pushes(&mut self, facts: &Facts<'_>) {
        for (key, push) in &facts.pushes {
            if push.ids.len() > 1 {
                self.say(Rule::StoredTwice, format!("{key} is {:?}", push.ids));
            }
            if push.accepted() {
                self.counts(key, push, facts);
            }
        }
        let mut offsets: BTreeMap<(&LogKey, Offset), MessageId> = BTreeMap::new();
        let mut places: HashMap<(&LogKey, MessageId), Offset> = HashMap::new();
        for (log, offset, id) in &facts.places {
            let there = *offsets.entry((log, *offset)).or_insert(*id);
            let place = *places.entry((log, *id)).or_insert(*offset);
            if there != *id || place != *offset {
                self.say(
                    Rule::Disagreement,
                    format!("{log:?}: {id} at {offset}, but {there} there and it at {place}"),
                );
            }
        }
        for stored in facts.stored.values() {
            self.real_time(stored);
        }
    }

    /// `stored`: the accepted pushes of a log as (offset, invoked, accepted, key).
    fn real_time(&mut self, stored: &[(Offset, usize, usize, Name)]) {
        let mut stored: Vec<_> = stored.iter().collect();
        stored.sort_unstable_by_key(|(offset, ..)| *offset);
        let mut earliest: Option<(usize, &Name)> = None;
        for (_, invoked, accepted, key) in stored.into_iter().rev() {
            if let Some((answered, behind)) = earliest
                && answered < *invoked
            {
                self.say(
                    Rule::RealTime,
                    format!("{behind} was accepted before {key} was pushed, but stands behind it"),
                );
            }
            if earliest.is_none_or(|(answered, _)| *accepted < answered) {
                earliest = Some((*accepted, key));
            }
        }
    }

    fn counts(&mut self, key: &Name, push: &Push<'_>, facts: &Facts<'_>) {
        let lacks = facts.may_lack_counts(push);
        let Some(counts) = push.counts else {
            if lacks {
                return;
            }
            return self.say(Rule::Counts, format!("{key} was accepted but not counted"));
        };
        let Counts { audience, delivered, acknowledged, .. } = counts;
        let Counts { expired, undeliverable, suppressed, evicted, pending, .. } = counts;
        let parts = acknowledged + expired + undeliverable + suppressed + evicted + pending;
        let own = facts.readers_of(key) as u64;
        let all = pending == 0 && acknowledged == own;
        let some = lacks && acknowledged <= own;
        if parts != audience || !(all || some) || delivered < acknowledged {
            self.say(Rule::Counts, format!("{key}: {own} terminals have it, {counts:?}"));
        }
    }

    /// Sessions of each terminal in turn: where they start, and whether that was due.
    fn sessions(&mut self, records: &[Record]) {
        let mut terminals: HashMap<&Name, Sessions> = HashMap::new();
        let mut kills = 0;
        for record in records {
            match &record.event {
                Event::Opened { who, session, generation, sent, positions } => {
                    let past = terminals.entry(who).or_default();
                    if *generation <= past.generation {
                        let before = past.generation;
                        self.say(
                            Rule::Generation,
                            format!("{who} session {session}: {generation} after {before}"),
                        );
                    }
                    past.generation = *generation;
                    for (log, position) in positions {
                        let sent = sent.iter().find(|(name, _)| name == log);
                        let due =
                            past.due(log, record.t, kills).max(sent.map_or(Offset::ZERO, |s| s.1));
                        if *position < due {
                            self.say(
                                Rule::Unsaved,
                                format!("{who} session {session} starts {log} at {position}, saved is {due}"),
                            );
                        }
                    }
                    past.open(positions);
                }
                Event::Delivered { who, session, log, offset, key, again, .. } => {
                    let past = terminals.entry(who).or_default();
                    let start = past.positions.get(log).copied().unwrap_or_default();
                    if *offset <= start && !again {
                        self.say(
                            Rule::Unsaved,
                            format!("{who} session {session} was given {log} {offset} ({key}) but started at {start}"),
                        );
                    }
                }
                Event::Acknowledged { who, log, offset, .. } => {
                    let past = terminals.entry(who).or_default();
                    past.acknowledged.entry(log.clone()).or_default().push((record.t, *offset));
                }
                Event::Left { who, how, .. } => {
                    let past = terminals.entry(who).or_default();
                    past.closed = (*how == Ending::Closed).then_some(kills);
                }
                Event::Killed { n } | Event::Fault { n, .. } => kills = *n,
                Event::Trouble { who, what } => self.say(Rule::Trouble, format!("{who}: {what}")),
                _ => {}
            }
        }
    }
}

/// What is known of a terminal's sessions up to now.
#[derive(Default)]
struct Sessions {
    generation: u64,
    /// Where the latest session started.
    positions: HashMap<LogName, Offset>,
    /// Acknowledgements since the last position that was told, and when.
    acknowledged: HashMap<LogName, Vec<(u64, Offset)>>,
    /// The latest session ended in good order, after so many kills.
    closed: Option<u32>,
}

impl Sessions {
    /// The lowest position from which a session may start that opens at `now`, after so many kills.
    fn due(&self, log: &LogName, now: u64, kills: u32) -> Offset {
        let told = self.positions.get(log).copied().unwrap_or_default();
        let orderly = self.closed == Some(kills);
        let saved = |t: u64| orderly || t + SAVED_WITHIN_MS < now;
        let acks = self.acknowledged.get(log).into_iter().flatten();
        acks.filter(|(t, _)| saved(*t)).map(|(_, offset)| *offset).fold(told, Offset::max)
    }

    fn open(&mut self, positions: &[(LogName, Offset)]) {
        self.closed = None;
        for (log, position) in positions {
            self.positions.insert(log.clone(), *position);
            if let Some(acks) = self.acknowledged.get_mut(log) {
                acks.retain(|(_, offset)| offset > position);
            }
        }
    }
}

#[cfg(test)]
mod tests;
