//! Sessions on their links: the host (`actors/src/link/host.rs`) and its inbox (`link/inbox.rs`). The
//! sessions themselves are the core's.

use std::sync::Arc;

use clarion_core::entry::Entry;
use clarion_core::session::{Effect, Event as SessionEvent, Session, SessionLimits, StartLog};
use clarion_protocol::terminal::LogAlias;
use clarion_protocol::{Code, Epoch, Offset};

use crate::event::{Frame, Purpose, Timer};
use crate::mutants::Mutant;
use crate::store::{Answer, Call, Opened, Save};
use crate::world::World;

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

impl World {
    pub fn logs_of(&self, n: usize, key: u64) -> Vec<usize> {
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

    pub fn register_all(&mut self, n: usize, key: u64, since_ms: u64, generation: u64) {
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

    pub fn step_log(
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
    pub fn arm(&mut self, n: usize, key: u64) {
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
    pub fn carry_out(&mut self, n: usize, key: u64, effects: Vec<Effect>) {
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
                Effect::Read { log: alias, after, entries_max, bytes_max, .. } => {
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

    pub fn deliver(&mut self, n: usize, key: u64, log: usize, entries: &[Arc<Entry>], again: bool) {
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
