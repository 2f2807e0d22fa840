//! A node: what it holds, whom it sees, whom it tells. Membership and placement are the cores; around
//! them is what `actors/src/cluster/mod.rs`, `cluster/ownership.rs`, `cluster/peers.rs` and `router.rs`
//! do when members and links come and go, and a stand-in for `clarion-cluster`: gossip that says every
//! 250 ms who is there, links that are given up after three missed heartbeats and dialled again.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use clarion_core::membership::{Link, Members, Seen, Verdict};
use clarion_core::placement::SlotTable;
use clarion_core::{BootId, Roles};

use crate::Mutant;
use crate::owner::{ForwardLog, Gather, IntakeLog, Owned};
use crate::relay::{Host, Readers};
use crate::store::Save;
use crate::world::{Event, Message, Purpose, Timer, World};

pub const TICK_MS: u64 = 250;
/// Nothing heard for so long ends a link: three heartbeats of half a second.
const LINK_SILENCE_MS: u64 = 1600;
/// Nothing heard for so long is the end of a member, as gossip judges.
const GOSSIP_SILENCE_MS: u64 = 3000;
/// A node that has just started waits so long for what others have to say.
const SETTLE_MS: u64 = 1000;
pub const QUARANTINE_MS: u64 = 10_000;
/// As in `cluster/mod.rs`.
const AFTER_DOWN_MS: u64 = 1500;
const AFTER_MOVE_MS: u64 = 2000;
/// As in `cluster/ownership.rs`.
const OLD_VIEW_MS: u64 = 3000;

/// Sets of logs and of nodes, by number.
pub type LogSet = u32;
pub type NodeSet = u32;

pub fn each(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |n| set & (1 << n) != 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    Hung,
    Down,
}

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub boot: u64,
    pub verdict: Verdict,
}

/// Who serves a log, for one set of owners.
pub struct Table {
    pub owners: Vec<Arc<str>>,
    pub order: Vec<Vec<usize>>,
}

/// A node with a link that is up. Everything under it ends with the link.
#[derive(Debug, Clone)]
pub struct Linked {
    pub session: u64,
    pub boot: u64,
    pub suspect_until_ms: u64,
    pub untold: LogSet,
    pub unannounced: LogSet,
    pub grown: BTreeMap<usize, u64>,
}

pub struct Node {
    pub name: Arc<str>,
    pub state: State,
    pub boot: u64,
    pub started_ms: u64,
    /// Its estimate of the store's time is a lower bound: this much lower.
    pub behind_ms: u64,
    /// What happens to it while it hangs.
    pub parked: VecDeque<Event>,
    pub members: Members,
    pub verdict: Verdict,
    /// The last beat of each that is known here.
    beats: Vec<u64>,
    pub heard_ms: Vec<u64>,
    pub link_heard_ms: Vec<u64>,
    pub facts: Vec<Option<Facts>>,
    pub refused: Vec<Option<u64>>,
    pub changed: bool,
    alive: NodeSet,
    pub table: Option<Rc<Table>>,
    pub topology: BTreeMap<usize, u64>,
    pub peers: Vec<Option<Linked>>,
    missing: BTreeMap<(usize, u64), u64>,
    dead: BTreeMap<(usize, u64), u64>,
    pub target: Vec<Option<usize>>,
    /// The session of the link to the target, for each log.
    told_session: BTreeMap<usize, u64>,
    linked_before: NodeSet,
    pub complete: Vec<NodeSet>,
    owned_since_ms: Vec<u64>,
    hears_all_since_ms: u64,
    pub deaf: bool,
    pub owned: Vec<Owned>,
    pub heads: Vec<Option<(u64, u64)>>,
    pub heads_since_ms: Vec<u64>,
    pub unconfirmed: Vec<NodeSet>,
    pub confirm_pause_ms: u64,
    pub intake: Vec<IntakeLog>,
    pub forward: Vec<ForwardLog>,
    pub gathers: BTreeMap<u64, Gather>,
    /// Pushes at this door: how manieth try, and when it began.
    pub pushes: BTreeMap<u64, (u8, u64)>,
    pub relay: Vec<Option<Readers>>,
    pub compare_failed: LogSet,
    pub sessions: BTreeMap<u64, Host>,
    pub dirty: BTreeMap<(usize, usize), Save>,
    pub calls: BTreeMap<u64, Purpose>,
}

impl Node {
    pub fn new(number: usize, boot: u64, now_ms: u64, nodes: usize, logs: usize) -> Self {
        let name: Arc<str> = Arc::from(format!("n{number}"));
        Self {
            members: Members::new(Arc::clone(&name), QUARANTINE_MS),
            name,
            state: State::Up,
            boot,
            started_ms: now_ms,
            behind_ms: (boot % 5) * 7,
            parked: VecDeque::new(),
            verdict: Verdict::default(),
            beats: vec![0; nodes],
            heard_ms: vec![0; nodes],
            link_heard_ms: vec![0; nodes],
            facts: vec![None; nodes],
            refused: vec![None; nodes],
            changed: true,
            alive: 0,
            table: None,
            topology: BTreeMap::new(),
            peers: vec![None; nodes],
            missing: BTreeMap::new(),
            dead: BTreeMap::new(),
            target: vec![None; logs],
            told_session: BTreeMap::new(),
            linked_before: 0,
            complete: vec![0; logs],
            owned_since_ms: vec![u64::MAX; logs],
            hears_all_since_ms: 0,
            deaf: false,
            owned: vec![Owned::default(); logs],
            heads: vec![None; logs],
            heads_since_ms: vec![now_ms; logs],
            unconfirmed: vec![0; logs],
            confirm_pause_ms: 100,
            intake: (0..logs).map(|_| IntakeLog::default()).collect(),
            forward: (0..logs).map(|_| ForwardLog::default()).collect(),
            gathers: BTreeMap::new(),
            pushes: BTreeMap::new(),
            relay: (0..logs).map(|_| None).collect(),
            compare_failed: 0,
            sessions: BTreeMap::new(),
            dirty: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    pub fn runs(&self) -> bool {
        self.state == State::Up
    }
}

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
            .filter(|other| self.nodes[n].heard_ms[*other] + GOSSIP_SILENCE_MS > now_ms)
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
    fn gossip(&mut self, from: usize, to: usize) {
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

    fn check_links(&mut self, n: usize) {
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

    fn dial(&mut self, n: usize, other: usize) {
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

    fn link_up(&mut self, n: usize, other: usize, session: u64) {
        if self.nodes[n].peers[other].is_some() {
            self.gone(n, other);
        }
        let boot = self.nodes[other].boot;
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
        node.missing.retain(|(id, _), _| *id != other);
        node.dead.remove(&(other, boot));
        node.changed = true;
        self.links_changed(n);
        if !self.send(n, other, Message::Hello) {
            self.note_untold(n, other, self.all_logs());
        }
    }

    /// `refused`: nobody listens there any more, so this boot is dead.
    pub fn link_down(&mut self, n: usize, other: usize, refused: Option<u64>) {
        if self.nodes[n].peers[other].is_some() {
            self.gone(n, other);
        }
        if let Some(boot) = refused {
            let now_ms = self.now_ms;
            self.nodes[n].missing.remove(&(other, boot));
            self.nodes[n].dead.insert((other, boot), now_ms);
        }
        self.nodes[n].changed = true;
        self.links_changed(n);
        self.timer(n, AFTER_DOWN_MS, Timer::Compare { logs: self.all_logs() });
    }

    /// Everything under a number ends with its link.
    fn gone(&mut self, n: usize, other: usize) {
        let node = &mut self.nodes[n];
        node.peers[other] = None;
        node.complete.iter_mut().for_each(|set| *set &= !(1 << other));
        node.owned.iter_mut().for_each(|owned| owned.nodes &= !(1 << other));
        self.disturbed();
        self.forward_link_gone(n, other);
    }

    fn observe(&mut self, n: usize) {
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
        node.verdict = verdict.to_string().parse().expect("a verdict");
    }

    /// The owners of all logs among these members, and who serves in their place.
    fn table(&mut self, owners: &[Arc<str>]) -> Rc<Table> {
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
    fn set_topology(&mut self, n: usize) {
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
        for (id, boot) in &node.topology {
            let key = (*id, *boot);
            if living.get(id) != Some(boot) && *id != n && !node.dead.contains_key(&key) {
                node.missing.insert(key, now_ms);
            }
        }
        node.missing.retain(|(id, _), _| !living.contains_key(id));
        let before = std::mem::replace(&mut node.topology, living);
        let living = &node.topology;
        node.dead
            .retain(|(id, boot), _| living.get(id) != Some(boot) || before.get(id) == Some(boot));
        node.table = Some(table);
        self.audit_owners(n);
        self.disturbed();
        self.links_changed(n);
    }

    /// `Cluster::changed`.
    fn links_changed(&mut self, n: usize) {
        let moved = self.retarget(n);
        self.judge_hearing(n);
        if moved != 0 {
            self.timer(n, AFTER_MOVE_MS, Timer::Compare { logs: moved });
        }
    }

    /// `Router::retarget`: whom this node tells what it reads.
    fn retarget(&mut self, n: usize) -> LogSet {
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

    fn leave(&mut self, n: usize, to: usize, logs: LogSet) {
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

    fn note_unannounced(&mut self, n: usize, to: usize, logs: LogSet) {
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
    fn tell_again(&mut self, n: usize, to: usize, logs: LogSet) {
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
    fn judge_hearing(&mut self, n: usize) {
        let now_ms = self.time(n);
        let node = &self.nodes[n];
        let unheard = node.topology.iter().any(|(id, boot)| {
            let linked = node.peers[*id].as_ref().is_some_and(|peer| peer.boot == *boot);
            *id != n && !linked && !node.dead.contains_key(&(*id, *boot))
        });
        let deaf = unheard || !node.missing.is_empty() || node.target.iter().any(Option::is_none);
        let node = &mut self.nodes[n];
        if node.deaf != deaf {
            node.deaf = deaf;
            node.hears_all_since_ms = now_ms;
            self.compare(n, self.all_logs());
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
