//! What there is to happen: what nodes tell each other and terminals, what they ask of the store and why,
//! what they wait for; and the order in which it comes.

use std::sync::Arc;

use clarion_core::entry::Batch;
use clarion_protocol::terminal::LogAlias;

use crate::intake::Request;
use crate::node::LogSet;
use crate::relay::Found;
use crate::store::{Answer, AppendAnswer, Call, Save};

/// What one node tells another (`cluster/wire.rs`).
#[derive(Debug, Clone)]
pub enum Message {
    Append { request: u64, log: usize, entries: Vec<Request> },
    Appended { request: u64, log: usize, results: Vec<AppendAnswer> },
    Hint { log: usize, batch: Arc<Batch>, listed: bool },
    Grew { log: usize, head: u64 },
    Heads { log: usize, head: u64 },
    Confirm { log: usize, head: u64 },
    Interest { logs: Vec<(usize, u64)>, since_ms: u64 },
    NoInterest { log: usize },
    Complete { logs: LogSet },
    Leave { logs: LogSet },
    AnnounceAgain { logs: LogSet },
    Dropped { logs: LogSet },
    Superseded { log: usize, generation: u64 },
    Hello,
}

/// Between node and terminal.
#[derive(Debug, Clone)]
pub enum Frame {
    Opened,
    Rebuilt,
    Deliver { log: usize, entries: Vec<(u64, u64)>, again: bool },
    Gap { log: usize, epoch: u64, to: u64 },
    Closed,
    Open,
    Ack { log: usize, offset: u64 },
    Skip { log: usize, offset: u64 },
    Bye,
}

/// Why the store was asked.
#[derive(Debug, Clone)]
pub enum Purpose {
    Append { log: usize, requests: Vec<Request>, not_after_ms: u64 },
    Read { session: u64, alias: LogAlias },
    Heads { logs: Vec<usize>, found: Found },
    Confirm { log: usize },
    Open { terminal: usize, link: u64 },
    Rebuild { session: u64 },
    Save { saves: Vec<Save> },
    Verify { session: u64 },
    Claim { push: u64, count: u8 },
    Nothing,
}

#[derive(Debug, Clone)]
pub enum Timer {
    Tick,
    Poll,
    Flush,
    CheckHeads,
    HeadsAhead { heads: Vec<(usize, u64)> },
    Compare { logs: LogSet },
    ConfirmAgain { log: usize },
    Intake { log: usize },
    Carry { log: usize },
    Tried { log: usize, owner: usize },
    Late { log: usize, request: u64 },
    Session { session: u64 },
    Verify { session: u64 },
    Call { id: u64 },
    Push { push: u64, count: u8 },
}

#[derive(Debug, Clone)]
pub enum Event {
    Peer {
        from: usize,
        to: usize,
        session: u64,
        message: Message,
    },
    LinkEnded {
        node: usize,
        peer: usize,
        session: u64,
    },
    Timer {
        node: usize,
        boot: u64,
        timer: Timer,
    },
    ToStore {
        node: usize,
        boot: u64,
        id: u64,
        term: u64,
        call: Call,
    },
    /// `sent`: without an answer, whether the call may have been executed.
    FromStore {
        node: usize,
        boot: u64,
        id: u64,
        answer: Option<Answer>,
        sent: bool,
    },
    Confirmed {
        term: u64,
        up_to: u64,
    },
    Promote {
        kept: u64,
    },
    ToNode {
        node: usize,
        boot: u64,
        terminal: usize,
        link: u64,
        frame: Frame,
    },
    ToTerminal {
        terminal: usize,
        link: u64,
        frame: Frame,
    },
    Connect {
        terminal: usize,
    },
    Acks {
        terminal: usize,
    },
    Speaks {
        terminal: usize,
    },
    GivesUp {
        terminal: usize,
        link: u64,
        opened: bool,
    },
    LinkLost {
        terminal: usize,
        link: u64,
    },
    ToClient {
        push: u64,
        count: u8,
        answer: AppendAnswer,
    },
    ClientAgain {
        push: u64,
    },
    ToDoor {
        node: usize,
        boot: u64,
        push: u64,
        count: u8,
    },
    Wake {
        node: usize,
        boot: u64,
    },
    Start {
        node: usize,
    },
    Uncut {
        from: usize,
        to: usize,
    },
    Audit,
}

pub struct Queued {
    pub at_ms: u64,
    pub order: u64,
    pub event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.order).cmp(&(other.at_ms, other.order))
    }
}

/// Prints what happens, but for what happens all the time.
pub fn trace(at_ms: u64, event: &Event) {
    let routine = matches!(
        event,
        Event::Audit
            | Event::Confirmed { .. }
            | Event::Timer {
                timer: Timer::Tick | Timer::Poll | Timer::Flush | Timer::Call { .. },
                ..
            }
    );
    if !routine {
        println!("{at_ms} {event:?}");
    }
}
