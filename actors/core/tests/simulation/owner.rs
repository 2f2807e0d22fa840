//! Owners of logs and the way to them. Appends: `actors/src/intake.rs` (one batch of a log at a time,
//! attempts that never overlap, a retry that looks) and `cluster/forward.rs` (the next in placement
//! order serves). Hints, interest and heads: `owner.rs` and `nodes.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::entry::{Batch, Body, Entry};
use clarion_protocol::{Epoch, MessageId, Offset};

use crate::Mutant;
use crate::node::{LogSet, NodeSet, each};
use crate::store::{AppendAnswer, Attempt, Call};
use crate::world::{Message, Purpose, Timer, World};

/// How long one attempt may take, through an owner and through another node.
const ATTEMPT_MS: u64 = 1000;
const ANSWER_LATE_MS: u64 = 50;
const GIVE_UP_MS: u64 = 50;
const SUSPECT_MS: u64 = 3000;
const NOBODY_PAUSE_MS: u64 = 50;
const FULL_PAUSES_MS: [u64; 4] = [2, 8, 32, 128];
const CONFIRM_AGAIN_MS_MAX: u64 = 2000;
const BATCH_MAX: usize = 8;
/// As in `intake.rs`.
pub const UNSEARCHED_MS: u64 = 2000;

/// What an owner holds of one log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owned {
    pub nodes: NodeSet,
    pub generation: u64,
}

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

/// Since when an attempt looks for its message (`NewEntry::searched_since`).
fn searched_since(request: &Request, now_ms: u64) -> Option<u64> {
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

    fn is_closed(&self, n: usize, reply: ReplyTo) -> bool {
        match reply {
            ReplyTo::Push(push, count) => {
                self.nodes[n].pushes.get(&push).is_none_or(|(of, _)| *of != count)
            }
            ReplyTo::Gather(id, _) => !self.nodes[n].gathers.contains_key(&id),
        }
    }

    fn reply(&mut self, n: usize, reply: ReplyTo, answer: AppendAnswer) {
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

    fn gathered(&mut self, n: usize, then: Then, results: Vec<AppendAnswer>) {
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

    fn start_batch(&mut self, n: usize, log: usize) {
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

    fn append(&mut self, n: usize, log: usize, requests: Vec<Request>) {
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

    // Through another node.

    fn carry_next(&mut self, n: usize, log: usize) {
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

    fn gather(&mut self, n: usize, count: usize, then: Then) -> u64 {
        self.next_id += 1;
        let results = vec![AppendAnswer::Unknown; count];
        self.nodes[n].gathers.insert(self.next_id, Gather { left: count, results, then });
        self.next_id
    }

    fn next_owner(&self, n: usize, log: usize, now_ms: u64) -> Option<usize> {
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

    fn forward_to(&mut self, n: usize, log: usize, owner: usize, requests: Vec<Request>) {
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

    // Hints, interest, heads.

    fn stored(&mut self, n: usize, log: usize, epoch: u64, entries: Vec<Arc<Entry>>) {
        let Some(head) = entries.last().map(|entry| entry.offset.0) else { return };
        self.note_head(n, log, head);
        let key = Arc::clone(&self.keys[log]);
        let batch = Arc::new(Batch::new(key, Epoch(epoch), entries));
        self.hint(n, log, &batch);
    }

    fn note_head(&mut self, n: usize, log: usize, head: u64) {
        let now_ms = self.time(n);
        let known = self.nodes[n].heads[log].map_or(0, |(known, _)| known);
        self.nodes[n].heads[log] = Some((head.max(known), now_ms));
    }

    /// `Nodes::hint`.
    fn hint(&mut self, n: usize, log: usize, batch: &Arc<Batch>) {
        let head = batch.entries.last().map_or(0, |entry| entry.offset.0);
        if !self.settings.hints_off {
            let interested = self.nodes[n].owned[log].nodes;
            let linked = (0..self.nodes.len()).filter(|to| self.nodes[n].peers[*to].is_some());
            let readers = linked.fold(1 << n, |set, to| set | 1 << to);
            let others = readers & !self.nodes[n].complete[log] & !interested;
            for to in each(interested | others) {
                let listed = interested & (1 << to) != 0;
                if to == n {
                    self.relay_hint(n, log, batch, listed.then_some(n));
                } else if self.nodes[n].peers[to].is_some()
                    && !self.send(n, to, Message::Hint { log, batch: Arc::clone(batch), listed })
                {
                    self.note_untold(n, to, 1 << log);
                }
            }
        }
        if let Some(owner) = self.nodes[n].target[log].filter(|owner| *owner != n) {
            self.tell_grown(n, owner, log, head);
        }
    }

    /// `OwnedLogs::grew`: another node served in place of this one.
    pub fn grew(&mut self, n: usize, log: usize, head: u64) {
        self.note_head(n, log, head);
        if !self.settings.hints_off {
            self.tell_heads(n, self.nodes[n].owned[log].nodes, log, head);
        }
    }

    fn tell_heads(&mut self, n: usize, nodes: NodeSet, log: usize, head: u64) {
        for to in each(nodes) {
            if to == n {
                self.heads_told(n, log, head);
            } else if self.nodes[n].peers[to].is_some()
                && !self.send(n, to, Message::Heads { log, head })
            {
                self.note_untold(n, to, 1 << log);
            }
        }
    }

    /// `OwnedLogs::interested`.
    pub fn interested(
        &mut self,
        n: usize,
        from: usize,
        log: usize,
        since_ms: u64,
        generation: u64,
    ) {
        let owned = &mut self.nodes[n].owned[log];
        owned.nodes |= 1 << from;
        owned.generation = owned.generation.max(generation);
        let (newest, known) = (owned.generation, owned.nodes);
        if generation > 0 && generation < newest {
            self.tell_superseded(n, 1 << from, log, newest);
        } else if generation > 0 {
            let linked = (0..self.nodes.len()).filter(|to| self.nodes[n].peers[*to].is_some());
            let readers = linked.fold(1 << n, |set, to| set | 1 << to);
            let others = (readers & !self.nodes[n].complete[log] | known) & !(1 << from);
            self.tell_superseded(n, others, log, newest);
        }
        if self.mutant == Some(Mutant::ConfirmsBeforeHead) {
            return self.confirm(n, from, log, 0);
        }
        // `RecentHeads::since`.
        let all_known = self.all_known_since_ms(n, log);
        let head = match self.nodes[n].heads[log] {
            Some((head, noted_ms)) => (noted_ms >= all_known).then_some(head),
            None => {
                let covered = self.nodes[n].heads_since_ms[log].max(all_known);
                (since_ms > covered).then_some(0)
            }
        };
        match head {
            Some(head) => self.confirm(n, from, log, head),
            None => self.confirm_from_store(n, from, log),
        }
    }

    fn tell_superseded(&mut self, n: usize, nodes: NodeSet, log: usize, generation: u64) {
        for to in each(nodes) {
            if to == n {
                self.superseded(n, log, generation);
            } else if self.nodes[n].peers[to].is_some() {
                let _ = self.send(n, to, Message::Superseded { log, generation });
            }
        }
    }

    fn confirm(&mut self, n: usize, to: usize, log: usize, head: u64) {
        if to == n {
            self.confirmed(n, log, head, Some(n));
        } else if self.nodes[n].peers[to].is_some()
            && !self.send(n, to, Message::Confirm { log, head })
        {
            self.note_untold(n, to, 1 << log);
        }
    }

    /// The same as soon as the store has said how far the log goes.
    pub fn confirm_from_store(&mut self, n: usize, to: usize, log: usize) {
        let asked = self.nodes[n].unconfirmed[log] != 0;
        self.nodes[n].unconfirmed[log] |= 1 << to;
        if !asked {
            self.call(n, Call::Heads { logs: vec![log] }, Purpose::Confirm { log });
        }
    }

    pub fn confirm_answered(&mut self, n: usize, log: usize, head: Option<u64>) {
        match head {
            Some(head) => {
                self.nodes[n].confirm_pause_ms = 100;
                for to in each(std::mem::take(&mut self.nodes[n].unconfirmed[log])) {
                    self.confirm(n, to, log, head);
                }
            }
            None => {
                let pause_ms = self.nodes[n].confirm_pause_ms;
                self.nodes[n].confirm_pause_ms = (2 * pause_ms).min(CONFIRM_AGAIN_MS_MAX);
                self.timer(n, pause_ms, Timer::ConfirmAgain { log });
            }
        }
    }

    /// `OwnedLogs::hand_over`: a node tells another owner from now on.
    pub fn node_left(&mut self, n: usize, from: usize, logs: LogSet) {
        for log in each(logs) {
            self.nodes[n].owned[log].nodes &= !(1 << from);
            if let Some((head, _)) = self.nodes[n].heads[log] {
                self.tell_heads(n, 1 << from, log, head);
            }
        }
    }

    /// The actor crashed: it knows of no interest, and its intake is as it was (`OwnerEvents::restarted`).
    pub fn crash_owner(&mut self, n: usize, log: usize) {
        let now_ms = self.time(n);
        let node = &mut self.nodes[n];
        node.owned[log] = Owned::default();
        node.heads[log] = None;
        node.heads_since_ms[log] = now_ms;
        node.complete[log] = 0;
        if node.target[log] == Some(n) {
            self.announce(n, n, 1 << log);
        }
        for to in 0..self.nodes.len() {
            if self.nodes[n].peers[to].is_some()
                && !self.send(n, to, Message::AnnounceAgain { logs: 1 << log })
            {
                self.note_untold(n, to, 1 << log);
            }
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
