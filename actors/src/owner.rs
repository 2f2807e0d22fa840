//! What every owner of logs does, whatever its kind: hand appends to the store in batches, and
//! hint the nodes that are interested (steps 3 to 5 of the way of a push). `Product`, `Topic` and
//! `InboxShard` are actors around one [`OwnedLogs`].
//!
//! Nothing durable is here. Appends are in the [`Intake`], which a crash leaves as it is; interest
//! comes back because the relays of every node announce it to the new incarnation, and with the
//! heads of their logs they learn what they were not told (I12).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clarion_core::placement::{self, SlotSet};
use clarion_core::{Batch, LogKey};
use clarion_protocol::Offset;
use clarion_storage::{Read, Store};
use ractor::ActorRef;
use tokio::sync::oneshot;

use crate::fault;
use crate::intake::{Answer, Intake, NewEntry, Way};
use crate::nodes::{NodeNumber, NodeSet, Nodes};
use crate::supervisor::Slot;

/// Logs an owner remembers the head of without asking the store; two generations of this many.
const RECENT_HEADS_MAX: usize = 1024;

/// The way to the owner of a log.
#[derive(Clone)]
pub(crate) struct OwnerHandle {
    pub(crate) slot: Arc<Slot<OwnerMessage>>,
    pub(crate) intake: Arc<Intake>,
}

impl OwnerHandle {
    pub(crate) fn new(slot: Arc<Slot<OwnerMessage>>) -> Self {
        Self { slot, intake: Arc::default() }
    }

    /// Appends durably. The flag says whether the owner runs; if not, its next incarnation finds
    /// the append, unless the caller gives up first.
    pub(crate) fn append(&self, entry: NewEntry) -> (Answer, bool) {
        let (answer, tell) = self.intake.put(entry);
        (answer, if tell { self.tell_flush() } else { self.slot.is_filled() })
    }

    /// Whether the owner could be told to flush.
    pub(crate) fn tell_flush(&self) -> bool {
        let told = self.slot.cast(OwnerMessage::Flush).is_ok();
        if !told {
            self.intake.unschedule();
        }
        told
    }

    /// A new incarnation is there: it goes on where the former one was.
    pub(crate) fn started(&self) {
        if self.intake.reschedule() {
            self.tell_flush();
        }
    }

    /// Whether both lead to the same owner.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.intake, &other.intake)
    }

    /// Sends an entry with ttl 0 to whoever is online: at most once.
    pub(crate) fn ephemeral(&self, batch: Arc<Batch>) -> Result<(), ()> {
        self.slot.cast(OwnerMessage::Ephemeral { batch })
    }

    /// A node has sessions that read `log`; answered with its head (I4).
    pub(crate) fn interest(&self, log: Arc<LogKey>, of: Interest) {
        let _ = self.slot.cast(OwnerMessage::Interest { log, of });
    }

    /// A node has none any more.
    pub(crate) fn no_interest(&self, log: Arc<LogKey>, node: NodeNumber) {
        let _ = self.slot.cast(OwnerMessage::NoInterest { log, node });
    }

    /// The link to a node ended: what it read is forgotten.
    pub(crate) fn node_gone(&self, node: NodeNumber) {
        let _ = self.slot.cast(OwnerMessage::NodeGone { node });
    }

    /// A node tells its interest in these slots to another owner from now on.
    pub(crate) fn node_left(&self, node: NodeNumber, slots: Arc<SlotSet>) {
        let _ = self.slot.cast(OwnerMessage::NodeLeft { node, slots });
    }

    /// Returns once it has taken a message from its mailbox.
    pub(crate) async fn progress(&self) {
        let (reply, answer) = oneshot::channel();
        if self.slot.cast(OwnerMessage::Progress { reply }).is_ok() {
            let _ = answer.await;
        }
    }

    /// Another node appended to this log.
    pub(crate) fn grew(&self, log: Arc<LogKey>, head: Offset) {
        let _ = self.slot.cast(OwnerMessage::Grew { log, head });
    }
}

/// What a node says of a log that it reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) node: NodeNumber,
    /// The head that the node knows was read at that time, Unix milliseconds of the store.
    pub(crate) since_ms: u64,
    /// Above 0 with a terminal's own inbox: ends older sessions, wherever they are (I7).
    pub(crate) generation: u64,
}

/// What an owner receives.
pub(crate) enum OwnerMessage {
    /// Hand what was collected to the store.
    Flush,
    /// A batch came back from the store: hints for each log in order.
    Stored { batches: Vec<Arc<Batch>> },
    /// Pass on an entry with ttl 0.
    Ephemeral { batch: Arc<Batch> },
    /// A node reads a log.
    Interest { log: Arc<LogKey>, of: Interest },
    /// A node reads it no more.
    NoInterest { log: Arc<LogKey>, node: NodeNumber },
    /// The link to a node ended.
    NodeGone { node: NodeNumber },
    /// A node tells another owner from now on.
    NodeLeft { node: NodeNumber, slots: Arc<SlotSet> },
    /// Another node appended.
    Grew { log: Arc<LogKey>, head: Offset },
    /// Say that messages are handled.
    Progress { reply: oneshot::Sender<()> },
    /// Stop if nothing happened for long (virtual actors).
    CheckIdle,
}

impl ractor::Message for OwnerMessage {}

/// What an owner is given.
#[derive(Clone)]
pub(crate) struct OwnerArguments {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) nodes: Arc<Nodes>,
    /// How long one attempt may take, in milliseconds.
    pub(crate) attempt_ms: u64,
    /// Stop after this long without work or interest; 0: never.
    pub(crate) idle_stop_ms: u64,
    pub(crate) handle: OwnerHandle,
}

/// Who reads a log.
#[derive(Debug, Clone, Copy, Default)]
struct Readers {
    nodes: NodeSet,
    /// The highest that came with interest: of the newest session of a terminal's own inbox (I7).
    generation: u64,
}

/// The logs of one owner.
pub(crate) struct OwnedLogs {
    arguments: OwnerArguments,
    /// Which nodes read a log. Those that have not told everything get every hint (I12).
    interest: HashMap<Arc<LogKey>, Readers>,
    heads: RecentHeads,
    last_used_ms: u64,
}

impl OwnedLogs {
    pub(crate) fn new(arguments: OwnerArguments, myself: &ActorRef<OwnerMessage>) -> Self {
        let now_ms = arguments.store.time_ms();
        if arguments.idle_stop_ms > 0 {
            let pause = Duration::from_millis(arguments.idle_stop_ms);
            drop(myself.send_interval(pause, || OwnerMessage::CheckIdle));
        }
        Self {
            arguments,
            interest: HashMap::new(),
            heads: RecentHeads::new(now_ms),
            last_used_ms: now_ms,
        }
    }

    /// One verb per message. `false`: the actor is idle and shall stop.
    pub(crate) fn handle(&mut self, message: OwnerMessage) -> bool {
        match message {
            OwnerMessage::Flush => self.flush(),
            OwnerMessage::Stored { batches } => self.stored(&batches),
            OwnerMessage::Ephemeral { batch } => self.hint(&batch, true),
            OwnerMessage::Interest { log, of } => self.interested(log, of),
            OwnerMessage::NoInterest { log, node } => self.not_interested(&log, node),
            OwnerMessage::NodeGone { node } => self.forget_node(node, |_| true),
            OwnerMessage::NodeLeft { node, slots } => self.hand_over(node, &slots),
            OwnerMessage::Grew { log, head } => self.grew(log, head),
            OwnerMessage::Progress { reply } => drop(reply.send(())),
            OwnerMessage::CheckIdle => return !self.is_idle(),
        }
        true
    }

    fn flush(&mut self) {
        self.last_used_ms = self.arguments.store.time_ms();
        let way = Way {
            store: Arc::clone(&self.arguments.store),
            owner: self.arguments.handle.clone(),
            nodes: Arc::clone(&self.arguments.nodes),
            attempt_ms: self.arguments.attempt_ms,
        };
        self.arguments.handle.intake.flush(&way);
    }

    fn stored(&mut self, batches: &[Arc<Batch>]) {
        for batch in batches {
            if let Some(last) = batch.entries.last() {
                self.heads.note(&batch.log, last.offset, self.arguments.store.time_ms());
            }
            self.hint(batch, false);
        }
    }

    fn hint(&mut self, batch: &Arc<Batch>, ephemeral: bool) {
        if fault::hints_off() {
            return;
        }
        let readers = self.interest.get(&batch.log).copied().unwrap_or_default();
        self.arguments.nodes.hint(readers.nodes, batch, ephemeral);
    }

    fn interested(&mut self, log: Arc<LogKey>, of: Interest) {
        self.last_used_ms = self.arguments.store.time_ms();
        let readers = self.interest.entry(Arc::clone(&log)).or_default();
        readers.nodes.insert(of.node);
        let newest = readers.generation.max(of.generation);
        readers.generation = newest;
        let (known, nodes) = (readers.nodes, &self.arguments.nodes);
        let slot = placement::slot_of(&log);
        if of.generation > 0 && of.generation < newest {
            // It was on its way when a newer session was there already.
            nodes.superseded(NodeSet::of(of.node), &log, newest);
        } else if of.generation > 0 {
            let mut others = nodes.peers.readers().without(nodes.ownership.complete(slot));
            known.iter().for_each(|node| others.insert(node));
            others.remove(of.node);
            nodes.superseded(others, &log, newest);
        }
        match self.heads.since(&log, of.since_ms, nodes.ownership.all_known_since_ms(slot)) {
            Some(head) => nodes.confirm(of.node, vec![(log, head)]),
            None => nodes.confirm_from_store(of.node, log),
        }
    }

    /// Another node served in place of this one: whoever reads the log is told how far it goes.
    fn grew(&mut self, log: Arc<LogKey>, head: Offset) {
        self.heads.note(&log, head, self.arguments.store.time_ms());
        if let Some(readers) = self.interest.get(&log).copied()
            && !fault::hints_off()
        {
            self.arguments.nodes.heads(readers.nodes, &[(log, head)]);
        }
    }

    /// What was appended to these slots lately, for a node that tells another owner from now on:
    /// hints to it may have been dropped, and nobody would say so.
    fn hand_over(&mut self, node: NodeNumber, slots: &SlotSet) {
        self.forget_node(node, |log| slots.contains(placement::slot_of(log)));
        let heads: Vec<_> = self.heads.of(|log| slots.contains(placement::slot_of(log)));
        self.arguments.nodes.heads(NodeSet::of(node), &heads);
    }

    fn forget_node(&mut self, node: NodeNumber, of: impl Fn(&LogKey) -> bool) {
        self.interest.retain(|log, readers| {
            if of(log) {
                readers.nodes.remove(node);
            }
            readers.nodes != NodeSet::NONE
        });
        self.interest.shrink_to_fit();
    }

    fn not_interested(&mut self, log: &Arc<LogKey>, node: NodeNumber) {
        if let Some(readers) = self.interest.get_mut(log) {
            readers.nodes.remove(node);
            if readers.nodes == NodeSet::NONE {
                self.interest.remove(log);
            }
        }
        if self.interest.is_empty() {
            self.interest.shrink_to_fit();
        }
    }

    fn is_idle(&self) -> bool {
        let quiet_ms = self.arguments.store.time_ms().saturating_sub(self.last_used_ms);
        self.interest.is_empty()
            && self.arguments.handle.intake.is_empty()
            && quiet_ms >= self.arguments.idle_stop_ms
    }
}

/// The durable head of a log.
pub(crate) async fn head_of(store: &dyn Store, log: &Arc<LogKey>) -> Option<Offset> {
    let read = head_read(Arc::clone(log));
    store.read(vec![read]).await.pop()?.ok().map(|page| page.head)
}

/// A read that finds nothing but the head.
pub(crate) fn head_read(log: Arc<LogKey>) -> Read {
    let after = Offset(clarion_protocol::ids::OFFSET_END - 1);
    Read { log, after, entries_max: 1, bytes_max: 1 }
}

/// The heads of logs appended to lately, so that a node's interest is mostly confirmed without
/// the store. Two generations, each bounded; `covered_since_ms` says from when on an absent log
/// is known to have had no append.
struct RecentHeads {
    young: HashMap<Arc<LogKey>, Recent>,
    old: HashMap<Arc<LogKey>, Recent>,
    young_since_ms: u64,
    covered_since_ms: u64,
}

#[derive(Clone, Copy)]
struct Recent {
    head: Offset,
    noted_ms: u64,
}

impl RecentHeads {
    fn new(now_ms: u64) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_since_ms: now_ms,
            covered_since_ms: now_ms,
        }
    }

    fn note(&mut self, log: &Arc<LogKey>, head: Offset, now_ms: u64) {
        if self.young.len() >= RECENT_HEADS_MAX && !self.young.contains_key(log) {
            self.old = std::mem::take(&mut self.young);
            self.covered_since_ms = self.young_since_ms;
            self.young_since_ms = now_ms;
        }
        let known = self.young.entry(Arc::clone(log)).or_insert(Recent { head, noted_ms: now_ms });
        *known = Recent { head: head.max(known.head), noted_ms: now_ms };
    }

    /// The head, if nothing can have been appended unseen since `since_ms`: a known one, or zero
    /// when there was no append since then. Before `all_known_since_ms` others may have appended.
    fn since(&self, log: &LogKey, since_ms: u64, all_known_since_ms: u64) -> Option<Offset> {
        if let Some(recent) = self.young.get(log).or_else(|| self.old.get(log)) {
            return (recent.noted_ms >= all_known_since_ms).then_some(recent.head);
        }
        (since_ms > self.covered_since_ms.max(all_known_since_ms)).then_some(Offset::ZERO)
    }

    fn of(&self, which: impl Fn(&LogKey) -> bool) -> Vec<(Arc<LogKey>, Offset)> {
        let all = self.old.iter().chain(&self.young).filter(|(log, _)| which(log));
        all.map(|(log, recent)| (Arc::clone(log), recent.head)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clarion_protocol::{ProductId, TerminalId};

    fn inbox(number: usize) -> Arc<LogKey> {
        let product = ProductId::new("demo").unwrap();
        LogKey::terminal(&product, &TerminalId::new(&format!("t{number}")).unwrap())
    }

    #[test]
    fn an_absent_head_is_zero_only_while_the_whole_time_is_covered() {
        let mut heads = RecentHeads::new(100);
        assert_eq!(heads.since(&inbox(0), 100, 0), None, "before this incarnation");
        assert_eq!(heads.since(&inbox(0), 101, 0), Some(Offset::ZERO));
        heads.note(&inbox(0), Offset(7), 150);
        assert_eq!(heads.since(&inbox(0), 10, 0), Some(Offset(7)));
        for number in 1..=2 * RECENT_HEADS_MAX {
            heads.note(&inbox(number), Offset(1), 200);
        }
        assert_eq!(heads.since(&inbox(0), 150, 0), None, "its generation is gone");
        assert!(heads.young.len() + heads.old.len() <= 2 * RECENT_HEADS_MAX);
    }

    #[test]
    fn a_head_from_before_the_slot_was_owned_is_not_all_there_was() {
        let mut heads = RecentHeads::new(100);
        heads.note(&inbox(0), Offset(7), 150);
        assert_eq!(heads.since(&inbox(0), 140, 151), None, "another owner may have gone on");
        assert_eq!(heads.since(&inbox(1), 140, 151), None);
        assert_eq!(heads.since(&inbox(1), 152, 151), Some(Offset::ZERO));
        assert_eq!(heads.since(&inbox(1), 152, u64::MAX), None, "one that cannot be heard");
        heads.note(&inbox(0), Offset(9), 160);
        assert_eq!(heads.since(&inbox(0), 140, 151), Some(Offset(9)));
    }
}
