//! Terminals with their SDK (cursors saved once a message is handled, ids seen are dropped), and the
//! back-ends that push (`actors/src/push.rs`: claim, append within a deadline, answer).

use std::collections::{BTreeMap, BTreeSet};

use clarion_core::session::Event as SessionEvent;
use clarion_protocol::Offset;

use crate::event::{Event, Frame, Purpose, Timer};
use crate::intake::{ReplyTo, Request, UNSEARCHED_MS};
use crate::node::State;
use crate::store::{AppendAnswer, Call, Claimed};
use crate::world::World;

const RECONNECT_MS: u64 = 300;
/// A terminal hears nothing of its node for so long: heartbeat and ten seconds, made short.
const SILENCE_MS: u64 = 5000;
const ACK_MS: u64 = 20;
/// How long a push may take at its node, and how long its back-end waits for that.
const REQUEST_MS: u64 = 4000;
const CLIENT_MS: u64 = 6000;
const TRIES_MAX: u8 = 12;
const ATTEMPT_MS: u64 = 1000;

#[derive(Debug, Default)]
pub struct Terminal {
    pub node: Option<usize>,
    /// The present link; another number for each.
    pub link: u64,
    pub opened_ms: Option<u64>,
    away_until_ms: u64,
    /// The node it tries first.
    prefers: usize,
    pub own_cursors: BTreeMap<usize, (u64, u64)>,
    seen: BTreeSet<u64>,
    pub handled: BTreeMap<u64, u32>,
    pub skipped: BTreeSet<u64>,
    /// It lost its cursors once: what it handled may come again.
    pub forgetful: bool,
    /// Up to where it was told that history is gone, by log and epoch.
    pub told: BTreeMap<(usize, u64), u64>,
    /// It was told that the lineage is another.
    pub told_lineage: bool,
    silent_until_ms: u64,
    stash: Vec<(usize, u64, u64)>,
    pub skip_next: bool,
    unacked: BTreeMap<usize, u64>,
    /// What this session gave it last, by log, and the epoch.
    last: BTreeMap<usize, u64>,
    epoch: u64,
    first_handled: BTreeMap<usize, (u64, u64)>,
}

/// What a back-end wants pushed.
#[derive(Debug, Clone)]
pub struct Push {
    pub log: usize,
    pub door: usize,
    pub patient: bool,
    pub expires_at_ms: u64,
    pub tries: u8,
    pub over: bool,
}

impl World {
    pub fn tell_terminal(&mut self, terminal: usize, link: u64, frame: Frame) {
        self.after(1, Event::ToTerminal { terminal, link, frame });
    }

    fn tell_node(&mut self, terminal: usize, frame: Frame) {
        let link = self.terminals[terminal].link;
        if let Some(node) = self.terminals[terminal].node {
            let boot = self.nodes[node].boot;
            self.after(1, Event::ToNode { node, boot, terminal, link, frame });
        }
    }

    // Links.

    pub fn connect(&mut self, t: usize) {
        let now_ms = self.now_ms;
        if self.terminals[t].node.is_some() {
            return;
        }
        let away_ms = self.terminals[t].away_until_ms.saturating_sub(now_ms);
        let nodes = self.nodes.len();
        let prefers = self.terminals[t].prefers + t;
        let place =
            (0..nodes).map(|n| (prefers + n) % nodes).find(|n| self.nodes[*n].state != State::Down);
        let (0, Some(node)) = (away_ms, place) else {
            return self.after(away_ms.max(RECONNECT_MS), Event::Connect { terminal: t });
        };
        self.next_link += 1;
        let link = self.next_link;
        let terminal = &mut self.terminals[t];
        (terminal.node, terminal.link, terminal.opened_ms) = (Some(node), link, None);
        terminal.unacked.clear();
        terminal.stash.clear();
        terminal.last.clear();
        self.tell_node(t, Frame::Open);
        self.after(SILENCE_MS, Event::GivesUp { terminal: t, link, opened: false });
    }

    /// It hears nothing: the link is no good.
    pub fn gives_up(&mut self, t: usize, link: u64, opened: bool) {
        let terminal = &self.terminals[t];
        if terminal.link != link || terminal.node.is_none() {
            return;
        }
        let hangs = terminal.node.is_some_and(|node| !self.nodes[node].runs());
        if if opened { hangs } else { terminal.opened_ms.is_none() } {
            self.terminals[t].prefers += 1;
            self.disturbed();
            self.link_lost(t, link);
        }
    }

    pub fn terminals_give_up(&mut self, n: usize) {
        for terminal in 0..self.terminals.len() {
            if self.terminals[terminal].node == Some(n) {
                let link = self.terminals[terminal].link;
                self.after(SILENCE_MS, Event::GivesUp { terminal, link, opened: true });
            }
        }
    }

    pub fn link_lost(&mut self, t: usize, link: u64) {
        if self.terminals[t].link == link && self.terminals[t].node.is_some() {
            (self.terminals[t].node, self.terminals[t].opened_ms) = (None, None);
            self.after(RECONNECT_MS, Event::Connect { terminal: t });
        }
    }

    pub fn leave_terminal(&mut self, t: usize, forget: bool, ms: u64) {
        self.tell_node(t, Frame::Bye);
        let link = self.terminals[t].link;
        let terminal = &mut self.terminals[t];
        terminal.away_until_ms = self.now_ms + ms;
        if forget {
            terminal.forgetful = true;
            terminal.own_cursors.clear();
            terminal.seen.clear();
            terminal.first_handled.clear();
        }
        terminal.prefers += 1;
        self.link_lost(t, link);
    }

    /// It is on another network now; its former link hears nothing.
    pub fn roam(&mut self, t: usize) {
        self.terminals[t].prefers += 1;
        let link = self.terminals[t].link;
        self.link_lost(t, link);
    }

    pub fn silent(&mut self, t: usize, ms: u64) {
        let until_ms = self.now_ms + ms;
        self.terminals[t].silent_until_ms = until_ms;
        // Until it was sent again, or its session was closed and opened.
        self.disturbed_for(ms + 14_000);
        self.after(ms + 1, Event::Speaks { terminal: t });
    }

    pub fn speaks(&mut self, t: usize) {
        if self.terminals[t].silent_until_ms > self.now_ms {
            return;
        }
        for (log, offset, message) in std::mem::take(&mut self.terminals[t].stash) {
            self.handle_delivery(t, log, offset, message, true);
        }
    }

    pub fn everybody_speaks(&mut self) {
        for t in 0..self.terminals.len() {
            let terminal = &mut self.terminals[t];
            (terminal.silent_until_ms, terminal.away_until_ms, terminal.skip_next) = (0, 0, false);
            self.speaks(t);
            if self.terminals[t].node.is_none() {
                self.after(0, Event::Connect { terminal: t });
            }
        }
    }

    /// The node and the session of a terminal's present link.
    fn session_of(&self, t: usize) -> Option<(usize, u64)> {
        let terminal = &self.terminals[t];
        let node = terminal.node?;
        let host = self.nodes[node].sessions.iter().find(|(_, host)| host.link == terminal.link)?;
        Some((node, *host.0))
    }

    pub fn no_room(&mut self, t: usize, ms: u64) {
        let until_ms = self.now_ms + ms;
        if let Some((node, key)) = self.session_of(t)
            && let Some(host) = self.nodes[node].sessions.get_mut(&key)
        {
            host.no_room_until_ms = until_ms;
        }
    }

    pub fn crash_session(&mut self, t: usize) {
        if let Some((node, session)) = self.session_of(t)
            && self.nodes[node].runs()
        {
            self.disturbed_for(2000);
            self.call(node, Call::Open { terminal: t }, Purpose::Rebuild { session });
        }
    }

    // At the node.

    pub fn frame_at_node(&mut self, n: usize, t: usize, link: u64, frame: Frame) {
        let key =
            self.nodes[n].sessions.iter().find(|(_, host)| host.link == link).map(|(key, _)| *key);
        match (frame, key) {
            (Frame::Open, _) => {
                self.call(n, Call::Open { terminal: t }, Purpose::Open { terminal: t, link });
            }
            (Frame::Bye, Some(key)) => self.end_session(n, key, false),
            (Frame::Ack { log, offset }, Some(key)) => {
                if let Some(log) = self.alias(n, key, log) {
                    self.step_session(n, key, SessionEvent::Ack { log, offset: Offset(offset) });
                }
            }
            (Frame::Skip { log, offset }, Some(key)) => {
                if let Some(log) = self.alias(n, key, log) {
                    self.step_session(n, key, SessionEvent::Skip { log, offset: Offset(offset) });
                }
            }
            _ => {}
        }
    }

    fn alias(&self, n: usize, key: u64, log: usize) -> Option<u16> {
        let host = self.nodes[n].sessions.get(&key)?;
        host.session
            .logs()
            .find_map(|(alias, known, ..)| (*known == self.keys[log]).then_some(alias))
    }

    // At the terminal.

    pub fn at_terminal(&mut self, t: usize, link: u64, frame: Frame) {
        if self.terminals[t].link != link || self.terminals[t].node.is_none() {
            return;
        }
        let now_ms = self.now_ms;
        match frame {
            Frame::Opened => {
                self.terminals[t].opened_ms = Some(now_ms);
                self.terminals[t].epoch = self.store.epoch;
            }
            Frame::Rebuilt => {
                self.terminals[t].opened_ms = Some(now_ms);
                self.terminals[t].last.clear();
            }
            Frame::Closed => {
                self.disturbed();
                self.link_lost(t, link);
            }
            Frame::Gap { log, epoch, to } => {
                let terminal = &mut self.terminals[t];
                let told = terminal.told.entry((log, epoch)).or_insert(0);
                *told = to.max(*told);
                if to == 0 {
                    terminal.told_lineage = true;
                    terminal.last.remove(&log);
                    terminal.first_handled.remove(&log);
                    terminal.own_cursors.insert(log, (epoch, 0));
                }
            }
            Frame::Deliver { log, entries, again } => {
                for (offset, message) in entries {
                    self.at_hand(t, log, offset, message, again);
                }
            }
            _ => {}
        }
    }

    fn at_hand(&mut self, t: usize, log: usize, offset: u64, message: u64, again: bool) {
        if !self.readers[t].contains(&log) || self.pushes.get(&message).is_none_or(|p| p.log != log)
        {
            return self.wrong("N2", format!("terminal {t} was given message {message}"));
        }
        let last = self.terminals[t].last.get(&log).copied().unwrap_or(0);
        if !again && offset <= last {
            return self.wrong("I8", format!("terminal {t}, log {log}: {offset} after {last}"));
        }
        self.terminals[t].last.insert(log, offset.max(last));
        let terminal = &mut self.terminals[t];
        if terminal.silent_until_ms > self.now_ms || !terminal.stash.is_empty() {
            if !terminal.stash.contains(&(log, offset, message)) {
                terminal.stash.push((log, offset, message));
            }
            return;
        }
        self.handle_delivery(t, log, offset, message, again);
    }

    fn handle_delivery(&mut self, t: usize, log: usize, offset: u64, message: u64, again: bool) {
        let terminal = &mut self.terminals[t];
        let epoch = terminal.epoch;
        if terminal.skip_next && !again && !terminal.unacked.contains_key(&log) {
            terminal.skip_next = false;
            terminal.skipped.insert(message);
            terminal.own_cursors.insert(log, (epoch, offset));
            return self.tell_node(t, Frame::Skip { log, offset });
        }
        let own = terminal.own_cursors.get(&log).copied();
        let known = own.is_some_and(|(of, at)| of == epoch && at >= offset)
            || terminal.seen.contains(&message);
        if !known {
            terminal.seen.insert(message);
            let count = terminal.handled.entry(message).or_insert(0);
            *count += 1;
            let twice = *count > 1 && !terminal.forgetful;
            let before = terminal.first_handled.insert(log, (epoch, offset));
            let back = before.filter(|(of, at)| *of == epoch && *at > offset);
            if twice {
                self.wrong("N3", format!("terminal {t} handled message {message} twice"));
            } else if let Some((_, at)) = back {
                self.wrong("I8", format!("terminal {t}, log {log}: handled {offset} after {at}"));
            }
        }
        let terminal = &mut self.terminals[t];
        if own.is_none_or(|(of, at)| of != epoch || at < offset) {
            terminal.own_cursors.insert(log, (epoch, offset));
        }
        let arm = terminal.unacked.is_empty();
        let unacked = terminal.unacked.entry(log).or_insert(0);
        *unacked = offset.max(*unacked);
        if arm {
            self.after(ACK_MS, Event::Acks { terminal: t });
        }
    }

    pub fn send_acks(&mut self, t: usize) {
        for (log, offset) in std::mem::take(&mut self.terminals[t].unacked) {
            self.tell_node(t, Frame::Ack { log, offset });
        }
    }

    // Back-ends.

    pub fn push(&mut self, log: usize, door: usize, how: u32) {
        let message = self.pushes.len() as u64 + 1;
        let ttl_ms = if how.is_multiple_of(9) { 200 + u64::from(how) * 40 } else { 3_600_000 };
        let log = log % self.keys.len();
        let expires_at_ms = self.now_ms + ttl_ms;
        let patient = !how.is_multiple_of(4);
        let push = Push { log, door, patient, expires_at_ms, tries: 0, over: false };
        self.pushes.insert(message, push);
        self.client_pushes(message);
    }

    /// A back-end asks, at whatever node it gets through to.
    pub fn client_pushes(&mut self, message: u64) {
        let nodes = self.nodes.len();
        let Some(push) = self.pushes.get_mut(&message) else { return };
        push.tries += 1;
        let (count, door) = (push.tries, push.door + usize::from(push.tries) - 1);
        let place =
            (0..nodes).map(|n| (door + n) % nodes).find(|n| self.nodes[*n].state != State::Down);
        match place {
            Some(node) => {
                let boot = self.nodes[node].boot;
                self.after(1, Event::ToDoor { node, boot, push: message, count });
                let answer = AppendAnswer::Unknown;
                self.after(CLIENT_MS, Event::ToClient { push: message, count, answer });
            }
            None => {
                let answer = AppendAnswer::Unavailable;
                self.after(1, Event::ToClient { push: message, count, answer });
            }
        }
    }

    pub fn push_at_door(&mut self, n: usize, push: u64, count: u8) {
        let begun_ms = self.time(n);
        self.nodes[n].pushes.insert(push, (count, begun_ms));
        self.timer(n, REQUEST_MS, Timer::Push { push, count });
        if self.pushes[&push].patient {
            let until_ms = begun_ms + UNSEARCHED_MS + ATTEMPT_MS + 100;
            self.call(n, Call::Claim { push, until_ms }, Purpose::Claim { push, count });
        } else {
            self.push_append(n, push, count, None);
        }
    }

    pub fn push_claimed(&mut self, n: usize, push: u64, count: u8, claimed: Option<Claimed>) {
        match claimed {
            Some(Claimed::New) => self.push_append(n, push, count, None),
            Some(Claimed::TakenOver { first_attempt_ms }) => {
                self.push_append(n, push, count, Some(first_attempt_ms));
            }
            Some(Claimed::Done) => {
                let (epoch, offset, predecessor) = (0, 0, 0);
                self.push_answered(
                    n,
                    push,
                    count,
                    AppendAnswer::Done { epoch, offset, predecessor },
                );
            }
            Some(Claimed::InProgress) | None => {
                self.push_answered(n, push, count, AppendAnswer::Unavailable);
            }
        }
    }

    fn push_append(&mut self, n: usize, push: u64, count: u8, first_attempt_ms: Option<u64>) {
        let Some((of, begun_ms)) = self.nodes[n].pushes.get(&push).copied() else { return };
        if of != count {
            return;
        }
        let (log, expires_at_ms) = (self.pushes[&push].log, self.pushes[&push].expires_at_ms);
        let request = Request {
            message: push,
            expires_at_ms,
            first_attempt_ms,
            begun_ms,
            deadline_ms: begun_ms + REQUEST_MS,
            reply: ReplyTo::Push(push, count),
        };
        self.route(n, log, request);
    }

    pub fn push_answered(&mut self, n: usize, push: u64, count: u8, answer: AppendAnswer) {
        if self.nodes[n].pushes.get(&push).is_none_or(|(of, _)| *of != count) {
            return;
        }
        self.nodes[n].pushes.remove(&push);
        if matches!(answer, AppendAnswer::Done { .. }) && self.pushes[&push].patient {
            self.call(n, Call::Finish { push }, Purpose::Nothing);
        }
        self.after(1, Event::ToClient { push, count, answer });
    }

    pub fn client_answered(&mut self, message: u64, count: u8, answer: AppendAnswer) {
        let now_ms = self.now_ms;
        let Some(push) = self.pushes.get_mut(&message) else { return };
        if push.over || push.tries != count {
            return;
        }
        match answer {
            AppendAnswer::Done { .. } => {
                push.over = true;
                let push = push.clone();
                self.audit_accepted(message, &push, now_ms);
            }
            AppendAnswer::Full => push.over = true,
            _ if push.patient && push.tries < TRIES_MAX => {
                self.after(250, Event::ClientAgain { push: message });
            }
            _ => push.over = true,
        }
    }

    /// A message is taken back: a tombstone stays until its TTL (I6).
    pub fn recall(&mut self, log: usize, which: usize) {
        let live = &self.store.logs[log].live;
        if self.store.down || live.is_empty() {
            return;
        }
        let Some(entry) = live.values().nth(which % live.len()).cloned() else { return };
        let message = entry.message.0 as u64;
        if !self.store.is_durable(log, message, entry.offset.0) {
            return;
        }
        let tombstone = clarion_core::entry::Entry::new(
            entry.offset,
            entry.predecessor,
            entry.message,
            entry.expires_at_ms,
            clarion_core::entry::Body::Tombstone,
        );
        self.store.logs[log].live.insert(entry.offset.0, std::sync::Arc::new(tombstone));
        self.audit.recalled.insert(message);
    }
}
