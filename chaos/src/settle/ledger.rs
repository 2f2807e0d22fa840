//! What is still to come, kept up with the history as it grows. It only says how long to wait: what
//! is missing in the end, and whether that is wrong, the checker finds in the records alone. Where
//! lines of several processes cross it may be a little wrong, and never for long.

use std::collections::HashMap;

use clarion_protocol::http::Target;
use clarion_protocol::{LogName, MessageId, Offset};

use crate::history::{Event, Name, Record};

/// Pushes that live shorter are not waited for: they may end before anybody comes back.
const WAITED_FOR_TTL_MS: u64 = 600_000;
/// Accepted pushes between two looks for what has come to its end.
const SWEEP_EVERY: u64 = 20_000;
/// How long before a fault in a cluster a push may have been accepted of whose counts some are lost
/// with it: they are written behind, after the cursors, and in part without waiting for replicas.
const COUNTS_LOST_BEFORE_NS: u64 = 10_000_000_000;
/// The same after it, until a fail-over is over.
const COUNTS_LOST_AFTER_NS: u64 = 10_000_000_000;

/// What is owed to whom.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    products: HashMap<Name, Product>,
    /// Product, and place in it.
    terminals: HashMap<Name, (Name, usize)>,
    pushes: HashMap<Name, Push>,
    /// Those that may still be owed to somebody.
    open: HashMap<Name, Ask>,
    /// Pushes without an answer of those who repeat them until there is one, and since when.
    waiting: HashMap<Name, u64>,
    /// When something was broken.
    faults: Vec<u64>,
    /// When the store last lost its history, or was given it back, and by which fault: what was pushed
    /// before may be gone with its counts.
    lost: Option<(u64, u32)>,
    accepted: u64,
}

/// Terminals by their places, and since when.
type Readers = HashMap<usize, u64>;

#[derive(Debug, Default)]
struct Product {
    /// The user of each terminal, at its place.
    terminals: Vec<Option<String>>,
    /// Who reads the inbox of a user, and since when.
    users: HashMap<String, Readers>,
    /// The same of topics and the broadcast log.
    logs: HashMap<LogName, Readers>,
    /// What a terminal was told is gone.
    gaps: HashMap<(usize, LogName), Vec<Gap>>,
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    t: u64,
    from: Offset,
    to: Offset,
    evicted: bool,
}

/// What stays known of a push.
#[derive(Debug, Default)]
struct Push {
    /// Once it is accepted and stored.
    id: Option<MessageId>,
    accepted_at: u64,
    short_lived: bool,
    given: Given,
}

/// Who was given a push: a bit for each terminal of its product.
#[derive(Debug, Default, Clone)]
struct Given(Vec<u64>);

impl Given {
    fn add(&mut self, place: usize) {
        let word = place / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    fn has(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// A push that may still be owed.
#[derive(Debug)]
struct Ask {
    product: Name,
    invoked: u64,
    targets: Vec<(Target, Stored)>,
    /// An answer came, and none can change it.
    answered: bool,
    waited_for: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Unknown,
    No,
    At(Offset),
}

/// An accepted push whose counts can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Countable {
    pub key: Name,
    pub product: Name,
    pub id: MessageId,
    /// Terminals that were given it.
    pub given: u64,
    /// Its time may end before it is acknowledged.
    pub short_lived: bool,
    /// It was accepted so close to a fault that counts may be lost with that.
    pub near_fault: bool,
    /// The store lost its history since: its record may be gone.
    pub may_be_gone: bool,
}

impl Ledger {
    /// Takes note of a record.
    pub(crate) fn note(&mut self, record: &Record) {
        if let Event::Accepted { key, .. }
        | Event::Refused { key, .. }
        | Event::Unknown { key, .. } = &record.event
        {
            self.waiting.remove(key);
        }
        match &record.event {
            Event::Terminal { who, product, user, .. } => self.terminal(who, product, user),
            Event::Joined { who, log } => {
                self.readers(who, log, |place, readers| {
                    readers.entry(place).or_insert(record.t);
                });
            }
            Event::Leaving { who, log } => {
                self.readers(who, log, |place, readers| {
                    readers.remove(&place);
                });
            }
            Event::Invoke { key, product, targets, ttl_ms, patient, .. } => {
                if *patient {
                    self.waiting.insert(Name::clone(key), record.t);
                }
                let targets = targets.iter().map(|target| (target.clone(), Stored::Unknown));
                let waited_for = ttl_ms.is_none_or(|ttl| ttl >= WAITED_FOR_TTL_MS);
                let ask = Ask {
                    product: Name::clone(product),
                    invoked: record.t,
                    targets: targets.collect(),
                    answered: false,
                    waited_for,
                };
                self.open.insert(Name::clone(key), ask);
                self.pushes.entry(Name::clone(key)).or_default().short_lived = !waited_for;
            }
            Event::Accepted { key, id, targets, .. } => self.accepted(record.t, key, *id, targets),
            Event::Refused { key, .. }
                if self.pushes.get(key).is_some_and(|push| push.id.is_none()) =>
            {
                self.open.remove(key);
            }
            Event::Delivered { who, key, .. } => {
                if let Some((_, place)) = self.terminals.get(who) {
                    self.pushes.entry(Name::clone(key)).or_default().given.add(*place);
                }
            }
            Event::ToldGap { who, log, from, to, reason, .. } => {
                let gap =
                    Gap { t: record.t, from: *from, to: *to, evicted: &**reason == "evicted" };
                if let Some((product, place)) = self.terminals.get(who)
                    && let Some(product) = self.products.get_mut(product)
                {
                    product.gaps.entry((*place, log.clone())).or_default().push(gap);
                }
            }
            Event::Fault { n, outside_model, .. } => {
                self.faults.push(record.t);
                self.lost = outside_model.then_some((record.t, *n)).or(self.lost);
            }
            Event::Mended { n } if self.lost.is_some_and(|(_, lost)| lost == *n) => {
                self.lost = Some((record.t, *n));
            }
            _ => {}
        }
    }

    fn terminal(&mut self, who: &Name, product: &Name, user: &Option<String>) {
        let of = self.products.entry(Name::clone(product)).or_default();
        let place = of.terminals.len();
        of.terminals.push(user.clone());
        self.terminals.insert(Name::clone(who), (Name::clone(product), place));
    }

    /// Changes who reads a log; of its own inbox nothing changes.
    fn readers(&mut self, who: &Name, log: &LogName, change: impl FnOnce(usize, &mut Readers)) {
        let Some((product, place)) = self.terminals.get(who) else { return };
        let Some(product) = self.products.get_mut(product) else { return };
        let user = product.terminals.get(*place).and_then(Option::as_ref);
        let readers = match (log, user) {
            (LogName::Terminal, _) | (LogName::User, None) => return,
            (LogName::User, Some(user)) => product.users.entry(user.clone()).or_default(),
            (LogName::Topic(_) | LogName::Broadcast, _) => {
                product.logs.entry(log.clone()).or_default()
            }
        };
        change(*place, readers);
    }

    fn accepted(
        &mut self,
        t: u64,
        key: &Name,
        id: MessageId,
        targets: &[(Target, Option<Offset>)],
    ) {
        if targets.iter().any(|(_, offset)| offset.is_some()) {
            let push = self.pushes.entry(Name::clone(key)).or_default();
            push.id = Some(id);
            push.accepted_at = push.accepted_at.max(t);
        }
        if let Some(ask) = self.open.get_mut(key) {
            for (named, stored) in &mut ask.targets {
                let told = targets.iter().find(|(target, _)| target == named);
                if let Some((_, offset)) = told {
                    *stored = offset.map_or(Stored::No, Stored::At);
                }
            }
            ask.answered = ask.targets.iter().all(|(_, stored)| *stored != Stored::Unknown);
        }
        self.accepted += 1;
        if self.accepted.is_multiple_of(SWEEP_EVERY) {
            self.sweep();
        }
    }

    /// Since when the push waits that has waited longest.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        self.waiting.values().min().copied()
    }

    /// How many deliveries are missing now.
    pub(crate) fn missing(&mut self) -> usize {
        self.sweep();
        self.open.iter().map(|(key, ask)| self.owed(key, ask)).sum()
    }

    /// Forgets what has come to its end; only what it was given to stays.
    fn sweep(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        open.retain(|key, ask| !(ask.answered && self.owed(key, ask) == 0));
        self.open = open;
    }

    /// How many terminals still have to be given a push.
    fn owed(&self, key: &Name, ask: &Ask) -> usize {
        let Some(product) = self.products.get(&ask.product) else { return 0 };
        let Some(push) = self.pushes.get(key) else { return 0 };
        if !ask.waited_for {
            return 0;
        }
        let targets = ask.targets.iter().filter(|(_, stored)| *stored != Stored::No);
        let owed = targets.map(|(target, stored)| {
            let (log, readers) = product.readers(&ask.product, target, ask.invoked, self);
            if *stored == Stored::Unknown && !readers.iter().any(|place| push.given.has(*place)) {
                return 0;
            }
            let missing = readers.iter().filter(|place| {
                !push.given.has(**place) && !product.gone(**place, &log, *stored, ask.invoked)
            });
            missing.count()
        });
        owed.sum()
    }

    /// The accepted pushes that were stored, evenly drawn if there are more than `most`; and how
    /// many there are. Pushes of products that are not in `products` are left out.
    pub(crate) fn countable(&self, products: &[&str], most: usize) -> (Vec<Countable>, usize) {
        let mut all: Vec<(&Name, &Name, &Push)> = Vec::new();
        for (key, push) in self.pushes.iter().filter(|(_, push)| push.id.is_some()) {
            let of = self.products.keys().filter(|name| products.contains(&&***name));
            let product = of.filter(|name| belongs(key, name)).max_by_key(|name| name.len());
            all.extend(product.map(|product| (key, product, push)));
        }
        // Always the same ones for the same keys.
        all.sort_unstable_by_key(|(key, ..)| *key);
        let of = all.len();
        let every = of.div_ceil(most.max(1)).max(1);
        let drawn = all.into_iter().step_by(every).filter_map(|(key, product, push)| {
            Some(Countable {
                key: Name::clone(key),
                product: Name::clone(product),
                id: push.id?,
                given: push.given.count(),
                short_lived: push.short_lived,
                near_fault: self.near_fault(push.accepted_at),
                may_be_gone: self.lost.is_some_and(|(lost, _)| push.accepted_at <= lost),
            })
        });
        (drawn.collect(), of)
    }

    fn near_fault(&self, at: u64) -> bool {
        let near =
            |fault: &u64| at + COUNTS_LOST_BEFORE_NS > *fault && at < fault + COUNTS_LOST_AFTER_NS;
        self.faults.iter().any(near)
    }
}

/// Keys begin with the name of their product.
fn belongs(key: &str, product: &str) -> bool {
    key.strip_prefix(product).is_some_and(|rest| rest.starts_with('-'))
}

impl Product {
    /// The log of a target, and who read it before the push was made.
    fn readers(
        &self,
        name: &Name,
        target: &Target,
        invoked: u64,
        ledger: &Ledger,
    ) -> (LogName, Vec<usize>) {
        let (log, readers) = match target {
            Target::Terminal(terminal) => {
                let who = Name::from(format!("{name}/{terminal}"));
                let place = ledger.terminals.get(&who).map(|(_, place)| *place);
                return (LogName::Terminal, place.into_iter().collect());
            }
            Target::User(user) => (LogName::User, self.users.get(user.as_str())),
            Target::All => (LogName::Broadcast, self.logs.get(&LogName::Broadcast)),
            Target::Topic(topic) => {
                let log = LogName::Topic(topic.clone());
                let readers = self.logs.get(&log);
                (log, readers)
            }
        };
        let since = readers.into_iter().flatten().filter(|(_, since)| **since < invoked);
        (log, since.map(|(place, _)| *place).collect())
    }

    /// Whether a terminal was told that it will not get this.
    fn gone(&self, place: usize, log: &LogName, stored: Stored, invoked: u64) -> bool {
        let gaps = self.gaps.get(&(place, log.clone())).into_iter().flatten();
        let within = |gap: &Gap| match stored {
            Stored::At(offset) if gap.evicted => offset > gap.from && offset <= gap.to,
            // With another lineage offsets say nothing.
            _ => invoked < gap.t,
        };
        gaps.into_iter().any(within)
    }
}

#[cfg(test)]
mod tests;
