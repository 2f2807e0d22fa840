//! Owners of logs: hints, interest and heads (`actors/src/owner.rs`, `nodes.rs`).

use std::sync::Arc;

use clarion_core::entry::{Batch, Entry};
use clarion_protocol::Epoch;

use crate::event::{Message, Purpose, Timer};
use crate::mutants::Mutant;
use crate::node::{LogSet, NodeSet, each};
use crate::store::Call;
use crate::world::World;

const CONFIRM_AGAIN_MS_MAX: u64 = 2000;

/// What an owner holds of one log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owned {
    pub nodes: NodeSet,
    pub generation: u64,
}

impl World {
    pub fn stored(&mut self, n: usize, log: usize, epoch: u64, entries: Vec<Arc<Entry>>) {
        let Some(head) = entries.last().map(|entry| entry.offset.0) else { return };
        self.note_head(n, log, head);
        let key = Arc::clone(&self.keys[log]);
        let batch = Arc::new(Batch::new(key, Epoch(epoch), entries));
        self.hint(n, log, &batch);
    }

    pub fn note_head(&mut self, n: usize, log: usize, head: u64) {
        let now_ms = self.time(n);
        let known = self.nodes[n].heads[log].map_or(0, |(known, _)| known);
        self.nodes[n].heads[log] = Some((head.max(known), now_ms));
    }

    /// `Nodes::hint`.
    pub fn hint(&mut self, n: usize, log: usize, batch: &Arc<Batch>) {
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

    pub fn tell_heads(&mut self, n: usize, nodes: NodeSet, log: usize, head: u64) {
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

    pub fn tell_superseded(&mut self, n: usize, nodes: NodeSet, log: usize, generation: u64) {
        for to in each(nodes) {
            if to == n {
                self.superseded(n, log, generation);
            } else if self.nodes[n].peers[to].is_some() {
                let _ = self.send(n, to, Message::Superseded { log, generation });
            }
        }
    }

    pub fn confirm(&mut self, n: usize, to: usize, log: usize, head: u64) {
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
