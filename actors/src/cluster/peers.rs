//! The nodes to which a link is up, by number.
//!
//! A number stands for one session of a link. When the link ends the number is taken back, and with
//! it everything that owners hold under it: interest, completeness, requests. So what a former boot
//! or a former link session said can never pass for the present one (I12).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use clarion_core::LogKey;
use clarion_core::placement::{Slot, SlotSet};
use clarion_protocol::Offset;

use super::codec;
use super::port::{Lane, PeerPort, Refused};
use super::wire::PeerMessage;
use crate::nodes::{NODES_MAX, NodeNumber, NodeSet, THIS_NODE};

/// A node with a link that is up.
pub(crate) struct Linked {
    pub(crate) number: NodeNumber,
    pub(crate) port: Arc<dyn PeerPort>,
    /// Appends forwarded to it that wait for their answer.
    pub(crate) waiting: AtomicUsize,
    /// Until when it is passed over, Unix milliseconds of the store: it let an append wait too long.
    suspect_until_ms: AtomicU64,
    /// Until when it is not asked to read for this node: it could not.
    not_asked_until_ms: AtomicU64,
    /// Slots of which this node, their owner, could not tell it everything.
    untold: Mutex<SlotSet>,
    /// Slots of which this node could not tell it, their owner, its interest.
    unannounced: Mutex<SlotSet>,
    /// Logs that this node appended to in its place and could not say so, with their heads. At most
    /// [`GROWN_MAX`]; above it a node that reads one anew may be told too early a head, which the slow
    /// head check finds.
    grown: Mutex<HashMap<Arc<LogKey>, Offset>>,
}

/// See [`Linked::tell_grown`].
const GROWN_MAX: usize = 16_384;
/// Logs in one message.
const HEADS_MAX: usize = 256;

impl Linked {
    pub(crate) fn id(&self) -> &Arc<str> {
        self.port.id()
    }

    /// Sends in the lane of the message.
    pub(crate) fn send(&self, message: &PeerMessage) -> Result<(), Refused> {
        self.send_on(message.lane(), message)
    }

    pub(crate) fn send_on(&self, lane: Lane, message: &PeerMessage) -> Result<(), Refused> {
        self.send_bytes(lane, codec::encode(message, self.port.wire(), 0))
    }

    pub(crate) fn send_bytes(&self, lane: Lane, bytes: Bytes) -> Result<(), Refused> {
        let sent = self.port.send(lane, bytes);
        if let Err(refused) = &sent {
            let why = match refused {
                Refused::Full => "full",
                Refused::Down => "down",
                Refused::TooLarge => "too_large",
            };
            metrics::counter!("clarion_peer_messages_refused_total", "why" => why).increment(1);
        }
        sent
    }

    /// Hints or confirmations of a slot did not go.
    pub(crate) fn note_untold(&self, slot: Slot) {
        lock(&self.untold).insert(slot);
    }

    pub(crate) fn note_all_untold(&self, slots: &SlotSet) {
        lock(&self.untold).insert_all(slots);
    }

    pub(crate) fn take_untold(&self) -> SlotSet {
        std::mem::take(&mut *lock(&self.untold))
    }

    /// Interest in these slots did not go.
    pub(crate) fn note_unannounced(&self, slots: &SlotSet) {
        lock(&self.unannounced).insert_all(slots);
    }

    pub(crate) fn take_unannounced(&self) -> SlotSet {
        std::mem::take(&mut *lock(&self.unannounced))
    }

    /// Tells it, the owner, how far logs go that this node appended to in its place.
    pub(crate) fn tell_grown(&self, heads: Vec<(Arc<LogKey>, Offset)>) {
        let message = PeerMessage::Grew { heads };
        if let (Err(_), PeerMessage::Grew { heads }) = (self.send(&message), message) {
            let mut grown = lock(&self.grown);
            for (log, head) in heads {
                if let Some(known) = grown.get_mut(&log) {
                    *known = head.max(*known);
                } else if grown.len() < GROWN_MAX {
                    grown.insert(log, head);
                }
            }
        }
    }

    /// Says what it could not be told of that; what cannot be said now is said the next time.
    pub(crate) fn tell_grown_again(&self) {
        let grown: Vec<_> = std::mem::take(&mut *lock(&self.grown)).into_iter().collect();
        for heads in grown.chunks(HEADS_MAX) {
            self.tell_grown(heads.to_vec());
        }
    }

    pub(crate) fn suspect(&self, until_ms: u64) {
        self.suspect_until_ms.store(until_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_suspect(&self, now_ms: u64) -> bool {
        self.suspect_until_ms.load(Ordering::Relaxed) > now_ms
    }

    pub(crate) fn not_asked_until(&self, until_ms: u64) {
        self.not_asked_until_ms.store(until_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_not_asked(&self, now_ms: u64) -> bool {
        self.not_asked_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// It said something.
    pub(crate) fn heard(&self) {
        if self.suspect_until_ms.load(Ordering::Relaxed) > 0 {
            self.suspect_until_ms.store(0, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All links that are up; at most [`NODES_MAX`] - 1.
pub(crate) struct LinkedPeers {
    table: RwLock<Table>,
}

struct Table {
    by_number: Vec<Option<Arc<Linked>>>,
    by_id: HashMap<Arc<str>, NodeNumber>,
    by_port: HashMap<usize, NodeNumber>,
    /// Numbers go round, so that one is used again as late as possible.
    next: usize,
    /// Those that read logs which this node may own, itself included.
    readers: NodeSet,
}

impl LinkedPeers {
    pub(crate) fn new() -> Self {
        let mut readers = NodeSet::NONE;
        readers.insert(THIS_NODE);
        Self {
            table: RwLock::new(Table {
                by_number: vec![None; NODES_MAX],
                by_id: HashMap::new(),
                by_port: HashMap::new(),
                next: 1,
                readers,
            }),
        }
    }

    /// Gives a link a number. `None`: there are as many as there may be.
    pub(crate) fn add(&self, port: Arc<dyn PeerPort>) -> Option<Arc<Linked>> {
        let mut table = self.write();
        let from = table.next;
        let free = (from..NODES_MAX).chain(1..from).find(|n| table.by_number[*n].is_none())?;
        table.next = if free + 1 < NODES_MAX { free + 1 } else { 1 };
        let number = NodeNumber(free as u8);
        let linked = Arc::new(Linked {
            number,
            port,
            waiting: AtomicUsize::new(0),
            suspect_until_ms: AtomicU64::new(0),
            not_asked_until_ms: AtomicU64::new(0),
            untold: Mutex::default(),
            unannounced: Mutex::default(),
            grown: Mutex::default(),
        });
        table.by_number[free] = Some(Arc::clone(&linked));
        table.by_id.insert(Arc::clone(linked.id()), number);
        table.by_port.insert(key_of(&linked.port), number);
        Some(linked)
    }

    /// Takes a number back.
    pub(crate) fn remove(&self, number: NodeNumber) -> Option<Arc<Linked>> {
        let mut table = self.write();
        let linked = table.by_number.get_mut(number.0 as usize)?.take()?;
        table.by_port.remove(&key_of(&linked.port));
        if table.by_id.get(linked.id()) == Some(&number) {
            table.by_id.remove(linked.id());
        }
        table.readers.remove(number);
        Some(linked)
    }

    pub(crate) fn get(&self, number: NodeNumber) -> Option<Arc<Linked>> {
        self.read().by_number.get(number.0 as usize)?.clone()
    }

    /// The link to a node.
    pub(crate) fn of(&self, id: &str) -> Option<Arc<Linked>> {
        let table = self.read();
        let number = table.by_id.get(id)?;
        table.by_number.get(number.0 as usize)?.clone()
    }

    pub(crate) fn of_port(&self, port: &Arc<dyn PeerPort>) -> Option<Arc<Linked>> {
        let table = self.read();
        let number = table.by_port.get(&key_of(port))?;
        table.by_number.get(number.0 as usize)?.clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Linked>> {
        self.read().by_number.iter().flatten().cloned().collect()
    }

    /// Which nodes are hinted when it is not known what they read.
    pub(crate) fn readers(&self) -> NodeSet {
        self.read().readers
    }

    /// Says which of the links lead to such nodes.
    pub(crate) fn set_readers(&self, reads: impl Fn(&Linked) -> bool) {
        let mut table = self.write();
        let mut readers = NodeSet::NONE;
        readers.insert(THIS_NODE);
        for linked in table.by_number.iter().flatten() {
            if reads(linked) {
                readers.insert(linked.number);
            }
        }
        table.readers = readers;
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two handles of one link session are the same allocation.
fn key_of(port: &Arc<dyn PeerPort>) -> usize {
    Arc::as_ptr(port).cast::<()>().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent(Arc<str>);

    impl PeerPort for Silent {
        fn id(&self) -> &Arc<str> {
            &self.0
        }
        fn boot(&self) -> u64 {
            1
        }
        fn wire(&self) -> u16 {
            1
        }
        fn send(&self, _lane: Lane, _message: Bytes) -> Result<(), Refused> {
            Ok(())
        }
        fn status(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }

    fn port(number: usize) -> Arc<dyn PeerPort> {
        Arc::new(Silent(format!("n{number}").into()))
    }

    #[test]
    fn there_are_as_many_numbers_as_there_are_and_each_is_used_again_as_late_as_possible() {
        let peers = LinkedPeers::new();
        let all: Vec<_> = (1..NODES_MAX).map(|n| peers.add(port(n)).unwrap()).collect();
        assert!(peers.add(port(0)).is_none(), "no number is left");
        for gone in [40, 3, 70] {
            peers.remove(all[gone].number);
        }
        let again: Vec<_> = (0..3).map(|n| peers.add(port(500 + n)).unwrap().number.0).collect();
        assert_eq!(again, [4, 41, 71]);
        peers.remove(NodeNumber(4));
        peers.remove(NodeNumber(90));
        assert_eq!(peers.add(port(600)).unwrap().number.0, 90, "4 was given out last");
    }

    #[test]
    fn a_later_link_to_a_node_is_not_forgotten_with_the_former_one() {
        let peers = LinkedPeers::new();
        let (former, later) = (port(1), port(1));
        let first = peers.add(Arc::clone(&former)).unwrap();
        let second = peers.add(Arc::clone(&later)).unwrap();
        peers.remove(first.number);
        assert_eq!(peers.of("n1").unwrap().number, second.number);
        assert!(peers.of_port(&former).is_none());
        assert_eq!(peers.of_port(&later).unwrap().number, second.number);
    }
}
