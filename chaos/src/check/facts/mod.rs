//! A history, put in order for the invariants: every name is a number, every push knows its
//! deliveries, every terminal its sessions. Made in one pass over the records and one over the
//! deliveries; what is kept for a delivery is a few numbers, so an hour's history fits in memory.

mod build;
mod csr;
mod time;

use std::collections::{BTreeMap, HashMap};

use clarion_protocol::http::Counts;
use clarion_protocol::{LogName, MessageId, Offset};

use crate::history::{self, Client, Ending, Name, Record};
use csr::Csr;

pub use time::{At, Busy, ms, seconds};

/// No place in a list.
pub const NONE: u32 = u32::MAX;

/// Everything that the invariants want to know of a history.
pub struct Facts<'a> {
    pub records: &'a [Record],
    pub run: Run,
    pub terminals: Vec<Terminal<'a>>,
    pub logs: Vec<Log>,
    pub pushes: Vec<Push<'a>>,
    /// In the order of time.
    pub deliveries: Vec<Delivery>,
    /// Every place of an id in a log that an answer told.
    pub answered: Vec<Answered>,
    /// In the order of time.
    pub faults: Vec<Fault<'a>>,
    /// When anything was broken that may hold up deliveries and pushes.
    pub busy: Busy,
    /// When anything was broken at all.
    pub untouched: Busy,
    pub gaps: Vec<Gap>,
    /// By process, in the order of time.
    pub samples: BTreeMap<&'a str, Vec<Sample>>,
    /// Where the load was in full swing.
    pub steady: Option<At>,
    /// Records of what only the slow head check found, and how much.
    pub head_checks: Vec<(u32, u64)>,
    /// Records of what must not happen.
    pub troubles: Vec<u32>,
    /// Deliveries of keys that nobody pushed.
    pub inventions: Vec<u32>,
    /// That the server's counts were asked for.
    pub counting: Option<Counting>,
    /// The last record's time.
    pub end: At,
    /// When faults outside the model began.
    outside: Vec<At>,
    by_push: Csr,
    by_terminal: Csr,
    named: HashMap<&'a str, u32>,
    keyed: HashMap<&'a str, u32>,
}

/// What the first record says.
#[derive(Debug, Default, Clone, Copy)]
pub struct Run {
    /// The most unacknowledged messages of a log and session.
    pub window: u64,
    /// The longest heartbeat that terminals are told.
    pub heartbeat_ms: u64,
    /// How much longer than expected a fault may interrupt, milliseconds.
    pub slack_ms: u64,
}

pub struct Terminal<'a> {
    pub who: &'a Name,
    pub product: &'a str,
    pub user: Option<&'a str>,
    pub client: Client,
    pub sessions: Vec<Session<'a>>,
    /// When its cursor store was taken away: from then on it may be given anything again.
    pub lost_cursors: Vec<At>,
    /// In the order of time.
    pub acknowledged: Vec<Acknowledged>,
    /// Of every log it ever was to read.
    pub memberships: HashMap<u32, Vec<Membership>>,
}

impl Terminal<'_> {
    pub fn is_sdk(&self) -> bool {
        self.client == Client::Sdk
    }

    /// How many cursor stores it had before this one.
    pub fn life(&self, at: At) -> usize {
        self.lost_cursors.partition_point(|lost| *lost <= at)
    }
}

/// A stretch of time in which a terminal reads a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Membership {
    /// It may read from here on...
    pub joining: At,
    /// ...does from here on...
    pub joined: Option<At>,
    /// ...may do no more from here on...
    pub leaving: Option<At>,
    /// ...and does not from here on.
    pub parted: Option<At>,
}

pub struct Session<'a> {
    pub number: u64,
    pub opened: At,
    pub record: u32,
    pub generation: u64,
    pub sent: &'a [(LogName, Offset)],
    pub positions: &'a [(LogName, Offset)],
    /// When it ended: said by the terminal, or seen by its next session.
    pub left: Option<At>,
    pub how: Option<Ending>,
}

#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub at: At,
    pub record: u32,
    pub session: u32,
    pub log: u32,
    pub offset: Offset,
}

pub struct Log {
    /// As a terminal names it.
    pub name: LogName,
    /// `PRODUCT terminal:t1`, for people.
    pub title: String,
    /// Terminals that ever were to read it.
    pub readers: Vec<u32>,
    /// Pushes that an answer or a delivery places in it.
    pub stored: Vec<u32>,
    /// Pushes of unknown outcome that nobody was given from it.
    pub unknown: Vec<u32>,
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

#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub log: u32,
    pub stored: Stored,
    /// Whether anything was answered about it.
    pub answered: bool,
    /// Where an answer or the first delivery places it.
    pub offset: Option<Offset>,
}

#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub at: At,
    pub record: u32,
}

pub struct Push<'a> {
    pub index: u32,
    pub key: &'a Name,
    pub product: &'a str,
    pub hash: &'a str,
    pub invoked: At,
    pub record: u32,
    pub ttl_ms: Option<u64>,
    pub targets: Vec<Target>,
    /// The first 202.
    pub accepted: Option<Answer>,
    /// The last refusal.
    pub refused: Option<Answer>,
    /// The last time that nobody knew.
    pub unknown: Option<Answer>,
    /// Every id that was told for it, when first and by which record.
    pub ids: Vec<(MessageId, At, u32)>,
    pub counts: Option<(Counts, Answer)>,
}

impl Push<'_> {
    /// Whether it is stored nowhere and reaches only who is online.
    pub fn only_online(&self) -> bool {
        self.ttl_ms == Some(0)
    }

    pub fn target(&self, log: u32) -> Option<&Target> {
        self.targets.iter().find(|target| target.log == log)
    }

    /// The earliest time at which it may be expired.
    pub fn expires_from(&self) -> Option<At> {
        self.ttl_ms.map(|ttl| self.invoked.saturating_add(ms(ttl)))
    }

    /// The time at which it has expired, whenever it was stored.
    pub fn expired_at(&self) -> Option<At> {
        Some(self.accepted?.at.saturating_add(ms(self.ttl_ms?)))
    }

    /// The last time it may have been stored.
    pub fn stored_until(&self) -> At {
        self.accepted.map_or(At::MAX, |answer| answer.at)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub at: At,
    pub record: u32,
    pub terminal: u32,
    /// Which of the terminal's sessions, as a place in its list; none before the first.
    pub session: u32,
    pub log: u32,
    pub push: u32,
    /// None for what is stored nowhere.
    pub offset: Option<Offset>,
    pub id: MessageId,
    /// The node says that it was sent on this link before.
    pub again: bool,
    /// With the payload as it was pushed.
    pub whole: bool,
}

pub struct Fault<'a> {
    pub n: u32,
    pub at: At,
    pub record: u32,
    pub component: &'a str,
    pub kind: &'a str,
    pub outside_model: bool,
    pub mended: Option<At>,
    pub healed: Option<At>,
}

impl Fault<'_> {
    /// Whether a product floods the others.
    pub fn is_flood(&self) -> bool {
        self.kind == "flood"
    }

    /// The product that floods: `product:NAME` is the component.
    pub fn floods(&self) -> &str {
        self.component.strip_prefix("product:").unwrap_or(self.component)
    }

    /// When all was whole again; none if it never was.
    pub fn over(&self) -> Option<At> {
        self.healed.or(self.mended)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub at: At,
    pub record: u32,
    pub terminal: u32,
    pub log: u32,
    pub from: Offset,
    pub to: Offset,
    /// Whether history is another one now, not just shorter.
    pub rewinds: bool,
}

impl Gap {
    pub fn covers(&self, offset: Offset) -> bool {
        self.from < offset && offset <= self.to
    }
}

/// A place in a log, as an answer told it.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub at: At,
    pub record: u32,
    pub log: u32,
    pub offset: Offset,
    pub id: MessageId,
}

/// Of how many pushes the server was asked for its counts, and among how many.
#[derive(Debug, Clone, Copy)]
pub struct Counting {
    pub record: u32,
    pub asked: u64,
    pub of: u64,
}

/// What a process held; nothing while it was down.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: At,
    pub record: u32,
    pub held: Option<Held>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    pub rss_kib: u64,
    pub fds: u64,
    pub threads: u64,
    /// With terminals.
    pub links: u64,
    pub queued_bytes: Option<u64>,
}

impl<'a> Facts<'a> {
    /// Puts `records` in order; they must be sorted by time.
    #[must_use]
    pub fn of(records: &'a [Record]) -> Self {
        build::build(records)
    }

    pub fn terminal(&self, terminal: u32) -> &Terminal<'a> {
        &self.terminals[terminal as usize]
    }

    pub fn log(&self, log: u32) -> &Log {
        &self.logs[log as usize]
    }

    pub fn push(&self, push: u32) -> &Push<'a> {
        &self.pushes[push as usize]
    }

    /// A terminal by its name.
    pub fn find_terminal(&self, who: &str) -> Option<u32> {
        self.named.get(who).copied()
    }

    /// A push by its key.
    pub fn find_push(&self, key: &str) -> Option<u32> {
        self.keyed.get(key).copied()
    }

    /// The deliveries of a push, in the order of time.
    pub fn given(&self, push: u32) -> impl Iterator<Item = &Delivery> + Clone {
        self.by_push.of(push).iter().map(|index| &self.deliveries[*index as usize])
    }

    /// The deliveries to a terminal, in the order of time.
    pub fn given_to(&self, terminal: u32) -> impl Iterator<Item = &Delivery> + Clone {
        self.by_terminal.of(terminal).iter().map(|index| &self.deliveries[*index as usize])
    }

    /// How many faults outside the model there were until `at`: the histories of the store.
    pub fn lineage(&self, at: At) -> usize {
        self.outside.partition_point(|fault| *fault <= at)
    }

    /// Whether a fault outside the model began after `at`, or was not over then.
    pub fn outside_model_after(&self, at: At) -> bool {
        let after = |fault: &Fault<'_>| fault.over().is_none_or(|over| over >= at);
        self.faults.iter().any(|fault| fault.outside_model && after(fault))
    }

    /// Whether a terminal was in the audience of a log whenever the push may have been stored, and
    /// has not left it since.
    pub fn member_throughout(&self, terminal: u32, log: u32, push: &Push<'_>) -> bool {
        let memberships = self.terminal(terminal).memberships.get(&log);
        memberships.into_iter().flatten().any(|membership| {
            membership.joined.is_some_and(|joined| joined < push.invoked)
                && membership.leaving.is_none()
        })
    }

    /// Whether it was while the push was stored, perhaps.
    pub fn member_perhaps(&self, terminal: u32, log: u32, push: &Push<'_>) -> bool {
        let memberships = self.terminal(terminal).memberships.get(&log);
        memberships.into_iter().flatten().any(|membership| {
            membership.joining <= push.stored_until()
                && membership.parted.is_none_or(|parted| parted >= push.invoked)
        })
    }

    /// Whether it was for certain.
    pub fn member_surely(&self, terminal: u32, log: u32, push: &Push<'_>) -> bool {
        let memberships = self.terminal(terminal).memberships.get(&log);
        memberships.into_iter().flatten().any(|membership| {
            membership.joined.is_some_and(|joined| joined < push.invoked)
                && membership.leaving.is_none_or(|leaving| leaving > push.stored_until())
        })
    }

    /// Whether the terminal was told that this entry is gone, or that all the log's history is; or
    /// could not be told, as it came for the first time after others were.
    pub fn told_gone(&self, terminal: u32, log: u32, push: &Push<'_>, target: &Target) -> bool {
        let told = |gap: &&Gap| {
            gap.log == log
                && gap.terminal == terminal
                && if gap.rewinds {
                    gap.at >= push.invoked
                } else {
                    target.offset.is_some_and(|offset| gap.covers(offset))
                }
        };
        if self.gaps.iter().any(|gap| told(&gap)) {
            return true;
        }
        let first = self.terminal(terminal).sessions.first().map(|session| session.opened);
        let new = |fault: &Fault<'_>| first.is_none_or(|first| first > fault.at);
        let rewound = self.gaps.iter().filter(|gap| gap.rewinds);
        self.faults.iter().filter(|fault| fault.outside_model && new(fault)).any(|fault| {
            let after = |gap: &Gap| gap.at >= fault.at;
            push.invoked <= fault.over().unwrap_or(At::MAX) && rewound.clone().any(after)
        })
    }

    /// Whether a product floods the others at `at`, and so itself, or did just before.
    pub fn floods(&self, product: &str, at: At) -> bool {
        const AFTER: At = ms(30_000);
        self.faults.iter().any(|fault| {
            let over = fault.over().unwrap_or(At::MAX).saturating_add(AFTER);
            fault.is_flood() && fault.floods() == product && fault.at <= at && at <= over
        })
    }

    /// What processes of the world held, by name; not those that make the load.
    pub fn processes(&self) -> impl Iterator<Item = (&'a str, &[Sample])> {
        let world = |name: &&str| !name.starts_with("load") && *name != history::DRIVER;
        let samples = self.samples.iter().map(|(name, samples)| (*name, samples.as_slice()));
        samples.filter(move |(name, _)| world(name))
    }

    /// Since when a terminal reads a log as it does at `at`; before everything, if it always did.
    pub fn member_since(&self, terminal: &Terminal<'_>, log: u32, at: At) -> At {
        let memberships = terminal.memberships.get(&log);
        let begun = memberships.into_iter().flatten().rev().find(|one| one.joining <= at);
        begun.map_or(0, |membership| membership.joining)
    }

    /// A log as a terminal names it; none if it never came up.
    pub fn log_of(&self, terminal: u32, name: &LogName) -> Option<u32> {
        let logs = self.terminal(terminal).memberships.keys().copied();
        logs.into_iter().find(|log| self.log(*log).name == *name)
    }

    /// Whether the terminal was told after `since` that the log has another history now.
    pub fn rewound_for(&self, terminal: u32, log: u32, since: At) -> bool {
        self.gaps
            .iter()
            .any(|gap| gap.rewinds && gap.terminal == terminal && gap.log == log && gap.at >= since)
    }

    /// Whether a push was accepted so close to a fault that a node or a Redis server may have taken
    /// some of its counts with it: they are written behind, after the cursors.
    pub fn accepted_near_a_fault(&self, push: &Push<'_>) -> bool {
        const NEAR: At = ms(10_000);
        let near = |at: At| {
            let near = |fault: &Fault<'_>| {
                at.saturating_add(NEAR) > fault.at
                    && fault.over().is_none_or(|over| at < over.saturating_add(NEAR))
            };
            self.faults.iter().any(near)
        };
        push.accepted.is_some_and(|answer| near(answer.at))
    }
}

/// Product and terminal of `PRODUCT/TERMINAL`; neither holds a slash.
pub fn split(who: &str) -> (&str, &str) {
    who.split_once('/').unwrap_or((who, ""))
}
