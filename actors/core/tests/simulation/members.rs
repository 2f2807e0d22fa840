//! Whom a node sees, and its links. Membership, hearing and placement are the cores; around them is what
//! `actors/src/cluster/mod.rs` and `cluster/join.rs` do when members and links come and go, and a
//! stand-in for `clarion-cluster`: gossip that says every 250 ms who is there, links that are given up
//! after three missed heartbeats and dialled again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use clarion_core::membership::{Link, Living, Seen, Verdict};
use clarion_core::placement::SlotTable;
use clarion_core::{BootId, Roles};

use crate::event::{Event, Message, Timer};
use crate::node::{Facts, Linked, LogSet, State, TICK_MS, Table, is_linked};
use crate::world::World;

/// Nothing heard for so long ends a link: three heartbeats of half a second.
const LINK_SILENCE_MS: u64 = 1600;
/// A node that has just started waits so long for what others have to say.
const SETTLE_MS: u64 = 1000;
/// As in `cluster/mod.rs`.
const AFTER_DOWN_MS: u64 = 1500;

impl World {
    pub fn all_logs(&self) -> LogSet {
        (1 << self.keys.len()) - 1
    }

    /// The store's time as this node knows it.
    pub fn time(&self, node: usize) -> u64 {
        self.now_ms - self.nodes[node].behind_ms
    }

    /// Every quarter of a second: who was heard, who is there, who owns what.
    pub fn tick(&mut self, n: usize) {
        self.nodes[n].beats[n] = self.now_ms;
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            self.gossip(n, other);
        }
        self.check_links(n);
        let now_ms = self.now_ms;
        let alive = (0..self.nodes.len())
            .filter(|other| self.nodes[n].holds_alive(*other, now_ms))
            .fold(1 << n, |set, other| set | 1 << other);
        let node = &mut self.nodes[n];
        let due = node.members.next_ms().is_some_and(|due_ms| due_ms <= now_ms);
        node.changed |= alive != node.alive || due;
        node.alive = alive;
        if node.changed {
            self.observe(n);
        }
        let fresh = self.nodes[n].table.is_none();
        if self.nodes[n].changed || fresh {
            self.nodes[n].changed = false;
            self.set_topology(n);
        }
        self.tick_cluster(n);
        self.timer(n, TICK_MS, Timer::Tick);
    }

    /// One tells another what it knows of itself and of everybody: heard at once, or not at all. So a
    /// node is alive for all as long as anybody hears it. Who is seen for the first time is alive from
    /// the second beat on.
    pub fn gossip(&mut self, from: usize, to: usize) {
        if self.is_cut(from, to) || self.nodes[to].state != State::Up {
            return;
        }
        let now_ms = self.now_ms;
        // Heartbeats are of a link: one that the other end has given up brings none.
        let link = |one: usize, other: usize| {
            self.nodes[one].peers[other].as_ref().map(|peer| peer.session)
        };
        if link(from, to) == link(to, from) {
            self.nodes[to].link_heard_ms[from] = now_ms;
        }
        for about in (0..self.nodes.len()).filter(|about| *about != to) {
            let beat = self.nodes[from].beats[about];
            if beat <= self.nodes[to].beats[about] {
                continue;
            }
            let facts = if about == from {
                let verdict = self.nodes[from].verdict.clone();
                Some(Facts { boot: self.nodes[from].boot, verdict })
            } else {
                self.nodes[from].facts[about].clone()
            };
            let node = &mut self.nodes[to];
            node.beats[about] = beat;
            if node.facts[about].is_some() {
                node.heard_ms[about] = now_ms;
            }
            if node.facts[about] != facts {
                node.facts[about] = facts;
                node.changed = true;
            }
        }
    }

    pub fn check_links(&mut self, n: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            if self.nodes[n].peers[other].is_some() {
                if self.nodes[n].link_heard_ms[other] + LINK_SILENCE_MS <= self.now_ms {
                    self.break_link(n, other);
                }
            } else {
                self.dial(n, other);
            }
        }
    }

    pub fn dial(&mut self, n: usize, other: usize) {
        let Some(boot) = self.nodes[n].facts[other].as_ref().map(|facts| facts.boot) else {
            return;
        };
        if self.is_cut(n, other) || self.is_cut(other, n) {
            return;
        }
        match self.nodes[other].state {
            State::Down => {
                if self.nodes[n].refused[other] != Some(boot) {
                    self.nodes[n].refused[other] = Some(boot);
                    self.link_down(n, other, Some(boot));
                }
            }
            State::Up => {
                let knows = self.nodes[other].facts[n].as_ref().map(|facts| facts.boot);
                if self.nodes[other].boot == boot && knows == Some(self.nodes[n].boot) {
                    self.next_link += 1;
                    let session = self.next_link;
                    self.link_up(n, other, session);
                    self.link_up(other, n, session);
                }
            }
            State::Hung => {}
        }
    }

    /// One end gives a link up. The other end is told, unless the word does not come through.
    pub fn break_link(&mut self, n: usize, other: usize) {
        let Some(linked) = self.nodes[n].peers[other].clone() else { return };
        self.link_down(n, other, None);
        let of = |world: &Self| world.nodes[other].peers[n].as_ref().map(|peer| peer.session);
        if of(self) == Some(linked.session) && !self.is_cut(n, other) {
            match self.nodes[other].state {
                State::Up => self.link_down(other, n, None),
                State::Hung => {
                    let ended = Event::LinkEnded { node: other, peer: n, session: linked.session };
                    self.nodes[other].parked.push_back(ended);
                }
                State::Down => {}
            }
        }
    }

    pub fn link_up(&mut self, n: usize, other: usize, session: u64) {
        if self.nodes[n].peers[other].is_some() {
            self.gone(n, other);
        }
        let (boot, other_name) = (self.nodes[other].boot, Arc::clone(&self.nodes[other].name));
        let (now_ms, node) = (self.now_ms, &mut self.nodes[n]);
        node.peers[other] = Some(Linked {
            session,
            boot,
            suspect_until_ms: 0,
            untold: 0,
            unannounced: 0,
            grown: BTreeMap::new(),
        });
        node.link_heard_ms[other] = now_ms;
        node.refused[other] = None;
        node.hearing.linked(&other_name, BootId(boot));
        node.changed = true;
        self.links_changed(n);
        if !self.send(n, other, Message::Hello) {
            self.note_untold(n, other, self.all_logs());
        }
    }

    /// `refused`: nobody listens there any more, so this boot is dead.
    pub fn link_down(&mut self, n: usize, other: usize, refused: Option<u64>) {
        let (now_ms, name) = (self.now_ms, Arc::clone(&self.nodes[other].name));
        if let Some(boot) = self.nodes[n].peers[other].as_ref().map(|peer| BootId(peer.boot)) {
            self.gone(n, other);
            self.nodes[n].hearing.ended(now_ms, &name, boot);
        }
        if let Some(boot) = refused {
            self.nodes[n].hearing.refused(now_ms, &name, BootId(boot));
        }
        self.nodes[n].changed = true;
        self.links_changed(n);
        self.timer(n, AFTER_DOWN_MS, Timer::Compare { logs: self.all_logs() });
    }

    /// Everything under a number ends with its link.
    pub fn gone(&mut self, n: usize, other: usize) {
        let node = &mut self.nodes[n];
        node.peers[other] = None;
        node.complete.iter_mut().for_each(|set| *set &= !(1 << other));
        node.owned.iter_mut().for_each(|owned| owned.nodes &= !(1 << other));
        self.disturbed();
        self.forward_link_gone(n, other);
    }

    pub fn observe(&mut self, n: usize) {
        let now_ms = self.now_ms;
        let node = &self.nodes[n];
        let mut seen = Vec::with_capacity(self.nodes.len());
        for other in 0..self.nodes.len() {
            let facts = if other == n {
                Facts { boot: node.boot, verdict: node.verdict.clone() }
            } else if let Some(facts) = &node.facts[other] {
                facts.clone()
            } else {
                continue;
            };
            let link = node.peers[other].as_ref();
            let linked = if link.is_some_and(|link| link.boot == facts.boot) {
                Link::Up
            } else if node.refused[other] == Some(facts.boot) {
                Link::Refused
            } else {
                Link::Down
            };
            seen.push(Seen {
                id: Arc::clone(&self.nodes[other].name),
                boot: BootId(facts.boot),
                roles: Roles::ALL,
                group: Arc::from("default"),
                placement_version: 2,
                draining: false,
                sick: false,
                alive: node.alive & (1 << other) != 0,
                linked,
                verdict: facts.verdict,
            });
        }
        let node = &mut self.nodes[n];
        // As it travels.
        node.members.observe(now_ms, seen);
        let verdict = node.members.verdict(now_ms);
        let as_text = |text: String| text.parse::<Verdict>().expect("a verdict");
        node.verdict = as_text(verdict.judged()).with(as_text(verdict.unlinked()));
    }

    /// The owners of all logs among these members, and who serves in their place.
    pub fn table(&mut self, owners: &[Arc<str>]) -> Rc<Table> {
        if let Some(table) = self.tables.get(owners) {
            return Rc::clone(table);
        }
        let slots = SlotTable::new(owners.iter().cloned());
        let number = |name: &Arc<str>| self.nodes.iter().position(|node| node.name == *name);
        let order = |slot| slots.order(slot).into_iter().filter_map(number).collect();
        let table = Rc::new(Table {
            owners: owners.to_vec(),
            order: self.slots.iter().map(|slot| order(*slot)).collect(),
        });
        self.tables.insert(owners.to_vec(), Rc::clone(&table));
        table
    }

    /// `Cluster::set_topology`.
    pub fn set_topology(&mut self, n: usize) {
        let now_ms = self.now_ms;
        if now_ms < self.nodes[n].started_ms + SETTLE_MS {
            return;
        }
        let living: BTreeMap<usize, u64> = (0..self.nodes.len())
            .filter_map(|other| {
                let standing = self.nodes[n].members.standings().get(&self.nodes[other].name)?;
                let lives = standing.why != clarion_core::membership::Why::Dead;
                lives.then_some((other, standing.boot.0))
            })
            .collect();
        let owners = self.nodes[n].members.owners().values().next().cloned().unwrap_or_default();
        let table = self.table(&owners);
        let node = &mut self.nodes[n];
        let same = node.topology == living
            && node.table.as_ref().is_some_and(|known| known.owners == table.owners);
        if same {
            return;
        }
        let others: Vec<Living> = living
            .iter()
            .filter(|(id, _)| **id != n)
            .map(|(id, boot)| Living {
                id: Arc::from(format!("n{id}")),
                boot: BootId(*boot),
                appends: true,
                draining: false,
            })
            .collect();
        node.hearing.members(now_ms, others, |id, boot| is_linked(&node.peers, id, boot));
        node.topology = living;
        node.table = Some(table);
        self.audit_owners(n);
        self.disturbed();
        self.links_changed(n);
    }
}
