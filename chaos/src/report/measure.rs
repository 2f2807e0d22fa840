//! How long pushes and deliveries stood still, fault by fault.
//!
//! A push waits from when it is made, or from the fault if that was later, until it is answered with
//! 202; only pushes of pushers that repeat until there is an answer count. A delivery waits from when
//! its push was accepted, from the fault, or from when the terminal came online, whichever was last,
//! until the terminal has it. A terminal that was at the broken node or proxy is its own; one that
//! goes away by itself does not wait.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::Serialize;

use super::Spread;
use crate::history::{Ending, Event, Name, Record};

/// Waits that began so long before the end of a fault still count for it, nanoseconds.
const AFTERMATH: u64 = 300_000_000_000;

/// Milliseconds of nanoseconds.
pub(super) const fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// Pushes and deliveries while nothing was broken.
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
    pub(super) fn end(&self) -> Option<u64> {
        self.healed.or(self.mended)
    }

    /// Whether something that lasted until now and began then was disturbed by it.
    fn concerns(&self, began: u64) -> bool {
        self.end().is_none_or(|end| end >= began)
    }
}

/// What was measured.
pub(super) struct Measured {
    pub windows: Vec<Window>,
    pub quiet: Quiet,
}

#[derive(Default)]
struct Push {
    invoked: u64,
    accepted: Option<u64>,
    patient: bool,
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
    windows: Vec<Window>,
    /// Places of those that may still concern what ends now.
    recent: VecDeque<usize>,
    pushes: HashMap<Name, Push>,
    terminals: HashMap<Name, Terminal>,
    quiet_pushes: Vec<u64>,
    quiet_deliveries: Vec<u64>,
    steady: bool,
}

pub(super) fn measure(records: &[Record]) -> Measured {
    let mut meter = Meter::default();
    for record in records {
        meter.take(record.t, &record.event);
    }
    let quiet = Quiet {
        push: Spread::of(meter.quiet_pushes),
        delivery: Spread::of(meter.quiet_deliveries),
    };
    Measured { windows: meter.windows, quiet }
}

impl Meter {
    fn take(&mut self, t: u64, event: &Event) {
        match event {
            Event::Steady { .. } | Event::Baseline => self.steady = true,
            Event::Invoke { key, patient, .. } => {
                let push = Push { invoked: t, accepted: None, patient: *patient };
                self.pushes.entry(key.clone()).or_insert(push);
            }
            Event::Accepted { key, .. } => self.accepted(t, key),
            Event::Refused { key, .. } | Event::Unknown { key, .. } => self.unanswered(t, key),
            Event::Delivered { who, key, .. } => self.delivered(t, who, key),
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
            Event::Fault { .. } => self.fault(t, event),
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
        let name = component.split_once(':').map_or(&**component, |(_, name)| name);
        let is_there = |terminal: &Terminal| {
            let at = |place: &Option<Name>| place.as_deref() == Some(name);
            at(&terminal.node)
                || terminal.door.as_deref() == Some(&**component)
                || at(&terminal.door)
        };
        let own = self.terminals.iter().filter(|(_, terminal)| is_there(terminal));
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

    fn accepted(&mut self, t: u64, key: &Name) {
        let Some(push) = self.pushes.get_mut(key) else { return };
        if push.accepted.is_some() {
            return; // pushed once more on purpose
        }
        push.accepted = Some(t);
        let (invoked, patient) = (push.invoked, push.patient);
        let disturbed = self.disturbed(t, invoked, patient, true);
        if !disturbed && patient && self.steady {
            self.quiet_pushes.push(t - invoked);
        }
    }

    fn unanswered(&mut self, t: u64, key: &Name) {
        if let Some(push) = self.pushes.get(key).filter(|push| push.accepted.is_none()) {
            let (invoked, patient) = (push.invoked, push.patient);
            self.disturbed(t, invoked, patient, false);
        }
    }

    /// Whether a fault concerns a push that was made at `invoked` and is answered now; it is counted
    /// then.
    fn disturbed(&mut self, t: u64, invoked: u64, patient: bool, accepted: bool) -> bool {
        let mut disturbed = false;
        for index in &self.recent {
            let window = &mut self.windows[*index];
            if !window.concerns(invoked) {
                continue;
            }
            disturbed = true;
            window.accepted += u64::from(accepted);
            if patient {
                window.push = window.push.max(t - invoked.max(window.from));
            }
        }
        disturbed
    }

    fn delivered(&mut self, t: u64, who: &Name, key: &Name) {
        let Some(accepted) = self.pushes.get(key).map(|push| push.accepted.unwrap_or(t)) else {
            return;
        };
        let Some(came) = self.terminals.get(who).and_then(|terminal| terminal.came) else { return };
        let owed = accepted.max(came);
        let mut disturbed = false;
        for index in &self.recent {
            let window = &mut self.windows[*index];
            if !window.concerns(owed) {
                continue;
            }
            disturbed = true;
            let wait = t.saturating_sub(owed.max(window.from));
            if window.own_terminals.contains(who) {
                window.own = Some(window.own.unwrap_or(0).max(wait));
            } else {
                window.delivery = window.delivery.max(wait);
            }
        }
        // What waited for a terminal that was away is not on its way yet.
        if !disturbed && self.steady && came <= accepted {
            self.quiet_deliveries.push(t.saturating_sub(owed));
        }
    }
}
