//! A node: what it holds.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use clarion_core::BootId;
use clarion_core::membership::{Hearing, Members, Verdict};

use crate::event::{Event, Purpose};
use crate::forward::ForwardLog;
use crate::host::Host;
use crate::intake::{Gather, IntakeLog};
use crate::owner::Owned;
use crate::relay::Readers;
use crate::store::Save;

pub const TICK_MS: u64 = 250;
/// Nothing heard for so long is the end of a member, as gossip judges.
const GOSSIP_SILENCE_MS: u64 = 3000;
pub const QUARANTINE_MS: u64 = 10_000;

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
    pub beats: Vec<u64>,
    pub heard_ms: Vec<u64>,
    pub link_heard_ms: Vec<u64>,
    pub facts: Vec<Option<Facts>>,
    pub refused: Vec<Option<u64>>,
    pub changed: bool,
    pub alive: NodeSet,
    pub table: Option<Rc<Table>>,
    pub topology: BTreeMap<usize, u64>,
    pub peers: Vec<Option<Linked>>,
    pub hearing: Hearing,
    pub target: Vec<Option<usize>>,
    /// The session of the link to the target, for each log.
    pub told_session: BTreeMap<usize, u64>,
    pub linked_before: NodeSet,
    pub complete: Vec<NodeSet>,
    pub owned_since_ms: Vec<u64>,
    pub hears_all_since_ms: u64,
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
    /// A flush is on its way.
    pub flushing: bool,
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
            hearing: Hearing::default(),
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
            flushing: false,
            calls: BTreeMap::new(),
        }
    }

    pub fn runs(&self) -> bool {
        self.state == State::Up
    }

    /// Whether gossip holds another alive: it was heard lately, or there is a link, which has heartbeats of
    /// its own.
    pub fn holds_alive(&self, other: usize, now_ms: u64) -> bool {
        let linked =
            |facts: &Facts| self.peers[other].as_ref().is_some_and(|peer| peer.boot == facts.boot);
        self.heard_ms[other] + GOSSIP_SILENCE_MS > now_ms
            || self.facts[other].as_ref().is_some_and(linked)
    }
}

/// The number of a node by its name.
pub fn number_of(name: &str) -> usize {
    name.trim_start_matches('n').parse().expect("the name of a node")
}

pub fn is_linked(peers: &[Option<Linked>], name: &str, boot: BootId) -> bool {
    peers[number_of(name)].as_ref().is_some_and(|peer| peer.boot == boot.0)
}
