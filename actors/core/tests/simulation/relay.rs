//! From logs to sessions (`actors/src/relay/mod.rs`, `heads.rs`).

use std::sync::Arc;

use clarion_core::entry::{Batch, Body, Entry};
use clarion_core::session::Event as SessionEvent;
use clarion_protocol::Offset;

use crate::event::{Message, Purpose, Timer};
use crate::mutants::Mutant;
use crate::node::{LogSet, each};
use crate::store::Call;
use crate::world::World;

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

/// Why heads are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Told,
    Check { sure: bool },
}

impl World {
    // The relay.

    pub fn register(&mut self, n: usize, log: usize, key: u64, since_ms: u64, generation: u64) {
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

    pub fn deregister(&mut self, n: usize, log: usize, key: u64) {
        let Some(readers) = &mut self.nodes[n].relay[log] else { return };
        readers.sessions.retain(|other| *other != key);
        if readers.sessions.is_empty() {
            self.nodes[n].relay[log] = None;
            self.no_interest(n, log, None);
        }
    }

    /// `Router::interest`.
    pub fn tell_interest(&mut self, n: usize, log: usize, since_ms: u64, generation: u64) {
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
    pub fn no_interest(&mut self, n: usize, log: usize, listed: Option<usize>) {
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

    pub fn newer_generation(&mut self, n: usize, key: u64, generation: u64) {
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
        if self.mutant != Some(Mutant::DeadForGood) {
            self.ask_absent(n);
        }
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
}

fn without_predecessor(entry: &Arc<Entry>) -> Arc<Entry> {
    let body = match &entry.body {
        Body::Json(text) => Body::Json(text.clone()),
        other => other.clone(),
    };
    Arc::new(Entry::new(entry.offset, Offset::ZERO, entry.message, entry.expires_at_ms, body))
}
