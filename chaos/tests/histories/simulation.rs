//! A small system that keeps every promise, and the history of a run of it: logs, terminals that
//! come and go, faults, and a server that counts. One seed, one history.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use clarion_chaos::history::{Client, Ending, Event, Record};
use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{LogName, Offset};
use fastrand::Rng;

use super::tape::{MS, Tape, WINDOW, terminal, topic, topic_log, user};

/// What happens in a run besides pushes and terminals that come and go.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub steps: usize,
    /// Topics lose their oldest messages before some terminals read them.
    pub evicts: bool,
    /// A fault outside the model takes the latest messages away.
    pub loses: bool,
}

impl Kind {
    pub const PLAIN: Self = Self { steps: 700, evicts: false, loses: false };
}

/// The history of a run.
pub fn run(seed: u64, kind: Kind) -> Vec<Record> {
    let mut simulation = Simulation::new(seed, kind);
    let third = kind.steps / 3;
    for step in 0..kind.steps {
        if step == 50 {
            let from = simulation.tape.now;
            simulation.tape.add("driver", Event::Steady { from });
        }
        if step % third == third - 1 {
            simulation.fault(step / third);
        }
        simulation.step();
    }
    if kind.loses {
        simulation.lose();
    }
    simulation.finish()
}

/// Products have the same names of terminals, users and topics.
const PRODUCTS: [&str; 2] = ["p0", "p1"];
const TERMINALS: usize = 8;
const TOPICS: [&str; 2] = ["news", "staff"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Written,
    Acknowledged,
    Expired,
    Suppressed,
    Evicted,
}

struct Entry {
    key: String,
    offset: u64,
    expires: u64,
    stored: u64,
    readers: BTreeMap<usize, State>,
    gone: bool,
}

/// Where a terminal is in a log.
#[derive(Clone, Copy, Default)]
struct Read {
    /// The first entry that it has not acknowledged.
    next: usize,
    /// The first that was not written in this session.
    written: usize,
    /// Behind the last that it was ever given, for one that keeps its cursors.
    given: usize,
    /// Where its session started.
    start: usize,
    /// Where it began to read, as an offset.
    begun: u64,
}

struct Terminal {
    who: String,
    product: &'static str,
    name: String,
    user: String,
    client: Client,
    online: bool,
    sessions: u64,
    reads: BTreeMap<LogName, Read>,
    seen: HashSet<String>,
}

#[derive(Default)]
struct Accepted {
    product: &'static str,
    logs: Vec<(&'static str, String)>,
    counted: bool,
}

struct Simulation {
    rng: Rng,
    kind: Kind,
    tape: Tape,
    terminals: Vec<Terminal>,
    logs: BTreeMap<(&'static str, String), Vec<Entry>>,
    pushes: BTreeMap<String, Accepted>,
    made: usize,
    sampled: u64,
    down: BTreeSet<&'static str>,
}

impl Simulation {
    fn new(seed: u64, kind: Kind) -> Self {
        let mut tape = Tape::default();
        tape.run(seed);
        for name in ["node:node-1", "node:node-2", "redis:0/0", "link:node-1>node-2"] {
            let class = name.split(':').next().unwrap().into();
            tape.add("driver", Event::Component { name: name.into(), class, parts: Vec::new() });
        }
        tape.add("driver", Event::Baseline);
        tape.add("driver", Event::Phase { name: "load".into() });
        let skipped = Event::Skipped {
            component: "link:node-1>node-2".into(),
            kind: "cut_off".into(),
            why: "not root".to_owned(),
        };
        tape.add("driver", skipped);
        let mut simulation = Self {
            rng: Rng::with_seed(seed),
            kind,
            tape,
            terminals: Vec::new(),
            logs: BTreeMap::new(),
            pushes: BTreeMap::new(),
            made: 0,
            sampled: 0,
            down: BTreeSet::new(),
        };
        for product in PRODUCTS {
            for number in 0..TERMINALS {
                simulation.terminal(product, number);
            }
        }
        for number in 0..simulation.terminals.len() {
            if number % TERMINALS != TERMINALS - 1 {
                simulation.open(number);
            }
        }
        simulation
    }

    fn terminal(&mut self, product: &'static str, number: usize) {
        let (name, user) = (format!("t{number}"), format!("u{}", number / 3));
        let client = match number % 4 {
            0 | 1 => Client::Sdk,
            2 => Client::RawCursors,
            _ => Client::RawPlain,
        };
        let who = format!("{product}/{name}");
        self.tape.terminal(&who, Some(&user), client);
        let reads = BTreeMap::from([(LogName::Terminal, Read::default())]);
        let seen = HashSet::new();
        let (online, sessions) = (false, 0);
        self.terminals.push(Terminal {
            who,
            product,
            name,
            user,
            client,
            online,
            sessions,
            reads,
            seen,
        });
    }

    /// What happens next, a few milliseconds later.
    fn step(&mut self) {
        let wait = self.rng.u64(1..40);
        self.tape.wait(wait);
        self.sample();
        let number = self.rng.usize(0..self.terminals.len());
        match self.rng.u32(0..100) {
            0..70 => self.push(),
            70..78 if self.terminals[number].online => {
                let how = if self.rng.bool() { Ending::Closed } else { Ending::Dropped };
                self.leave(number, how);
            }
            70..90 if !self.terminals[number].online => self.open(number),
            90..93 if self.terminals[number].online => self.join(number),
            93..95 if self.terminals[number].online => self.part(number),
            95..97 if self.terminals[number].online => self.again(number),
            97..98 if !self.terminals[number].online => {
                let terminal = &mut self.terminals[number];
                if terminal.client == Client::Sdk {
                    terminal.seen.clear();
                    self.tape.add("load-0", Event::LostCursors { who: (*terminal.who).into() });
                }
            }
            98..100 => {
                let wait = self.rng.u64(500..4_000);
                self.tape.wait(wait);
            }
            _ => {}
        }
    }

    fn push(&mut self) {
        let product = PRODUCTS[self.rng.usize(0..PRODUCTS.len())];
        let key = format!("{product}-http-{}", self.made);
        self.made += 1;
        let targets = self.targets();
        let ttl_ms = match self.rng.u32(0..20) {
            0 => Some(0),
            1..3 => Some(self.rng.u64(500..20_000)),
            3 => Some(86_400_000),
            _ => None,
        };
        self.tape.invoke_for(&key, product, &targets, ttl_ms);
        let took = self.rng.u64(1..5);
        let outcome = self.rng.u32(0..100);
        // As many in every run: how many may be is judged.
        if self.made % 60 == 30 {
            self.tape.wait(took).refused(&key);
            return;
        }
        if outcome < 4 {
            // Nobody knows, and it was not stored.
            self.tape.wait(took).unknown(&key);
            return;
        }
        let known = outcome >= 8;
        if ttl_ms == Some(0) {
            self.only_online(&key, product, &targets);
            return;
        }
        let mut answered = Vec::new();
        let mut accepted = Accepted { product, ..Accepted::default() };
        for target in &targets {
            // A full inbox, now and then.
            if known && targets.len() > 1 && self.rng.u32(0..30) == 0 {
                answered.push((target.clone(), None));
                continue;
            }
            let offset = self.append(&key, product, target, ttl_ms);
            answered.push((target.clone(), Some(Offset(offset))));
            accepted.logs.push((product, log_of(target)));
        }
        // Some get it before the answer.
        let early = self.rng.bool();
        if early {
            self.deliver_all();
        }
        self.tape.wait(took);
        if known {
            self.tape.accepted(&key, &answered);
            if self.rng.u32(0..25) == 0 {
                self.tape.wait(1).accepted(&key, &answered);
            }
            accepted.counted = !accepted.logs.is_empty();
        } else {
            self.tape.unknown(&key);
        }
        self.pushes.insert(key, accepted);
        self.deliver_all();
    }

    fn targets(&mut self) -> Vec<Target> {
        let some = |rng: &mut Rng, most: usize, prefix: &str| -> Vec<String> {
            let count = rng.usize(1..=3.min(most));
            let chosen = rng.choose_multiple(0..most, count);
            chosen.into_iter().map(|number| format!("{prefix}{number}")).collect()
        };
        match self.rng.u32(0..10) {
            0..4 => some(&mut self.rng, TERMINALS, "t").iter().map(|name| terminal(name)).collect(),
            4..6 => some(&mut self.rng, 3, "u").iter().map(|name| user(name)).collect(),
            6..8 => vec![topic(TOPICS[self.rng.usize(0..TOPICS.len())])],
            _ => vec![Target::All],
        }
    }

    /// Stored nowhere: who is online and in the audience gets it.
    fn only_online(&mut self, key: &str, product: &'static str, targets: &[Target]) {
        let answered: Vec<_> = targets.iter().map(|target| (target.clone(), None)).collect();
        self.tape.wait(1).accepted(key, &answered);
        let mut given = BTreeSet::new();
        for target in targets {
            let log = log_of(target);
            for number in self.readers(product, &log) {
                if self.terminals[number].online && given.insert(number) {
                    let terminal = &self.terminals[number];
                    let name = name_of(target);
                    self.tape.delivered(&terminal.who, terminal.sessions, name, None, key);
                }
            }
        }
    }

    fn append(
        &mut self,
        key: &str,
        product: &'static str,
        target: &Target,
        ttl_ms: Option<u64>,
    ) -> u64 {
        let log = log_of(target);
        let readers = self.readers(product, &log).into_iter();
        let readers = readers.map(|number| (number, State::Pending)).collect();
        let stored = self.tape.now;
        let entries = self.logs.entry((product, log)).or_default();
        let last = entries.last().map_or(0, |entry| entry.offset);
        let offset = (stored / MS * 4096 + 4096).max(last + 1);
        let expires = ttl_ms.map_or(u64::MAX, |ttl| stored + ttl * MS);
        let (key, gone) = (key.to_owned(), false);
        entries.push(Entry { key, offset, expires, stored, readers, gone });
        offset
    }

    /// Who reads a log now.
    fn readers(&self, product: &str, log: &str) -> Vec<usize> {
        let reads = |terminal: &Terminal| {
            terminal.product == product
                && terminal.reads.keys().any(|name| terminal.log(name) == log)
        };
        let numbered = self.terminals.iter().enumerate();
        numbered.filter(|(_, terminal)| reads(terminal)).map(|(number, _)| number).collect()
    }

    fn open(&mut self, number: usize) {
        self.tape.wait(1);
        let now = self.tape.now;
        let terminal = &mut self.terminals[number];
        terminal.sessions += 1;
        terminal.online = true;
        if terminal.sessions == 1 {
            // The oldest that lives, of its user; nothing of what was broadcast before.
            let user = (terminal.product, format!("user:{}", terminal.user));
            let entries = self.logs.entry(user).or_default();
            let live = entries.iter().position(|entry| entry.expires > now);
            let first = live.unwrap_or(entries.len());
            for entry in &mut entries[first..] {
                entry.readers.insert(number, State::Pending);
            }
            let begun = first.checked_sub(1).map_or(0, |before| entries[before].offset);
            terminal.reads.insert(LogName::User, Read::at(first, begun));
            let broadcast = (terminal.product, "broadcast".to_owned());
            let entries = self.logs.entry(broadcast).or_default();
            let begun = entries.last().map_or(0, |entry| entry.offset);
            terminal.reads.insert(LogName::Broadcast, Read::at(entries.len(), begun));
        }
        let (mut sent, mut positions) = (Vec::new(), Vec::new());
        for (name, read) in &mut terminal.reads {
            let log = (terminal.product, log_named(&terminal.name, &terminal.user, name));
            let entries = self.logs.entry(log).or_default();
            if terminal.client == Client::RawCursors && read.given > 0 {
                sent.push((name.clone(), Offset(entries[read.given - 1].offset)));
                for entry in &mut entries[read.next.min(read.given)..read.given] {
                    entry.acknowledge(number);
                }
                read.next = read.next.max(read.given);
            }
            (read.start, read.written) = (read.next, read.next);
            let before = read.next.checked_sub(1).map_or(0, |before| entries[before].offset);
            positions.push((name.clone(), Offset(before.max(read.begun))));
        }
        if terminal.client == Client::Sdk {
            positions.clear();
        }
        let (who, session) = (terminal.who.clone(), terminal.sessions);
        let topics: Vec<LogName> = terminal.reads.keys().filter(is_topic).cloned().collect();
        self.tape.opened(&who, session, &sent, &positions);
        for topic in topics {
            self.tape.joined(&who, topic);
        }
        if self.kind.evicts {
            self.evict(number);
        }
        self.deliver(number);
    }

    /// Some of what a topic holds for a terminal is gone when it comes.
    fn evict(&mut self, number: usize) {
        let terminal = &mut self.terminals[number];
        for (name, read) in terminal.reads.iter_mut().filter(|(name, _)| is_topic(name)) {
            let log = (terminal.product, log_named(&terminal.name, &terminal.user, name));
            let entries = self.logs.entry(log).or_default();
            let never = |entry: &Entry| entry.readers.get(&number) == Some(&State::Pending);
            let fresh = entries[read.next..].iter().all(never);
            if entries.len() < read.next + 2 || !fresh || self.rng.bool() {
                continue;
            }
            let before = read.next.checked_sub(1).map_or(0, |before| entries[before].offset);
            let (from, to) = (before.max(read.begun), entries[read.next].offset);
            entries[read.next].readers.insert(number, State::Evicted);
            let next = read.next + 1;
            (read.next, read.written) = (next, next);
            (read.start, read.begun) = (next, to);
            let (who, session) = (&terminal.who, terminal.sessions);
            self.tape.told_gap(who, session, name.clone(), (from, to), "evicted");
        }
    }

    fn deliver_all(&mut self) {
        for number in 0..self.terminals.len() {
            if self.terminals[number].online {
                self.deliver(number);
            }
        }
    }

    /// Gives a terminal what it has before it, and takes its acknowledgements.
    fn deliver(&mut self, number: usize) {
        let names: Vec<LogName> = self.terminals[number].reads.keys().cloned().collect();
        for name in names {
            self.deliver_log(number, &name);
        }
    }

    fn deliver_log(&mut self, number: usize, name: &LogName) {
        let terminal = &mut self.terminals[number];
        let Some(read) = terminal.reads.get_mut(name) else { return };
        let log = (terminal.product, log_named(&terminal.name, &terminal.user, name));
        let entries = self.logs.entry(log).or_default();
        while let Some(entry) = entries.get_mut(read.written) {
            // Without the SDK some wait for their acknowledgement, never more than the window.
            let open = (read.written - read.next) as u64;
            if open >= u64::from(WINDOW) - 1 {
                acknowledge(
                    &mut self.tape,
                    number,
                    &terminal.who,
                    terminal.sessions,
                    terminal.client,
                    name,
                    read,
                    entries,
                );
                continue;
            }
            read.written += 1;
            if entry.gone {
                continue;
            }
            if entry.expires <= self.tape.now {
                entry.expire(number);
                continue;
            }
            entry.write(number);
            read.given = read.given.max(read.written);
            let (offset, key) = (entry.offset, entry.key.clone());
            let sdk = terminal.client == Client::Sdk;
            if terminal.seen.insert(key.clone()) || !sdk {
                let wait = self.rng.u64(0..2);
                let (who, session) = (&terminal.who, terminal.sessions);
                self.tape.wait(wait).delivered(who, session, name.clone(), offset, &key);
            }
            if sdk || self.rng.u32(0..4) > 0 {
                acknowledge(
                    &mut self.tape,
                    number,
                    &terminal.who,
                    terminal.sessions,
                    terminal.client,
                    name,
                    read,
                    entries,
                );
            }
        }
    }

    fn leave(&mut self, number: usize, how: Ending) {
        self.tape.wait(1);
        let terminal = &mut self.terminals[number];
        terminal.online = false;
        for (name, read) in &mut terminal.reads {
            let log = (terminal.product, log_named(&terminal.name, &terminal.user, name));
            let entries = self.logs.entry(log).or_default();
            if how == Ending::Closed {
                acknowledge(
                    &mut self.tape,
                    number,
                    &terminal.who,
                    terminal.sessions,
                    terminal.client,
                    name,
                    read,
                    entries,
                );
            } else if how == Ending::Broken && read.next > read.start && self.rng.bool() {
                // An acknowledgement that was not written down.
                read.next -= 1;
            }
        }
        self.tape.wait(1).left(&terminal.who, terminal.sessions, how);
    }

    fn join(&mut self, number: usize) {
        let log = topic_log(TOPICS[self.rng.usize(0..TOPICS.len())]);
        let terminal = &mut self.terminals[number];
        let who = terminal.who.clone();
        self.tape.joining(&who, log.clone());
        if !terminal.reads.contains_key(&log) {
            self.tape.wait(1);
            let entries = self.logs.entry((terminal.product, log.to_string())).or_default();
            let begun = entries.last().map_or(0, |entry| entry.offset);
            terminal.reads.insert(log.clone(), Read::at(entries.len(), begun));
        }
        self.tape.wait(1).joined(&who, log);
    }

    fn part(&mut self, number: usize) {
        let terminal = &mut self.terminals[number];
        let Some(log) = terminal.reads.keys().find(is_topic).cloned() else { return };
        let read = terminal.reads.remove(&log);
        let who = terminal.who.clone();
        let entries = self.logs.entry((terminal.product, log.to_string())).or_default();
        for entry in &mut entries[read.map_or(0, |read| read.next)..] {
            entry.suppress(number);
        }
        self.tape.wait(1).leaves(&who, &log).wait(1);
    }

    /// A time-out: what was not acknowledged comes once more on the link.
    fn again(&mut self, number: usize) {
        let terminal = &self.terminals[number];
        let open = terminal.reads.iter().find(|(_, read)| read.written == read.next + 1);
        let Some((name, read)) = open else { return };
        if terminal.client == Client::Sdk {
            return;
        }
        let log = (terminal.product, terminal.log(name));
        let entry = &self.logs[&log][read.next];
        let expired = entry.expires <= self.tape.now;
        if entry.gone || expired || entry.readers.get(&number) != Some(&State::Written) {
            return;
        }
        // Only once each: the window of a fault is small here.
        let (who, session) = (terminal.who.clone(), terminal.sessions);
        let (name, offset, key) = (name.clone(), entry.offset, entry.key.clone());
        self.tape.delivered(&who, session, name.clone(), offset, &key);
        if let Some(Event::Delivered { again, .. }) =
            self.tape.records.last_mut().map(|record| &mut record.event)
        {
            *again = true;
        }
        let terminal = &mut self.terminals[number];
        let read = terminal.reads.get_mut(&name).unwrap();
        let entries = self.logs.entry(log).or_default();
        acknowledge(&mut self.tape, number, &who, session, terminal.client, &name, read, entries);
    }

    /// A node dies: half of the sessions break, pushes take long, then all is whole again.
    fn fault(&mut self, nth: usize) {
        let (component, kind) =
            [("node:node-1", "killed"), ("redis:0/0", "hung"), ("product:p0", "flood")][nth % 3];
        self.tape.fault(component, kind, false);
        let broken: Vec<usize> = (0..self.terminals.len())
            .filter(|number| kind != "flood" && self.terminals[*number].online && number % 2 == 0)
            .collect();
        if kind == "killed" {
            self.down.insert(component);
        }
        for number in &broken {
            self.leave(*number, Ending::Broken);
        }
        for _ in 0..70 {
            if kind != "flood" {
                let wait = self.rng.u64(1..100);
                self.tape.wait(wait);
            }
            self.sample();
            self.push();
        }
        self.down.clear();
        self.tape.mended();
        for number in broken {
            self.open(number);
        }
        self.tape.wait(200).healed();
    }

    /// The store comes back without its last second, and says so.
    fn lose(&mut self) {
        for number in 0..self.terminals.len() {
            if self.terminals[number].online {
                self.leave(number, Ending::Broken);
            }
        }
        for _ in 0..5 {
            self.push();
        }
        self.tape.fault("redis:0/0", "emptied", true);
        let since = self.tape.now.saturating_sub(1_000 * MS);
        let mut lost = BTreeSet::new();
        for (log, entries) in &mut self.logs {
            for entry in entries.iter_mut().filter(|entry| entry.stored >= since) {
                entry.gone = true;
                lost.insert(log.clone());
                if let Some(push) = self.pushes.get_mut(&entry.key) {
                    push.counted = false;
                }
            }
        }
        for _ in 0..12 {
            self.push();
        }
        self.tape.mended().wait(100).healed();
        for number in 0..self.terminals.len() {
            self.open(number);
            let terminal = &mut self.terminals[number];
            for (name, read) in &mut terminal.reads {
                let log = (terminal.product, log_named(&terminal.name, &terminal.user, name));
                if lost.contains(&log) {
                    let from = self.logs[&log].get(read.next).map_or(1, |entry| entry.offset);
                    let (who, session) = (&terminal.who, terminal.sessions);
                    self.tape.told_gap(who, session, name.clone(), (from, 0), "ahead");
                }
            }
        }
    }

    /// What processes hold, every second.
    fn sample(&mut self) {
        while self.sampled + 1_000 * MS <= self.tape.now {
            self.sampled += 1_000 * MS;
            for process in ["node:node-1", "node:node-2", "redis:0/0", "load-0"] {
                let noise = self.rng.u64(0..4_000);
                let grown = if process == "load-0" { self.sampled / MS * 100 } else { 0 };
                let held = (200_000 + noise + grown, 50 + noise % 10, 8, 0);
                let held = (!self.down.contains(process)).then_some(held);
                self.tape.sample(process, held);
            }
        }
    }

    /// Everybody comes, gets everything and acknowledges it; then the server is asked what it
    /// counted.
    fn finish(mut self) -> Vec<Record> {
        self.tape.wait(100);
        for number in 0..self.terminals.len() {
            if !self.terminals[number].online {
                self.open(number);
            }
        }
        // Acknowledged, and away once more: what is expired is counted when they pass it.
        for number in 0..self.terminals.len() {
            self.leave(number, Ending::Closed);
            self.tape.wait(5);
            self.open(number);
        }
        self.tape.wait(30_000);
        self.sample();
        self.tape.add("driver", Event::HeadChecked { found: 0 });
        let counted: Vec<(String, Counts)> = self
            .pushes
            .iter()
            .filter(|(_, push)| push.counted)
            .map(|(key, push)| (key.clone(), self.counts(key, push)))
            .collect();
        let asked = counted.len() as u64;
        self.tape.add("driver", Event::Counting { asked, of: asked });
        for (key, counts) in counted {
            self.tape.counted(&key, counts);
        }
        self.tape.finish()
    }

    fn counts(&self, key: &str, push: &Accepted) -> Counts {
        let mut counts = Counts::default();
        for log in &push.logs {
            debug_assert_eq!(log.0, push.product);
            for entry in self.logs[log].iter().filter(|entry| entry.key == key) {
                for state in entry.readers.values() {
                    counts.audience += 1;
                    match state {
                        State::Pending => counts.pending += 1,
                        State::Written => counts.pending += 1,
                        State::Acknowledged => counts.acknowledged += 1,
                        State::Expired => counts.expired += 1,
                        State::Suppressed => counts.suppressed += 1,
                        State::Evicted => counts.evicted += 1,
                    }
                }
            }
        }
        counts.delivered = counts.acknowledged;
        counts
    }
}

impl Read {
    const fn at(next: usize, begun: u64) -> Self {
        Self { next, written: next, given: 0, start: next, begun }
    }
}

impl Terminal {
    fn log(&self, name: &LogName) -> String {
        log_named(&self.name, &self.user, name)
    }
}

impl Entry {
    fn set(&mut self, number: usize, from: &[State], to: State) {
        if let Some(state) = self.readers.get_mut(&number)
            && from.contains(state)
        {
            *state = to;
        }
    }

    fn write(&mut self, number: usize) {
        self.set(number, &[State::Pending], State::Written);
    }

    fn acknowledge(&mut self, number: usize) {
        self.set(number, &[State::Written], State::Acknowledged);
    }

    fn expire(&mut self, number: usize) {
        self.set(number, &[State::Pending, State::Written], State::Expired);
    }

    fn suppress(&mut self, number: usize) {
        self.set(number, &[State::Pending, State::Written], State::Suppressed);
    }
}

/// Everything that was written is acknowledged.
#[allow(clippy::too_many_arguments)]
fn acknowledge(
    tape: &mut Tape,
    number: usize,
    who: &str,
    session: u64,
    client: Client,
    name: &LogName,
    read: &mut Read,
    entries: &mut [Entry],
) {
    if read.next >= read.written {
        return;
    }
    for entry in &mut entries[read.next..read.written] {
        entry.acknowledge(number);
    }
    read.next = read.written;
    if client != Client::Sdk {
        tape.acknowledged(who, session, name.clone(), entries[read.next - 1].offset);
    }
}

fn is_topic(name: &&LogName) -> bool {
    matches!(name, LogName::Topic(_))
}

fn name_of(target: &Target) -> LogName {
    match target {
        Target::All => LogName::Broadcast,
        Target::Terminal(_) => LogName::Terminal,
        Target::User(_) => LogName::User,
        Target::Topic(topic) => LogName::Topic(topic.clone()),
    }
}

fn log_of(target: &Target) -> String {
    match target {
        Target::All => "broadcast".to_owned(),
        Target::Terminal(name) => format!("terminal:{name}"),
        Target::User(name) => format!("user:{name}"),
        Target::Topic(name) => format!("topic:{name}"),
    }
}

fn log_named(terminal: &str, user: &str, name: &LogName) -> String {
    match name {
        LogName::Terminal => format!("terminal:{terminal}"),
        LogName::User => format!("user:{user}"),
        LogName::Topic(_) | LogName::Broadcast => name.to_string(),
    }
}
