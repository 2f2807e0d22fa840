//! What must hold: after every step where it can be seen there, while the cluster is calm, and at the
//! end, when everything is whole again. Knows the truth of all parts and nothing of their reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clarion_core::entry::Entry;
use clarion_protocol::milestone::Milestone;

use crate::Violation;
use crate::node::{Node, QUARANTINE_MS, State};
use crate::terminal::Push;
use crate::world::World;

/// What a push that was answered with 202 waits for.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    log: usize,
    at_ms: u64,
    expires_at_ms: u64,
}

#[derive(Debug)]
pub struct Audit {
    pub disturbed_until_ms: u64,
    accepted: BTreeMap<u64, Accepted>,
    /// Accepted and not yet with all its readers, as far as was looked.
    open: BTreeSet<u64>,
    pub recalled: BTreeSet<u64>,
    /// Lost with a restore, which is outside the fault model: told by epoch and gap.
    restored: BTreeSet<u64>,
    /// By node: its last fault, and since when its present process runs.
    faults_ms: Vec<u64>,
    killed_ms: Vec<u64>,
    pub started_ms: Vec<u64>,
    /// Relays forget heads when they crash; sessions do not.
    pub crashed_relays: BTreeSet<usize>,
    pub accepted_count: u64,
    pub calm_looks: u64,
}

impl Audit {
    pub fn new(nodes: usize) -> Self {
        Self {
            disturbed_until_ms: 0,
            accepted: BTreeMap::new(),
            open: BTreeSet::new(),
            recalled: BTreeSet::new(),
            restored: BTreeSet::new(),
            faults_ms: vec![0; nodes],
            killed_ms: vec![0; nodes],
            started_ms: vec![0; nodes],
            crashed_relays: BTreeSet::new(),
            accepted_count: 0,
            calm_looks: 0,
        }
    }

    pub fn fault(&mut self, n: usize, until_ms: u64) {
        self.faults_ms[n] = self.faults_ms[n].max(until_ms);
    }
}

impl World {
    pub fn wrong(&mut self, invariant: &'static str, what: String) {
        let at_ms = self.now_ms - 1_800_000_000_000;
        self.violation.get_or_insert(Violation { invariant, what, at_ms });
    }

    // At every step.

    pub fn audit_accepted(&mut self, message: u64, push: &Push, at_ms: u64) {
        let (log, expires_at_ms) = (push.log, push.expires_at_ms);
        self.audit.accepted_count += 1;
        self.audit.accepted.insert(message, Accepted { log, at_ms, expires_at_ms });
        self.audit.open.insert(message);
    }

    /// What a fail-over lost: nothing that was accepted.
    pub fn audit_lost(&mut self, lost: &[(usize, u64)]) {
        let accepted = |(_, message): &&(usize, u64)| self.audit.accepted.contains_key(message);
        if let Some((log, message)) = lost.iter().find(accepted).copied() {
            self.wrong("lost", format!("message {message} of log {log} was accepted and is lost"));
        }
    }

    pub fn audit_restored(&mut self, lost: &[(usize, u64)]) {
        self.audit.restored.extend(lost.iter().map(|(_, message)| *message));
    }

    /// I1: nobody is given what is not durable.
    pub fn audit_delivery(&mut self, log: usize, entries: &[Arc<Entry>]) {
        for entry in entries {
            let message = entry.message.0 as u64;
            if !self.store.is_durable(log, message, entry.offset.0)
                && !self.audit.restored.contains(&message)
            {
                return self
                    .wrong("I1", format!("message {message} is given before it is durable"));
            }
        }
    }

    /// I4: a log is read only once the interest of the node is confirmed.
    pub fn audit_read(&mut self, n: usize, log: usize) {
        let known = self.nodes[n].relay[log].as_ref().map(|readers| readers.head().is_some());
        if known == Some(false) && !self.audit.crashed_relays.contains(&n) {
            self.wrong("I4", format!("node {n} reads log {log} before its interest is confirmed"));
        }
    }

    /// A node is about to be killed.
    pub fn audit_kill(&mut self, n: usize) {
        self.audit.killed_ms[n] = self.now_ms;
    }

    /// Who came back owns nothing until it was well for a while, as all others see it that had no
    /// trouble of their own.
    pub fn audit_owners(&mut self, n: usize) {
        let Some(table) = self.nodes[n].table.clone() else { return };
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            let (killed_ms, started_ms) =
                (self.audit.killed_ms[other], self.audit.started_ms[other]);
            let back = self.nodes[other].state == State::Up
                && killed_ms > 0
                && self.nodes[n].topology.get(&other) == Some(&self.nodes[other].boot)
                && self.now_ms < started_ms + QUARANTINE_MS - 500;
            let calm = (0..self.nodes.len()).filter(|x| *x != other).all(|x| {
                let since_ms = self.audit.faults_ms[x].max(self.audit.started_ms[x]);
                let since_ms = since_ms.max(self.audit.killed_ms[x]);
                self.nodes[x].runs() && since_ms + 60_000 < killed_ms
                    || since_ms == 0 && self.nodes[x].runs()
            });
            if back && calm && table.owners.contains(&self.nodes[other].name) {
                self.wrong("quarantine", format!("node {other} came back and owns, says {n}"));
            }
        }
    }

    // While nothing is wrong.

    /// Whether a terminal is done with a message, or need not be.
    fn is_done(&self, t: usize, message: u64, accepted: Accepted, at_end: bool) -> bool {
        let terminal = &self.terminals[t];
        if terminal.handled.contains_key(&message)
            || terminal.skipped.contains(&message)
            || accepted.expires_at_ms <= self.now_ms + 1000
            || self.audit.recalled.contains(&message)
            || self.audit.restored.contains(&message)
        {
            return true;
        }
        if self.store.outcomes.get(&(t, message)) == Some(&Milestone::Undeliverable) {
            return true;
        }
        let log = &self.store.logs[accepted.log];
        let Some(place) = log.index.get(&message) else { return false };
        if place.offset > log.evicted_to {
            return false;
        }
        let told = terminal.told.get(&(accepted.log, self.store.epoch));
        !at_end || told.is_some_and(|to| *to >= place.offset)
    }

    /// I12: within three seconds of the last thing that happened, what was accepted is with everybody
    /// who is there, without the slow check of heads.
    pub fn audit_calm(&mut self) {
        let swift = !self.settings.hints_off && !self.settings.rough;
        if !swift || self.now_ms < self.audit.disturbed_until_ms {
            return;
        }
        self.audit.calm_looks += 1;
        let due = |since_ms: u64| since_ms + 3200 <= self.now_ms;
        let mut closed = Vec::new();
        for message in self.audit.open.clone() {
            let accepted = self.audit.accepted[&message];
            let mut all = true;
            for t in 0..self.terminals.len() {
                if !self.readers[t].contains(&accepted.log) {
                    continue;
                }
                if self.is_done(t, message, accepted, false) {
                    continue;
                }
                all = false;
                let terminal = &self.terminals[t];
                let there = terminal.node.is_some_and(|node| self.can_hear_all(node))
                    && terminal.opened_ms.is_some_and(due);
                if there && due(accepted.at_ms) {
                    let late_ms = self.now_ms - accepted.at_ms;
                    let log = &self.keys[accepted.log];
                    let what = format!("message {message} of {log} is not with terminal {t}");
                    return self
                        .wrong("I12", format!("{what} at {:?} after {late_ms} ms", terminal.node));
                }
            }
            if all {
                closed.push(message);
            }
        }
        self.audit.open.retain(|message| !closed.contains(message));
    }

    /// Whether a node runs and knows of everybody who runs, or that it knows of nobody. One of whom it has
    /// never heard since it started, because of a cut, cannot be missed: only the slow check of heads finds
    /// what that one appends.
    fn can_hear_all(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let known = |other: &Node| !other.runs() || node.hearing.knows(&other.name);
        let others = || self.nodes.iter().filter(|other| other.name != node.name);
        node.runs() && (!node.hearing.has_company() || others().all(known))
    }

    // At the end.

    pub fn audit_end(&mut self) {
        if self.violation.is_some() {
            return;
        }
        for (message, accepted) in self.audit.accepted.clone() {
            for t in 0..self.terminals.len() {
                let reads = self.readers[t].contains(&accepted.log);
                if reads && !self.is_done(t, message, accepted, true) {
                    let log = &self.keys[accepted.log];
                    return self
                        .wrong("lost", format!("message {message} of {log} never came to {t}"));
                }
            }
        }
        self.audit_counts();
        self.audit_sessions();
        // A quarantine may have ended just now, and the word is on its way; another one may end meanwhile.
        for _ in 0..8 {
            if !self.agree() {
                self.advance(500);
            }
        }
        if !self.agree() {
            let views: Vec<_> =
                self.nodes.iter().map(|node| (&node.name, node.members.standings())).collect();
            self.wrong("placement", format!("{views:?}"));
        }
        if self.nodes.iter().any(|node| node.deaf) {
            self.wrong("I12", "a node still holds that it does not hear all".to_owned());
        }
    }

    /// Whether all nodes see the same owners.
    fn agree(&self) -> bool {
        let owners = |node: &Node| node.table.as_ref().map(|table| table.owners.clone());
        self.nodes.iter().map(owners).collect::<BTreeSet<_>>().len() == 1
    }

    /// I13: what the store counts as acknowledged was handled, by whom it says.
    fn audit_counts(&mut self) {
        for ((t, message), how) in self.store.outcomes.clone() {
            let Some(push) = self.pushes.get(&message) else { continue };
            let terminal = &self.terminals[t];
            let handled =
                terminal.handled.contains_key(&message) || terminal.skipped.contains(&message);
            let expired = push.expires_at_ms <= self.now_ms;
            let recalled = self.audit.recalled.contains(&message);
            let log = &self.store.logs[push.log];
            let gone = log.index.get(&message).is_none_or(|place| place.offset <= log.evicted_to);
            let fine = match how {
                Milestone::Acknowledged => handled || expired || recalled || gone,
                Milestone::Expired => expired || recalled || gone,
                Milestone::Recalled => recalled,
                _ => true,
            };
            if !fine {
                let what = format!("message {message} at terminal {t}: {how:?}");
                return self.wrong(if how == Milestone::Expired { "I11" } else { "I13" }, what);
            }
        }
        for t in 0..self.terminals.len() {
            for log in self.readers[t].clone() {
                let cursor = self.store.cursors[t][&log];
                let head = self.store.logs[log].last;
                if cursor.epoch == self.store.epoch && cursor.offset > head {
                    return self
                        .wrong("I5", format!("the cursor of {t} in {log} is above the head"));
                }
                // What was never accepted may wait for the next hint.
                let accepted = self.store.logs[log]
                    .index
                    .iter()
                    .filter(|(message, _)| self.audit.accepted.contains_key(message));
                let to = accepted.map(|(_, place)| place.offset).max().unwrap_or(0);
                if cursor.offset < to || cursor.epoch != self.store.epoch {
                    let what = format!("terminal {t} stands at {cursor:?} in log {log}, of {head}");
                    return self.wrong("I9", what);
                }
            }
        }
    }

    /// I7: one session for each terminal, and it is the newest.
    fn audit_sessions(&mut self) {
        for t in 0..self.terminals.len() {
            let hosts = self.nodes.iter().flat_map(|node| node.sessions.values());
            let generations: Vec<u64> =
                hosts.filter(|host| host.terminal == t).map(|host| host.generation).collect();
            if generations != [self.store.generations[t]] {
                let newest = self.store.generations[t];
                self.wrong(
                    "I7",
                    format!("terminal {t}: sessions {generations:?}, newest {newest}"),
                );
            }
        }
    }
}
