//! Whom a node tells what it reads, and whether it hears everybody (`actors/src/router.rs`,
//! `relay/announce.rs`, `cluster/ownership.rs`, `cluster/absent.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use clarion_core::BootId;

use crate::event::{Message, Timer};
use crate::mutants::Mutant;
use crate::node::{LogSet, Node, State, each, is_linked, number_of};
use crate::world::World;

/// As in `cluster/mod.rs`.
const AFTER_MOVE_MS: u64 = 2000;
/// As in `cluster/ownership.rs`.
const OLD_VIEW_MS: u64 = 3000;

impl World {
    /// `Cluster::changed`.
    pub fn links_changed(&mut self, n: usize) {
        let moved = self.retarget(n);
        self.judge_hearing(n);
        if moved != 0 {
            self.timer(n, AFTER_MOVE_MS, Timer::Compare { logs: moved });
        }
    }

    /// `Router::retarget`: whom this node tells what it reads.
    pub fn retarget(&mut self, n: usize) -> LogSet {
        let now_ms = self.time(n);
        let (mut left, mut gained) = (BTreeMap::new(), BTreeMap::new());
        let mut moved = 0;
        for log in 0..self.keys.len() {
            let node = &mut self.nodes[n];
            let owner = node.table.as_ref().and_then(|table| table.order[log].first().copied());
            let target = owner.filter(|owner| *owner == n || node.peers[*owner].is_some());
            let before = std::mem::replace(&mut node.target[log], target);
            // A link that was made again is another target, though the name is the same.
            let former = node.told_session.get(&log).copied();
            let session = target.map(|to| node.peers[to].as_ref().map_or(0, |peer| peer.session));
            if before == target && former == session {
                continue;
            }
            match session {
                Some(session) => drop(node.told_session.insert(log, session)),
                None => drop(node.told_session.remove(&log)),
            }
            if before != target {
                node.owned_since_ms[log] = if target == Some(n) { now_ms } else { u64::MAX };
                if let Some(before) = before {
                    *left.entry(before).or_insert(0) |= 1 << log;
                }
            }
            moved |= 1 << log;
            if let Some(target) = target {
                *gained.entry(target).or_insert(0) |= 1 << log;
            }
        }
        for (node, logs) in left {
            self.leave(n, node, logs);
        }
        for (node, logs) in gained {
            self.announce(n, node, logs);
        }
        moved
    }

    pub fn leave(&mut self, n: usize, to: usize, logs: LogSet) {
        if to == n {
            self.unset_complete(n, n, logs);
            self.node_left(n, n, logs);
        } else if self.nodes[n].peers[to].is_some() && !self.send(n, to, Message::Leave { logs }) {
            self.note_unannounced(n, to, logs);
        }
    }

    /// `relay/announce.rs`: everything that is read here of these logs, then that this was all.
    pub fn announce(&mut self, n: usize, to: usize, logs: LogSet) {
        let read: Vec<usize> =
            each(logs).filter(|log| self.nodes[n].relay[*log].is_some()).collect();
        if to == n {
            for log in read {
                self.interested(n, n, log, 0, 0);
            }
            each(logs).for_each(|log| self.nodes[n].complete[log] |= 1 << n);
            return;
        }
        if self.mutant == Some(Mutant::ForgetsToAnnounce)
            && self.nodes[n].linked_before & (1 << to) != 0
        {
            let _ = self.send(n, to, Message::Complete { logs });
            return;
        }
        self.nodes[n].linked_before |= 1 << to;
        let announced = read.into_iter().map(|log| (log, 0)).collect();
        let told = self.send(n, to, Message::Interest { logs: announced, since_ms: 0 })
            && self.send(n, to, Message::Complete { logs });
        if !told {
            self.note_unannounced(n, to, logs);
        }
    }

    pub fn unset_complete(&mut self, n: usize, node: usize, logs: LogSet) {
        each(logs).for_each(|log| self.nodes[n].complete[log] &= !(1 << node));
    }

    pub fn note_untold(&mut self, n: usize, to: usize, logs: LogSet) {
        if self.mutant == Some(Mutant::DropsSilently) {
            return;
        }
        if let Some(peer) = &mut self.nodes[n].peers[to] {
            peer.untold |= logs;
        }
    }

    pub fn note_unannounced(&mut self, n: usize, to: usize, logs: LogSet) {
        if let Some(peer) = &mut self.nodes[n].peers[to] {
            peer.unannounced |= logs;
        }
    }

    /// `Cluster::tick`: what a lane refused is said.
    pub fn tick_cluster(&mut self, n: usize) {
        for to in 0..self.nodes.len() {
            let Some(peer) = &mut self.nodes[n].peers[to] else { continue };
            let untold = std::mem::take(&mut peer.untold);
            let unannounced = std::mem::take(&mut peer.unannounced);
            let grown = std::mem::take(&mut peer.grown);
            if untold != 0 && !self.send(n, to, Message::Dropped { logs: untold }) {
                self.note_untold(n, to, untold);
            }
            self.tell_again(n, to, unannounced);
            for (log, head) in grown {
                self.tell_grown(n, to, log, head);
            }
        }
        if self.nodes[n].deaf {
            self.judge_hearing(n);
        }
    }

    /// `Router::tell_again`.
    pub fn tell_again(&mut self, n: usize, to: usize, logs: LogSet) {
        let mine = each(logs).filter(|log| self.nodes[n].target[*log] == Some(to));
        let again = mine.fold(0, |set, log| set | 1 << log);
        let gone = logs & !again;
        if gone != 0 {
            self.leave(n, to, gone);
        }
        if again != 0 {
            self.announce(n, to, again);
        }
    }

    pub fn tell_grown(&mut self, n: usize, to: usize, log: usize, head: u64) {
        if !self.send(n, to, Message::Grew { log, head })
            && let Some(peer) = &mut self.nodes[n].peers[to]
        {
            let known = peer.grown.entry(log).or_insert(head);
            *known = head.max(*known);
        }
    }

    /// `Cluster::judge_hearing`: whether everybody who may append can be heard.
    pub fn judge_hearing(&mut self, n: usize) {
        let (now_ms, real_ms) = (self.time(n), self.now_ms);
        let node = &mut self.nodes[n];
        let Node { hearing, peers, .. } = node;
        let unheard = hearing.unheard(real_ms, |id, boot| is_linked(peers, id, boot)).is_some();
        let deaf = unheard || node.target.iter().any(Option::is_none);
        if node.deaf != deaf {
            node.deaf = deaf;
            node.hears_all_since_ms = now_ms;
            self.compare(n, self.all_logs());
        }
    }

    /// `cluster/absent.rs`: those who are not there are asked whether anybody listens where they did.
    pub fn ask_absent(&mut self, n: usize) {
        let now_ms = self.now_ms;
        let absent: Vec<(Arc<str>, BootId)> =
            self.nodes[n].hearing.absent().map(|(id, boot)| (Arc::clone(id), boot)).collect();
        for (id, boot) in &absent {
            let other = number_of(id);
            let cut = self.is_cut(n, other) || self.is_cut(other, n);
            let refuses = !cut && self.nodes[other].state == State::Down;
            self.nodes[n].hearing.asked(now_ms, id, *boot, refuses);
        }
        if !absent.is_empty() {
            self.judge_hearing(n);
        }
    }

    /// `Ownership::all_known_since_ms`.
    pub fn all_known_since_ms(&self, n: usize, log: usize) -> u64 {
        let node = &self.nodes[n];
        if node.deaf {
            return u64::MAX;
        }
        match node.owned_since_ms[log].max(node.hears_all_since_ms) {
            0 => 0,
            since => since.saturating_add(OLD_VIEW_MS),
        }
    }
}
