//! What both kinds of terminals tell.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use clarion_protocol::terminal::GapReason;
use clarion_protocol::{Epoch, LogName, MessageId, Offset};
use tokio::sync::watch;

use super::plan::TerminalPlan;
use super::teller::{Presence, Teller};
use super::{Doors, hash, key_of};
use crate::history::{Ending, Event};

/// A terminal, and whom it tells what it sees.
pub(super) struct TerminalTask {
    pub plan: TerminalPlan,
    pub doors: Arc<Doors>,
    pub teller: Arc<Teller>,
    pub presence: Presence,
    pub wanted: watch::Receiver<bool>,
    /// Logs that it has told to read.
    joined: Mutex<HashSet<LogName>>,
}

/// What a terminal was told of messages that are gone.
pub(super) struct Gone {
    pub log: LogName,
    pub from: Offset,
    pub to: Offset,
    pub epoch: Epoch,
    pub reason: GapReason,
}

/// A message as an application is given it.
pub(super) struct Given<'a> {
    pub log: &'a LogName,
    pub offset: Option<Offset>,
    pub id: MessageId,
    pub payload: &'a [u8],
    pub again: bool,
}

impl TerminalTask {
    pub fn new(
        plan: TerminalPlan,
        doors: Arc<Doors>,
        teller: Arc<Teller>,
        presence: Presence,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        Self { plan, doors, teller, presence, wanted, joined: Mutex::default() }
    }

    /// Tells that the topics it names itself are about to be joined.
    pub fn joins(&self) {
        for topic in &self.plan.topics {
            if let Some(log) = topic_log(topic)
                && !self.has_joined(&log)
            {
                self.teller.add(Event::Joining { who: self.plan.who.clone(), log });
            }
        }
    }

    /// Tells, the first time, that it reads a log. Of topics only those it joins whenever it
    /// connects: of the others tells who joins and leaves them, this terminal at other times or the
    /// back-end.
    pub fn joined(&self, log: LogName) {
        let own = match &log {
            LogName::Topic(topic) => self.plan.topics.iter().any(|own| own == topic.as_str()),
            LogName::Terminal | LogName::User | LogName::Broadcast => true,
        };
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if own && joined.insert(log.clone()) {
            self.teller.add(Event::Joined { who: self.plan.who.clone(), log });
        }
    }

    fn has_joined(&self, log: &LogName) -> bool {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).contains(log)
    }

    /// Tells of the topic it joins and leaves.
    pub fn flips(&self, event: Flip, log: &LogName) {
        let (who, log) = (self.plan.who.clone(), log.clone());
        self.teller.add(match event {
            Flip::Joining => Event::Joining { who, log },
            Flip::Joined => Event::Joined { who, log },
            Flip::Leaving => Event::Leaving { who, log },
            Flip::Left => Event::LeftTopic { who, log },
        });
    }

    pub fn left(&self, session: u64, how: Ending) {
        self.teller.add(Event::Left { who: self.plan.who.clone(), session, how });
    }

    pub fn trouble(&self, what: String) {
        self.teller.add(Event::Trouble { who: self.plan.who.clone(), what });
    }

    pub fn told_gap(&self, session: u64, gone: Gone) {
        let Gone { log, from, to, epoch, reason } = gone;
        let reason = match reason {
            GapReason::Evicted => "evicted",
            GapReason::Epoch => "epoch",
            GapReason::Ahead => "ahead",
        };
        let (who, reason) = (self.plan.who.clone(), reason.into());
        self.teller.add(Event::ToldGap { who, session, log, from, to, epoch, reason });
    }

    pub fn delivered(&self, session: u64, given: &Given<'_>) {
        self.teller.add(Event::Delivered {
            who: self.plan.who.clone(),
            session,
            log: given.log.clone(),
            offset: given.offset,
            id: given.id,
            key: key_of(given.payload).into(),
            hash: hash(given.payload).into(),
            again: given.again,
        });
    }
}

/// How it stands with the topic that a terminal joins and leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flip {
    /// About to be joined.
    Joining,
    /// Joined.
    Joined,
    /// About to be left.
    Leaving,
    /// Left.
    Left,
}

impl Flip {
    /// What to do next. What is not known is made an end of: a topic is left once more.
    pub const fn next(self) -> Self {
        match self {
            Self::Left => Self::Joining,
            Self::Joined | Self::Joining | Self::Leaving => Self::Leaving,
        }
    }

    /// What it is once that is done.
    pub const fn done(self) -> Self {
        match self {
            Self::Joining | Self::Joined => Self::Joined,
            Self::Leaving | Self::Left => Self::Left,
        }
    }
}

/// The log of a topic.
pub(super) fn topic_log(topic: &str) -> Option<LogName> {
    clarion_protocol::TopicName::new(topic).ok().map(LogName::Topic)
}

/// Whether what was refused with this code can be asked again: the store is away.
pub(super) fn is_for_now(code: u16) -> bool {
    clarion_protocol::Code::from_number(code).is_some_and(clarion_protocol::Code::retryable)
}
