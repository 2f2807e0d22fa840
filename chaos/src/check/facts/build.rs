//! Makes [`Facts`] of records: the only place of the checker that knows the events.

use std::collections::{BTreeMap, HashMap};

use clarion_protocol::http::Target as Named;
use clarion_protocol::{LogName, MessageId, Offset};

use super::csr::Csr;
use super::{
    Acknowledged, Answer, Answered, At, Busy, Counting, Delivery, Facts, Fault, Gap, Held, Log,
    Membership, NONE, Push, Run, Sample, Session, Stored, Target, Terminal, split,
};
use crate::history::{self, About, Ending, Event, Record};

/// Faults that hold up nobody else: what they break stays where it is.
const DISTURB_NOTHING: [&str; 2] = ["clock", "flood"];

pub fn build(records: &[Record]) -> Facts<'_> {
    let mut builder = Builder::default();
    // Answers and deliveries may have the same time as what they are about; who and what there is
    // must be known before.
    for (index, record) in (0_u32..).zip(records) {
        builder.learn(index, record);
    }
    for (index, record) in (0_u32..).zip(records) {
        builder.add(index, record);
    }
    builder.finish(records)
}

/// The log of a product, by what it is and whose.
type LogKey<'a> = (&'a str, Kind, &'a str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Terminal,
    User,
    Topic,
    Broadcast,
}

#[derive(Default)]
struct Builder<'a> {
    run: Run,
    terminals: Vec<Terminal<'a>>,
    named: HashMap<&'a str, u32>,
    pushes: Vec<Push<'a>>,
    keyed: HashMap<&'a str, u32>,
    logs: Vec<Log>,
    log_of: HashMap<LogKey<'a>, u32>,
    deliveries: Vec<Delivery>,
    answered: Vec<Answered>,
    faults: Vec<Fault<'a>>,
    gaps: Vec<Gap>,
    samples: BTreeMap<&'a str, Vec<Sample>>,
    steady: Option<At>,
    head_checks: Vec<(u32, u64)>,
    troubles: Vec<u32>,
    inventions: Vec<u32>,
    counting: Option<Counting>,
}

impl<'a> Builder<'a> {
    /// Terminals and pushes.
    fn learn(&mut self, index: u32, record: &'a Record) {
        match &record.event {
            Event::Run(about) => {
                let window = u64::from(about.window);
                let About { heartbeat_ms, slack_ms, .. } = **about;
                self.run = Run { window, heartbeat_ms, slack_ms };
            }
            Event::Terminal { who, product, user, client, .. } => {
                let number = self.terminals.len() as u32;
                self.named.insert(who, number);
                self.terminals.push(Terminal {
                    who,
                    product,
                    user: user.as_deref(),
                    client: *client,
                    sessions: Vec::new(),
                    lost_cursors: Vec::new(),
                    acknowledged: Vec::new(),
                    memberships: HashMap::new(),
                });
                // Its inbox takes messages before it ever connects (I3); of its user's and the
                // product's it is told with its first session.
                self.reads(number, &LogName::Terminal, Some(0));
                self.reads(number, &LogName::User, None);
                self.reads(number, &LogName::Broadcast, None);
            }
            Event::Invoke { key, product, targets, hash, ttl_ms, .. } => {
                let number = self.pushes.len() as u32;
                let targets = targets.iter().map(|target| Target {
                    log: self.log_of_target(product, target),
                    stored: Stored::Unknown,
                    answered: false,
                    offset: None,
                });
                let targets = targets.collect();
                self.keyed.entry(key).or_insert(number);
                self.pushes.push(Push {
                    index: number,
                    key,
                    product,
                    hash,
                    invoked: record.t,
                    record: index,
                    ttl_ms: *ttl_ms,
                    targets,
                    accepted: None,
                    refused: None,
                    unknown: None,
                    ids: Vec::new(),
                    counts: None,
                });
            }
            _ => {}
        }
    }

    fn add(&mut self, index: u32, record: &'a Record) {
        let at = record.t;
        match &record.event {
            Event::Joining { .. }
            | Event::Joined { .. }
            | Event::Leaving { .. }
            | Event::LeftTopic { .. } => self.member(record),
            Event::Accepted { .. }
            | Event::Refused { .. }
            | Event::Unknown { .. }
            | Event::Counted { .. } => self.answer(index, record),
            Event::Opened { .. }
            | Event::Left { .. }
            | Event::Acknowledged { .. }
            | Event::LostCursors { .. }
            | Event::ToldGap { .. } => self.session(index, record),
            Event::Delivered { .. } => self.delivered(index, record),
            Event::Fault { .. } | Event::Mended { .. } | Event::Healed { .. } => {
                self.fault(index, record);
            }
            Event::Steady { from } => {
                self.steady.get_or_insert(*from);
            }
            Event::Sample(sample) => self.sample(index, at, sample),
            Event::HeadChecked { found } => self.head_checks.push((index, *found)),
            Event::Trouble { .. } => self.troubles.push(index),
            Event::Counting { asked, of } => {
                self.counting = Some(Counting { record: index, asked: *asked, of: *of });
            }
            Event::Run(_)
            | Event::Component { .. }
            | Event::Terminal { .. }
            | Event::Invoke { .. }
            | Event::Skipped { .. }
            | Event::Baseline
            | Event::Stalled { .. }
            | Event::Machine { .. }
            | Event::Phase { .. } => {}
        }
    }

    fn member(&mut self, record: &'a Record) {
        let at = record.t;
        let (Event::Joining { who, log }
        | Event::Joined { who, log }
        | Event::Leaving { who, log }
        | Event::LeftTopic { who, log }) = &record.event
        else {
            return;
        };
        let Some(terminal) = self.named.get(&**who).copied() else { return };
        let Some(number) = self.log(terminal, log) else { return };
        let memberships = self.terminals[terminal as usize].memberships.entry(number).or_default();
        if memberships.is_empty() {
            self.logs[number as usize].readers.push(terminal);
        }
        let current = memberships.last_mut().filter(|last| last.parted.is_none());
        match (&record.event, current) {
            (Event::Joining { .. }, None) => {
                memberships.push(Membership { joining: at, ..Membership::default() });
            }
            // To join while it leaves may come before or after that.
            (Event::Joining { .. }, Some(current)) if current.leaving.is_some() => {
                current.parted = Some(at);
                memberships.push(Membership { joining: at, ..Membership::default() });
            }
            (Event::Joining { .. }, Some(_)) => {}
            // Said again with every session.
            (Event::Joined { .. }, Some(current)) if current.leaving.is_none() => {
                current.joined.get_or_insert(at);
            }
            (Event::Joined { .. }, None) => {
                let joined = Some(at);
                memberships.push(Membership { joining: at, joined, ..Membership::default() });
            }
            (Event::Leaving { .. }, Some(current)) => {
                current.leaving.get_or_insert(at);
            }
            (Event::LeftTopic { .. }, Some(current)) => {
                current.leaving.get_or_insert(at);
                current.parted = Some(at);
            }
            _ => {}
        }
    }

    fn answer(&mut self, index: u32, record: &'a Record) {
        let answer = Answer { at: record.t, record: index };
        let (Event::Accepted { key, .. }
        | Event::Refused { key, .. }
        | Event::Unknown { key, .. }
        | Event::Counted { key, .. }) = &record.event
        else {
            return;
        };
        let Some(number) = self.keyed.get(&**key).copied() else { return };
        match &record.event {
            Event::Accepted { id, targets, .. } => self.accepted(number, *id, targets, answer),
            Event::Refused { .. } => {
                let push = &mut self.pushes[number as usize];
                push.refused = Some(answer);
                push.learn(Stored::No);
            }
            Event::Unknown { .. } => {
                let push = &mut self.pushes[number as usize];
                push.unknown = Some(answer);
                push.learn(Stored::Unknown);
            }
            Event::Counted { counts, .. } => {
                self.pushes[number as usize].counts = Some((*counts, answer));
            }
            _ => {}
        }
    }

    fn accepted(
        &mut self,
        number: u32,
        id: MessageId,
        targets: &'a [(Named, Option<Offset>)],
        answer: Answer,
    ) {
        let product = self.pushes[number as usize].product;
        for (target, offset) in targets {
            let log = self.log_of_target(product, target);
            let push = &mut self.pushes[number as usize];
            // Stored nowhere is no refusal.
            let stored = offset.is_some() || push.only_online();
            push.learn_of(log, if stored { Stored::Yes } else { Stored::No });
            if let Some(offset) = *offset {
                let (at, record) = (answer.at, answer.record);
                self.answered.push(Answered { at, record, log, offset, id });
                self.place(number, log, offset);
            }
        }
        let push = &mut self.pushes[number as usize];
        push.is(id, answer.at, answer.record);
        push.accepted.get_or_insert(answer);
    }

    fn session(&mut self, index: u32, record: &'a Record) {
        let at = record.t;
        let (Event::Opened { who, .. }
        | Event::Left { who, .. }
        | Event::Acknowledged { who, .. }
        | Event::LostCursors { who }
        | Event::ToldGap { who, .. }) = &record.event
        else {
            return;
        };
        let Some(number) = self.named.get(&**who).copied() else { return };
        match &record.event {
            Event::Opened { session, generation, sent, positions, .. } => {
                let sessions = &mut self.terminals[number as usize].sessions;
                if let Some(before) = sessions.last_mut() {
                    before.left.get_or_insert(at);
                }
                sessions.push(Session {
                    number: *session,
                    opened: at,
                    record: index,
                    generation: *generation,
                    sent,
                    positions,
                    left: None,
                    how: None,
                });
            }
            Event::Left { session, how, .. } => {
                let sessions = &mut self.terminals[number as usize].sessions;
                let left = sessions.iter_mut().rev().find(|left| left.number == *session);
                let Some(left) = left else { return };
                if left.how.is_none() || *how == Ending::Closed {
                    // Whoever is called away while it has no link comes when it is called.
                    left.how = Some(*how);
                }
                left.left.get_or_insert(at);
            }
            Event::Acknowledged { session, log, offset, .. } => {
                let (Some(log), session) = (self.log(number, log), self.place_of(number, *session))
                else {
                    return;
                };
                let offset = *offset;
                let ack = Acknowledged { at, record: index, session, log, offset };
                self.terminals[number as usize].acknowledged.push(ack);
            }
            Event::LostCursors { .. } => self.terminals[number as usize].lost_cursors.push(at),
            Event::ToldGap { log, from, to, reason, .. } => {
                let Some(log) = self.log(number, log) else { return };
                let rewinds = &**reason != "evicted";
                let (from, to, record) = (*from, *to, index);
                self.gaps.push(Gap { at, record, terminal: number, log, from, to, rewinds });
            }
            _ => {}
        }
    }

    fn delivered(&mut self, index: u32, record: &'a Record) {
        let Event::Delivered { who, session, log, offset, id, key, hash, again } = &record.event
        else {
            return;
        };
        let at = record.t;
        let known = (self.named.get(&**who).copied(), self.keyed.get(&**key).copied());
        let (Some(terminal), Some(number)) = known else {
            return self.inventions.push(index);
        };
        let Some(log) = self.log(terminal, log) else {
            return self.inventions.push(index);
        };
        let session = self.place_of(terminal, *session);
        let push = &mut self.pushes[number as usize];
        push.is(*id, at, index);
        self.deliveries.push(Delivery {
            at,
            record: index,
            terminal,
            session,
            log,
            push: number,
            offset: *offset,
            id: *id,
            again: *again,
            whole: push.hash == &**hash,
        });
        if let Some(offset) = *offset {
            self.place(number, log, offset);
        }
    }

    fn fault(&mut self, index: u32, record: &'a Record) {
        let at = record.t;
        match &record.event {
            Event::Fault { n, component, kind, outside_model, .. } => self.faults.push(Fault {
                n: *n,
                at,
                record: index,
                component,
                kind,
                outside_model: *outside_model,
                mended: None,
                healed: None,
            }),
            Event::Mended { n } => {
                if let Some(fault) = self.faults.iter_mut().find(|fault| fault.n == *n) {
                    fault.mended = Some(at);
                }
            }
            Event::Healed { n } => {
                if let Some(fault) = self.faults.iter_mut().find(|fault| fault.n == *n) {
                    fault.healed = Some(at);
                }
            }
            _ => {}
        }
    }

    fn sample(&mut self, index: u32, at: At, sample: &'a history::Sample) {
        let held = sample.rss_kib.zip(sample.fds).map(|(rss_kib, fds)| Held {
            rss_kib,
            fds,
            threads: sample.threads.unwrap_or_default(),
            links: sample.links.unwrap_or_default(),
            queued_bytes: sample.queued_bytes,
        });
        let samples = self.samples.entry(&sample.process).or_default();
        samples.push(Sample { at, record: index, held });
    }

    /// Notes where a push stands, and that it does.
    fn place(&mut self, number: u32, log: u32, offset: Offset) {
        let push = &mut self.pushes[number as usize];
        let target = push.targets.iter_mut().find(|target| target.log == log);
        if let Some(target) = target.filter(|target| target.offset.is_none()) {
            target.offset = Some(offset);
            self.logs[log as usize].stored.push(number);
        }
    }

    /// Where a session stands in its terminal's list; the last one, if it is not there.
    fn place_of(&self, terminal: u32, session: u64) -> u32 {
        let sessions = &self.terminals[terminal as usize].sessions;
        let place = sessions.iter().rposition(|known| known.number == session);
        place.or(sessions.len().checked_sub(1)).map_or(NONE, |place| place as u32)
    }

    /// The terminal reads this log from the start, or may.
    fn reads(&mut self, terminal: u32, log: &'a LogName, joined: Option<At>) {
        let Some(number) = self.log(terminal, log) else { return };
        let membership = Membership { joining: 0, joined, ..Membership::default() };
        let memberships = &mut self.terminals[terminal as usize].memberships;
        memberships.entry(number).or_insert_with(|| vec![membership]);
        self.logs[number as usize].readers.push(terminal);
    }

    /// A log as a terminal names it; none if it has no such log.
    fn log(&mut self, terminal: u32, log: &'a LogName) -> Option<u32> {
        let terminal = &self.terminals[terminal as usize];
        let product = terminal.product;
        let key = match log {
            LogName::Terminal => (product, Kind::Terminal, split(terminal.who).1),
            LogName::User => (product, Kind::User, terminal.user?),
            LogName::Topic(topic) => (product, Kind::Topic, topic.as_str()),
            LogName::Broadcast => (product, Kind::Broadcast, ""),
        };
        Some(self.log_by(key, || log.clone()))
    }

    fn log_of_target(&mut self, product: &'a str, target: &'a Named) -> u32 {
        match target {
            Named::All => self.log_by((product, Kind::Broadcast, ""), || LogName::Broadcast),
            Named::Terminal(id) => {
                self.log_by((product, Kind::Terminal, id.as_str()), || LogName::Terminal)
            }
            Named::User(id) => self.log_by((product, Kind::User, id.as_str()), || LogName::User),
            Named::Topic(id) => {
                let name = || LogName::Topic(id.clone());
                self.log_by((product, Kind::Topic, id.as_str()), name)
            }
        }
    }

    fn log_by(&mut self, key: LogKey<'a>, name: impl FnOnce() -> LogName) -> u32 {
        if let Some(number) = self.log_of.get(&key) {
            return *number;
        }
        let (product, kind, whose) = key;
        let title = match kind {
            Kind::Terminal => format!("{product} terminal:{whose}"),
            Kind::User => format!("{product} user:{whose}"),
            Kind::Topic => format!("{product} topic:{whose}"),
            Kind::Broadcast => format!("{product} broadcast"),
        };
        let number = self.logs.len() as u32;
        let (readers, stored, unknown) = (Vec::new(), Vec::new(), Vec::new());
        self.logs.push(Log { name: name(), title, readers, stored, unknown });
        self.log_of.insert(key, number);
        number
    }

    fn finish(mut self, records: &'a [Record]) -> Facts<'a> {
        let pushes = self.deliveries.iter().map(|delivery| Some(delivery.push));
        let by_push = Csr::of_groups(self.pushes.len(), pushes);
        let terminals = self.deliveries.iter().map(|delivery| Some(delivery.terminal));
        let by_terminal = Csr::of_groups(self.terminals.len(), terminals);
        self.faults.sort_by_key(|fault| fault.at);
        for push in &self.pushes {
            let nobody =
                |target: &&Target| target.stored == Stored::Unknown && target.offset.is_none();
            for target in push.targets.iter().filter(nobody) {
                self.logs[target.log as usize].unknown.push(push.index);
            }
        }
        let stretch = |fault: &Fault<'_>| (fault.at, fault.over().unwrap_or(At::MAX));
        let disturbs = |fault: &&Fault<'_>| !DISTURB_NOTHING.contains(&fault.kind);
        let busy = Busy::of(self.faults.iter().filter(disturbs).map(stretch).collect());
        let untouched = Busy::of(self.faults.iter().map(stretch).collect());
        let outside = self.faults.iter().filter(|fault| fault.outside_model);
        let outside = outside.map(|fault| fault.at).collect();
        Facts {
            run: self.run,
            terminals: self.terminals,
            logs: self.logs,
            pushes: self.pushes,
            deliveries: self.deliveries,
            answered: self.answered,
            faults: self.faults,
            busy,
            untouched,
            gaps: self.gaps,
            samples: self.samples,
            steady: self.steady,
            head_checks: self.head_checks,
            troubles: self.troubles,
            inventions: self.inventions,
            counting: self.counting,
            end: records.last().map_or(0, |record| record.t),
            records,
            outside,
            by_push,
            by_terminal,
            named: self.named,
            keyed: self.keyed,
        }
    }
}

impl Push<'_> {
    fn learn(&mut self, stored: Stored) {
        for target in &mut self.targets {
            target.learn(stored);
        }
    }

    fn learn_of(&mut self, log: u32, stored: Stored) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.log == log) {
            target.learn(stored);
        }
    }

    /// Notes an id that it is said to have.
    fn is(&mut self, id: MessageId, at: At, record: u32) {
        if !self.ids.iter().any(|(known, ..)| *known == id) {
            self.ids.push((id, at, record));
        }
    }
}

impl Target {
    /// Accepted outweighs unknown, and that a refusal.
    fn learn(&mut self, stored: Stored) {
        self.stored = if self.answered { self.stored.max(stored) } else { stored };
        self.answered = true;
    }
}
