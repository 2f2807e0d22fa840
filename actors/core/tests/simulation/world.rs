//! The simulator: virtual time, one queue of events, the network between nodes, store, terminals and
//! back-ends, and what the decisions of a schedule do to them. Single-threaded and without chance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use clarion_core::entry::Batch;
use clarion_core::log::LogKey;
use clarion_core::placement::{Slot, slot_of};
use clarion_protocol::terminal::LogAlias;
use clarion_protocol::{ProductId, TerminalId, TopicName, UserId};

use crate::audit::Audit;
use crate::node::{LogSet, Node, State, TICK_MS, Table};
use crate::owner::Request;
use crate::relay::{FLUSH_MS, Found, POLL_MS};
use crate::schedule::{Decision, What};
use crate::store::{Answer, AppendAnswer, Call, Save, Store};
use crate::terminal::{Push, Terminal};
use crate::{Mutant, Settings, Violation};

const BEGIN_MS: u64 = 1_800_000_000_000;
/// No answer of the store for so long: what became of the call is not known, and the connection is made
/// anew. What lay in the old one may still be executed.
const CALL_MS: u64 = 500;
const FAIL_OVER_MS: u64 = 1500;
/// Until when a healed cluster has delivered everything: a session that could not read pauses for up
/// to 12.5 s, a push that lasts is given up after 4 s and repeated.
const SETTLE_MS: u64 = 30_000;
/// I12.
const HEALED_MS: u64 = 3000;
/// A round trip, reads and acknowledgements of what then comes.
const SLACK_MS: u64 = 200;
/// How long a fault may go unnoticed.
const NOTICED_MS: u64 = 4000;

/// What one node tells another (`cluster/wire.rs`).
#[derive(Debug, Clone)]
pub enum Message {
    Append { request: u64, log: usize, entries: Vec<Request> },
    Appended { request: u64, log: usize, results: Vec<AppendAnswer> },
    Hint { log: usize, batch: Arc<Batch>, listed: bool },
    Grew { log: usize, head: u64 },
    Heads { log: usize, head: u64 },
    Confirm { log: usize, head: u64 },
    Interest { logs: Vec<(usize, u64)>, since_ms: u64 },
    NoInterest { log: usize },
    Complete { logs: LogSet },
    Leave { logs: LogSet },
    AnnounceAgain { logs: LogSet },
    Dropped { logs: LogSet },
    Superseded { log: usize, generation: u64 },
    Hello,
}

/// Between node and terminal.
#[derive(Debug, Clone)]
pub enum Frame {
    Opened,
    Rebuilt,
    Deliver { log: usize, entries: Vec<(u64, u64)>, again: bool },
    Gap { log: usize, epoch: u64, to: u64 },
    Closed,
    Open,
    Ack { log: usize, offset: u64 },
    Skip { log: usize, offset: u64 },
    Bye,
}

/// Why the store was asked.
#[derive(Debug, Clone)]
pub enum Purpose {
    Append { log: usize, requests: Vec<Request>, not_after_ms: u64 },
    Read { session: u64, alias: LogAlias },
    Heads { logs: Vec<usize>, found: Found },
    Confirm { log: usize },
    Open { terminal: usize, link: u64 },
    Rebuild { session: u64 },
    Save { saves: Vec<Save> },
    Verify { session: u64 },
    Claim { push: u64, count: u8 },
    Nothing,
}

#[derive(Debug, Clone)]
pub enum Timer {
    Tick,
    Poll,
    Flush,
    CheckHeads,
    HeadsAhead { heads: Vec<(usize, u64)> },
    Compare { logs: LogSet },
    ConfirmAgain { log: usize },
    Intake { log: usize },
    Carry { log: usize },
    Tried { log: usize, owner: usize },
    Late { log: usize, request: u64 },
    Session { session: u64 },
    Verify { session: u64 },
    Call { id: u64 },
    Push { push: u64, count: u8 },
}

#[derive(Debug, Clone)]
pub enum Event {
    Peer {
        from: usize,
        to: usize,
        session: u64,
        message: Message,
    },
    LinkEnded {
        node: usize,
        peer: usize,
        session: u64,
    },
    Timer {
        node: usize,
        boot: u64,
        timer: Timer,
    },
    ToStore {
        node: usize,
        boot: u64,
        id: u64,
        term: u64,
        call: Call,
    },
    /// `sent`: without an answer, whether the call may have been executed.
    FromStore {
        node: usize,
        boot: u64,
        id: u64,
        answer: Option<Answer>,
        sent: bool,
    },
    Confirmed {
        term: u64,
        up_to: u64,
    },
    Promote {
        kept: u64,
    },
    ToNode {
        node: usize,
        boot: u64,
        terminal: usize,
        link: u64,
        frame: Frame,
    },
    ToTerminal {
        terminal: usize,
        link: u64,
        frame: Frame,
    },
    Connect {
        terminal: usize,
    },
    Acks {
        terminal: usize,
    },
    Speaks {
        terminal: usize,
    },
    GivesUp {
        terminal: usize,
        link: u64,
        opened: bool,
    },
    LinkLost {
        terminal: usize,
        link: u64,
    },
    ToClient {
        push: u64,
        count: u8,
        answer: AppendAnswer,
    },
    ClientAgain {
        push: u64,
    },
    ToDoor {
        node: usize,
        boot: u64,
        push: u64,
        count: u8,
    },
    Wake {
        node: usize,
        boot: u64,
    },
    Start {
        node: usize,
    },
    Uncut {
        from: usize,
        to: usize,
    },
    Audit,
}

struct Queued {
    at_ms: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.order).cmp(&(other.at_ms, other.order))
    }
}

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
    term: u64,
    held: Vec<(u64, Event)>,
    lag_until_ms: u64,
    cuts: BTreeMap<(usize, usize), u64>,
    held_up: BTreeMap<(usize, usize), Vec<Event>>,
    /// Until when, by how much, and which lanes.
    slow: BTreeMap<(usize, usize), (u64, u64, u32)>,
    full: BTreeMap<(usize, usize), u64>,
    double: BTreeMap<(usize, usize), bool>,
    lanes: BTreeMap<(usize, usize, u8), u64>,
    stalls: BTreeMap<usize, u64>,
    deaf_to_store: BTreeMap<usize, u64>,
}

/// Prints what happens, but for what happens all the time.
fn trace(at_ms: u64, event: &Event) {
    let routine = matches!(
        event,
        Event::Audit
            | Event::Confirmed { .. }
            | Event::Timer {
                timer: Timer::Tick | Timer::Poll | Timer::Flush | Timer::Call { .. },
                ..
            }
    );
    if !routine {
        println!("{at_ms} {event:?}");
    }
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

    fn at_store(&mut self, node: usize, boot: u64, id: u64, call: Call) {
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

    fn store_confirmed(&mut self, up_to: u64) {
        self.store.confirm(up_to);
        let confirmed = self.store.confirmed;
        let (now, later) =
            std::mem::take(&mut self.held).into_iter().partition(|(needs, _)| *needs <= confirmed);
        self.held = later;
        let now: Vec<(u64, Event)> = now;
        now.into_iter().for_each(|(_, answer)| self.after(1, answer));
    }

    fn fail_over(&mut self, kept: u64) {
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

    fn answered(&mut self, n: usize, id: u64, answer: Option<Answer>, sent: bool) {
        let Some(purpose) = self.nodes[n].calls.remove(&id) else { return };
        match (purpose, answer) {
            (Purpose::Append { log, requests, not_after_ms }, answer) => {
                let none = if sent { AppendAnswer::Unknown } else { AppendAnswer::Unavailable };
                let results = match answer {
                    Some(Answer::Appended(results)) => results,
                    _ => vec![none; requests.len()],
                };
                self.appended(n, log, requests, not_after_ms, &results);
            }
            (Purpose::Read { session, alias }, answer) => {
                self.page_answered(n, session, alias, answer);
            }
            (Purpose::Heads { logs, found }, Some(Answer::Heads(heads))) => {
                let heads: Vec<_> = logs.into_iter().zip(heads).collect();
                self.heads_found(n, &heads, found);
            }
            (Purpose::Heads { logs, .. }, _) => {
                // With the next request or tidying.
                logs.into_iter().for_each(|log| self.nodes[n].compare_failed |= 1 << log);
                self.disturbed_for(2000);
            }
            (Purpose::Confirm { log }, Some(Answer::Heads(heads))) => {
                self.confirm_answered(n, log, heads.first().copied());
            }
            (Purpose::Confirm { log }, _) => {
                self.disturbed_for(2000);
                self.confirm_answered(n, log, None);
            }
            (Purpose::Open { terminal, link }, Some(Answer::Opened(opened))) => {
                self.begin_session(n, terminal, link, &opened);
            }
            (Purpose::Open { terminal, link }, _) => {
                self.tell_terminal(terminal, link, Frame::Closed)
            }
            (Purpose::Rebuild { session }, Some(Answer::Opened(opened))) => {
                self.rebuild_session(n, session, &opened);
            }
            (Purpose::Rebuild { session }, _) => self.end_session(n, session, true),
            (Purpose::Save { saves }, Some(Answer::Saved(answers))) => {
                self.saved(n, saves, Some(answers));
            }
            (Purpose::Save { saves }, _) => self.saved(n, saves, None),
            (Purpose::Verify { session }, Some(Answer::Verified(false))) => self.stale(n, session),
            (Purpose::Claim { push, count }, Some(Answer::Claimed(claimed))) => {
                self.push_claimed(n, push, count, Some(claimed));
            }
            (Purpose::Claim { push, count }, _) => self.push_claimed(n, push, count, None),
            (Purpose::Verify { .. } | Purpose::Nothing, _) => {}
        }
    }

    // Events.

    fn handle(&mut self, event: Event) {
        if self.settings.trace {
            trace(self.now_ms - BEGIN_MS, &event);
        }
        match event {
            Event::Peer { to, .. } | Event::LinkEnded { node: to, .. } => {
                self.at_node(to, None, event);
            }
            Event::Timer { node, boot, .. }
            | Event::FromStore { node, boot, .. }
            | Event::ToNode { node, boot, .. }
            | Event::ToDoor { node, boot, .. } => self.at_node(node, Some(boot), event),
            Event::ToStore { node, boot, id, term, call } => {
                if term == self.term && !self.store.down {
                    self.at_store(node, boot, id, call);
                }
            }
            Event::Confirmed { term, up_to } => {
                if term == self.term {
                    if self.lag_until_ms > self.now_ms {
                        let pause_ms = self.lag_until_ms - self.now_ms;
                        self.after(pause_ms, event);
                    } else {
                        self.store_confirmed(up_to);
                    }
                }
            }
            Event::Promote { kept } => {
                let lost = self.store.fail_over(kept);
                self.store.down = false;
                self.audit_lost(&lost);
                self.disturbed_for(16_000);
            }
            Event::ToTerminal { terminal, link, frame } => self.at_terminal(terminal, link, frame),
            Event::Connect { terminal } => self.connect(terminal),
            Event::Acks { terminal } => self.send_acks(terminal),
            Event::Speaks { terminal } => self.speaks(terminal),
            Event::GivesUp { terminal, link, opened } => self.gives_up(terminal, link, opened),
            Event::LinkLost { terminal, link } => self.link_lost(terminal, link),
            Event::ToClient { push, count, answer } => self.client_answered(push, count, answer),
            Event::ClientAgain { push } => self.client_pushes(push),
            Event::Wake { node, boot } => {
                if self.nodes[node].boot == boot {
                    self.wake(node);
                }
            }
            Event::Start { node } => {
                if self.nodes[node].state == State::Down {
                    self.restart(node);
                }
            }
            Event::Uncut { from, to } => self.uncut(from, to),
            Event::Audit => {
                self.audit_calm();
                self.after(500, Event::Audit);
            }
        }
    }

    fn at_node(&mut self, n: usize, boot: Option<u64>, event: Event) {
        if boot.is_some_and(|boot| boot != self.nodes[n].boot) {
            return;
        }
        match self.nodes[n].state {
            State::Down => {}
            State::Hung => self.nodes[n].parked.push_back(event),
            State::Up => self.at_running_node(n, event),
        }
    }

    fn at_running_node(&mut self, n: usize, event: Event) {
        match event {
            Event::Peer { from, session, message, .. } => {
                let linked = self.nodes[n].peers[from].as_mut();
                if let Some(peer) = linked.filter(|peer| peer.session == session) {
                    peer.suspect_until_ms = 0;
                    self.received(n, from, message);
                }
            }
            Event::LinkEnded { peer, session, .. } => {
                let linked = self.nodes[n].peers[peer].as_ref();
                if linked.is_some_and(|linked| linked.session == session) {
                    self.link_down(n, peer, None);
                }
            }
            Event::Timer { timer, .. } => self.timer_due(n, timer),
            Event::FromStore { id, answer, sent, .. } => self.answered(n, id, answer, sent),
            Event::ToNode { terminal, link, frame, .. } => {
                self.frame_at_node(n, terminal, link, frame)
            }
            Event::ToDoor { push, count, .. } => self.push_at_door(n, push, count),
            _ => {}
        }
    }

    fn received(&mut self, n: usize, from: usize, message: Message) {
        match message {
            Message::Append { request, log, entries } => self.serve(n, from, log, request, entries),
            Message::Appended { request, log, results } => {
                self.forward_answered(n, log, request, Some(results));
            }
            Message::Hint { log, batch, listed } => {
                self.relay_hint(n, log, &batch, listed.then_some(from));
            }
            Message::Grew { log, head } => self.grew(n, log, head),
            Message::Heads { log, head } => self.heads_told(n, log, head),
            Message::Confirm { log, head } => self.confirmed(n, log, head, Some(from)),
            Message::Interest { logs, since_ms } => {
                for (log, generation) in logs {
                    self.interested(n, from, log, since_ms, generation);
                }
            }
            Message::NoInterest { log } => self.nodes[n].owned[log].nodes &= !(1 << from),
            Message::Complete { logs } => {
                crate::node::each(logs).for_each(|log| self.nodes[n].complete[log] |= 1 << from);
            }
            Message::Leave { logs } => {
                self.unset_complete(n, from, logs);
                self.node_left(n, from, logs);
            }
            Message::AnnounceAgain { logs } => {
                let told =
                    crate::node::each(logs).filter(|log| self.nodes[n].target[*log] == Some(from));
                let logs = told.fold(0, |set, log| set | 1 << log);
                if logs != 0 {
                    self.announce(n, from, logs);
                }
            }
            Message::Dropped { logs } => self.compare(n, logs),
            Message::Superseded { log, generation } => self.superseded(n, log, generation),
            Message::Hello => self.compare(n, self.all_logs()),
        }
    }

    fn timer_due(&mut self, n: usize, timer: Timer) {
        match timer {
            Timer::Tick => self.tick(n),
            Timer::Poll => self.poll(n),
            Timer::Flush => {
                self.flush(n);
                // `RelayState::tidy`: what could not be compared.
                if self.nodes[n].compare_failed != 0 {
                    self.compare(n, 0);
                }
                self.timer(n, FLUSH_MS, Timer::Flush);
            }
            Timer::CheckHeads => self.check_heads(n),
            Timer::HeadsAhead { heads } => self.heads_found(n, &heads, Found::Check { sure: true }),
            Timer::Compare { logs } => self.compare(n, logs),
            Timer::ConfirmAgain { log } => {
                self.call(n, Call::Heads { logs: vec![log] }, Purpose::Confirm { log });
            }
            Timer::Intake { log } => self.intake_again(n, log),
            Timer::Carry { log } => self.carry(n, log),
            Timer::Tried { log, owner } => {
                let batch = std::mem::take(&mut self.nodes[n].forward[log].batch);
                self.tried(n, log, owner, batch, false, true);
            }
            Timer::Late { log, request } => self.forward_late(n, log, request),
            Timer::Session { session } => self.tick_session(n, session),
            Timer::Verify { session } => self.verify(n, session),
            Timer::Call { id } => {
                if self.nodes[n].calls.contains_key(&id) {
                    self.stalls.remove(&n);
                    self.answered(n, id, None, true);
                }
            }
            Timer::Push { push, count } => {
                self.push_answered(n, push, count, AppendAnswer::Unknown)
            }
        }
    }

    // Nodes come and go.

    fn start(&mut self, n: usize) {
        if self.mutant == Some(Mutant::NoQuarantine) {
            let name = Arc::clone(&self.nodes[n].name);
            self.nodes[n].members = clarion_core::membership::Members::new(name, 0);
        }
        self.timer(n, TICK_MS * 3 / 4 + n as u64 * 17, Timer::Tick);
        self.nodes[n].started_ms = self.now_ms + TICK_MS * 3 / 4 + n as u64 * 17;
        self.timer(n, POLL_MS, Timer::Poll);
        self.timer(n, FLUSH_MS, Timer::Flush);
        if self.settings.head_check_ms > 0 {
            self.timer(n, self.settings.head_check_ms, Timer::CheckHeads);
        }
    }

    fn restart(&mut self, n: usize) {
        self.next_id += 1;
        let boot = 100 + self.next_id;
        self.nodes[n] = Node::new(n, boot, self.now_ms, self.settings.nodes, self.keys.len());
        self.audit.started_ms[n] = self.now_ms;
        self.start(n);
        self.disturbed();
    }

    fn kill(&mut self, n: usize) {
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

    fn wake(&mut self, n: usize) {
        if self.nodes[n].state != State::Hung {
            return;
        }
        self.nodes[n].state = State::Up;
        self.disturbed();
        for event in std::mem::take(&mut self.nodes[n].parked) {
            self.after(0, event);
        }
    }

    fn uncut(&mut self, from: usize, to: usize) {
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
    fn restore(&mut self, drop_entries: usize) {
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
