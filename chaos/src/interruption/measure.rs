//! How long pushes and deliveries stood still, fault by fault.
//!
//! A push waits from when it is made, or from the fault if that was later, until it is answered with
//! 202; only pushes of pushers that repeat until there is an answer count. A delivery waits from when
//! its push was accepted, from the fault, or from when the terminal came online, whichever was last,
//! until the terminal has it. A terminal that was linked by the broken node, proxy or way is its own;
//! one that goes away by itself does not wait, nor does one whose application is slow: what that has not
//! taken yet was delivered to it. For as long as the machine let nobody run nobody waits.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::Serialize;

use super::{Machine, Spread};
use crate::history::{Ending, Event, Name, Record};

/// Waits that began so long before the end of a fault still count for it, nanoseconds.
const AFTERMATH: u64 = 300_000_000_000;

/// What begins so soon after all is whole again may still be of the fault, nanoseconds: what was lost on the
/// way TCP sends again by a clock of its own, which nobody sees.
const AFTER_HEALED: u64 = 1_000_000_000;

/// Milliseconds of nanoseconds.
#[must_use]
pub const fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// Pushes and deliveries before anything was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quiet {
    /// From when a push is made until it is accepted.
    pub push: Spread,
    /// From its acceptance until a terminal that is online has it; 0 if it had it before.
    pub delivery: Spread,
}

/// A fault, from when something is broken until all is whole again.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    /// Its number.
    pub n: u32,
    /// The component.
    pub component: String,
    /// What was done to it.
    pub kind: String,
    /// How, in words.
    pub what: String,
    /// What was expected of it, in words.
    pub expects: String,
    /// When, nanoseconds since the start of the run.
    pub from: u64,
    /// When it was mended.
    pub mended: Option<u64>,
    /// When all was whole again.
    pub healed: Option<u64>,
    /// Pushes that were accepted meanwhile.
    pub accepted: u64,
    /// The longest wait of a push, nanoseconds.
    pub push: u64,
    /// The longest wait for a delivery to a terminal that was not at the component.
    pub delivery: u64,
    /// The same for those that were; none if there was none.
    pub own: Option<u64>,
    /// Accepted messages that were lost.
    pub lost: u64,
    /// Messages that users of the SDK were given again.
    pub repeated: u64,
    #[serde(skip)]
    own_terminals: HashSet<Name>,
}

impl Window {
    /// When it was over, if it was.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.healed.or(self.mended)
    }

    /// Whether something that lasted until now and began then was disturbed by it. One that is mended is
    /// not over: all must be whole again.
    fn concerns(&self, began: u64) -> bool {
        self.healed.is_none_or(|healed| healed + AFTER_HEALED >= began)
    }
}

/// What stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A push.
    Push,
    /// A delivery to a terminal that was not at the component.
    Delivery,
    /// A delivery to one that was.
    Own,
}

/// A wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// From the first of its faults, or from when it began.
    pub from: u64,
    /// Until it ended.
    pub to: u64,
    /// Without what the machine stood, nanoseconds.
    pub net: u64,
    /// The records that say so: when it began, and when it ended.
    pub records: [u32; 2],
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Every fault.
    pub windows: Vec<Window>,
    /// What was before anything was broken.
    pub quiet: Quiet,
    /// The longest wait among those that the same faults (places in `windows`) concern in the same way.
    pub longest: BTreeMap<Vec<(usize, Kind)>, Wait>,
    /// What the machine did.
    pub machine: Machine,
}

#[derive(Default)]
struct Push {
    invoked: u64,
    accepted: Option<u64>,
    patient: bool,
    /// The record of its beginning, later that of its acceptance.
    record: u32,
}

/// Where a terminal is.
#[derive(Default)]
struct Terminal {
    /// Since when it is, or wants to be, online.
    came: Option<u64>,
    node: Option<Name>,
    door: Option<Name>,
}

#[derive(Default)]
struct Meter {
    /// Those whose application takes its time.
    slow: HashSet<Name>,
    windows: Vec<Window>,
    /// Places of those that may still concern what ends now.
    recent: VecDeque<usize>,
    /// The ends of every way.
    ways: HashMap<Name, Vec<Name>>,
    pushes: HashMap<Name, Push>,
    terminals: HashMap<Name, Terminal>,
    /// Who was given which push.
    given: HashSet<(Name, Name)>,
    quiet_pushes: Vec<u64>,
    quiet_deliveries: Vec<u64>,
    longest: BTreeMap<Vec<(usize, Kind)>, Wait>,
    machine: Machine,
    steady: bool,
    /// Whether anything was ever broken.
    touched: bool,
}

/// Measures a whole history, sorted by time.
#[must_use]
pub fn measure(records: &[Record]) -> Measured {
    let mut meter = Meter { machine: Machine::of(records), ..Meter::default() };
    for (index, record) in (0_u32..).zip(records) {
        meter.take(index, record.t, &record.event);
    }
    let quiet = Quiet {
        push: Spread::of(meter.quiet_pushes),
        delivery: Spread::of(meter.quiet_deliveries),
    };
    let Meter { windows, longest, machine, .. } = meter;
    Measured { windows, quiet, longest, machine }
}

impl Meter {
    fn take(&mut self, index: u32, t: u64, event: &Event) {
        match event {
            Event::Steady { .. } | Event::Baseline => self.steady = true,
            Event::Terminal { who, slow: true, .. } => {
                self.slow.insert(who.clone());
            }
            Event::Component { name, parts, .. } => {
                self.ways.insert(name.clone(), parts.clone());
            }
            Event::Invoke { key, patient, .. } => {
                let push = Push { invoked: t, accepted: None, patient: *patient, record: index };
                self.pushes.entry(key.clone()).or_insert(push);
            }
            Event::Accepted { key, .. } => self.accepted(index, t, key),
            Event::Refused { key, .. } | Event::Unknown { key, .. } => {
                self.unanswered(index, t, key);
            }
            Event::Delivered { who, key, .. } => self.delivered(index, t, who, key),
            Event::Opened { who, door, node, .. } => {
                let terminal = self.terminals.entry(who.clone()).or_default();
                terminal.came.get_or_insert(t);
                (terminal.node, terminal.door) = (Some(node.clone()), Some(door.clone()));
            }
            Event::Left { who, how, .. } if *how != Ending::Broken => {
                self.terminals.remove(who);
                for index in &self.recent {
                    self.windows[*index].own_terminals.remove(who);
                }
            }
            Event::Fault { .. } => {
                self.touched = true;
                self.fault(t, event);
            }
            Event::Mended { n } => {
                if let Some(window) = self.window(*n) {
                    window.mended = Some(t);
                }
            }
            Event::Healed { n } => {
                if let Some(window) = self.window(*n) {
                    window.healed = Some(t);
                }
            }
            _ => {}
        }
    }

    fn window(&mut self, n: u32) -> Option<&mut Window> {
        self.windows.iter_mut().rev().find(|window| window.n == n)
    }

    fn fault(&mut self, t: u64, event: &Event) {
        let Event::Fault { n, component, kind, what, expects, .. } = event else { return };
        let ends = self.ways.get(component).map_or(&[][..], Vec::as_slice);
        let own = self.terminals.iter().filter(|(_, terminal)| terminal.is_by(component, ends));
        let own_terminals = own.map(|(who, _)| who.clone()).collect();
        while let Some(first) = self.recent.front() {
            match self.windows[*first].end() {
                Some(end) if end + AFTERMATH < t => drop(self.recent.pop_front()),
                _ => break,
            }
        }
        self.recent.push_back(self.windows.len());
        self.windows.push(Window {
            n: *n,
            component: component.to_string(),
            kind: kind.to_string(),
            what: what.clone(),
            expects: expects.clone(),
            from: t,
            mended: None,
            healed: None,
            accepted: 0,
            push: 0,
            delivery: 0,
            own: None,
            lost: 0,
            repeated: 0,
            own_terminals,
        });
    }

    fn accepted(&mut self, index: u32, t: u64, key: &Name) {
        let Some(push) = self.pushes.get_mut(key) else { return };
        if push.accepted.is_some() {
            return; // pushed once more on purpose
        }
        push.accepted = Some(t);
        let (invoked, patient, record) = (push.invoked, push.patient, push.record);
        push.record = index;
        let wait = Wait { from: invoked, to: t, net: 0, records: [record, index] };
        let disturbed = self.disturbed(wait, patient, true);
        if !disturbed && patient && self.steady && !self.touched {
            self.quiet_pushes.push(self.net(invoked, t));
        }
    }

    fn unanswered(&mut self, index: u32, t: u64, key: &Name) {
        if let Some(push) = self.pushes.get(key).filter(|push| push.accepted.is_none()) {
            let wait = Wait { from: push.invoked, to: t, net: 0, records: [push.record, index] };
            let patient = push.patient;
            self.disturbed(wait, patient, false);
        }
    }

    /// Whether a fault concerns a push that is answered now; it is counted then.
    fn disturbed(&mut self, wait: Wait, patient: bool, accepted: bool) -> bool {
        let mut concerned = Vec::new();
        for index in &self.recent {
            let window = &mut self.windows[*index];
            if window.concerns(wait.from) {
                window.accepted += u64::from(accepted);
                concerned.push((*index, Kind::Push));
            }
        }
        let disturbed = !concerned.is_empty();
        if patient {
            self.waited(concerned, wait);
        }
        disturbed
    }

    fn delivered(&mut self, index: u32, t: u64, who: &Name, key: &Name) {
        // What comes again had come before.
        if self.slow.contains(who) || !self.given.insert((who.clone(), key.clone())) {
            return;
        }
        let Some(push) = self.pushes.get(key) else { return };
        let (accepted, record) = (push.accepted.unwrap_or(t), push.record);
        let Some(came) = self.terminals.get(who).and_then(|terminal| terminal.came) else { return };
        let owed = accepted.max(came);
        let mut concerned = Vec::new();
        for index in &self.recent {
            let window = &self.windows[*index];
            if window.concerns(owed) {
                let own = window.own_terminals.contains(who);
                concerned.push((*index, if own { Kind::Own } else { Kind::Delivery }));
            }
        }
        let disturbed = !concerned.is_empty();
        self.waited(concerned, Wait { from: owed, to: t, net: 0, records: [record, index] });
        // What waited for a terminal that was away is not on its way yet.
        if !disturbed && self.steady && !self.touched && came <= accepted {
            self.quiet_deliveries.push(self.net(owed, t));
        }
    }

    /// Takes note of a wait that these faults concern.
    fn waited(&mut self, concerned: Vec<(usize, Kind)>, mut wait: Wait) {
        for (index, kind) in &concerned {
            let net = self.net(wait.from.max(self.windows[*index].from), wait.to);
            let window = &mut self.windows[*index];
            match kind {
                Kind::Push => window.push = window.push.max(net),
                Kind::Delivery => window.delivery = window.delivery.max(net),
                Kind::Own => window.own = Some(window.own.unwrap_or(0).max(net)),
            }
        }
        let first = concerned.iter().map(|(index, _)| self.windows[*index].from).min();
        let Some(first) = first else { return };
        wait.from = wait.from.max(first);
        wait.net = self.net(wait.from, wait.to);
        let longest = self.longest.entry(concerned).or_insert(wait);
        if longest.net < wait.net {
            *longest = wait;
        }
    }

    fn net(&self, from: u64, to: u64) -> u64 {
        to.saturating_sub(from).saturating_sub(self.machine.stood(from, to))
    }
}

impl Terminal {
    /// Whether it is linked by this component, or by the way between these two.
    fn is_by(&self, component: &str, ends: &[Name]) -> bool {
        let node = self.node.as_deref();
        let door = self.door.as_deref();
        // A door is a proxy, by its whole name, or a node.
        let is_door = |name: &str| door.is_some_and(|door| door == name || is_node(name, door));
        let is_there = |name: &str| node.is_some_and(|node| is_node(name, node));
        match ends {
            [from, to] if from.starts_with("client:") => is_door(to),
            [from, to] => is_door(from) && is_there(to),
            _ => is_door(component) || is_there(component),
        }
    }
}

/// Whether a component is the node of this name.
fn is_node(component: &str, name: &str) -> bool {
    component.strip_prefix("node:") == Some(name)
}
