//! The store: a master that executes calls one after the other, and copies that follow it. What `WAIT`
//! has confirmed survives any fail-over, what it has not may be lost by one. The rules are those of
//! `actors/storage/src/redis`: `append.lua` (not after, search, predecessor), `read.rs` (what is young
//! is confirmed before it is given), `cursors.rs` (`max` within the epoch, fenced by generation),
//! `claims.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::entry::{Body, Entry, Page, Settled};
use clarion_core::log::LogKey;
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Epoch, MessageId, Offset};

use crate::mutants::Mutant;

/// Entries that a log may hold; inboxes refuse above it, the others evict.
pub const ENTRIES_MAX: usize = 48;

/// What a node asks.
#[derive(Debug, Clone)]
pub enum Call {
    Append { log: usize, attempts: Vec<Attempt> },
    Read { log: usize, after: u64, entries_max: u32, bytes_max: u32 },
    Heads { logs: Vec<usize> },
    Open { terminal: usize },
    Save { saves: Vec<Save> },
    Verify { terminal: usize, generation: u64 },
    Claim { push: u64, until_ms: u64 },
    Finish { push: u64 },
}

/// One attempt to append one message (I2).
#[derive(Debug, Clone)]
pub struct Attempt {
    pub message: u64,
    pub expires_at_ms: u64,
    pub not_after_ms: u64,
    pub search: bool,
}

/// A cursor to be written.
#[derive(Debug, Clone)]
pub struct Save {
    pub terminal: usize,
    pub log: usize,
    pub session: u64,
    pub generation: u64,
    pub epoch: u64,
    pub cursor: u64,
    pub attempts: u8,
    pub settled: Vec<Settled>,
}

/// What the store answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Appended(Vec<AppendAnswer>),
    Page(Page),
    Heads(Vec<u64>),
    Opened(Opened),
    Saved(Vec<bool>),
    Verified(bool),
    Claimed(Claimed),
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAnswer {
    Done {
        epoch: u64,
        offset: u64,
        predecessor: u64,
    },
    TooLate,
    Full,
    /// Not the store's own answer: what the caller makes of none.
    Unknown,
    /// It was not sent.
    Unavailable,
}

/// A session may begin: its generation, and for each log epoch, cursor epoch, cursor, attempts, head.
#[derive(Debug, Clone)]
pub struct Opened {
    pub generation: u64,
    pub epoch: u64,
    pub logs: Vec<(usize, Cursor, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    New,
    InProgress,
    TakenOver { first_attempt_ms: u64 },
    Done,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    pub epoch: u64,
    pub offset: u64,
    pub attempts: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub offset: u64,
    pub predecessor: u64,
    pub seq: u64,
}

pub struct StoreLog {
    pub key: Arc<LogKey>,
    pub live: BTreeMap<u64, Arc<Entry>>,
    /// Every message of this lineage, whether it is still there or not.
    pub index: BTreeMap<u64, Place>,
    /// The same by offset, with the expiry.
    pub all: BTreeMap<u64, (u64, u64)>,
    pub last: u64,
    pub last_seq: u64,
    pub evicted_to: u64,
}

#[derive(Debug, Clone, Copy)]
struct ClaimRecord {
    first_attempt_ms: u64,
    until_ms: u64,
    done: bool,
}

/// How to take back what a fail-over loses.
enum Undo {
    Append {
        log: usize,
        message: u64,
        last: u64,
        last_seq: u64,
        evicted_to: u64,
        evicted: Vec<Arc<Entry>>,
    },
    Cursor {
        terminal: usize,
        log: usize,
        before: Cursor,
        outcomes: Vec<u64>,
        removed: Vec<Arc<Entry>>,
    },
    Generation {
        terminal: usize,
        before: u64,
    },
    Claim {
        push: u64,
        before: Option<ClaimRecord>,
    },
}

/// What the store noticed that must not be.
pub type Wrong = (&'static str, String);

pub struct Store {
    pub logs: Vec<StoreLog>,
    /// By terminal, by log.
    pub cursors: Vec<BTreeMap<usize, Cursor>>,
    pub generations: Vec<u64>,
    pub epoch: u64,
    pub seq: u64,
    pub confirmed: u64,
    pub down: bool,
    /// How each terminal was done with each message, as its cursor passed it (I13).
    pub outcomes: BTreeMap<(usize, u64), Milestone>,
    pub wrong: Option<Wrong>,
    claims: BTreeMap<u64, ClaimRecord>,
    undo: VecDeque<(u64, Undo)>,
    mutant: Option<Mutant>,
}

impl Store {
    pub fn new(keys: &[Arc<LogKey>], readers: &[Vec<usize>], mutant: Option<Mutant>) -> Self {
        let log = |key: &Arc<LogKey>| StoreLog {
            key: Arc::clone(key),
            live: BTreeMap::new(),
            index: BTreeMap::new(),
            all: BTreeMap::new(),
            last: 0,
            last_seq: 0,
            evicted_to: 0,
        };
        // Every terminal is registered and a member when it begins (I3): all logs are empty then.
        let start = |logs: &Vec<usize>| {
            logs.iter().map(|log| (*log, Cursor { epoch: 1, ..Cursor::default() })).collect()
        };
        Self {
            logs: keys.iter().map(log).collect(),
            cursors: readers.iter().map(start).collect(),
            generations: vec![0; readers.len()],
            epoch: 1,
            seq: 0,
            confirmed: 0,
            down: false,
            outcomes: BTreeMap::new(),
            wrong: None,
            claims: BTreeMap::new(),
            undo: VecDeque::new(),
            mutant,
        }
    }

    /// Executes a call. The answer may go out once everything up to the number is confirmed.
    pub fn execute(&mut self, now_ms: u64, call: Call) -> (Answer, u64) {
        match call {
            Call::Append { log, attempts } => {
                let answers =
                    attempts.iter().map(|attempt| self.append(now_ms, log, attempt)).collect();
                let early = self.mutant == Some(Mutant::AnswerBeforeConfirm);
                (Answer::Appended(answers), if early { 0 } else { self.seq })
            }
            Call::Read { log, after, entries_max, bytes_max } => {
                (Answer::Page(self.page(log, after, entries_max, bytes_max)), self.young(&[log]))
            }
            Call::Heads { logs } => {
                let heads = logs.iter().map(|log| self.logs[*log].last).collect();
                (Answer::Heads(heads), self.young(&logs))
            }
            Call::Open { terminal } => (Answer::Opened(self.open(terminal)), self.seq),
            Call::Save { saves } => {
                let saved = saves.iter().map(|save| self.save(now_ms, save)).collect();
                (Answer::Saved(saved), self.seq)
            }
            Call::Verify { terminal, generation } => {
                (Answer::Verified(self.generations[terminal] == generation), 0)
            }
            Call::Claim { push, until_ms } => {
                (Answer::Claimed(self.claim(now_ms, push, until_ms)), self.seq)
            }
            Call::Finish { push } => {
                if let Some(claim) = self.claims.get(&push).copied() {
                    self.log_undo(Undo::Claim { push, before: Some(claim) });
                    self.claims.insert(push, ClaimRecord { done: true, ..claim });
                }
                (Answer::Finished, 0)
            }
        }
    }

    fn log_undo(&mut self, undo: Undo) {
        self.seq += 1;
        self.undo.push_back((self.seq, undo));
    }

    /// I1: what a reader is given is confirmed first.
    fn young(&self, logs: &[usize]) -> u64 {
        if self.mutant == Some(Mutant::ReadUnconfirmed) {
            return 0;
        }
        logs.iter().map(|log| self.logs[*log].last_seq).max().unwrap_or(0)
    }

    fn append(&mut self, now_ms: u64, log: usize, attempt: &Attempt) -> AppendAnswer {
        let (epoch, seq) = (self.epoch, self.seq + 1);
        let of = &mut self.logs[log];
        let known = of.index.get(&attempt.message).copied();
        if let (Some(place), true) = (known, attempt.search) {
            // An entry that is gone cannot be hinted; nobody continues at offset zero.
            let live = of.live.contains_key(&place.offset);
            let predecessor = if live { place.predecessor } else { 0 };
            return AppendAnswer::Done { epoch, offset: place.offset, predecessor };
        }
        if now_ms > attempt.not_after_ms {
            return AppendAnswer::TooLate;
        }
        if known.is_some() && self.wrong.is_none() {
            self.wrong = Some(("I2", format!("message {} twice in {}", attempt.message, of.key)));
        }
        let (last, last_seq, evicted_to) = (of.last, of.last_seq, of.evicted_to);
        let mut evicted = Vec::new();
        if of.live.len() >= ENTRIES_MAX {
            if !of.key.kind.is_wide() {
                return AppendAnswer::Full;
            }
            if let Some((offset, entry)) = of.live.pop_first() {
                of.evicted_to = offset;
                evicted.push(entry);
            }
        }
        let offset = Offset(of.last).next(now_ms).0;
        let body = Body::Json(Bytes::from(attempt.message.to_string()));
        let entry = Entry::new(
            Offset(offset),
            Offset(last),
            MessageId(u128::from(attempt.message)),
            attempt.expires_at_ms,
            body,
        );
        of.live.insert(offset, Arc::new(entry));
        of.all.insert(offset, (attempt.message, attempt.expires_at_ms));
        of.index.insert(attempt.message, Place { offset, predecessor: last, seq });
        (of.last, of.last_seq) = (offset, seq);
        let message = attempt.message;
        self.log_undo(Undo::Append { log, message, last, last_seq, evicted_to, evicted });
        AppendAnswer::Done { epoch, offset, predecessor: last }
    }

    fn page(&self, log: usize, after: u64, entries_max: u32, bytes_max: u32) -> Page {
        let log = &self.logs[log];
        let mut page = Page {
            epoch: Epoch(self.epoch),
            entries: vec![],
            head: Offset(log.last),
            evicted_to: Offset(log.evicted_to),
            more: false,
        };
        let mut bytes = 0;
        for (_, entry) in log.live.range(after.saturating_add(1)..) {
            if page.entries.len() >= entries_max as usize || bytes >= bytes_max as usize {
                page.more = true;
                break;
            }
            bytes += entry.body.len();
            page.entries.push(Arc::clone(entry));
        }
        page
    }

    fn open(&mut self, terminal: usize) -> Opened {
        let before = self.generations[terminal];
        self.log_undo(Undo::Generation { terminal, before });
        // Generations carry the store's own run in their upper half, so that none is given twice.
        self.generations[terminal] = before.max(self.seq) + 1;
        let head = |(log, cursor): (&usize, &Cursor)| (*log, *cursor, self.logs[*log].last);
        Opened {
            generation: self.generations[terminal],
            epoch: self.epoch,
            logs: self.cursors[terminal].iter().map(head).collect(),
        }
    }

    /// I7: whether the session is its terminal's newest; if not, nothing is written.
    fn save(&mut self, now_ms: u64, save: &Save) -> bool {
        let stale = save.generation != self.generations[save.terminal];
        if stale && self.mutant != Some(Mutant::CursorWithoutGeneration) {
            return false;
        }
        let before = self.cursors[save.terminal][&save.log];
        let log = &mut self.logs[save.log];
        if save.cursor > log.last && save.epoch == self.epoch {
            self.note("I5", format!("a cursor above the head of {}", self.logs[save.log].key));
            return false;
        }
        if save.epoch != self.epoch || (save.epoch == before.epoch && save.cursor < before.offset) {
            return true;
        }
        let from = if before.epoch == save.epoch { before.offset } else { 0 };
        let mut outcomes = Vec::new();
        for (offset, (message, expires_at_ms)) in
            log.all.range(from + 1..=save.cursor.max(from + 1))
        {
            if *offset > save.cursor {
                continue;
            }
            let told = save.settled.iter().find(|settled| settled.offset.0 == *offset);
            let evicted = save
                .settled
                .iter()
                .any(|settled| settled.how == Milestone::Evicted && settled.offset.0 >= *offset);
            let gone = !log.live.contains_key(offset);
            let how = match told {
                Some(settled) if settled.how != Milestone::Evicted => settled.how,
                _ if evicted && gone => Milestone::Evicted,
                _ if gone && *expires_at_ms <= now_ms => Milestone::Expired,
                _ => Milestone::Acknowledged,
            };
            // A restored store lets them be passed again: the first time counts.
            self.outcomes.entry((save.terminal, *message)).or_insert_with(|| {
                outcomes.push(*message);
                how
            });
        }
        let mut removed = Vec::new();
        if log.key.kind == clarion_core::log::LogKind::Terminal {
            let rest = log.live.split_off(&(save.cursor + 1));
            removed.extend(std::mem::replace(&mut log.live, rest).into_values());
        }
        if stale {
            self.note("I7", format!("terminal {}: a former session wrote", save.terminal));
        }
        let cursor = Cursor { epoch: save.epoch, offset: save.cursor, attempts: save.attempts };
        self.cursors[save.terminal].insert(save.log, cursor);
        let (terminal, log) = (save.terminal, save.log);
        self.log_undo(Undo::Cursor { terminal, log, before, outcomes, removed });
        true
    }

    fn note(&mut self, invariant: &'static str, what: String) {
        self.wrong.get_or_insert((invariant, what));
    }

    fn claim(&mut self, now_ms: u64, push: u64, until_ms: u64) -> Claimed {
        let before = self.claims.get(&push).copied();
        let (answer, claim) = match before {
            Some(claim) if claim.done => return Claimed::Done,
            Some(claim) if claim.until_ms >= now_ms => return Claimed::InProgress,
            Some(claim) => {
                let first_attempt_ms = claim.first_attempt_ms;
                (Claimed::TakenOver { first_attempt_ms }, ClaimRecord { until_ms, ..claim })
            }
            None => (Claimed::New, ClaimRecord { first_attempt_ms: now_ms, until_ms, done: false }),
        };
        self.claims.insert(push, claim);
        self.log_undo(Undo::Claim { push, before });
        answer
    }

    /// Enough copies have everything up to there.
    pub fn confirm(&mut self, up_to: u64) {
        self.confirmed = self.confirmed.max(up_to.min(self.seq));
        while self.undo.front().is_some_and(|(seq, _)| *seq <= self.confirmed) {
            self.undo.pop_front();
        }
    }

    /// Another copy becomes master: what `WAIT` had not confirmed is lost but for `kept` of it.
    /// Returns the messages that are gone.
    pub fn fail_over(&mut self, kept: u64) -> Vec<(usize, u64)> {
        let keep_to = self.confirmed + kept.min(self.seq - self.confirmed);
        let mut lost = Vec::new();
        while self.undo.back().is_some_and(|(seq, _)| *seq > keep_to) {
            let Some((_, undo)) = self.undo.pop_back() else { break };
            match undo {
                Undo::Append { log, message, last, last_seq, evicted_to, evicted } => {
                    let of = &mut self.logs[log];
                    if let Some(place) = of.index.remove(&message) {
                        of.live.remove(&place.offset);
                        of.all.remove(&place.offset);
                    }
                    (of.last, of.last_seq, of.evicted_to) = (last, last_seq, evicted_to);
                    of.live.extend(evicted.into_iter().map(|entry| (entry.offset.0, entry)));
                    lost.push((log, message));
                }
                Undo::Cursor { terminal, log, before, outcomes, removed } => {
                    self.cursors[terminal].insert(log, before);
                    for message in outcomes {
                        self.outcomes.remove(&(terminal, message));
                    }
                    let live = &mut self.logs[log].live;
                    live.extend(removed.into_iter().map(|entry| (entry.offset.0, entry)));
                }
                Undo::Generation { terminal, before } => self.generations[terminal] = before,
                Undo::Claim { push, before } => match before {
                    Some(claim) => drop(self.claims.insert(push, claim)),
                    None => drop(self.claims.remove(&push)),
                },
            }
        }
        self.confirm(self.seq);
        lost
    }

    /// The store comes back from a backup: each log without its last entries, another lineage.
    /// Returns the messages that are gone.
    pub fn restore(&mut self, drop_entries: usize) -> Vec<(usize, u64)> {
        let mut lost = self.fail_over(0);
        self.epoch += 1;
        for (number, log) in self.logs.iter_mut().enumerate() {
            for _ in 0..drop_entries {
                let Some((offset, (message, _))) = log.all.pop_last() else { break };
                log.live.remove(&offset);
                log.index.remove(&message);
                self.claims.remove(&message);
                lost.push((number, message));
            }
            log.last = log.all.last_key_value().map_or(0, |(offset, _)| *offset);
            log.evicted_to = log.evicted_to.min(log.last);
        }
        lost
    }

    /// I1: whether an entry at this place is confirmed.
    pub fn is_durable(&self, log: usize, message: u64, offset: u64) -> bool {
        let place = self.logs[log].index.get(&message);
        place.is_some_and(|place| place.offset == offset && place.seq <= self.confirmed)
    }
}
