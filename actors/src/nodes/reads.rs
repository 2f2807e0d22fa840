//! Reads for the sessions of this node: from the store, and through another node while the store does
//! not answer this one. A node that alone does not reach the store goes on delivering what its sessions
//! were not hinted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_core::Page;
use clarion_storage::{Read, StoreResult};
use tokio::sync::Semaphore;

use super::{HEADS_MAX, HINT_BYTES_MAX, Nodes};
use crate::cluster::peers::Linked;
use crate::cluster::port::Lane;
use crate::cluster::wire::{PeerMessage, Question, Reply, lane_of};

/// Questions of this kind on the way from a node, and as many that it serves at once; above it a read
/// fails as it would without other nodes.
const AT_ONCE_MAX: usize = 64;
/// Entries in the page of one log.
const ENTRIES_MAX: u32 = 1024;
/// Nodes that are asked, one after the other.
const ASKED_MAX: usize = 2;
/// How long a node that had no answer is not asked again, in milliseconds: where the store is away for
/// all, asking each other must not be what keeps them busy.
const NOT_ASKED_MS: u64 = 1000;

/// While the store gave this node nothing, how often one read waits for it all the same, in milliseconds:
/// it may take seconds to fail.
const OWN_AGAIN_MS: u64 = 1000;

/// What is under way.
pub(super) struct Turns {
    asked: Semaphore,
    served: Semaphore,
    /// When a read asks the store before it asks other nodes, Unix milliseconds of the store; 0: each
    /// does, the last one found something.
    own_from_ms: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = || Semaphore::new(AT_ONCE_MAX);
        Self { asked: turns(), served: turns(), own_from_ms: AtomicU64::new(0) }
    }
}

impl Turns {
    /// Whether a read asks the store first; of those that may find out whether it answers again, one.
    fn own_first(&self, now_ms: u64) -> bool {
        let from_ms = self.own_from_ms.load(Ordering::Relaxed);
        let again = || {
            let next_ms = now_ms + OWN_AGAIN_MS;
            let order = Ordering::Relaxed;
            self.own_from_ms.compare_exchange(from_ms, next_ms, order, order).is_ok()
        };
        from_ms == 0 || (from_ms <= now_ms && again())
    }
}

impl Nodes {
    /// Pages, in the order of the reads, at most [`HEADS_MAX`] of them.
    pub(crate) async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        if !self.turns.own_first(self.store.time_ms()) {
            let found = self.read_elsewhere(reads.clone()).await;
            if found.len() == reads.len() && found.iter().all(Option::is_some) {
                return found.into_iter().flatten().map(Ok).collect();
            }
        }
        let mut pages = self.store.read(reads.clone()).await;
        let nothing = !pages.is_empty() && pages.iter().all(Result::is_err);
        let own_from_ms = if nothing { self.store.time_ms() + OWN_AGAIN_MS } else { 0 };
        self.turns.own_from_ms.store(own_from_ms, Ordering::Relaxed);
        let is_missed = pages.iter().map(Result::is_err).collect::<Vec<_>>();
        if is_missed.contains(&true) {
            let missed = reads.into_iter().zip(&is_missed).filter(|(_, missed)| **missed);
            let found = self.read_elsewhere(missed.map(|(read, _)| read).collect()).await;
            let places = pages.iter_mut().zip(is_missed).filter(|(_, missed)| *missed);
            for ((place, _), page) in places.zip(found) {
                if let Some(page) = page {
                    *place = Ok(page);
                }
            }
        }
        pages
    }

    /// What another node read; nothing where none could.
    async fn read_elsewhere(&self, reads: Vec<Read>) -> Vec<Option<Page>> {
        let Ok(_turn) = self.turns.asked.try_acquire() else { return Vec::new() };
        let mut peers = self.peers.all();
        peers.retain(|peer| !peer.is_not_asked(self.store.time_ms()));
        fastrand::shuffle(&mut peers);
        for peer in peers.into_iter().take(ASKED_MAX) {
            let reply = self.asking.ask(&peer, Question::Read(reads.clone())).await;
            match reply {
                Some(Reply::Pages(pages))
                    if pages.len() == reads.len() && pages.iter().any(Option::is_some) =>
                {
                    metrics::counter!("clarion_reads_elsewhere_total").increment(1);
                    return pages;
                }
                _ => peer.not_asked_until(self.store.time_ms() + NOT_ASKED_MS),
            }
        }
        Vec::new()
    }

    /// Reads for another node, from the store alone, and answers it.
    pub(crate) async fn read_for_other(&self, peer: &Arc<Linked>, request: u64, reads: Vec<Read>) {
        let lane = reads.first().map_or(Lane::Control, |read| lane_of(&read.log));
        let reply = self.pages_for_other(reads).await;
        if peer.send_on(lane, &PeerMessage::Answer { request, reply }).is_err() {
            // It finds no room, or is longer than a message may be; this is short.
            let _ = peer.send(&PeerMessage::Answer { request, reply: Reply::Is(false) });
        }
    }

    async fn pages_for_other(&self, mut reads: Vec<Read>) -> Reply {
        let Ok(_turn) = self.turns.served.try_acquire() else { return Reply::Is(false) };
        if reads.is_empty() || reads.len() > HEADS_MAX {
            return Reply::Is(false);
        }
        // All together fill one message of the size of a hint; each page has an entry at least.
        let bytes_max = (HINT_BYTES_MAX / reads.len()) as u32;
        for read in &mut reads {
            read.entries_max = read.entries_max.min(ENTRIES_MAX);
            read.bytes_max = read.bytes_max.min(bytes_max);
        }
        let pages = self.store.read(reads).await;
        Reply::Pages(pages.into_iter().map(Result::ok).collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clarion_core::{Body, LogKey};
    use clarion_protocol::{MessageId, Offset, ProductId, TerminalId};
    use clarion_storage::memory::MemoryStore;
    use clarion_storage::{Append, LogLimits, Store};

    use super::*;
    use crate::cluster::asking::Asking;
    use crate::cluster::ownership::Ownership;
    use crate::cluster::peers::LinkedPeers;
    use crate::relay::Relays;

    fn inbox() -> Arc<LogKey> {
        LogKey::terminal(&ProductId::new("demo").unwrap(), &TerminalId::new("t1").unwrap())
    }

    fn everything() -> Read {
        Read { log: inbox(), after: Offset::ZERO, entries_max: u32::MAX, bytes_max: u32::MAX }
    }

    /// A node over a store with 40 entries of 4,000 bytes in one log.
    async fn node() -> Arc<Nodes> {
        let store = Arc::new(MemoryStore::new());
        let limits = LogLimits { entries_max: 1000, bytes_max: 1 << 30, evict: false };
        let append = |number| Append {
            log: inbox(),
            message: MessageId(number),
            expires_at_ms: u64::MAX,
            body: Body::Json(Bytes::from(vec![b'1'; 4000])),
            limits,
            first_attempt_ms: None,
            not_after_ms: u64::MAX,
        };
        for appended in store.append((1..=40).map(append).collect()).await {
            appended.unwrap();
        }
        let (relays, peers) = (Arc::new(Relays::new(1)), Arc::new(LinkedPeers::new()));
        Nodes::new(relays, peers, Ownership::new(false), Arc::new(Asking::default()), store)
    }

    #[tokio::test]
    async fn another_node_is_given_no_more_than_a_message_of_it() {
        let nodes = node().await;
        for logs in [1, 3] {
            let reply = nodes.pages_for_other(vec![everything(); logs]).await;
            let Reply::Pages(pages) = reply else { panic!("{reply:?}") };
            let pages: Vec<Page> = pages.into_iter().map(Option::unwrap).collect();
            assert_eq!(pages.len(), logs);
            let entries: usize = pages.iter().map(|page| page.entries.len()).sum();
            assert!((logs..=HINT_BYTES_MAX / 4000 + logs).contains(&entries), "{entries}");
            assert!(pages.iter().all(|page| page.more && page.head > Offset::ZERO));
        }
        for wrong in [Vec::new(), vec![everything(); HEADS_MAX + 1]] {
            assert!(matches!(nodes.pages_for_other(wrong).await, Reply::Is(false)));
        }
    }

    #[test]
    fn while_the_store_gives_nothing_one_read_a_second_waits_for_it() {
        let turns = Turns::default();
        assert!(turns.own_first(5) && turns.own_first(5), "it answers");
        turns.own_from_ms.store(5 + OWN_AGAIN_MS, Ordering::Relaxed);
        assert!(!turns.own_first(4 + OWN_AGAIN_MS));
        assert!(turns.own_first(5 + OWN_AGAIN_MS) && !turns.own_first(5 + OWN_AGAIN_MS));
        assert!(turns.own_first(5 + 2 * OWN_AGAIN_MS));
    }

    #[tokio::test]
    async fn who_reads_for_others_already_says_no() {
        let nodes = node().await;
        let all = nodes.turns.served.try_acquire_many(AT_ONCE_MAX as u32).unwrap();
        assert!(matches!(nodes.pages_for_other(vec![everything()]).await, Reply::Is(false)));
        drop(all);
        assert!(matches!(nodes.pages_for_other(vec![everything()]).await, Reply::Pages(_)));
    }
}
