//! From logs to sessions: the relay (`actors/src/relay/mod.rs`, `heads.rs`), the host of a session
//! (`link/host.rs`, its inbox in `link/inbox.rs`) and the write-behind of cursors (`cursors.rs`). The
//! sessions themselves are the core's.

use std::sync::Arc;

use clarion_core::entry::{Batch, Body, Entry, Settled};
use clarion_core::session::{Effect, Event as SessionEvent, Session, SessionLimits, StartLog};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::terminal::LogAlias;
use clarion_protocol::{Code, Epoch, Offset};

use crate::Mutant;
use crate::node::LogSet;
use crate::node::each;
use crate::store::{Answer, Call, Opened, Save};
use crate::world::{Frame, Message, Purpose, Timer, World};

pub const LIMITS: SessionLimits = SessionLimits {
    window_entries: 8,
    window_bytes: 4096,
    unicast_reserve_bytes: 1024,
    ack_timeout_ms: 4000,
    attempts_max: 6,
    page_entries: 6,
    page_bytes: 2048,
    logs_max: 8,
};
/// How often an idle session asks whether it is its terminal's newest (I7).
const VERIFY_MS: u64 = 10_000;
pub const FLUSH_MS: u64 = 1000;
pub const POLL_MS: u64 = 1000;
const HINT_PATIENCE_MS: u64 = 1000;

/// The sessions of a node that read one log.
#[derive(Debug, Default)]
pub struct Readers {
    pub sessions: Vec<u64>,
    /// The highest offset known.
    known: u64,
    /// The owner confirmed the interest of the node.
    confirmed: bool,
}

impl Readers {
    /// Once the owner confirmed.
    pub fn head(&self) -> Option<u64> {
        self.confirmed.then_some(self.known)
    }

    fn grow(&mut self, head: u64) {
        self.known = self.known.max(head);
    }
}

/// A session on its link.
pub struct Host {
    pub terminal: usize,
    pub link: u64,
    pub session: Session,
    pub generation: u64,
    pub tick_at_ms: u64,
    /// Up to when hints find no room in its inbox.
    pub no_room_until_ms: u64,
}

/// Why heads are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Told,
    Check { sure: bool },
}

impl World {
    // The relay.

    fn register(&mut self, n: usize, log: usize, key: u64, since_ms: u64, generation: u64) {
        let Some(readers) = &mut self.nodes[n].relay[log] else {
            self.nodes[n].relay[log] = Some(Readers { sessions: vec![key], ..Readers::default() });
            return self.tell_interest(n, log, since_ms, generation);
        };
        let (head, others) = (readers.head(), readers.sessions.clone());
        if !readers.sessions.contains(&key) {
            readers.sessions.push(key);
        }
        if generation > 0 {
            for other in others.into_iter().filter(|other| *other != key) {
                self.newer_generation(n, other, generation);
            }
        }
        if let Some(head) = head {
            self.step_log(n, key, log, |alias| SessionEvent::Interest {
                log: alias,
                head: Offset(head),
            });
        }
    }

    fn deregister(&mut self, n: usize, log: usize, key: u64) {
        let Some(readers) = &mut self.nodes[n].relay[log] else { return };
        readers.sessions.retain(|other| *other != key);
        if readers.sessions.is_empty() {
            self.nodes[n].relay[log] = None;
            self.no_interest(n, log, None);
        }
    }

    /// `Router::interest`.
    fn tell_interest(&mut self, n: usize, log: usize, since_ms: u64, generation: u64) {
        match self.nodes[n].target[log] {
            Some(owner) if owner == n => self.interested(n, n, log, since_ms, generation),
            Some(owner) => {
                let logs = vec![(log, generation)];
                if !self.send(n, owner, Message::Interest { logs, since_ms })
                    && let Some(peer) = &mut self.nodes[n].peers[owner]
                {
                    peer.unannounced |= 1 << log;
                }
            }
            // Nobody confirms and nobody hints: the log is compared with the store from now on.
            None => self.confirm_from_store(n, n, log),
        }
    }

    /// `Router::no_interest`.
    fn no_interest(&mut self, n: usize, log: usize, listed: Option<usize>) {
        let target = self.nodes[n].target[log];
        for to in [target, listed.filter(|to| Some(*to) != target)].into_iter().flatten() {
            if to == n {
                self.nodes[n].owned[log].nodes &= !(1 << n);
            } else if self.nodes[n].peers[to].is_some() {
                let _ = self.send(n, to, Message::NoInterest { log });
            }
        }
    }

    pub fn relay_hint(&mut self, n: usize, log: usize, batch: &Arc<Batch>, listed: Option<usize>) {
        let Some(readers) = &mut self.nodes[n].relay[log] else {
            if listed.is_some() {
                self.no_interest(n, log, listed);
            }
            return;
        };
        let last = batch.entries.last().map_or(0, |entry| entry.offset.0);
        readers.grow(last);
        readers.confirmed |= self.mutant == Some(Mutant::HintsConfirm);
        let batch = if self.mutant == Some(Mutant::HintsWithoutPredecessor) {
            let entries = batch.entries.iter().map(without_predecessor).collect();
            Arc::new(Batch::new(Arc::clone(&batch.log), batch.epoch, entries))
        } else {
            Arc::clone(batch)
        };
        for key in readers.sessions.clone() {
            let full = self.nodes[n]
                .sessions
                .get(&key)
                .is_some_and(|host| host.no_room_until_ms > self.now_ms);
            self.step_log(n, key, log, |alias| {
                if full {
                    SessionEvent::Missed { log: alias, up_to: Offset(last) }
                } else {
                    SessionEvent::Hint { log: alias, batch: Arc::clone(&batch) }
                }
            });
        }
    }

    /// An owner confirmed interest (`RelayState::confirm`).
    pub fn confirmed(&mut self, n: usize, log: usize, head: u64, from: Option<usize>) {
        let Some(readers) = &mut self.nodes[n].relay[log] else {
            if from.is_some() {
                self.no_interest(n, log, from);
            }
            return;
        };
        readers.grow(head);
        readers.confirmed = true;
        let head = readers.known;
        for key in readers.sessions.clone() {
            self.step_log(n, key, log, |alias| SessionEvent::Interest {
                log: alias,
                head: Offset(head),
            });
        }
    }

    pub fn superseded(&mut self, n: usize, log: usize, generation: u64) {
        let sessions = self.nodes[n].relay[log].as_ref().map(|readers| readers.sessions.clone());
        for key in sessions.unwrap_or_default() {
            self.newer_generation(n, key, generation);
        }
    }

    fn newer_generation(&mut self, n: usize, key: u64, generation: u64) {
        if self.nodes[n].sessions.get(&key).is_some_and(|host| generation > host.generation) {
            self.stale(n, key);
        }
    }

    /// A newer session is there: this one ends (I7).
    pub fn stale(&mut self, n: usize, key: u64) {
        if self.mutant != Some(Mutant::StaleSessionGoesOn) {
            self.end_session(n, key, true);
        }
    }

    /// `RelayState::compare`: reads heads from the store, because something may have cost hints.
    pub fn compare(&mut self, n: usize, logs: LogSet) {
        let logs = logs | std::mem::take(&mut self.nodes[n].compare_failed);
        let read: Vec<usize> =
            each(logs).filter(|log| self.nodes[n].relay[*log].is_some()).collect();
        if !read.is_empty() {
            let purpose = Purpose::Heads { logs: read.clone(), found: Found::Told };
            self.call(n, Call::Heads { logs: read }, purpose);
        }
    }

    pub fn poll(&mut self, n: usize) {
        if self.nodes[n].deaf && self.mutant != Some(Mutant::NeverPolls) {
            self.compare(n, self.all_logs());
        }
        self.timer(n, POLL_MS, Timer::Poll);
    }

    pub fn check_heads(&mut self, n: usize) {
        let logs: Vec<usize> =
            (0..self.keys.len()).filter(|log| self.nodes[n].relay[*log].is_some()).collect();
        if !logs.is_empty() {
            let found = Found::Check { sure: false };
            self.call(n, Call::Heads { logs: logs.clone() }, Purpose::Heads { logs, found });
        }
        self.timer(n, self.settings.head_check_ms, Timer::CheckHeads);
    }

    /// `RelayState::heads_found`.
    pub fn heads_found(&mut self, n: usize, heads: &[(usize, u64)], found: Found) {
        let mut ahead = Vec::new();
        for (log, head) in heads.iter().copied() {
            let away = self.nodes[n].target[log].is_none();
            let Some(readers) = &mut self.nodes[n].relay[log] else { continue };
            match (readers.head(), found) {
                (Some(known), Found::Check { sure: false }) if head > known => {
                    ahead.push((log, head))
                }
                (Some(known), _) if head > known => {
                    readers.grow(head);
                    for key in readers.sessions.clone() {
                        let up_to = Offset(head);
                        self.step_log(n, key, log, |alias| SessionEvent::Missed {
                            log: alias,
                            up_to,
                        });
                    }
                }
                (Some(_), _) => {}
                (None, Found::Told) if away => self.confirmed(n, log, head, None),
                (None, Found::Check { .. }) => self.confirmed(n, log, head, None),
                (None, Found::Told) => self.tell_interest(n, log, 0, 0),
            }
        }
        if !ahead.is_empty() {
            self.timer(n, HINT_PATIENCE_MS, Timer::HeadsAhead { heads: ahead });
        }
    }

    pub fn heads_told(&mut self, n: usize, log: usize, head: u64) {
        self.heads_found(n, &[(log, head)], Found::Told);
    }

    /// All relays of a node crash; its links register again (`Host::register_again`).
    pub fn crash_relay(&mut self, n: usize) {
        self.audit.crashed_relays.insert(n);
        self.nodes[n].relay.iter_mut().for_each(|readers| *readers = None);
        let keys: Vec<u64> = self.nodes[n].sessions.keys().copied().collect();
        for key in keys {
            for log in self.logs_of(n, key) {
                self.register(n, log, key, 0, 0);
                self.step_log(n, key, log, |alias| SessionEvent::ReadFailed { log: alias });
            }
        }
    }

    // Sessions.

    fn logs_of(&self, n: usize, key: u64) -> Vec<usize> {
        let Some(host) = self.nodes[n].sessions.get(&key) else { return Vec::new() };
        let number = |log: &Arc<_>| self.keys.iter().position(|key| key == log);
        host.session.logs().filter_map(|(_, log, ..)| number(log)).collect()
    }

    pub fn log_of(&self, host: &Host, alias: LogAlias) -> Option<usize> {
        let key = host.session.log(alias)?;
        self.keys.iter().position(|known| known == key)
    }

    /// `Host::begin`: `opened`, then the logs are registered, then they are read (I4).
    pub fn begin_session(&mut self, n: usize, terminal: usize, link: u64, opened: &Opened) {
        let own = self.terminals[terminal].own_cursors.clone();
        let starts: Vec<StartLog> = opened
            .logs
            .iter()
            .map(|(log, cursor, head)| StartLog {
                log: Arc::clone(&self.keys[*log]),
                epoch: Epoch(opened.epoch),
                cursor_epoch: Epoch(cursor.epoch),
                cursor: Offset(cursor.offset),
                attempts: cursor.attempts,
                head: Offset(*head),
                own: own.get(log).map(|(epoch, at)| (Epoch(*epoch), Offset(*at))),
            })
            .collect();
        let (time_ms, mut effects) = (self.time(n), Vec::new());
        let session = Session::new(starts, time_ms, &mut effects);
        self.next_id += 1;
        let key = self.next_id;
        let host = Host {
            terminal,
            link,
            session,
            generation: opened.generation,
            tick_at_ms: u64::MAX,
            no_room_until_ms: 0,
        };
        self.nodes[n].sessions.insert(key, host);
        self.tell_terminal(terminal, link, Frame::Opened);
        self.carry_out(n, key, effects);
        self.register_all(n, key, time_ms, opened.generation);
        self.timer(n, VERIFY_MS, Timer::Verify { session: key });
        self.arm(n, key);
    }

    fn register_all(&mut self, n: usize, key: u64, since_ms: u64, generation: u64) {
        for log in self.logs_of(n, key) {
            let inbox = self.keys[log].kind == clarion_core::log::LogKind::Terminal;
            self.register(n, log, key, since_ms, if inbox { generation } else { 0 });
        }
    }

    /// `Host::rebuild`: the session crashed, its link did not notice.
    pub fn rebuild_session(&mut self, n: usize, key: u64, opened: &Opened) {
        let Some(mut former) = self.nodes[n].sessions.remove(&key) else { return };
        let starts: Vec<StartLog> = opened
            .logs
            .iter()
            .map(|(log, cursor, head)| StartLog {
                log: Arc::clone(&self.keys[*log]),
                epoch: Epoch(opened.epoch),
                cursor_epoch: Epoch(cursor.epoch),
                cursor: Offset(cursor.offset),
                attempts: cursor.attempts,
                head: Offset(*head),
                own: None,
            })
            .collect();
        let mut effects = Vec::new();
        former.session = Session::rebuild(&former.session, starts, &mut effects);
        former.generation = opened.generation;
        former.tick_at_ms = u64::MAX;
        for log in 0..self.keys.len() {
            // What the former one was owed is void.
            self.deregister(n, log, key);
        }
        self.next_id += 1;
        let new = self.next_id;
        let (terminal, link, time_ms) = (former.terminal, former.link, self.time(n));
        self.nodes[n].sessions.insert(new, former);
        self.tell_terminal(terminal, link, Frame::Rebuilt);
        self.carry_out(n, new, effects);
        self.register_all(n, new, time_ms, opened.generation);
        self.timer(n, VERIFY_MS, Timer::Verify { session: new });
        self.arm(n, new);
    }

    fn step_log(
        &mut self,
        n: usize,
        key: u64,
        log: usize,
        event: impl FnOnce(LogAlias) -> SessionEvent,
    ) {
        let Some(host) = self.nodes[n].sessions.get(&key) else { return };
        let of = |(alias, known, ..): (LogAlias, &Arc<_>, _, _)| {
            (*known == self.keys[log]).then_some(alias)
        };
        let alias = host.session.logs().find_map(of);
        if let Some(alias) = alias {
            self.step_session(n, key, event(alias));
        }
    }

    pub fn step_session(&mut self, n: usize, key: u64, event: SessionEvent) {
        let mut time_ms = self.time(n);
        if self.mutant == Some(Mutant::ExpiresByWallClock) {
            // A clock that somebody set a minute ahead.
            time_ms += 60_000;
        }
        let Some(host) = self.nodes[n].sessions.get_mut(&key) else { return };
        let mut effects = Vec::new();
        host.session.step(event, time_ms, &LIMITS, &mut effects);
        self.carry_out(n, key, effects);
        self.arm(n, key);
    }

    /// Sees to the session's next tick.
    fn arm(&mut self, n: usize, key: u64) {
        let behind_ms = self.nodes[n].behind_ms;
        let now_ms = self.now_ms;
        let Some(host) = self.nodes[n].sessions.get_mut(&key) else { return };
        let Some(due_ms) = host.session.deadline_ms(&LIMITS) else { return };
        let due_ms = (due_ms + behind_ms).max(now_ms + 1);
        if due_ms < host.tick_at_ms {
            host.tick_at_ms = due_ms;
            self.timer(n, due_ms - now_ms, Timer::Session { session: key });
        }
    }

    pub fn tick_session(&mut self, n: usize, key: u64) {
        let (now_ms, behind_ms) = (self.now_ms, self.nodes[n].behind_ms);
        let Some(host) = self.nodes[n].sessions.get_mut(&key) else { return };
        if host.tick_at_ms > now_ms {
            return;
        }
        host.tick_at_ms = u64::MAX;
        let due =
            host.session.deadline_ms(&LIMITS).is_some_and(|due_ms| due_ms + behind_ms <= now_ms);
        if due {
            self.step_session(n, key, SessionEvent::Tick);
        }
        self.arm(n, key);
    }

    pub fn verify(&mut self, n: usize, key: u64) {
        let Some(host) = self.nodes[n].sessions.get(&key) else { return };
        let (terminal, generation) = (host.terminal, host.generation);
        self.call(n, Call::Verify { terminal, generation }, Purpose::Verify { session: key });
        self.timer(n, VERIFY_MS, Timer::Verify { session: key });
    }

    /// `Host::carry_out`.
    fn carry_out(&mut self, n: usize, key: u64, effects: Vec<Effect>) {
        for effect in effects {
            let Some(host) = self.nodes[n].sessions.get(&key) else { return };
            let (terminal, link, generation) = (host.terminal, host.link, host.generation);
            match effect {
                Effect::DeliverBatch { log, batch } => {
                    let Some(log) = self.log_of(host, log) else { continue };
                    self.deliver(n, key, log, &batch.entries, false);
                }
                Effect::Deliver { log, again, entries } => {
                    let Some(log) = self.log_of(host, log) else { continue };
                    self.deliver(n, key, log, &entries, again);
                }
                Effect::Gap { log, epoch, from: _, to, reason: _ } => {
                    let Some(log) = self.log_of(host, log) else { continue };
                    let frame = Frame::Gap { log, epoch: epoch.0, to: to.0 };
                    self.tell_terminal(terminal, link, frame);
                }
                Effect::Read { log: alias, after, entries_max, bytes_max } => {
                    let Some(log) = self.log_of(host, alias) else { continue };
                    self.audit_read(n, log);
                    let call = Call::Read { log, after: after.0, entries_max, bytes_max };
                    self.call(n, call, Purpose::Read { session: key, alias });
                }
                Effect::Save { log, epoch, cursor, attempts, settled } => {
                    let Some(log) = self.log_of(host, log) else { continue };
                    let (epoch, cursor) = (epoch.0, cursor.0);
                    let save = Save {
                        terminal,
                        log,
                        session: key,
                        generation,
                        epoch,
                        cursor,
                        attempts,
                        settled,
                    };
                    self.note_cursor(n, save);
                }
                Effect::Control(_) => self.wrong("I5", "a control entry out of nowhere".to_owned()),
                Effect::Close { code, detail } => {
                    if code != Code::AckTimeout && code != Code::StoreAway {
                        self.wrong("I5", format!("a session is closed with {code}: {detail}"));
                    }
                    return self.end_session(n, key, true);
                }
            }
        }
    }

    fn deliver(&mut self, n: usize, key: u64, log: usize, entries: &[Arc<Entry>], again: bool) {
        let Some(host) = self.nodes[n].sessions.get(&key) else { return };
        let (terminal, link, generation) = (host.terminal, host.link, host.generation);
        let of = |(_, known, epoch, _): (_, &Arc<_>, Epoch, _)| {
            (*known == self.keys[log]).then_some(epoch.0)
        };
        let epoch = host.session.logs().find_map(of).unwrap_or(0);
        self.audit_delivery(log, entries);
        if let (Some(Mutant::SavesWhatWasSent), Some(last)) = (self.mutant, entries.last()) {
            let (cursor, attempts, settled) = (last.offset.0, 0, Vec::new());
            let session = key;
            let save =
                Save { terminal, log, session, generation, epoch, cursor, attempts, settled };
            self.note_cursor(n, save);
        }
        let entries =
            entries.iter().map(|entry| (entry.offset.0, entry.message.0 as u64)).collect();
        self.tell_terminal(terminal, link, Frame::Deliver { log, entries, again });
    }

    /// `Host::end`: attempts and cursors are noted, logs deregistered.
    pub fn end_session(&mut self, n: usize, key: u64, tell: bool) {
        let Some(host) = self.nodes[n].sessions.get_mut(&key) else { return };
        let (terminal, link, mut effects) = (host.terminal, host.link, Vec::new());
        host.session.finish(&mut effects);
        self.carry_out(n, key, effects);
        for log in self.logs_of(n, key) {
            self.deregister(n, log, key);
        }
        self.nodes[n].sessions.remove(&key);
        self.flush(n);
        if tell {
            self.tell_terminal(terminal, link, Frame::Closed);
        }
    }

    // Cursors.

    /// `CursorBuffer::note`: a later one of the same session takes the place of an earlier one.
    fn note_cursor(&mut self, n: usize, save: Save) {
        let dirty = &mut self.nodes[n].dirty;
        match dirty.get_mut(&(save.terminal, save.log)) {
            Some(known) if save.generation < known.generation => {}
            Some(known) => {
                let continues = known.generation == save.generation && known.epoch == save.epoch;
                let mut settled =
                    if continues { std::mem::take(&mut known.settled) } else { Vec::new() };
                if save.settled.iter().any(|settled| settled.how == Milestone::Evicted) {
                    let (offset, how) = (Offset(known.cursor), Milestone::Acknowledged);
                    settled.push(Settled { offset, how });
                }
                settled.extend(save.settled);
                *known = Save { settled, ..save };
            }
            None => drop(dirty.insert((save.terminal, save.log), save)),
        }
    }

    pub fn flush(&mut self, n: usize) {
        let saves: Vec<Save> = std::mem::take(&mut self.nodes[n].dirty).into_values().collect();
        if !saves.is_empty() {
            self.call(n, Call::Save { saves: saves.clone() }, Purpose::Save { saves });
        }
    }

    pub fn saved(&mut self, n: usize, saves: Vec<Save>, answers: Option<Vec<bool>>) {
        match answers {
            Some(answers) => {
                for (save, newest) in saves.into_iter().zip(answers) {
                    if !newest {
                        self.stale(n, save.session);
                    }
                }
            }
            // Put back, below what was noted meanwhile.
            None => {
                for save in saves {
                    let newer = self.nodes[n].dirty.remove(&(save.terminal, save.log));
                    self.note_cursor(n, save);
                    if let Some(newer) = newer {
                        self.note_cursor(n, newer);
                    }
                }
            }
        }
    }

    pub fn page_answered(&mut self, n: usize, key: u64, alias: LogAlias, answer: Option<Answer>) {
        let event = match answer {
            Some(Answer::Page(page)) => SessionEvent::Page { log: alias, page },
            _ => {
                self.disturbed_for(16_000);
                SessionEvent::ReadFailed { log: alias }
            }
        };
        self.step_session(n, key, event);
    }
}

fn without_predecessor(entry: &Arc<Entry>) -> Arc<Entry> {
    let body = match &entry.body {
        Body::Json(text) => Body::Json(text.clone()),
        other => other.clone(),
    };
    Arc::new(Entry::new(entry.offset, Offset::ZERO, entry.message, entry.expires_at_ms, body))
}
