//! Which incarnation stands for a node's name, and whether it lives. Pure; time comes in.
//!
//! Chitchat knows incarnations: name, generation (the time its gossip began) and address. We know
//! boots: one process. A process whose gossip is started anew has two generations and one boot. Of
//! each name one boot holds the **seat**:
//! * A restarted node (another boot, a newer generation, the same address) takes it at once: two
//!   processes cannot have one address.
//! * One at another address takes it when the holder's heartbeat has been silent for
//!   [`QUIET_MS`]. If both go on beating, somebody started two nodes under one name: that is told,
//!   and the holder keeps the seat, unless only the other has a link to us.
//! * A holder whose link is up lives, whatever gossip misses: links have heartbeats of their own.
//! * A holder whose link broke and whose address then refuses is dead at once. It lives again with
//!   a new boot, with a link, or when its heartbeat still moves [`REFUSED_MS`] later: then it was
//!   not dead but cut off from us.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

pub use clarion_core::membership::Link as LinkState;

use crate::identity::BootId;

/// Silence after which another process may take the name.
pub(super) const QUIET_MS: u64 = 1_000;
/// A heartbeat that moves this long after a refusal is not an echo of the dead.
pub(super) const REFUSED_MS: u64 = 3_000;
/// Two boots of one name that beat side by side for this long are a mistake.
const CONFLICT_MS: u64 = 3_000;
/// Links that are remembered: far more than a cluster has members.
const LINKS_MAX: usize = 1_024;

/// One incarnation as chitchat has it.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) id: Arc<str>,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
    pub(super) boot: BootId,
    pub(super) heartbeat: u64,
    /// By phi.
    pub(super) live: bool,
    pub(super) left: bool,
}

/// Who holds a name's seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seated {
    pub(super) boot: BootId,
    /// Index of the newest incarnation of that boot in what was heard.
    pub(super) heard: usize,
    pub(super) alive: bool,
    pub(super) link: LinkState,
}

/// Two live nodes under one name: a mistake of whoever started the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The name.
    pub id: Arc<str>,
    /// Where the one is that counts.
    pub kept: SocketAddr,
    /// Where the other is.
    pub other: SocketAddr,
    /// Which of the two began later, by its own clock: the one to rename. Every node says the same,
    /// also the two, each of which counts for itself.
    pub second: SocketAddr,
}

impl Conflict {
    /// In words, to others or to one of the two (`ours`). Both are told by their addresses, and the
    /// one that came second to take another name.
    pub(super) fn told(&self, ours: bool) -> String {
        let Self { id, kept, other, second } = self;
        let first = if second == kept { other } else { kept };
        let mend = "needs an id of its own: set node.id there and restart it";
        match (ours, kept == second) {
            (true, true) => format!(
                "this node ({second}) came second: {first} runs as `{id}` already. This node \
                 {mend}"
            ),
            (true, false) => format!(
                "another node, {second}, was started as `{id}`, which this node ({first}) has \
                 been before. {second} {mend}"
            ),
            (false, _) => format!(
                "two nodes run as `{id}`: {first} came first, {second} second. {second} {mend}"
            ),
        }
    }
}

#[derive(Default)]
pub(super) struct Seating {
    pub(super) seated: BTreeMap<Arc<str>, Seated>,
    pub(super) conflicts: Vec<Conflict>,
}

struct Seat {
    boot: BootId,
    alive: bool,
}

struct Link {
    state: LinkState,
    /// It was up, and nothing was refused since. A link ends first and is refused then.
    was_up: bool,
    /// When the refusal came, while it counts.
    refused_ms: Option<u64>,
}

/// How one incarnation's heartbeat moved.
struct Pulse {
    heartbeat: u64,
    first_moved_ms: Option<u64>,
    moved_ms: u64,
}

/// All incarnations of one boot.
struct Contender {
    boot: BootId,
    heard: usize,
    /// Of the newest incarnation, and of the oldest: gossip may have begun anew.
    generation: u64,
    began: u64,
    addr: SocketAddr,
    live: bool,
    left: bool,
    first_moved_ms: Option<u64>,
    moved_ms: u64,
}

/// The seats and what was noted of pulses and links. As large as what is heard.
pub(super) struct Seats {
    /// This node: its seat is its own.
    me: (Arc<str>, BootId),
    seats: BTreeMap<Arc<str>, Seat>,
    /// A node may link to us before gossip tells of it.
    links: BTreeMap<(Arc<str>, BootId), Link>,
    pulses: HashMap<(Arc<str>, u64, SocketAddr), Pulse>,
}

impl Seats {
    pub(super) fn new(id: Arc<str>, boot: BootId) -> Self {
        let (seats, links, pulses) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        Self { me: (id, boot), seats, links, pulses }
    }

    /// Notes what happened to a link.
    pub(super) fn link(&mut self, now_ms: u64, id: &Arc<str>, boot: BootId, state: LinkState) {
        let key = (Arc::clone(id), boot);
        let known = self.links.get(&key);
        if known.is_none() && self.links.len() >= LINKS_MAX {
            return;
        }
        let was_up = known.is_some_and(|link| link.was_up);
        let refused_before = known.and_then(|link| link.refused_ms);
        let (state, refused_ms, was_up) = match state {
            // Refused without having been up: whoever beats but cannot be reached is cut off.
            LinkState::Refused if was_up => (state, Some(now_ms), false),
            LinkState::Refused | LinkState::Down if refused_before.is_some() => {
                (LinkState::Refused, refused_before, false)
            }
            LinkState::Refused => (LinkState::Down, None, false),
            LinkState::Down => (state, None, was_up),
            LinkState::Up => (state, None, true),
        };
        self.links.insert(key, Link { state, refused_ms, was_up });
    }

    /// Gives each name its seat. While not `steady` (this process was stopped for a while, or its
    /// gossip was started anew) silence says nothing: who lived goes on living.
    pub(super) fn seat(&mut self, now_ms: u64, heard: &[Heard], steady: bool) -> Seating {
        self.feel(now_ms, heard);
        let mut by_id: BTreeMap<Arc<str>, Vec<Contender>> = BTreeMap::new();
        for (at, one) in heard.iter().enumerate() {
            let contenders = by_id.entry(Arc::clone(&one.id)).or_default();
            self.contend(contenders, at, one);
        }
        let mut seating = Seating::default();
        for (id, contenders) in &by_id {
            self.lift_refusal(id, contenders);
            let seated = self.seat_one(now_ms, id, contenders, steady, &mut seating.conflicts);
            self.seats.insert(Arc::clone(id), Seat { boot: seated.boot, alive: seated.alive });
            seating.seated.insert(Arc::clone(id), seated);
        }
        self.seats.retain(|id, _| by_id.contains_key(id));
        let heard_of = |id: &str, boot| {
            by_id.get(id).is_some_and(|all: &Vec<Contender>| all.iter().any(|one| one.boot == boot))
        };
        self.links.retain(|(id, boot), link| link.state == LinkState::Up || heard_of(id, *boot));
        seating
    }

    fn feel(&mut self, now_ms: u64, heard: &[Heard]) {
        let key = |one: &Heard| (Arc::clone(&one.id), one.generation, one.addr);
        let mut pulses = HashMap::with_capacity(heard.len());
        for one in heard {
            let key = key(one);
            let fresh = Pulse { heartbeat: one.heartbeat, first_moved_ms: None, moved_ms: now_ms };
            let mut pulse = self.pulses.remove(&key).unwrap_or(fresh);
            if one.heartbeat > pulse.heartbeat {
                pulse.heartbeat = one.heartbeat;
                pulse.moved_ms = now_ms;
                pulse.first_moved_ms.get_or_insert(now_ms);
            }
            pulses.insert(key, pulse);
        }
        self.pulses = pulses;
    }

    fn contend(&self, contenders: &mut Vec<Contender>, at: usize, one: &Heard) {
        let pulse = self.pulses.get(&(Arc::clone(&one.id), one.generation, one.addr));
        let first_moved_ms = pulse.and_then(|pulse| pulse.first_moved_ms);
        let moved_ms = pulse.map_or(0, |pulse| pulse.moved_ms);
        let fresh = Contender {
            boot: one.boot,
            heard: at,
            generation: one.generation,
            began: one.generation,
            addr: one.addr,
            live: one.live,
            left: one.left,
            first_moved_ms,
            moved_ms,
        };
        let Some(same) = contenders.iter_mut().find(|other| other.boot == one.boot) else {
            contenders.push(fresh);
            return;
        };
        same.live |= one.live;
        same.left |= one.left;
        same.first_moved_ms = match (same.first_moved_ms, first_moved_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        same.moved_ms = same.moved_ms.max(moved_ms);
        same.began = same.began.min(one.generation);
        if one.generation > same.generation {
            (same.heard, same.generation, same.addr) = (at, one.generation, one.addr);
        }
    }

    fn lift_refusal(&mut self, id: &Arc<str>, contenders: &[Contender]) {
        for one in contenders {
            let Some(link) = self.links.get_mut(&(Arc::clone(id), one.boot)) else { continue };
            let Some(refused_ms) = link.refused_ms else { continue };
            if one.moved_ms >= refused_ms.saturating_add(REFUSED_MS) {
                *link = Link { state: LinkState::Down, refused_ms: None, was_up: false };
            }
        }
    }

    fn link_of(&self, id: &Arc<str>, boot: BootId) -> LinkState {
        self.links.get(&(Arc::clone(id), boot)).map_or(LinkState::Down, |link| link.state)
    }

    fn seat_one(
        &self,
        now_ms: u64,
        id: &Arc<str>,
        contenders: &[Contender],
        steady: bool,
        conflicts: &mut Vec<Conflict>,
    ) -> Seated {
        let seat = self.seats.get(id);
        let up = |one: &Contender| self.link_of(id, one.boot) == LinkState::Up;
        let is_me = |one: &Contender| one.boot == self.me.1 && *id == self.me.0;
        let alive = |one: &Contender| {
            if is_me(one) {
                return true;
            }
            let held = !steady && seat.is_some_and(|seat| seat.alive && seat.boot == one.boot);
            // Unless the clock was set back in between: then the later one has the lower number,
            // and beats while the other is silent.
            let followed = contenders.iter().any(|other| {
                other.boot != one.boot
                    && other.addr == one.addr
                    && other.generation > one.generation
                    && one.moved_ms < other.moved_ms.saturating_add(QUIET_MS)
            });
            let refused = self.link_of(id, one.boot) == LinkState::Refused;
            (one.live || held || up(one)) && !one.left && !followed && !refused
        };
        let best = |with: &dyn Fn(&Contender) -> bool| {
            contenders.iter().filter(|one| with(one)).max_by_key(|one| (up(one), one.generation))
        };
        let holder = contenders
            .iter()
            .find(|one| is_me(one) || seat.is_some_and(|seat| seat.boot == one.boot))
            .filter(|one| alive(one));
        let Some(holder) = holder else {
            // Nobody alive: the newest stands for the name, dead.
            let newest = best(&alive).or_else(|| best(&|_| true));
            return newest.map_or_else(
                || Seated { boot: BootId(0), heard: 0, alive: false, link: LinkState::Down },
                |one| self.seated(id, one, alive(one)),
            );
        };
        let challenger = best(&|one| one.boot != holder.boot && alive(one));
        let Some(challenger) = challenger else { return self.seated(id, holder, true) };
        let silent = steady
            && now_ms.saturating_sub(holder.moved_ms) >= QUIET_MS
            && now_ms.saturating_sub(challenger.moved_ms) < QUIET_MS;
        if !is_me(holder) && (silent || (up(challenger) && !up(holder))) {
            return self.seated(id, challenger, true);
        }
        if challenger.first_moved_ms.is_some_and(|first| holder.moved_ms >= first + CONFLICT_MS) {
            let (kept, other) = (holder.addr, challenger.addr);
            let second = if holder.began > challenger.began { kept } else { other };
            conflicts.push(Conflict { id: Arc::clone(id), kept, other, second });
        }
        self.seated(id, holder, true)
    }

    fn seated(&self, id: &Arc<str>, one: &Contender, alive: bool) -> Seated {
        let link = self.link_of(id, one.boot);
        Seated { boot: one.boot, heard: one.heard, alive, link }
    }
}

#[cfg(test)]
#[path = "seats_tests.rs"]
mod tests;
