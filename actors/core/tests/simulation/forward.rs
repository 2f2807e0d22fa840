//! Appends through another node (`actors/src/cluster/forward.rs`): the owner, and while it does not
//! answer the next in placement order.

use std::collections::VecDeque;

use crate::event::{Message, Timer};
use crate::intake::{ATTEMPT_MS, BATCH_MAX, Gather, ReplyTo, Request, Then, searched_since};
use crate::mutants::Mutant;
use crate::node::NodeSet;
use crate::store::AppendAnswer;
use crate::world::World;

const ANSWER_LATE_MS: u64 = 50;
const GIVE_UP_MS: u64 = 50;
const SUSPECT_MS: u64 = 3000;
const NOBODY_PAUSE_MS: u64 = 50;
const FULL_PAUSES_MS: [u64; 4] = [2, 8, 32, 128];

#[derive(Debug, Default)]
pub struct ForwardLog {
    pub active: bool,
    pub waiting: VecDeque<Request>,
    pub batch: Vec<Request>,
    passed_over: NodeSet,
    away: bool,
    others: bool,
    full: usize,
    /// The message that waits for its answer: number, node, session of the link, end of the attempt.
    pub asked: Option<(u64, usize, u64, u64)>,
}

impl World {
    // Through another node.

    pub fn carry_next(&mut self, n: usize, log: usize) {
        let forward = &mut self.nodes[n].forward[log];
        let some = forward.waiting.len().min(BATCH_MAX);
        forward.batch = forward.waiting.drain(..some).collect();
        (forward.passed_over, forward.away, forward.others, forward.full) = (0, false, false, 0);
        forward.active = !forward.batch.is_empty();
        if forward.active {
            self.carry(n, log);
        }
    }

    /// One turn of `Forwarder::carry`.
    pub fn carry(&mut self, n: usize, log: usize) {
        let now_ms = self.time(n);
        let mut wanted = Vec::new();
        for request in std::mem::take(&mut self.nodes[n].forward[log].batch) {
            if self.is_closed(n, request.reply) {
                continue;
            }
            if now_ms + GIVE_UP_MS < request.deadline_ms {
                wanted.push(request);
            } else if request.first_attempt_ms.is_some() {
                self.reply(n, request.reply, AppendAnswer::Unknown);
            } else {
                self.reply(n, request.reply, AppendAnswer::Unavailable);
            }
        }
        if wanted.is_empty() {
            return self.carry_next(n, log);
        }
        let next = self.next_owner(n, log, now_ms);
        match next {
            Some(owner) if owner == n => {
                let id = self.gather(n, wanted.len(), Then::Forward { log });
                self.nodes[n].forward[log].batch.clone_from(&wanted);
                for (index, request) in wanted.into_iter().enumerate() {
                    self.intake(n, log, Request { reply: ReplyTo::Gather(id, index), ..request });
                }
            }
            Some(owner) => self.forward_to(n, log, owner, wanted),
            None => {
                let forward = &mut self.nodes[n].forward[log];
                if forward.away && !forward.others {
                    for request in wanted {
                        self.reply(n, request.reply, AppendAnswer::Unavailable);
                    }
                    return self.carry_next(n, log);
                }
                (forward.passed_over, forward.away, forward.others) = (0, false, false);
                forward.batch = wanted;
                self.timer(n, NOBODY_PAUSE_MS, Timer::Carry { log });
            }
        }
    }

    pub fn gather(&mut self, n: usize, count: usize, then: Then) -> u64 {
        self.next_id += 1;
        let results = vec![AppendAnswer::Unknown; count];
        self.nodes[n].gathers.insert(self.next_id, Gather { left: count, results, then });
        self.next_id
    }

    pub fn next_owner(&self, n: usize, log: usize, now_ms: u64) -> Option<usize> {
        let node = &self.nodes[n];
        let order = &node.table.as_ref()?.order[log];
        for suspects in [false, true] {
            for id in order.iter().filter(|id| node.forward[log].passed_over & (1 << **id) == 0) {
                if *id == n {
                    return Some(n);
                }
                let peer = node.peers[*id].as_ref();
                if peer.is_some_and(|peer| suspects || peer.suspect_until_ms <= now_ms) {
                    return Some(*id);
                }
            }
        }
        None
    }

    pub fn forward_to(&mut self, n: usize, log: usize, owner: usize, requests: Vec<Request>) {
        let started_ms = self.time(n);
        let end_ms = started_ms + ATTEMPT_MS;
        self.next_id += 1;
        let request = self.next_id;
        let entries = requests
            .iter()
            .map(|request| Request {
                deadline_ms: end_ms.min(request.deadline_ms),
                first_attempt_ms: searched_since(request, started_ms),
                ..request.clone()
            })
            .collect();
        let session = self.nodes[n].peers[owner].as_ref().map_or(0, |peer| peer.session);
        let sent = self.send(n, owner, Message::Append { request, log, entries });
        let forward = &mut self.nodes[n].forward[log];
        forward.batch = requests;
        if sent {
            forward.asked = Some((request, owner, session, end_ms));
            self.timer(n, ATTEMPT_MS + ANSWER_LATE_MS, Timer::Late { log, request });
        } else if forward.full < FULL_PAUSES_MS.len() {
            let pause_ms = FULL_PAUSES_MS[forward.full];
            forward.full += 1;
            self.timer(n, pause_ms, Timer::Carry { log });
        } else {
            forward.others = true;
            forward.passed_over |= 1 << owner;
            self.carry(n, log);
        }
    }

    /// An answer came, or will not.
    pub fn forward_answered(
        &mut self,
        n: usize,
        log: usize,
        request: u64,
        results: Option<Vec<AppendAnswer>>,
    ) {
        let Some((number, owner, _, end_ms)) = self.nodes[n].forward[log].asked else { return };
        if number != request {
            return;
        }
        self.nodes[n].forward[log].asked = None;
        let batch = std::mem::take(&mut self.nodes[n].forward[log].batch);
        let results = results.unwrap_or_else(|| vec![AppendAnswer::Unknown; batch.len()]);
        let (mut unresolved, mut unknown, mut away) = (Vec::new(), false, false);
        let mut refuse_away = false;
        for (mut request, result) in batch.into_iter().zip(results) {
            match result {
                AppendAnswer::Unknown | AppendAnswer::TooLate => {
                    request.first_attempt_ms.get_or_insert(request.begun_ms);
                    (unknown, refuse_away) = (true, true);
                    unresolved.push((request, false));
                }
                AppendAnswer::Unavailable => {
                    request.first_attempt_ms.get_or_insert(request.begun_ms);
                    away = true;
                    unresolved.push((request, true));
                }
                answer => {
                    refuse_away |= matches!(answer, AppendAnswer::Done { .. });
                    self.reply(n, request.reply, answer);
                }
            }
        }
        let mut still = Vec::new();
        for (request, was_away) in unresolved {
            if was_away && refuse_away {
                // I8: a later one of the log may be in.
                self.reply(n, request.reply, AppendAnswer::Unavailable);
            } else {
                still.push(request);
            }
        }
        let away = away && !refuse_away;
        if unknown {
            // I2: its attempt has ended before another one begins.
            self.nodes[n].forward[log].batch = still;
            let overlap = self.mutant == Some(Mutant::RetriesOverlap);
            let over_ms = if overlap { 1 } else { (end_ms + 1).saturating_sub(self.time(n)) };
            return self.timer(n, over_ms, Timer::Tried { log, owner });
        }
        self.tried(n, log, owner, still, away, false);
    }

    /// Who is asked after an attempt (`Then` in `forward.rs`).
    pub fn tried(
        &mut self,
        n: usize,
        log: usize,
        owner: usize,
        unresolved: Vec<Request>,
        away: bool,
        unknown: bool,
    ) {
        let forward = &mut self.nodes[n].forward[log];
        forward.batch = unresolved;
        if unknown || away {
            forward.passed_over |= 1 << owner;
            forward.others |= unknown;
            forward.away |= away;
        }
        self.carry(n, log);
    }

    pub fn forward_link_gone(&mut self, n: usize, other: usize) {
        for log in 0..self.keys.len() {
            if let Some((request, owner, ..)) = self.nodes[n].forward[log].asked
                && owner == other
            {
                self.forward_answered(n, log, request, None);
            }
        }
    }

    pub fn forward_late(&mut self, n: usize, log: usize, request: u64) {
        if let Some((number, owner, ..)) = self.nodes[n].forward[log].asked
            && number == request
        {
            let until_ms = self.time(n) + SUSPECT_MS;
            if let Some(peer) = &mut self.nodes[n].peers[owner] {
                peer.suspect_until_ms = until_ms;
            }
            self.forward_answered(n, log, request, None);
        }
    }

    /// `Cluster::serve`: through the owner here, whoever this node thinks owns the log.
    pub fn serve(
        &mut self,
        n: usize,
        from: usize,
        log: usize,
        request: u64,
        entries: Vec<Request>,
    ) {
        let now_ms = self.time(n);
        let session = self.nodes[n].peers[from].as_ref().map_or(0, |peer| peer.session);
        let then = Then::Peer { to: from, session, request, log };
        let id = self.gather(n, entries.len(), then);
        let mut before = true;
        for (index, entry) in entries.into_iter().enumerate() {
            let reply = ReplyTo::Gather(id, index);
            before &= now_ms <= entry.deadline_ms;
            if before {
                self.intake(n, log, Request { begun_ms: now_ms, reply, ..entry });
            } else {
                // Not tried; the other end takes its time to be over as well.
                self.reply(n, reply, AppendAnswer::Unknown);
            }
        }
    }
}
