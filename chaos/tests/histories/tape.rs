//! Writes histories by hand: a record a call, at the time of the tape.

use std::collections::BTreeMap;

use clarion_chaos::history::{About, Client, Ending, Event, FORMAT, Record, Sample};
use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{Epoch, LogName, MessageId, Offset, TerminalId, TopicName, UserId};

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// The most unacknowledged messages of a log and session.
pub const WINDOW: u32 = 4;
/// Room for as many messages as a history has, among the ids of a time.
const TIME_MS: u64 = 1_750_000_000_000;

/// Records, and the time of the next.
#[derive(Default, Clone)]
pub struct Tape {
    pub now: u64,
    pub records: Vec<Record>,
    pub faults: u32,
    ids: BTreeMap<String, MessageId>,
}

impl Tape {
    /// Goes on behind a history.
    pub fn behind(records: &[Record], ms: u64) -> Self {
        let last = records.iter().map(|record| record.t).max().unwrap_or(0);
        let fault = |record: &Record| match record.event {
            Event::Fault { n, .. } => n,
            _ => 0,
        };
        let faults = records.iter().map(fault).max().unwrap_or(0);
        Self { now: last + ms * MS, faults, ..Self::default() }
    }

    pub fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += ms * MS;
        self
    }

    pub fn add(&mut self, by: &str, event: Event) -> &mut Self {
        self.now += 1000;
        self.records.push(Record { t: self.now, by: by.into(), event });
        self
    }

    pub fn run(&mut self, seed: u64) -> &mut Self {
        let about = About {
            format: FORMAT,
            seed,
            scenario: "simulated".to_owned(),
            world: "none".to_owned(),
            heartbeat_ms: 2000,
            window: WINDOW,
            ..About::default()
        };
        self.add("driver", Event::Run(Box::new(about)))
    }

    pub fn terminal(&mut self, who: &str, user: Option<&str>, client: Client) -> &mut Self {
        let event = Event::Terminal {
            who: who.into(),
            product: product_of(who).into(),
            user: user.map(str::to_owned),
            client,
            topics: Vec::new(),
            keeps_cursors: true,
            slow: false,
        };
        self.add("driver", event)
    }

    /// The terminal opens a session at these positions, and so reads its user's log and broadcasts.
    pub fn opened(
        &mut self,
        who: &str,
        session: u64,
        sent: &[(LogName, Offset)],
        positions: &[(LogName, Offset)],
    ) -> &mut Self {
        let event = Event::Opened {
            who: who.into(),
            session,
            generation: session,
            sent: sent.to_vec(),
            positions: positions.to_vec(),
            door: "node:node-1".into(),
            node: "node-1".into(),
        };
        self.add("load-0", event);
        self.joined(who, LogName::User).joined(who, LogName::Broadcast)
    }

    pub fn joining(&mut self, who: &str, log: LogName) -> &mut Self {
        self.add("load-0", Event::Joining { who: who.into(), log })
    }

    pub fn joined(&mut self, who: &str, log: LogName) -> &mut Self {
        self.add("load-0", Event::Joined { who: who.into(), log })
    }

    pub fn leaves(&mut self, who: &str, log: &LogName) -> &mut Self {
        self.add("load-0", Event::Leaving { who: who.into(), log: log.clone() });
        self.wait(5).add("load-0", Event::LeftTopic { who: who.into(), log: log.clone() })
    }

    pub fn left(&mut self, who: &str, session: u64, how: Ending) -> &mut Self {
        self.add("load-0", Event::Left { who: who.into(), session, how })
    }

    pub fn invoke(&mut self, key: &str, product: &str, targets: &[Target]) -> &mut Self {
        self.invoke_for(key, product, targets, None)
    }

    pub fn invoke_for(
        &mut self,
        key: &str,
        product: &str,
        targets: &[Target],
        ttl_ms: Option<u64>,
    ) -> &mut Self {
        let event = Event::Invoke {
            key: key.into(),
            product: product.into(),
            targets: targets.to_vec(),
            hash: hash_of(key).into(),
            ttl_ms,
            lane: "http".into(),
            patient: true,
            door: "node:node-1".into(),
        };
        self.add("load-0", event)
    }

    /// The id of a push: always the same.
    pub fn id(&mut self, key: &str) -> MessageId {
        *self.ids.entry(key.to_owned()).or_insert_with(|| id_of(key))
    }

    pub fn accepted(&mut self, key: &str, targets: &[(Target, Option<Offset>)]) -> &mut Self {
        let id = self.id(key);
        self.accepted_as(key, id, targets)
    }

    pub fn accepted_as(
        &mut self,
        key: &str,
        id: MessageId,
        targets: &[(Target, Option<Offset>)],
    ) -> &mut Self {
        let event = Event::Accepted {
            key: key.into(),
            id,
            targets: targets.to_vec(),
            door: "node:node-1".into(),
            replayed: false,
        };
        self.add("load-0", event)
    }

    pub fn refused(&mut self, key: &str) -> &mut Self {
        self.add("load-0", Event::Refused { key: key.into(), why: "overloaded".to_owned() })
    }

    pub fn unknown(&mut self, key: &str) -> &mut Self {
        self.add("load-0", Event::Unknown { key: key.into(), why: "it broke".to_owned() })
    }

    pub fn delivered(
        &mut self,
        who: &str,
        session: u64,
        log: LogName,
        offset: impl Into<Option<u64>>,
        key: &str,
    ) -> &mut Self {
        let event = Event::Delivered {
            who: who.into(),
            session,
            log,
            offset: offset.into().map(Offset),
            id: self.id(key),
            key: key.into(),
            hash: hash_of(key).into(),
            again: false,
        };
        self.add("load-0", event)
    }

    pub fn acknowledged(&mut self, who: &str, session: u64, log: LogName, to: u64) -> &mut Self {
        let (who, offset) = (who.into(), Offset(to));
        self.add("load-0", Event::Acknowledged { who, session, log, offset })
    }

    pub fn told_gap(
        &mut self,
        who: &str,
        session: u64,
        log: LogName,
        range: (u64, u64),
        reason: &str,
    ) -> &mut Self {
        let event = Event::ToldGap {
            who: who.into(),
            session,
            log,
            from: Offset(range.0),
            to: Offset(range.1),
            epoch: Epoch(7),
            reason: reason.into(),
        };
        self.add("load-0", event)
    }

    pub fn counted(&mut self, key: &str, counts: Counts) -> &mut Self {
        self.add("driver", Event::Counted { key: key.into(), counts })
    }

    pub fn fault(&mut self, component: &str, kind: &str, outside_model: bool) -> &mut Self {
        self.faults += 1;
        let event = Event::Fault {
            n: self.faults,
            component: component.into(),
            kind: kind.into(),
            what: String::new(),
            expects: String::new(),
            outside_model,
        };
        self.add("driver", event)
    }

    /// The same, with what is expected of it.
    pub fn fault_that(&mut self, component: &str, kind: &str, expected: &str) -> &mut Self {
        self.fault(component, kind, false);
        if let Some(Event::Fault { expects, .. }) =
            self.records.last_mut().map(|record| &mut record.event)
        {
            expected.clone_into(expects);
        }
        self
    }

    pub fn mended(&mut self) -> &mut Self {
        let n = self.faults;
        self.add("driver", Event::Mended { n })
    }

    pub fn healed(&mut self) -> &mut Self {
        let n = self.faults;
        self.add("driver", Event::Healed { n })
    }

    pub fn sample(&mut self, process: &str, held: Option<(u64, u64, u64, u64)>) -> &mut Self {
        let sample = Sample {
            process: process.into(),
            rss_kib: held.map(|held| held.0),
            fds: held.map(|held| held.1),
            threads: held.map(|held| held.2),
            cpu_ms: held.map(|_| 1),
            links: held.map(|_| 3),
            sessions: held.map(|_| 3),
            queued_bytes: held.map(|held| held.3),
        };
        self.add("driver", Event::Sample(Box::new(sample)))
    }

    /// In the order of time, as readers have it.
    pub fn finish(mut self) -> Vec<Record> {
        self.records.sort_by_key(|record| record.t);
        self.records
    }
}

/// Of one terminal each in an audience of so many.
pub fn all_acknowledged(audience: u64) -> Counts {
    Counts { audience, delivered: audience, acknowledged: audience, ..Counts::default() }
}

pub fn product_of(who: &str) -> &str {
    who.split('/').next().unwrap()
}

pub fn hash_of(key: &str) -> String {
    format!("hash of {key}")
}

pub fn id_of(key: &str) -> MessageId {
    let number = key.bytes().fold(7_u128, |sum, byte| {
        (sum.wrapping_mul(1_000_003) ^ u128::from(byte)) & ((1 << 80) - 1)
    });
    MessageId::from_parts(TIME_MS, number)
}

pub fn terminal(name: &str) -> Target {
    Target::Terminal(TerminalId::new(name).unwrap())
}

pub fn user(name: &str) -> Target {
    Target::User(UserId::new(name).unwrap())
}

pub fn topic(name: &str) -> Target {
    Target::Topic(TopicName::new(name).unwrap())
}

pub fn topic_log(name: &str) -> LogName {
    LogName::Topic(TopicName::new(name).unwrap())
}
