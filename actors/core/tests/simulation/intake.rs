//! How a log is appended to (`actors/src/router.rs`, `intake.rs`): by its owner one batch at a time,
//! attempts that never overlap, a retry that looks; by others through `forward.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::entry::{Body, Entry};
use clarion_protocol::{MessageId, Offset};

use crate::event::{Message, Purpose, Timer};
use crate::mutants::Mutant;
use crate::store::{AppendAnswer, Attempt, Call};
use crate::world::World;

/// How long one attempt may take, through an owner and through another node.
pub const ATTEMPT_MS: u64 = 1000;
pub const BATCH_MAX: usize = 8;
/// As in `intake.rs`.
pub const UNSEARCHED_MS: u64 = 2000;

/// An append and who waits for it.
#[derive(Debug, Clone)]
pub struct Request {
    pub message: u64,
    pub expires_at_ms: u64,
    pub first_attempt_ms: Option<u64>,
    pub begun_ms: u64,
    pub deadline_ms: u64,
    pub reply: ReplyTo,
}

#[derive(Debug, Clone, Copy)]
pub enum ReplyTo {
    /// A push of this node, and its how manieth try.
    Push(u64, u8),
    /// One of several that wait together.
    Gather(u64, usize),
}

/// Answers that are waited for together.
#[derive(Debug)]
pub struct Gather {
    pub left: usize,
    pub results: Vec<AppendAnswer>,
    pub then: Then,
}

#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// To the node that asked.
    Peer { to: usize, session: u64, request: u64, log: usize },
    /// To the forwarder of this node.
    Forward { log: usize },
}

#[derive(Debug, Default)]
pub struct IntakeLog {
    pub on_the_way: bool,
    pub waiting: VecDeque<Request>,
    /// What is unresolved, until its attempt is over.
    pub unresolved: Vec<Request>,
}

/// Since when an attempt looks for its message (`NewEntry::searched_since`).
pub fn searched_since(request: &Request, now_ms: u64) -> Option<u64> {
    let late = now_ms > request.begun_ms + UNSEARCHED_MS;
    request.first_attempt_ms.or_else(|| late.then_some(request.begun_ms))
}

impl World {
    // The way there.

    /// `Router::append`.
    pub fn route(&mut self, n: usize, log: usize, request: Request) {
        if !self.nodes[n].forward[log].active {
            let owner = self.nodes[n].table.as_ref().and_then(|table| table.order[log].first());
            let here = owner == Some(&n) && !self.store.down;
            let holds = self.nodes[n].intake[log].on_the_way;
            if here || holds {
                return self.intake(n, log, request);
            }
        }
        let forward = &mut self.nodes[n].forward[log];
        forward.waiting.push_back(request);
        if !forward.active {
            forward.active = true;
            self.carry_next(n, log);
        }
    }

    pub fn is_closed(&self, n: usize, reply: ReplyTo) -> bool {
        match reply {
            ReplyTo::Push(push, count) => {
                self.nodes[n].pushes.get(&push).is_none_or(|(of, _)| *of != count)
            }
            ReplyTo::Gather(id, _) => !self.nodes[n].gathers.contains_key(&id),
        }
    }

    pub fn reply(&mut self, n: usize, reply: ReplyTo, answer: AppendAnswer) {
        match reply {
            ReplyTo::Push(push, count) => self.push_answered(n, push, count, answer),
            ReplyTo::Gather(id, index) => {
                let Some(gather) = self.nodes[n].gathers.get_mut(&id) else { return };
                gather.results[index] = answer;
                gather.left -= 1;
                if gather.left == 0
                    && let Some(Gather { results, then, .. }) = self.nodes[n].gathers.remove(&id)
                {
                    self.gathered(n, then, results);
                }
            }
        }
    }

    pub fn gathered(&mut self, n: usize, then: Then, results: Vec<AppendAnswer>) {
        match then {
            Then::Peer { to, session, request, log } => {
                let linked = self.nodes[n].peers[to].as_ref();
                if linked.is_some_and(|peer| peer.session == session) {
                    let _ = self.send(n, to, Message::Appended { request, log, results });
                }
            }
            Then::Forward { log } => {
                let batch = std::mem::take(&mut self.nodes[n].forward[log].batch);
                let mut unresolved = Vec::new();
                let mut away = false;
                for (request, result) in batch.into_iter().zip(results) {
                    match result {
                        // Its own owner has tried until there was no time left.
                        AppendAnswer::Unavailable => {
                            away = true;
                            let first = request.first_attempt_ms.or(Some(request.begun_ms));
                            unresolved.push(Request { first_attempt_ms: first, ..request });
                        }
                        AppendAnswer::TooLate => {
                            self.reply(n, request.reply, AppendAnswer::Unknown)
                        }
                        answer => self.reply(n, request.reply, answer),
                    }
                }
                self.tried(n, log, n, unresolved, away, false);
            }
        }
    }

    // Intake.

    pub fn intake(&mut self, n: usize, log: usize, request: Request) {
        self.nodes[n].intake[log].waiting.push_back(request);
        if !self.nodes[n].intake[log].on_the_way {
            self.start_batch(n, log);
        }
    }

    pub fn start_batch(&mut self, n: usize, log: usize) {
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some(request) = self.nodes[n].intake[log].waiting.pop_front()
        {
            if !self.is_closed(n, request.reply) {
                batch.push(request);
            }
        }
        self.nodes[n].intake[log].on_the_way = !batch.is_empty();
        if !batch.is_empty() {
            self.append(n, log, batch);
        }
    }

    pub fn append(&mut self, n: usize, log: usize, requests: Vec<Request>) {
        let started_ms = self.time(n);
        let not_after_ms = started_ms + ATTEMPT_MS;
        let blind = self.mutant == Some(Mutant::RetriesBlindly);
        let attempt = |request: &Request| Attempt {
            message: request.message,
            expires_at_ms: request.expires_at_ms,
            not_after_ms: not_after_ms.min(request.deadline_ms),
            search: !blind && searched_since(request, started_ms).is_some(),
        };
        let attempts = requests.iter().map(attempt).collect();
        let purpose = Purpose::Append { log, requests, not_after_ms };
        self.call(n, Call::Append { log, attempts }, purpose);
    }

    /// One round of a batch is over (`Round` in `intake.rs`).
    pub fn appended(
        &mut self,
        n: usize,
        log: usize,
        requests: Vec<Request>,
        not_after_ms: u64,
        results: &[AppendAnswer],
    ) {
        let (mut unresolved, mut entries, mut epoch) = (Vec::new(), Vec::new(), 0);
        for (mut request, result) in requests.into_iter().zip(results) {
            match *result {
                AppendAnswer::Unknown => {
                    request.first_attempt_ms.get_or_insert(request.begun_ms);
                    unresolved.push(request);
                }
                AppendAnswer::TooLate => unresolved.push(request),
                AppendAnswer::Done { epoch: of, offset, predecessor } => {
                    epoch = of;
                    let found_again = request.first_attempt_ms.is_some();
                    if !(found_again && self.mutant == Some(Mutant::FoundAgainIsNotHinted)) {
                        entries.push(entry_of(&request, offset, predecessor));
                    }
                    self.reply(n, request.reply, *result);
                }
                answer => self.reply(n, request.reply, answer),
            }
        }
        for run in consecutive(entries) {
            self.stored(n, log, epoch, run);
        }
        if unresolved.is_empty() {
            return self.start_batch(n, log);
        }
        self.nodes[n].intake[log].unresolved = unresolved;
        // I2: the attempt is over before another one begins.
        let over_ms = (not_after_ms + 1).saturating_sub(self.time(n));
        let pause_ms = if self.mutant == Some(Mutant::RetriesOverlap) { 1 } else { over_ms };
        self.timer(n, pause_ms, Timer::Intake { log });
    }

    pub fn intake_again(&mut self, n: usize, log: usize) {
        let now_ms = self.time(n);
        let mut again = Vec::new();
        for request in std::mem::take(&mut self.nodes[n].intake[log].unresolved) {
            if now_ms < request.deadline_ms && !self.is_closed(n, request.reply) {
                again.push(request);
            } else {
                self.reply(n, request.reply, AppendAnswer::Unknown);
            }
        }
        if again.is_empty() {
            self.start_batch(n, log);
        } else {
            self.append(n, log, again);
        }
    }
}

fn entry_of(request: &Request, offset: u64, predecessor: u64) -> Arc<Entry> {
    Arc::new(Entry::new(
        Offset(offset),
        Offset(predecessor),
        MessageId(u128::from(request.message)),
        request.expires_at_ms,
        Body::Json(Bytes::from(request.message.to_string())),
    ))
}

/// As in `intake.rs`: only entries that follow one another go in one hint.
fn consecutive(mut entries: Vec<Arc<Entry>>) -> Vec<Vec<Arc<Entry>>> {
    let mut runs = Vec::new();
    let parted = |pair: &[Arc<Entry>]| pair[0].offset != pair[1].predecessor;
    while let Some(at) = entries.windows(2).position(parted) {
        let rest = entries.split_off(at + 1);
        runs.push(std::mem::replace(&mut entries, rest));
    }
    if !entries.is_empty() {
        runs.push(entries);
    }
    runs
}
