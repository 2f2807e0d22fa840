//! What the counts should be, by brute force: every terminal of every message by name (I13).

use std::collections::{BTreeMap, BTreeSet};

use clarion_core::LogKind;
use clarion_protocol::milestone::Milestone;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    No,
    Expired,
    Evicted,
    Passed,
}

#[derive(Debug)]
pub(super) struct ModelEntry {
    pub(super) id: u128,
    pub(super) offset: Offset,
    pub(super) expires_at_ms: u64,
    pub(super) gone: Gone,
    /// What became of it for each terminal that it is for. A terminal can be in it twice: it left
    /// a user and came back.
    pub(super) states: Vec<(usize, Option<Milestone>)>,
}

#[derive(Debug, Default)]
pub(super) struct ModelTerminal {
    pub(super) generation: u64,
    pub(super) user: Option<usize>,
    pub(super) topics: BTreeSet<usize>,
    pub(super) banned: BTreeSet<usize>,
    pub(super) known: bool,
}

/// Everything by brute force.
pub(super) struct Model {
    pub(super) logs: BTreeMap<Arc<LogKey>, Vec<ModelEntry>>,
    pub(super) positions: BTreeMap<(usize, Arc<LogKey>), Offset>,
    pub(super) terminals: Vec<ModelTerminal>,
    pub(super) now_ms: u64,
}

pub(super) const TERMINALS: usize = 7;
pub(super) const USERS: usize = 2;
pub(super) const TOPICS: usize = 2;
pub(super) const TIGHT: u32 = 6;

pub(super) fn name_of(terminal: usize) -> String {
    format!("t{terminal}")
}

impl Model {
    pub(super) fn readers(&self, log: &LogKey) -> Vec<usize> {
        let number = |prefix: char| log.name.strip_prefix(prefix).unwrap().parse().unwrap();
        let known = self.terminals.iter().enumerate().filter(|(_, terminal)| terminal.known);
        known
            .filter(|(n, terminal)| match log.kind {
                LogKind::Terminal => *log.name == *name_of(*n),
                LogKind::User => terminal.user == Some(number('u')),
                LogKind::Topic => terminal.topics.contains(&number('s')),
                LogKind::Broadcast => true,
            })
            .map(|(n, _)| n)
            .collect()
    }

    pub(super) fn head(&self, log: &Arc<LogKey>) -> Offset {
        self.logs.get(log).and_then(|log| log.last()).map_or(Offset::ZERO, |entry| entry.offset)
    }

    pub(super) fn start(&mut self, terminal: usize, log: &Arc<LogKey>) {
        let head = match log.kind {
            LogKind::Terminal | LogKind::User => Offset::ZERO,
            LogKind::Topic | LogKind::Broadcast => self.head(log),
        };
        self.positions.insert((terminal, Arc::clone(log)), head);
        if log.kind == LogKind::User {
            let entries = self.logs.entry(Arc::clone(log)).or_default();
            // From the oldest live entry on, also those behind it that have expired since.
            for entry in entries.iter_mut().skip_while(|entry| entry.gone != Gone::No) {
                entry.states.push((terminal, None));
            }
        }
    }

    /// Settles what is pending for a terminal up to an offset.
    pub(super) fn settle(
        &mut self,
        terminal: usize,
        log: &Arc<LogKey>,
        up_to: Offset,
        how: impl Fn(&ModelEntry) -> Milestone,
    ) {
        for entry in self.logs.entry(Arc::clone(log)).or_default() {
            if entry.offset > up_to {
                continue;
            }
            let settled = how(entry);
            for (reader, state) in &mut entry.states {
                if *reader == terminal && state.is_none() {
                    *state = Some(settled);
                }
            }
        }
    }

    pub(super) fn leave(&mut self, terminal: usize, log: &Arc<LogKey>) {
        let now_ms = self.now_ms;
        self.settle(terminal, log, Offset(u64::MAX), |entry| match entry.gone {
            Gone::Evicted => Milestone::Evicted,
            Gone::Expired => Milestone::Expired,
            Gone::No | Gone::Passed if entry.expires_at_ms <= now_ms => Milestone::Expired,
            Gone::No | Gone::Passed => Milestone::Suppressed,
        });
        self.positions.remove(&(terminal, Arc::clone(log)));
    }

    /// Inboxes forget what every reader has passed.
    pub(super) fn trim(&mut self, log: &Arc<LogKey>) {
        let readers = self.readers(log);
        if log.kind.is_wide() || readers.is_empty() {
            return;
        }
        for entry in self.logs.entry(Arc::clone(log)).or_default() {
            let pending = entry.states.iter().any(|(_, state)| state.is_none());
            let passed = readers.iter().all(|reader| {
                let position = self.positions[&(*reader, Arc::clone(log))];
                // Who came later than the entry does not hold it; it was never before them.
                let mine = entry.states.iter().any(|(of, state)| of == reader && state.is_none());
                position >= entry.offset || !mine
            });
            if entry.gone == Gone::No && passed && !pending {
                entry.gone = Gone::Passed;
            }
        }
    }

    pub(super) fn expire(&mut self, log: &Arc<LogKey>, grace_ms: u64) {
        let now_ms = self.now_ms;
        for entry in self.logs.entry(Arc::clone(log)).or_default() {
            if entry.gone == Gone::No && entry.expires_at_ms + grace_ms <= now_ms {
                entry.gone = Gone::Expired;
            }
        }
    }

    pub(super) fn live(&self, log: &Arc<LogKey>) -> usize {
        let entries = self.logs.get(log);
        entries.map_or(0, |log| log.iter().filter(|entry| entry.gone == Gone::No).count())
    }

    pub(super) fn counts(&self, log: &LogKey, entry: &ModelEntry) -> Counts {
        let mut counts = Counts { audience: entry.states.len() as u64, ..Counts::default() };
        if log.kind == LogKind::Terminal && entry.states.is_empty() {
            // It is for its terminal before the terminal is known.
            counts.audience = 1;
            counts.pending = 1;
        }
        for (_, state) in &entry.states {
            let field = match state {
                Some(Milestone::Acknowledged) => &mut counts.acknowledged,
                Some(Milestone::Expired) => &mut counts.expired,
                Some(Milestone::Undeliverable) => &mut counts.undeliverable,
                Some(Milestone::Evicted) => &mut counts.evicted,
                Some(_) => &mut counts.suppressed,
                None => &mut counts.pending,
            };
            *field += 1;
        }
        let pending = std::mem::take(&mut counts.pending);
        match entry.gone {
            Gone::Evicted => counts.evicted += pending,
            Gone::Expired => counts.expired += pending,
            Gone::No | Gone::Passed if entry.expires_at_ms <= self.now_ms => {
                counts.expired += pending;
            }
            Gone::No | Gone::Passed => counts.pending = pending,
        }
        counts
    }
}
