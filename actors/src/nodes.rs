//! The nodes an owner speaks to, by number: its own relays, and those of nodes behind a link.

mod reads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use clarion_cluster::membership::MEMBERS_MAX;
use clarion_core::placement::{self, Slot};
use clarion_core::{Batch, LogKey};
use clarion_protocol::Offset;
use clarion_storage::Store;

use crate::cluster::asking::Asking;
use crate::cluster::codec;
use crate::cluster::ownership::Ownership;
use crate::cluster::peers::{Linked, LinkedPeers};
use crate::cluster::port::Refused;
use crate::cluster::wire::{PeerMessage, Question};
use crate::link::inbox::SessionEvent;
use crate::owner::head_read;
use crate::relay::Relays;
use crate::task;

/// The number of a node within one process: of one session of the link to it. 0 is the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeNumber(pub(crate) u8);

/// The node itself.
pub(crate) const THIS_NODE: NodeNumber = NodeNumber(0);
/// Numbers there are.
pub(crate) const NODES_MAX: usize = MEMBERS_MAX;
// A set of nodes is a word of bits.
const _: () = assert!(NODES_MAX <= u128::BITS as usize);

/// Logs whose heads one read asks for.
const HEADS_MAX: usize = 256;
/// How long until heads that could not be read are asked for again, in milliseconds.
const CONFIRM_AGAIN_MS_MIN: u64 = 100;
const CONFIRM_AGAIN_MS_MAX: u64 = 2000;
/// Payload bytes in one hint; a batch with more goes in several.
const HINT_BYTES_MAX: usize = 48 * 1024;
/// An entry with more is not sent in a hint: its reader fetches it from the store.
const HINT_ENTRY_BYTES_MAX: usize = 512 * 1024;

/// A set of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NodeSet(u128);

impl NodeSet {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self = Self(u128::MAX);

    pub(crate) fn of(node: NodeNumber) -> Self {
        Self(1 << node.0)
    }

    pub(crate) fn insert(&mut self, node: NodeNumber) {
        self.0 |= 1 << node.0;
    }

    pub(crate) fn remove(&mut self, node: NodeNumber) {
        self.0 &= !(1 << node.0);
    }

    pub(crate) const fn contains(self, node: NodeNumber) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// Those of this set that are not in the other.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = NodeNumber> {
        (0..NODES_MAX as u8).map(NodeNumber).filter(move |node| self.contains(*node))
    }
}

/// The way to the relays of every node.
pub(crate) struct Nodes {
    pub(crate) local: Arc<Relays>,
    pub(crate) peers: Arc<LinkedPeers>,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) asking: Arc<Asking>,
    pub(crate) store: Arc<dyn Store>,
    unconfirmed: Mutex<Unconfirmed>,
    turns: reads::Turns,
}

/// Interest whose confirmation waits for a read of the store. At most the logs that are read, each
/// with the nodes that read it. What could not be read is asked for apart, so that a part of the store
/// that is away holds up nothing of the rest.
#[derive(Default)]
struct Unconfirmed {
    new: HashMap<Arc<LogKey>, NodeSet>,
    /// Asked for again, all of them once before any of `failed`.
    again: HashMap<Arc<LogKey>, NodeSet>,
    failed: HashMap<Arc<LogKey>, NodeSet>,
    /// Whether a task asks for new ones, and whether one asks again.
    new_runs: bool,
    again_runs: bool,
}

/// A task that confirms, and what it has taken: however it ends, that is not lost.
struct Confirming {
    nodes: Weak<Nodes>,
    again: bool,
    taken: Vec<(Arc<LogKey>, NodeSet)>,
    /// Nothing is left, which was said under the lock.
    through: bool,
}

impl Drop for Confirming {
    fn drop(&mut self) {
        let Some(nodes) = self.nodes.upgrade().filter(|_| !self.through) else { return };
        // One that was never polled, because the process ends, begins no other one.
        let began = !self.again || !self.taken.is_empty();
        let mut unconfirmed = nodes.unconfirmed();
        *unconfirmed.runs(self.again) = false;
        unconfirmed.put_back(std::mem::take(&mut self.taken));
        if !self.again {
            let new = std::mem::take(&mut unconfirmed.new);
            unconfirmed.put_back(new);
        }
        drop(unconfirmed);
        // Otherwise the process ends.
        if began && std::thread::panicking() {
            nodes.ask_again();
        }
    }
}

impl Nodes {
    pub(crate) fn new(
        local: Arc<Relays>,
        peers: Arc<LinkedPeers>,
        ownership: Arc<Ownership>,
        asking: Arc<Asking>,
        store: Arc<dyn Store>,
    ) -> Arc<Self> {
        let (unconfirmed, turns) = Default::default();
        Arc::new(Self { local, peers, ownership, asking, store, unconfirmed, turns })
    }

    /// Hints the nodes in `interested` that the log of `batch` grew, and all that have not told
    /// everything they read of its slot.
    pub(crate) fn hint(&self, interested: NodeSet, batch: &Arc<Batch>, ephemeral: bool) {
        let slot = placement::slot_of(&batch.log);
        let readers = self.peers.readers();
        let others = readers.without(self.ownership.complete(slot)).without(interested);
        if interested.contains(THIS_NODE) || others.contains(THIS_NODE) {
            let listed = interested.contains(THIS_NODE).then_some(THIS_NODE);
            self.local.hint(Arc::clone(batch), ephemeral, listed);
        }
        self.hint_peers(slot, interested, batch, ephemeral, true);
        self.hint_peers(slot, others, batch, ephemeral, false);
        if !ephemeral {
            self.tell_owner(slot, batch);
        }
    }

    fn hint_peers(
        &self,
        slot: Slot,
        nodes: NodeSet,
        batch: &Arc<Batch>,
        ephemeral: bool,
        listed: bool,
    ) {
        let mut peers = nodes.iter().filter_map(|node| self.peers.get(node)).peekable();
        if peers.peek().is_none() {
            return;
        }
        let peers: Vec<Arc<Linked>> = peers.collect();
        let now_ms = self.store.time_ms();
        for message in hints_of(batch, ephemeral, listed) {
            // Encoded once for each version that is spoken, not once for each peer.
            let mut encoded: Vec<(u16, bytes::Bytes)> = Vec::with_capacity(1);
            for peer in &peers {
                let wire = peer.port.wire();
                let known = encoded.iter().find(|(version, _)| *version == wire);
                let bytes = match known {
                    Some((_, bytes)) => bytes.clone(),
                    None => {
                        let bytes = codec::encode(&message, wire, now_ms);
                        encoded.push((wire, bytes.clone()));
                        bytes
                    }
                };
                if peer.send_bytes(message.lane(), bytes).is_err() && !ephemeral {
                    peer.note_untold(slot);
                }
            }
        }
    }

    /// This node served for an owner that it, or a push node, could not reach: the owner must not
    /// take what it remembers of the log for all there is.
    fn tell_owner(&self, slot: Slot, batch: &Batch) {
        let Some(owner) = self.ownership.target(slot).filter(|owner| *owner != THIS_NODE) else {
            return;
        };
        if let (Some(owner), Some(last)) = (self.peers.get(owner), batch.entries.last()) {
            let heads = vec![(Arc::clone(&batch.log), last.offset)];
            owner.tell_grown(heads);
        }
    }

    /// Tells `nodes` how far a log goes, without its entries.
    pub(crate) fn heads(&self, nodes: NodeSet, heads: &[(Arc<LogKey>, Offset)]) {
        for node in nodes.iter() {
            if node == THIS_NODE {
                self.local.heads(heads.to_vec());
            } else if let Some(peer) = self.peers.get(node) {
                for heads in heads.chunks(HEADS_MAX) {
                    if peer.send(&PeerMessage::Heads { heads: heads.to_vec() }).is_err() {
                        heads.iter().for_each(|(log, _)| peer.note_untold(placement::slot_of(log)));
                    }
                }
            }
        }
    }

    /// Tells `nodes` that a newer session of the terminal of this inbox is there (I7).
    pub(crate) fn superseded(&self, nodes: NodeSet, log: &Arc<LogKey>, generation: u64) {
        for node in nodes.iter() {
            if node == THIS_NODE {
                self.local.superseded(Arc::clone(log), generation);
            } else if let Some(peer) = self.peers.get(node) {
                let log = Arc::clone(log);
                let _ = peer.send(&PeerMessage::Superseded { log, generation });
            }
        }
    }

    /// Has the sessions of an inbox write down what they have read; answers whether there is one.
    pub(crate) async fn flush_cursors(&self, log: Arc<LogKey>) -> bool {
        self.notify(log, SessionEvent::FlushCursors).await
    }

    /// Leaves `event` for the session of an inbox, wherever it is; answers whether there is one.
    pub(crate) async fn notify(&self, log: Arc<LogKey>, event: SessionEvent) -> bool {
        if self.local.notify(Arc::clone(&log), event).await {
            return true;
        }
        let question = match event {
            SessionEvent::FlushCursors => Question::FlushCursors(log),
            SessionEvent::Kicked => Question::Kick(log),
            SessionEvent::Reload => Question::Reload(log),
            SessionEvent::NewerGeneration(_) | SessionEvent::Stale | SessionEvent::AboveHead => {
                return false;
            }
        };
        self.asking.any(&self.peers, &question).await
    }

    /// Which of these inboxes have a live session, wherever it is.
    pub(crate) async fn online(&self, logs: Vec<Arc<LogKey>>) -> Vec<bool> {
        let (mut here, there) =
            tokio::join!(self.local.online(logs.clone()), self.asking.each(&self.peers, logs),);
        for there in there {
            here.iter_mut().zip(there).for_each(|(here, there)| *here |= there);
        }
        here
    }

    /// Tells `node` that its interest in these logs is registered, and their heads (I4).
    pub(crate) fn confirm(&self, node: NodeNumber, heads: Vec<(Arc<LogKey>, Offset)>) {
        if node == THIS_NODE {
            let confirm = |(log, head)| self.local.confirm(log, head, Some(THIS_NODE));
            return heads.into_iter().for_each(confirm);
        }
        let Some(peer) = self.peers.get(node) else { return };
        let message = PeerMessage::Confirm { heads };
        if let (Err(Refused::Full), PeerMessage::Confirm { heads }) = (peer.send(&message), message)
        {
            heads.iter().for_each(|(log, _)| peer.note_untold(placement::slot_of(log)));
        }
    }

    /// The same as soon as the store has said how far the log goes.
    pub(crate) fn confirm_from_store(self: &Arc<Self>, node: NodeNumber, log: Arc<LogKey>) {
        let mut unconfirmed = self.unconfirmed();
        unconfirmed.new.entry(log).or_default().insert(node);
        let begins = !std::mem::replace(&mut unconfirmed.new_runs, true);
        // Not under the lock: a runtime that ends drops the task at once, and that takes it.
        drop(unconfirmed);
        if begins {
            task::spawn(confirm_all(Confirming::new(self, false)));
        }
    }

    /// Has what failed asked for again, in a while.
    fn ask_again(self: &Arc<Self>) {
        let begins = !std::mem::replace(&mut self.unconfirmed().again_runs, true);
        if begins {
            task::spawn(confirm_all(Confirming::new(self, true)));
        }
    }

    fn unconfirmed(&self) -> MutexGuard<'_, Unconfirmed> {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unconfirmed {
    fn runs(&mut self, again: bool) -> &mut bool {
        if again { &mut self.again_runs } else { &mut self.new_runs }
    }

    /// Some of them; empty if there are none left, and then whoever adds one starts again.
    fn take(&mut self, again: bool) -> Vec<(Arc<LogKey>, NodeSet)> {
        if again && self.again.is_empty() {
            self.again = std::mem::take(&mut self.failed);
        }
        let logs = if again { &mut self.again } else { &mut self.new };
        let some: Vec<_> = logs.keys().take(HEADS_MAX).cloned().collect();
        if some.is_empty() {
            *logs = HashMap::new();
            *self.runs(again) = false;
            return Vec::new();
        }
        some.into_iter().filter_map(|log| logs.remove_entry(&log)).collect()
    }

    fn put_back(&mut self, failed: impl IntoIterator<Item = (Arc<LogKey>, NodeSet)>) {
        for (log, of) in failed {
            let known = self.failed.entry(log).or_default();
            of.iter().for_each(|node| known.insert(node));
        }
    }
}

impl Confirming {
    fn new(nodes: &Arc<Nodes>, again: bool) -> Self {
        Self { nodes: Arc::downgrade(nodes), again, taken: Vec::new(), through: false }
    }

    /// Takes some. `None`: nothing is left.
    fn take(&mut self) -> Option<Arc<Nodes>> {
        let nodes = self.nodes.upgrade()?;
        self.taken = nodes.unconfirmed().take(self.again);
        self.through = self.taken.is_empty();
        (!self.through).then_some(nodes)
    }
}

/// Reads heads and confirms with them until nothing is left. What failed before is asked for ever more
/// slowly while nothing comes.
async fn confirm_all(mut confirming: Confirming) {
    let mut pause_ms = CONFIRM_AGAIN_MS_MIN;
    loop {
        if confirming.again {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        let Some(nodes) = confirming.take() else { return };
        let reads = confirming.taken.iter().map(|(log, _)| head_read(Arc::clone(log))).collect();
        let pages = nodes.store.read(reads).await;
        let (mut failed, mut known) = (Vec::new(), HashMap::<NodeNumber, Vec<_>>::new());
        for ((log, of), page) in confirming.taken.iter().zip(pages) {
            match page {
                Ok(page) => of.iter().for_each(|node| {
                    known.entry(node).or_default().push((Arc::clone(log), page.head));
                }),
                Err(_) => failed.push((Arc::clone(log), *of)),
            }
        }
        let nothing_came = known.is_empty();
        known.into_iter().for_each(|(node, heads)| nodes.confirm(node, heads));
        confirming.taken.clear();
        pause_ms = if nothing_came { pause_ms * 2 } else { CONFIRM_AGAIN_MS_MIN };
        pause_ms = pause_ms.min(CONFIRM_AGAIN_MS_MAX);
        if !failed.is_empty() {
            nodes.unconfirmed().put_back(failed);
            nodes.ask_again();
        }
    }
}

/// A batch as the messages that carry it: each of bounded size, each of entries that follow one
/// another.
fn hints_of(batch: &Arc<Batch>, ephemeral: bool, listed: bool) -> Vec<PeerMessage> {
    let bytes: usize = batch.entries.iter().map(|entry| entry.body.len()).sum();
    if bytes <= HINT_BYTES_MAX {
        return vec![PeerMessage::Hint { batch: Arc::clone(batch), ephemeral, listed }];
    }
    let (mut messages, mut part, mut part_bytes) = (Vec::new(), Vec::new(), 0);
    let part_of = |entries: Vec<_>| {
        let batch = Batch::new(Arc::clone(&batch.log), batch.epoch, entries);
        PeerMessage::Hint { batch: Arc::new(batch), ephemeral, listed }
    };
    for entry in &batch.entries {
        let len = entry.body.len();
        if !part.is_empty() && part_bytes + len > HINT_BYTES_MAX {
            messages.push(part_of(std::mem::take(&mut part)));
            part_bytes = 0;
        }
        if len > HINT_ENTRY_BYTES_MAX {
            let heads = vec![(Arc::clone(&batch.log), entry.offset)];
            messages.push(PeerMessage::Heads { heads });
        } else {
            part.push(Arc::clone(entry));
            part_bytes += len;
        }
    }
    if !part.is_empty() {
        messages.push(part_of(part));
    }
    messages
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clarion_protocol::ProductId;
    use clarion_storage::memory::MemoryStore;

    use super::*;

    /// Such a runtime drops a task in the call that spawns it, and the task's end takes the lock.
    #[test]
    fn confirming_while_the_runtime_ends_waits_for_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let nodes = Nodes::new(
            Arc::new(Relays::new(1)),
            Arc::new(LinkedPeers::new()),
            Ownership::new(true),
            Arc::default(),
            Arc::new(MemoryStore::new()),
        );
        let log = LogKey::broadcast(&ProductId::new("demo").unwrap());
        let (through, waits) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let _entered = handle.enter();
            for _ in 0..2 {
                nodes.confirm_from_store(THIS_NODE, Arc::clone(&log));
                nodes.ask_again();
            }
            let _ = through.send(nodes.unconfirmed().failed.len());
        });
        let kept = waits.recv_timeout(Duration::from_secs(10));
        assert_eq!(kept, Ok(1), "it waits for itself, or has lost what it was to confirm");
    }
}
