//! The simulator: virtual time, one queue of events, the network between nodes, the way to the store.
//! Single-threaded and without chance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use clarion_core::log::LogKey;
use clarion_core::placement::{Slot, slot_of};
use clarion_protocol::{ProductId, TerminalId, TopicName, UserId};

use crate::audit::Audit;
use crate::event::{Event, Message, Purpose, Queued, Timer};
use crate::mutants::Mutant;
use crate::node::{Node, Table};
use crate::store::{Call, Store};
use crate::terminal::{Push, Terminal};
use crate::{Settings, Violation};

pub const BEGIN_MS: u64 = 1_800_000_000_000;
/// No answer of the store for so long: what became of the call is not known, and the connection is made
/// anew. What lay in the old one may still be executed.
const CALL_MS: u64 = 500;
const FAIL_OVER_MS: u64 = 1500;
/// I12.
const HEALED_MS: u64 = 3000;
/// A round trip, reads and acknowledgements of what then comes.
const SLACK_MS: u64 = 200;

pub struct World {
    pub now_ms: u64,
    pub steps: u64,
    pub settings: Settings,
    pub mutant: Option<Mutant>,
    pub violation: Option<Violation>,
    pub keys: Vec<Arc<LogKey>>,
    pub slots: Vec<Slot>,
    pub readers: Vec<Vec<usize>>,
    pub store: Store,
    pub nodes: Vec<Node>,
    pub terminals: Vec<Terminal>,
    pub pushes: BTreeMap<u64, Push>,
    pub audit: Audit,
    pub tables: BTreeMap<Vec<Arc<str>>, Rc<Table>>,
    pub next_link: u64,
    pub next_id: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub term: u64,
    pub held: Vec<(u64, Event)>,
    pub lag_until_ms: u64,
    pub cuts: BTreeMap<(usize, usize), u64>,
    pub held_up: BTreeMap<(usize, usize), Vec<Event>>,
    /// Until when, by how much, and which lanes.
    pub slow: BTreeMap<(usize, usize), (u64, u64, u32)>,
    pub full: BTreeMap<(usize, usize), u64>,
    pub double: BTreeMap<(usize, usize), bool>,
    lanes: BTreeMap<(usize, usize, u8), u64>,
    pub stalls: BTreeMap<usize, u64>,
    pub deaf_to_store: BTreeMap<usize, u64>,
}

fn keys() -> (Vec<Arc<LogKey>>, Vec<Vec<usize>>) {
    let product = ProductId::new("p").expect("a product");
    let inbox = |n: usize| {
        LogKey::terminal(&product, &TerminalId::new(&format!("t{n}")).expect("a terminal"))
    };
    let topic = |name: &str| LogKey::topic(&product, &TopicName::new(name).expect("a topic"));
    let mut keys: Vec<_> = (0..4).map(inbox).collect();
    keys.extend([topic("a"), topic("b"), LogKey::broadcast(&product)]);
    keys.push(LogKey::user(&product, &UserId::new("u").expect("a user")));
    let readers = vec![vec![0, 4, 6], vec![1, 4, 5, 6], vec![2, 5, 6, 7], vec![3, 5, 6, 7]];
    (keys, readers)
}

impl World {
    pub fn new(settings: Settings, mutant: Option<Mutant>) -> Self {
        let (keys, readers) = keys();
        let store = Store::new(&keys, &readers, mutant);
        let mut world = Self {
            now_ms: BEGIN_MS,
            steps: 0,
            settings,
            mutant,
            violation: None,
            slots: keys.iter().map(|key| slot_of(key)).collect(),
            store,
            nodes: Vec::new(),
            terminals: readers.iter().map(|_| Terminal::default()).collect(),
            keys,
            readers,
            pushes: BTreeMap::new(),
            audit: Audit::new(settings.nodes),
            tables: BTreeMap::new(),
            next_link: 0,
            next_id: 0,
            queue: BinaryHeap::new(),
            order: 0,
            term: 0,
            held: Vec::new(),
            lag_until_ms: 0,
            cuts: BTreeMap::new(),
            held_up: BTreeMap::new(),
            slow: BTreeMap::new(),
            full: BTreeMap::new(),
            double: BTreeMap::new(),
            lanes: BTreeMap::new(),
            stalls: BTreeMap::new(),
            deaf_to_store: BTreeMap::new(),
        };
        for n in 0..settings.nodes {
            let node = Node::new(n, n as u64 + 1, world.now_ms, settings.nodes, world.keys.len());
            world.nodes.push(node);
        }
        (0..settings.nodes).for_each(|n| world.start(n));
        for terminal in 0..world.terminals.len() {
            world.after(1200, Event::Connect { terminal });
        }
        world.after(500, Event::Audit);
        world.disturbed_for(5000);
        world.advance(4000);
        world
    }

    // Time.

    pub fn after(&mut self, pause_ms: u64, event: Event) {
        self.order += 1;
        let queued = Queued { at_ms: self.now_ms + pause_ms, order: self.order, event };
        self.queue.push(Reverse(queued));
    }

    pub fn timer(&mut self, node: usize, pause_ms: u64, timer: Timer) {
        let boot = self.nodes[node].boot;
        self.after(pause_ms, Event::Timer { node, boot, timer });
    }

    pub fn advance(&mut self, ms: u64) {
        let to_ms = self.now_ms + ms;
        while self.violation.is_none()
            && let Some(Reverse(next)) = self.queue.peek()
            && next.at_ms <= to_ms
        {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now_ms = next.at_ms;
            self.steps += 1;
            self.handle(next.event);
            if let Some((invariant, what)) = self.store.wrong.take() {
                self.wrong(invariant, what);
            }
        }
        self.now_ms = to_ms;
    }

    /// Something happened that takes its time to heal.
    pub fn disturbed(&mut self) {
        self.disturbed_for(0);
    }

    pub fn disturbed_for(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms + HEALED_MS + SLACK_MS;
        self.audit.disturbed_until_ms = self.audit.disturbed_until_ms.max(until_ms);
    }

    // The network between nodes.

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|until_ms| *until_ms > self.now_ms)
    }

    /// False: the lane takes nothing, or there is no link.
    pub fn send(&mut self, from: usize, to: usize, message: Message) -> bool {
        let Some(session) = self.nodes[from].peers[to].as_ref().map(|peer| peer.session) else {
            return false;
        };
        let way = (from, to);
        if self.full.get(&way).is_some_and(|until_ms| *until_ms > self.now_ms) {
            return false;
        }
        let lane = match &message {
            Message::Append { log, .. }
            | Message::Appended { log, .. }
            | Message::Hint { log, .. } => 1 + self.keys[*log].kind.mode() as u8,
            _ => 0,
        };
        let hint = lane > 0 && matches!(message, Message::Hint { .. });
        let event = Event::Peer { from, to, session, message };
        if hint && let Some(lose) = self.double.remove(&way) {
            if lose {
                return true;
            }
            self.after(40, event.clone());
        }
        if self.is_cut(from, to) {
            self.held_up.entry(way).or_default().push(event);
            return true;
        }
        let slow = self.slow.get(&way).filter(|(until_ms, ..)| *until_ms > self.now_ms);
        // A lane is in order; lanes overtake each other.
        let lags = |which: u32| which & 4 == 0 || (which + u32::from(lane)).is_multiple_of(2);
        let extra_ms = slow.map_or(0, |(_, ms, which)| if lags(*which) { *ms } else { 0 });
        let due_ms = self.lanes.entry((from, to, lane)).or_insert(0);
        *due_ms = (*due_ms).max(self.now_ms + 1 + extra_ms);
        let pause_ms = *due_ms - self.now_ms;
        self.after(pause_ms, event);
        true
    }

    // The store.

    pub fn call(&mut self, node: usize, call: Call, purpose: Purpose) {
        self.next_id += 1;
        let (id, boot) = (self.next_id, self.nodes[node].boot);
        self.nodes[node].calls.insert(id, purpose);
        if self.store.down {
            // It was not sent.
            return self.after(1, Event::FromStore { node, boot, id, answer: None, sent: false });
        }
        let stalled_ms = self.stalls.get(&node).copied().unwrap_or(0).saturating_sub(self.now_ms);
        let term = self.term;
        self.after(stalled_ms.max(1), Event::ToStore { node, boot, id, term, call });
        self.timer(node, CALL_MS, Timer::Call { id });
    }

    pub fn at_store(&mut self, node: usize, boot: u64, id: u64, call: Call) {
        let before = self.store.seq;
        let (answer, needs) = self.store.execute(self.now_ms, call);
        if self.store.seq > before {
            let pause_ms = self.lag_until_ms.saturating_sub(self.now_ms).max(1);
            let (term, up_to) = (self.term, self.store.seq);
            self.after(pause_ms, Event::Confirmed { term, up_to });
        }
        if self.deaf_to_store.get(&node).is_some_and(|until_ms| *until_ms > self.now_ms) {
            return;
        }
        let answer = Event::FromStore { node, boot, id, answer: Some(answer), sent: true };
        if needs <= self.store.confirmed {
            self.after(1, answer);
        } else {
            self.held.push((needs, answer));
        }
    }

    pub fn store_confirmed(&mut self, up_to: u64) {
        self.store.confirm(up_to);
        let confirmed = self.store.confirmed;
        let (now, later) =
            std::mem::take(&mut self.held).into_iter().partition(|(needs, _)| *needs <= confirmed);
        self.held = later;
        let now: Vec<(u64, Event)> = now;
        now.into_iter().for_each(|(_, answer)| self.after(1, answer));
    }

    pub fn fail_over(&mut self, kept: u64) {
        if self.store.down {
            return;
        }
        self.store.down = true;
        self.term += 1;
        for (_, answer) in std::mem::take(&mut self.held) {
            if let Event::FromStore { node, boot, id, .. } = answer {
                self.after(20, Event::FromStore { node, boot, id, answer: None, sent: true });
            }
        }
        self.after(FAIL_OVER_MS, Event::Promote { kept });
        self.disturbed_for(FAIL_OVER_MS + 16_000);
    }
}
