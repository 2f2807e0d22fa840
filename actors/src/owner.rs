//! What every owner of logs does, whatever its kind: hand appends to the store in batches, and
//! hint the nodes that are interested (steps 3 to 5 of the way of a push). `Product`, `Topic` and
//! `InboxShard` are actors around one [`OwnedLogs`].
//!
//! Nothing durable is here. Appends are in the [`Intake`], which a crash leaves as it is; interest
//! comes back because the relays announce themselves to the new incarnation, and with the heads
//! of their logs they learn what they were not told (I12).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clarion_core::{Batch, LogKey};
use clarion_protocol::Offset;
use clarion_storage::{Read, Store};
use ractor::ActorRef;

use crate::intake::{Answer, Intake, NewEntry, Way};
use crate::nodes::{NodeNumber, NodeSet, Nodes};
use crate::supervisor::Slot;
use crate::{fault, task};

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

    /// A node has sessions that read `log`; answered with its head (I4). `since_ms`: the head that
    /// the node knows was read at that time.
    pub(crate) fn interest(&self, log: Arc<LogKey>, node: NodeNumber, since_ms: u64) {
        let _ = self.slot.cast(OwnerMessage::Interest { log, node, since_ms });
    }

    /// A node has none any more.
    pub(crate) fn no_interest(&self, log: Arc<LogKey>, node: NodeNumber) {
        let _ = self.slot.cast(OwnerMessage::NoInterest { log, node });
    }

    /// A node has announced all its interest to this incarnation (I12).
    pub(crate) fn interest_complete(&self, node: NodeNumber) {
        let _ = self.slot.cast(OwnerMessage::InterestComplete { node });
    }
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
    Interest { log: Arc<LogKey>, node: NodeNumber, since_ms: u64 },
    /// A node reads it no more.
    NoInterest { log: Arc<LogKey>, node: NodeNumber },
    /// A node has announced everything.
    InterestComplete { node: NodeNumber },
    /// Stop if nothing happened for long (virtual actors).
    CheckIdle,
}

/// What an owner is given.
#[derive(Clone)]
pub(crate) struct OwnerArguments {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) nodes: Nodes,
    /// How long one attempt may take, in milliseconds.
    pub(crate) attempt_ms: u64,
    /// Stop after this long without work or interest; 0: never.
    pub(crate) idle_stop_ms: u64,
    pub(crate) handle: OwnerHandle,
    pub(crate) incarnation: u32,
}

/// The logs of one owner.
pub(crate) struct OwnedLogs {
    arguments: OwnerArguments,
    interest: HashMap<Arc<LogKey>, NodeSet>,
    /// Nodes whose interest is complete; all others get every hint (I12).
    complete: NodeSet,
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
        // A shard's first incarnation starts before any node has interest in it. A virtual owner
        // may have stopped and been forgotten: it does not know.
        let known = arguments.incarnation == 1 && arguments.idle_stop_ms == 0;
        let complete = if known { NodeSet::ALL } else { NodeSet::NONE };
        Self {
            arguments,
            interest: HashMap::new(),
            complete,
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
            OwnerMessage::Interest { log, node, since_ms } => self.interested(log, node, since_ms),
            OwnerMessage::NoInterest { log, node } => self.not_interested(&log, node),
            OwnerMessage::InterestComplete { node } => self.complete.insert(node),
            OwnerMessage::CheckIdle => return !self.is_idle(),
        }
        true
    }

    fn flush(&mut self) {
        self.last_used_ms = self.arguments.store.time_ms();
        let way = Way {
            store: Arc::clone(&self.arguments.store),
            owner: self.arguments.handle.clone(),
            nodes: self.arguments.nodes.clone(),
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
        let interested = self.interest.get(&batch.log).copied().unwrap_or(NodeSet::NONE);
        self.arguments.nodes.hint(interested.or_not_in(self.complete), batch, ephemeral);
    }

    fn interested(&mut self, log: Arc<LogKey>, node: NodeNumber, since_ms: u64) {
        self.last_used_ms = self.arguments.store.time_ms();
        self.interest.entry(Arc::clone(&log)).or_insert(NodeSet::NONE).insert(node);
        let nodes = self.arguments.nodes.clone();
        match self.heads.since(&log, since_ms) {
            Some(head) => nodes.confirm(node, log, head),
            None => {
                let store = Arc::clone(&self.arguments.store);
                task::spawn(confirm_from_store(store, nodes, node, log));
            }
        }
    }

    fn not_interested(&mut self, log: &Arc<LogKey>, node: NodeNumber) {
        if let Some(set) = self.interest.get_mut(log) {
            set.remove(node);
            if *set == NodeSet::NONE {
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

/// Reads the head of a log and confirms a node's interest with it.
async fn confirm_from_store(
    store: Arc<dyn Store>,
    nodes: Nodes,
    node: NodeNumber,
    log: Arc<LogKey>,
) {
    // A few tries, so that a blink of the store does not leave it to the slow head check.
    for pause_ms in [0, 100, 400, 1600, 6400] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        if let Some(head) = head_of(&*store, &log).await {
            nodes.confirm(node, log, head);
            return;
        }
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
    young: HashMap<Arc<LogKey>, Offset>,
    old: HashMap<Arc<LogKey>, Offset>,
    young_since_ms: u64,
    covered_since_ms: u64,
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
        let known = self.young.entry(Arc::clone(log)).or_default();
        *known = head.max(*known);
    }

    /// The head, if nothing can have been appended unseen since `since_ms`: a known one, or zero
    /// when there was no append since then.
    fn since(&self, log: &Arc<LogKey>, since_ms: u64) -> Option<Offset> {
        if let Some(head) = self.young.get(log).or_else(|| self.old.get(log)) {
            return Some(*head);
        }
        (since_ms > self.covered_since_ms).then_some(Offset::ZERO)
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
        assert_eq!(heads.since(&inbox(0), 100), None, "before this incarnation");
        assert_eq!(heads.since(&inbox(0), 101), Some(Offset::ZERO));
        heads.note(&inbox(0), Offset(7), 150);
        assert_eq!(heads.since(&inbox(0), 10), Some(Offset(7)));
        for number in 1..=2 * RECENT_HEADS_MAX {
            heads.note(&inbox(number), Offset(1), 200);
        }
        assert_eq!(heads.since(&inbox(0), 150), None, "its generation is gone");
        assert!(heads.young.len() + heads.old.len() <= 2 * RECENT_HEADS_MAX);
    }
}
