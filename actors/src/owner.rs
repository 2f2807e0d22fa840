//! What every owner of logs does, whatever its kind: order appends, hand them to the store in
//! batches, answer the callers, hint the nodes that are interested (steps 3 to 5 of the way of a
//! push). `Product`, `Topic` and `InboxShard` are actors around one [`OwnedLogs`].
//!
//! Nothing durable is here. After a crash callers find their outcome by I2, and interest comes
//! back because the relays announce themselves to the new incarnation (I12).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use clarion_core::{Batch, Body, Entry, LogKey};
use clarion_protocol::{MessageId, Offset};
use clarion_storage::{Append, Appended, LogLimits, Read, Store, StoreError, StoreResult};
use ractor::ActorRef;
use tokio::sync::oneshot;

use crate::nodes::{NodeNumber, NodeSet, Nodes};
use crate::supervisor::Slot;
use crate::{fault, task};

/// Appends that one call to the store carries at most.
const BATCH_MAX: usize = 512;
/// Logs an owner remembers the head of without asking the store; two generations of this many.
const RECENT_HEADS_MAX: usize = 1024;

/// The way to the owner of a log.
#[derive(Clone)]
pub(crate) struct OwnerHandle {
    pub(crate) slot: Arc<Slot<OwnerMessage>>,
}

impl OwnerHandle {
    /// Appends durably. `None`: the owner does not run, nothing happened. An answer that fails
    /// means that it went away meanwhile: ask again as I2 says.
    pub(crate) fn append(
        &self,
        entry: NewEntry,
    ) -> Option<oneshot::Receiver<StoreResult<Appended>>> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast(OwnerMessage::Append(Box::new(AppendRequest { entry, reply }))).ok()?;
        Some(answer)
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

/// An entry to be appended.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) log: Arc<LogKey>,
    pub(crate) message: MessageId,
    pub(crate) expires_at_ms: u64,
    pub(crate) body: Body,
    pub(crate) limits: LogLimits,
    /// Set if an earlier attempt may have succeeded (I2).
    pub(crate) first_attempt_ms: Option<u64>,
    /// No attempt starts after this, Unix milliseconds of the store.
    pub(crate) deadline_ms: u64,
}

/// An append and the caller that waits for it.
pub(crate) struct AppendRequest {
    entry: NewEntry,
    reply: oneshot::Sender<StoreResult<Appended>>,
}

/// What an owner receives.
pub(crate) enum OwnerMessage {
    /// Append an entry.
    Append(Box<AppendRequest>),
    /// Hand what was collected to the store.
    Flush,
    /// A batch came back from the store: hints for each log in order.
    Stored { batches: Vec<Arc<Batch>>, released: Vec<Arc<LogKey>> },
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
    pub(crate) slot: Arc<Slot<OwnerMessage>>,
    pub(crate) incarnation: u32,
}

/// The logs of one owner.
pub(crate) struct OwnedLogs {
    arguments: OwnerArguments,
    myself: ActorRef<OwnerMessage>,
    /// Collected for the next call to the store; no two calls hold the same log.
    pending: Vec<Box<AppendRequest>>,
    /// Logs of which appends are on their way, with those that must wait behind them (I8). Bounded
    /// by the lanes: each waiting append holds a place in flight there.
    on_the_way: HashMap<Arc<LogKey>, VecDeque<Box<AppendRequest>>>,
    interest: HashMap<Arc<LogKey>, NodeSet>,
    /// Nodes whose interest is complete; all others get every hint (I12).
    complete: NodeSet,
    heads: RecentHeads,
    flush_scheduled: bool,
    last_used_ms: u64,
}

impl OwnedLogs {
    pub(crate) fn new(arguments: OwnerArguments, myself: ActorRef<OwnerMessage>) -> Self {
        let now_ms = arguments.store.time_ms();
        if arguments.idle_stop_ms > 0 {
            let pause = Duration::from_millis(arguments.idle_stop_ms);
            drop(myself.send_interval(pause, || OwnerMessage::CheckIdle));
        }
        // The first incarnation starts before any node has interest in it.
        let complete = if arguments.incarnation == 1 { NodeSet::ALL } else { NodeSet::NONE };
        Self {
            arguments,
            myself,
            pending: Vec::new(),
            on_the_way: HashMap::new(),
            interest: HashMap::new(),
            complete,
            heads: RecentHeads::new(now_ms),
            flush_scheduled: false,
            last_used_ms: now_ms,
        }
    }

    /// One verb per message. `false`: the actor is idle and shall stop.
    pub(crate) fn handle(&mut self, message: OwnerMessage) -> bool {
        match message {
            OwnerMessage::Append(request) => self.append(request),
            OwnerMessage::Flush => self.flush(),
            OwnerMessage::Stored { batches, released } => self.stored(batches, released),
            OwnerMessage::Ephemeral { batch } => self.hint(&batch, true),
            OwnerMessage::Interest { log, node, since_ms } => self.interested(log, node, since_ms),
            OwnerMessage::NoInterest { log, node } => self.not_interested(&log, node),
            OwnerMessage::InterestComplete { node } => self.complete.insert(node),
            OwnerMessage::CheckIdle => return !self.is_idle(),
        }
        true
    }

    fn append(&mut self, request: Box<AppendRequest>) {
        if let Some(waiting) = self.on_the_way.get_mut(&request.entry.log) {
            waiting.push_back(request);
            return;
        }
        self.pending.push(request);
        if !self.flush_scheduled {
            // Behind everything that is in the mailbox already: that makes the batch.
            self.flush_scheduled = self.myself.send_message(OwnerMessage::Flush).is_ok();
        }
    }

    fn flush(&mut self) {
        self.flush_scheduled = false;
        self.last_used_ms = self.arguments.store.time_ms();
        while !self.pending.is_empty() {
            let rest = self.pending.split_off(self.pending.len().min(BATCH_MAX));
            let batch = std::mem::replace(&mut self.pending, rest);
            let mut taken = Vec::with_capacity(batch.len());
            for request in batch {
                match self.on_the_way.get_mut(&request.entry.log) {
                    // A full batch of this log went just before.
                    Some(waiting) if !logs_contain(&taken, &request.entry.log) => {
                        waiting.push_back(request);
                    }
                    Some(_) => taken.push(request),
                    None => {
                        self.on_the_way.insert(Arc::clone(&request.entry.log), VecDeque::new());
                        taken.push(request);
                    }
                }
            }
            if !taken.is_empty() {
                let store = Arc::clone(&self.arguments.store);
                let slot = Arc::clone(&self.arguments.slot);
                task::spawn(append_batch(store, slot, self.arguments.attempt_ms, taken));
            }
        }
    }

    fn stored(&mut self, batches: Vec<Arc<Batch>>, released: Vec<Arc<LogKey>>) {
        for batch in &batches {
            if let Some(last) = batch.entries.last() {
                self.heads.note(&batch.log, last.offset, self.arguments.store.time_ms());
            }
            self.hint(batch, false);
        }
        for log in released {
            // The former incarnation may have sent it on its way; then nothing waits here.
            if let Some(waiting) = self.on_the_way.remove(&log) {
                for request in waiting {
                    self.append(request);
                }
            }
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
            && self.pending.is_empty()
            && self.on_the_way.is_empty()
            && quiet_ms >= self.arguments.idle_stop_ms
    }
}

fn logs_contain(requests: &[Box<AppendRequest>], log: &Arc<LogKey>) -> bool {
    // Runs of one log are adjacent in practice, so the search from the end is short.
    requests.iter().rev().any(|request| request.entry.log == *log)
}

/// Appends, answers each caller as soon as its outcome is known, and tells the owner's present
/// incarnation what to hint.
async fn append_batch(
    store: Arc<dyn Store>,
    slot: Arc<Slot<OwnerMessage>>,
    attempt_ms: u64,
    mut requests: Vec<Box<AppendRequest>>,
) {
    let mut hints = Hints::default();
    while !requests.is_empty() {
        let started_ms = store.time_ms();
        let not_after_ms = started_ms + attempt_ms;
        let appends = requests.iter().map(|request| attempt(&request.entry, not_after_ms)).collect();
        let patience = Duration::from_millis(attempt_ms.saturating_mul(2));
        let results = match tokio::time::timeout(patience, store.append(appends)).await {
            Ok(results) => results,
            Err(_) => vec![Err(StoreError::Unknown("no answer in time".into())); requests.len()],
        };
        let mut unresolved = Vec::new();
        for (mut request, result) in requests.into_iter().zip(results) {
            let again = matches!(result, Err(StoreError::Unknown(_) | StoreError::TooLate))
                && not_after_ms + attempt_ms <= request.entry.deadline_ms;
            if again {
                if !matches!(result, Err(StoreError::TooLate)) {
                    request.entry.first_attempt_ms.get_or_insert(started_ms);
                }
                unresolved.push(request);
                continue;
            }
            if let Ok(appended) = &result {
                hints.add(&request.entry, appended);
            } else {
                hints.touch(&request.entry.log);
            }
            let _ = request.reply.send(result);
        }
        requests = unresolved;
        if !requests.is_empty() {
            // I2: attempts never overlap.
            while store.time_ms() <= not_after_ms {
                let rest = not_after_ms + 1 - store.time_ms().min(not_after_ms);
                tokio::time::sleep(Duration::from_millis(rest)).await;
            }
        }
    }
    let (batches, released) = hints.finish();
    let _ = slot.cast(OwnerMessage::Stored { batches, released });
}

fn attempt(entry: &NewEntry, not_after_ms: u64) -> Append {
    Append {
        log: Arc::clone(&entry.log),
        message: entry.message,
        expires_at_ms: entry.expires_at_ms,
        body: entry.body.clone(),
        not_after_ms: not_after_ms.min(entry.deadline_ms),
        first_attempt_ms: entry.first_attempt_ms,
        limits: entry.limits,
    }
}

/// Collects what was appended by log, in order.
#[derive(Default)]
struct Hints {
    order: Vec<Arc<LogKey>>,
    by_log: HashMap<Arc<LogKey>, (clarion_protocol::Epoch, Vec<Arc<Entry>>)>,
}

impl Hints {
    fn touch(&mut self, log: &Arc<LogKey>) {
        if !self.by_log.contains_key(log) {
            self.order.push(Arc::clone(log));
            self.by_log.insert(Arc::clone(log), Default::default());
        }
    }

    fn add(&mut self, entry: &NewEntry, appended: &Appended) {
        self.touch(&entry.log);
        let Some((epoch, entries)) = self.by_log.get_mut(&entry.log) else { return };
        *epoch = appended.epoch;
        // A de-duplicated append sends its hint again (I12); sessions that have it ignore it.
        entries.push(Arc::new(Entry::new(
            appended.offset,
            appended.predecessor,
            entry.message,
            entry.expires_at_ms,
            entry.body.clone(),
        )));
    }

    fn finish(mut self) -> (Vec<Arc<Batch>>, Vec<Arc<LogKey>>) {
        let mut batches = Vec::with_capacity(self.order.len());
        for log in &self.order {
            if let Some((epoch, entries)) = self.by_log.remove(log)
                && !entries.is_empty()
            {
                batches.push(Arc::new(Batch::new(Arc::clone(log), epoch, entries)));
            }
        }
        (batches, self.order)
    }
}

/// Reads the head of a log and confirms a node's interest with it.
async fn confirm_from_store(store: Arc<dyn Store>, nodes: Nodes, node: NodeNumber, log: Arc<LogKey>) {
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
