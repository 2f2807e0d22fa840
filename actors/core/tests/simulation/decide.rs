//! What the decisions of a schedule do: nodes come and go, links and the store break, terminals leave.

use std::sync::Arc;

use clarion_core::membership::Members;

use crate::cursors::FLUSH_MS;
use crate::event::{Event, Timer};
use crate::mutants::Mutant;
use crate::node::{Node, State, TICK_MS};
use crate::relay::POLL_MS;
use crate::schedule::{Decision, What};
use crate::store::AppendAnswer;
use crate::world::World;

/// Until when a healed cluster has delivered everything: a session that could not read pauses for up
/// to 12.5 s, a push that lasts is given up after 4 s and repeated.
const SETTLE_MS: u64 = 30_000;
/// How long a fault may go unnoticed.
const NOTICED_MS: u64 = 4000;

impl World {
    // Nodes come and go.

    pub fn start(&mut self, n: usize) {
        if self.mutant == Some(Mutant::NoQuarantine) {
            let name = Arc::clone(&self.nodes[n].name);
            self.nodes[n].members = Members::new(name, 0);
        }
        self.timer(n, TICK_MS * 3 / 4 + n as u64 * 17, Timer::Tick);
        let now_ms = self.now_ms;
        self.nodes[n].hearing.expect_others(now_ms);
        self.nodes[n].started_ms = self.now_ms + TICK_MS * 3 / 4 + n as u64 * 17;
        self.timer(n, POLL_MS, Timer::Poll);
        self.timer(n, FLUSH_MS, Timer::Flush);
        if self.settings.head_check_ms > 0 {
            self.timer(n, self.settings.head_check_ms, Timer::CheckHeads);
        }
    }

    pub fn restart(&mut self, n: usize) {
        self.next_id += 1;
        let boot = 100 + self.next_id;
        self.nodes[n] = Node::new(n, boot, self.now_ms, self.settings.nodes, self.keys.len());
        self.audit.started_ms[n] = self.now_ms;
        self.start(n);
        self.disturbed();
    }

    pub fn kill(&mut self, n: usize) {
        if self.nodes[n].state == State::Down {
            return;
        }
        self.audit_kill(n);
        self.nodes[n].state = State::Down;
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            let session = self.nodes[other].peers[n].as_ref().map(|peer| peer.session);
            if let Some(session) = session
                && !self.is_cut(n, other)
            {
                self.after(1, Event::LinkEnded { node: other, peer: n, session });
            }
        }
        for terminal in 0..self.terminals.len() {
            if self.terminals[terminal].node == Some(n) {
                let link = self.terminals[terminal].link;
                self.after(2, Event::LinkLost { terminal, link });
            }
        }
        for (push, (count, _)) in self.nodes[n].pushes.clone() {
            self.after(2, Event::ToClient { push, count, answer: AppendAnswer::Unknown });
        }
    }

    pub fn wake(&mut self, n: usize) {
        if self.nodes[n].state != State::Hung {
            return;
        }
        self.nodes[n].state = State::Up;
        self.disturbed();
        for event in std::mem::take(&mut self.nodes[n].parked) {
            self.after(0, event);
        }
    }

    pub fn uncut(&mut self, from: usize, to: usize) {
        if self.is_cut(from, to) {
            return;
        }
        for event in self.held_up.remove(&(from, to)).unwrap_or_default() {
            self.after(1, event);
        }
        self.disturbed();
    }

    // Decisions.

    pub fn apply(&mut self, decision: Decision) {
        self.advance(u64::from(decision.after_ms));
        if self.violation.is_some() {
            return;
        }
        self.steps += 1;
        let Decision { what, a, b, c, .. } = decision;
        let nodes = self.nodes.len();
        let (n, terminal) = (a as usize % nodes, a as usize % self.terminals.len());
        let other = (n + 1 + b as usize % (nodes - 1)) % nodes;
        let c_ms = u64::from(c);
        match what {
            What::Push => self.push(a as usize, b as usize % nodes, c),
            What::Kill => {
                self.kill(n);
                self.after(50 + c_ms * 40, Event::Start { node: n });
                self.disturbed_for(NOTICED_MS);
            }
            What::Hang => {
                if self.nodes[n].state == State::Up {
                    self.audit.fault(n, self.now_ms);
                    self.nodes[n].state = State::Hung;
                    let boot = self.nodes[n].boot;
                    self.after(100 + c_ms * 50, Event::Wake { node: n, boot });
                    self.terminals_give_up(n);
                    self.disturbed_for(NOTICED_MS);
                }
            }
            What::Cut => {
                let ms = 100 + c_ms * 60;
                self.audit.fault(n, self.now_ms + ms);
                self.audit.fault(other, self.now_ms + ms);
                for way in [(n, other), (other, n)].into_iter().take(1 + b as usize / 128) {
                    self.cuts.insert(way, self.now_ms + ms);
                    self.after(ms, Event::Uncut { from: way.0, to: way.1 });
                }
                self.disturbed_for(NOTICED_MS);
            }
            What::Slow => {
                self.slow.insert((n, other), (self.now_ms + c_ms * 10, 1 + c_ms * 3, b));
                self.disturbed_for(c_ms * 14);
            }
            What::Full => {
                self.full.insert((n, other), self.now_ms + c_ms * 4);
                self.disturbed_for(c_ms * 4);
            }
            What::Double => {
                self.double.insert((n, other), self.settings.rough && c % 2 == 1);
            }
            What::Reset => {
                self.audit.fault(n, self.now_ms);
                self.audit.fault(other, self.now_ms);
                self.break_link(n, other);
            }
            What::CrashOwner => {
                if self.nodes[n].runs() {
                    self.crash_owner(n, b as usize % self.keys.len());
                    self.disturbed();
                }
            }
            What::CrashRelay => {
                if self.nodes[n].runs() {
                    self.crash_relay(n);
                    self.disturbed_for(1000);
                }
            }
            What::CrashSession => self.crash_session(terminal),
            What::FailOver => self.fail_over(u64::from(a % 8)),
            What::Lag => {
                self.lag_until_ms = self.lag_until_ms.max(self.now_ms + c_ms * 10);
                self.disturbed_for(c_ms * 10);
            }
            What::Stall => {
                self.stalls.insert(n, self.now_ms + c_ms * 12);
                self.disturbed_for(c_ms * 12);
            }
            What::LoseAnswers => {
                self.deaf_to_store.insert(n, self.now_ms + 1 + c_ms);
                self.disturbed_for(c_ms);
            }
            What::Restore => self.restore(1 + c as usize % 4),
            What::Leave => self.leave_terminal(terminal, b.is_multiple_of(4), c_ms * 12),
            What::Roam => self.roam(terminal),
            What::Silent => self.silent(terminal, c_ms * 80),
            What::Skip => self.terminals[terminal].skip_next = true,
            What::NoRoom => self.no_room(terminal, c_ms * 10),
            What::Recall => self.recall(a as usize % self.keys.len(), b as usize),
            What::Calm => {
                self.advance(6000 + c_ms * 20);
                self.push(a as usize, b as usize % nodes, 1);
                self.advance(4000);
            }
        }
    }

    /// The nodes are stopped, the store restored, the nodes started again.
    pub fn restore(&mut self, drop_entries: usize) {
        if self.store.down {
            return;
        }
        (0..self.nodes.len()).for_each(|n| self.kill(n));
        self.term += 1;
        self.held.clear();
        let lost = self.store.restore(drop_entries);
        self.audit_restored(&lost);
        for node in 0..self.nodes.len() {
            self.after(100, Event::Start { node });
        }
        self.disturbed_for(NOTICED_MS);
    }

    /// Everything is whole again, and everything arrives.
    pub fn settle(&mut self) {
        self.cuts.clear();
        let held: Vec<(usize, usize)> = self.held_up.keys().copied().collect();
        held.into_iter().for_each(|(from, to)| self.uncut(from, to));
        self.slow.clear();
        self.full.clear();
        self.double.clear();
        self.stalls.clear();
        self.deaf_to_store.clear();
        self.lag_until_ms = 0;
        for n in 0..self.nodes.len() {
            match self.nodes[n].state {
                State::Up => {}
                State::Hung => self.wake(n),
                State::Down => self.restart(n),
            }
        }
        self.everybody_speaks();
        self.disturbed_for(NOTICED_MS);
        self.advance(SETTLE_MS + self.settings.head_check_ms);
        self.audit_end();
    }
}
