//! A history, put in order for the rules: who was to get what, and what became of each push.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{LogName, MessageId, Offset, TerminalId, UserId};

use crate::history::{Client, Event, Name, Record};

/// A log of a product: the product and whose it is.
pub type LogKey = (String, String);

/// A delivery that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// The push.
    pub key: Name,
    /// Who did not get it.
    pub who: Name,
    /// Whether it was accepted; otherwise nobody knew, but another terminal got it.
    pub accepted: bool,
}

impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.accepted { "was accepted" } else { "was given to another" };
        write!(f, "{} did not get {}, which {why}", self.who, self.key)
    }
}

/// What is known about one target of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stored {
    /// It was refused.
    No,
    /// There was no answer.
    Unknown,
    /// It was accepted.
    Yes,
}

/// A push and all that was answered about it.
pub struct Push<'a> {
    pub product: &'a str,
    pub hash: &'a str,
    pub invoked: usize,
    pub targets: Vec<(&'a Target, Option<Stored>)>,
    pub ids: BTreeSet<MessageId>,
    pub counts: Option<Counts>,
    /// When it was accepted, milliseconds.
    accepted_at: Vec<u64>,
}

impl Push<'_> {
    /// What is known about `target`; none if the push does not name it.
    pub fn target(&self, target: &Target) -> Option<Stored> {
        let found = self.targets.iter().find(|(named, _)| *named == target);
        found.map(|(_, stored)| stored.unwrap_or(Stored::Unknown))
    }

    pub fn accepted(&self) -> bool {
        self.targets.iter().any(|(_, stored)| *stored == Some(Stored::Yes))
    }

    fn learn(&mut self, target: Option<&Target>, stored: Stored) {
        for (named, known) in &mut self.targets {
            if target.is_none_or(|target| *named == target) {
                *known = Some(known.map_or(stored, |known| known.max(stored)));
            }
        }
    }
}

#[derive(Default)]
pub struct Facts<'a> {
    pub pushes: BTreeMap<&'a Name, Push<'a>>,
    /// Every place of an id in a log that anybody told.
    pub places: Vec<(LogKey, Offset, MessageId)>,
    /// Accepted pushes by log: offset, invoked, accepted, key.
    pub stored: BTreeMap<LogKey, Vec<(Offset, usize, usize, Name)>>,
    terminals: BTreeMap<&'a Name, (Option<&'a str>, Client)>,
    /// Who reads a log, and since which record.
    readers: HashMap<LogKey, Vec<(&'a Name, usize)>>,
    /// Who may have begun to read a topic.
    joining: HashSet<(&'a Name, &'a LogName)>,
    given: HashMap<&'a Name, HashSet<&'a Name>>,
    /// When something of a cluster was broken, milliseconds.
    faults: Vec<u64>,
}

/// How long before a fault in a cluster a push may have been accepted of whose counts some are lost
/// with it: they are written behind, after the cursors, and in part without waiting for replicas.
const COUNTS_LOST_BEFORE_MS: u64 = 10_000;
/// The same after it, until a fail-over is over.
const COUNTS_LOST_AFTER_MS: u64 = 10_000;

/// What is still to come: accepted, or seen by somebody, and not yet with all it is for.
#[must_use]
pub fn missing(records: &[Record]) -> Vec<Owed> {
    Facts::of(records).missing()
}

/// The pushes of whose counts some may have been lost with a node or a Redis server.
#[must_use]
pub fn counts_may_be_lost(records: &[Record]) -> HashSet<Name> {
    let facts = Facts::of(records);
    let lost = facts.pushes.iter().filter(|(_, push)| facts.may_lack_counts(push));
    lost.map(|(key, _)| Name::clone(key)).collect()
}

impl<'a> Facts<'a> {
    pub fn of(records: &'a [Record]) -> Self {
        let mut facts = Self::default();
        for (index, record) in records.iter().enumerate() {
            facts.add(index, record.t, &record.event);
        }
        facts
    }

    fn add(&mut self, index: usize, t: u64, event: &'a Event) {
        match event {
            Event::Terminal { who, user, client } => {
                self.terminals.insert(who, (user.as_deref(), *client));
                // Its inbox takes messages before it ever connects (I3).
                let log = self.log(who, &LogName::Terminal);
                self.readers.entry(log).or_default().push((who, 0));
            }
            Event::Joining { who, log } => {
                self.joining.insert((who, log));
            }
            Event::Joined { who, log } => {
                self.joining.insert((who, log));
                let readers = self.readers.entry(self.log(who, log)).or_default();
                if !readers.iter().any(|(name, _)| *name == who) {
                    readers.push((who, index));
                }
            }
            Event::Delivered { who, log, offset, id, key, .. } => {
                self.places.push((self.log(who, log), *offset, *id));
                self.given.entry(key).or_default().insert(who);
                if let Some(push) = self.pushes.get_mut(key) {
                    push.ids.insert(*id);
                }
            }
            Event::Invoke { key, product, targets, hash } => {
                let targets = targets.iter().map(|target| (target, None)).collect();
                let (ids, counts) = (BTreeSet::new(), None);
                let (invoked, accepted_at) = (index, Vec::new());
                let push = Push { product, hash, invoked, targets, ids, counts, accepted_at };
                self.pushes.entry(key).or_insert(push);
            }
            Event::Accepted { key, id, targets } => {
                if let Some(push) = self.pushes.get_mut(key) {
                    push.accepted_at.push(t);
                }
                self.accepted(index, key, *id, targets);
            }
            Event::Fault { .. } => self.faults.push(t),
            Event::Refused { key, .. } => self.learn(key, Stored::No),
            Event::Unknown { key, .. } => self.learn(key, Stored::Unknown),
            Event::Counted { key, counts } => {
                if let Some(push) = self.pushes.get_mut(key) {
                    push.counts = Some(*counts);
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, key: &'a Name, stored: Stored) {
        if let Some(push) = self.pushes.get_mut(key) {
            push.learn(None, stored);
        }
    }

    fn accepted(
        &mut self,
        index: usize,
        key: &'a Name,
        id: MessageId,
        targets: &'a [(Target, Option<Offset>)],
    ) {
        let Some(push) = self.pushes.get_mut(key) else { return };
        push.ids.insert(id);
        for (target, offset) in targets {
            push.learn(Some(target), if offset.is_some() { Stored::Yes } else { Stored::No });
            let Some(offset) = *offset else { continue };
            let log = log_of(push.product, target);
            let stored = self.stored.entry(log.clone()).or_default();
            stored.push((offset, push.invoked, index, key.clone()));
            self.places.push((log, offset, id));
        }
    }

    pub fn client(&self, who: &Name) -> Option<Client> {
        self.terminals.get(who).map(|(_, client)| *client)
    }

    pub fn product<'n>(&self, who: &'n Name) -> &'n str {
        split(who).0
    }

    /// Whether some of the counts of a push may have been lost with a node or a Redis server.
    pub fn may_lack_counts(&self, push: &Push<'_>) -> bool {
        push.accepted_at.iter().any(|at| {
            let lost = |fault: &u64| {
                at + COUNTS_LOST_BEFORE_MS > *fault && *at < fault + COUNTS_LOST_AFTER_MS
            };
            self.faults.iter().any(lost)
        })
    }

    /// How many terminals have a push.
    pub fn readers_of(&self, key: &Name) -> usize {
        self.given.get(key).map_or(0, HashSet::len)
    }

    /// How a push names what a terminal gets from `log`; none if it has no such log.
    pub fn target_of(&self, who: &Name, log: &LogName) -> Option<Target> {
        let (user, _) = self.terminals.get(who)?;
        match log {
            LogName::Terminal => TerminalId::new(split(who).1).ok().map(Target::Terminal),
            LogName::User => UserId::new((*user)?).ok().map(Target::User),
            LogName::Topic(topic) => {
                self.joining.contains(&(who, log)).then(|| Target::Topic(topic.clone()))
            }
            LogName::Broadcast => Some(Target::All),
        }
    }

    fn log(&self, who: &Name, log: &LogName) -> LogKey {
        let (product, terminal) = split(who);
        let name = match log {
            LogName::Terminal => format!("terminal:{terminal}"),
            LogName::User => {
                let user = self.terminals.get(who).and_then(|(user, _)| *user);
                format!("user:{}", user.unwrap_or_default())
            }
            LogName::Topic(_) | LogName::Broadcast => log.to_string(),
        };
        (product.to_owned(), name)
    }

    pub fn missing(&self) -> Vec<Owed> {
        let mut missing = Vec::new();
        for (key, push) in &self.pushes {
            for (target, stored) in &push.targets {
                let log = log_of(push.product, target);
                let readers = self.readers.get(&log).map_or(&[][..], Vec::as_slice);
                let has = |who: &Name| self.given.get(*key).is_some_and(|by| by.contains(who));
                let accepted = *stored == Some(Stored::Yes);
                if !accepted && !readers.iter().any(|(who, _)| has(who)) {
                    continue;
                }
                let before = |(who, since): &&(&'a Name, usize)| *since < push.invoked && !has(who);
                missing.extend(readers.iter().filter(before).map(|(who, _)| Owed {
                    key: Name::clone(key),
                    who: Name::clone(who),
                    accepted,
                }));
            }
        }
        missing
    }
}

fn log_of(product: &str, target: &Target) -> LogKey {
    let name = match target {
        Target::All => LogName::Broadcast.to_string(),
        Target::Terminal(terminal) => format!("terminal:{terminal}"),
        Target::User(user) => format!("user:{user}"),
        Target::Topic(topic) => format!("topic:{topic}"),
    };
    (product.to_owned(), name)
}

/// Product and terminal of `PRODUCT/TERMINAL`; neither holds a slash.
pub fn split(who: &str) -> (&str, &str) {
    who.split_once('/').unwrap_or((who, ""))
}
