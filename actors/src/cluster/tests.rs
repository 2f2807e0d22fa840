//! What is said to a peer, and what is said again because a lane refused it.

use bytes::Bytes;
use clarion_core::{Batch, Body, Entry, LogKey, placement};
use clarion_protocol::{Epoch, MessageId, Offset, TopicName};
use clarion_storage::memory::MemoryStore;

use super::absent::Addresses;
use super::ownership::Ownership;
use super::peers::LinkedPeers;
use super::*;
use crate::nodes::{NodeSet, Nodes};
use crate::owners::OwnerLimits;
use crate::relay::Relays;
use crate::router::Myself;
use crate::supervisor::SupervisorHandle;

type Refuses = fn(&PeerMessage) -> bool;

/// A link to `b` that keeps what it is given.
struct Port {
    id: Arc<str>,
    cluster: OnceLock<Weak<Cluster>>,
    said: Mutex<Vec<PeerMessage>>,
    /// What it refuses. The lane takes messages again, and says so, before that is known.
    refuses: Mutex<Option<Refuses>>,
    /// Whether it counted as a reader when it was greeted.
    greeted_as_reader: OnceLock<bool>,
}

impl PeerPort for Port {
    fn id(&self) -> &Arc<str> {
        &self.id
    }
    fn boot(&self) -> u64 {
        1
    }
    fn wire(&self) -> u16 {
        wire_versions().1
    }
    fn send(&self, lane: Lane, bytes: Bytes) -> Result<(), Refused> {
        let message = codec::decode(&bytes, 0).unwrap();
        let cluster = self.cluster.get().unwrap().upgrade().unwrap();
        let peers = &cluster.router.nodes.peers;
        let number = peers.of(&self.id).unwrap().number;
        if matches!(message, PeerMessage::Hello) {
            self.greeted_as_reader.set(peers.readers().contains(number)).unwrap();
        }
        let refuses = *self.refuses.lock().unwrap();
        if refuses.is_some_and(|refuses| refuses(&message)) {
            *self.refuses.lock().unwrap() = None;
            let port = Arc::clone(&peers.get(number).unwrap().port);
            cluster.dropped(&port, lane);
            return Err(Refused::Full);
        }
        self.said.lock().unwrap().push(message);
        Ok(())
    }
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Node `a` with a link to `b`, which owns everything.
async fn spawn_cluster() -> (Arc<Cluster>, Arc<Port>, NodeNumber) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let supervisor = SupervisorHandle::start().await.unwrap();
    let nodes = Nodes::new(
        Arc::new(Relays::new(1)),
        Arc::new(LinkedPeers::new()),
        Ownership::new(false),
        Arc::default(),
        Arc::clone(&store),
    );
    let myself = Myself { id: "a".into(), group: "default".into(), clustered: true };
    let limits = OwnerLimits { inbox_shards: 1, attempt_ms: 300, idle_stop_ms: 0 };
    let router = Router::new(myself, nodes, Arc::clone(&store), supervisor, limits, 300);
    let products = Arc::new(Products::new(Arc::clone(&store)));
    let cluster = Cluster::new(router, products, store);
    let port = Arc::new(Port {
        id: "b".into(),
        cluster: OnceLock::from(Arc::downgrade(&cluster)),
        said: Mutex::default(),
        refuses: Mutex::default(),
        greeted_as_reader: OnceLock::new(),
    });
    cluster.up(Arc::<Port>::clone(&port));
    let number = cluster.router.nodes.peers.of("b").unwrap().number;
    for slot in Slot::all() {
        cluster.router.nodes.ownership.set_target(slot, Some(number), 0);
    }
    (cluster, port, number)
}

fn news() -> Arc<LogKey> {
    LogKey::topic(&ProductId::new("demo").unwrap(), &TopicName::new("news").unwrap())
}

/// One entry of `news`.
fn batch() -> Arc<Batch> {
    let entry = Entry::new(Offset(7), Offset(6), MessageId(7), 1000, Body::Tombstone);
    Arc::new(Batch::new(news(), Epoch(9), vec![Arc::new(entry)]))
}

/// Whether it was said since the last time.
fn said(port: &Port, what: impl Fn(&PeerMessage) -> bool) -> bool {
    std::mem::take(&mut *port.said.lock().unwrap()).iter().any(what)
}

#[tokio::test]
async fn a_peer_is_greeted_when_it_counts_as_a_reader_i12() {
    let (_cluster, port, _) = spawn_cluster().await;
    assert_eq!(port.greeted_as_reader.get(), Some(&true));
}

#[tokio::test]
async fn a_hint_that_a_lane_refused_just_before_it_took_messages_again_is_spoken_of_i12() {
    let (cluster, port, number) = spawn_cluster().await;
    *port.refuses.lock().unwrap() = Some(|said| matches!(said, PeerMessage::Hint { .. }));
    cluster.router.nodes.hint(NodeSet::of(number), &batch(), false);
    let slot = placement::slot_of(&news());
    let dropped =
        |said: &PeerMessage| matches!(said, PeerMessage::Dropped { slots } if slots.contains(slot));
    assert!(!said(&port, dropped), "nobody could know");
    cluster.tick();
    assert!(said(&port, dropped));
    cluster.tick();
    assert!(!said(&port, dropped), "once is enough");
}

#[tokio::test]
async fn interest_that_a_lane_refused_just_before_it_took_messages_again_is_told_again_i12() {
    let (cluster, port, _) = spawn_cluster().await;
    *port.refuses.lock().unwrap() = Some(|said| matches!(said, PeerMessage::Interest { .. }));
    cluster.router.interest(news(), 0, 0);
    cluster.tick();
    // No relay runs: that this was all is said at once.
    let slot = placement::slot_of(&news());
    let complete = |said: &PeerMessage| matches!(said, PeerMessage::Complete { slots } if slots.contains(slot));
    assert!(said(&port, complete));
}

#[tokio::test]
async fn an_owner_is_told_later_what_a_lane_refused_to_tell_it_of_its_log_i12() {
    let (cluster, port, _) = spawn_cluster().await;
    *port.refuses.lock().unwrap() = Some(|said| matches!(said, PeerMessage::Grew { .. }));
    cluster.router.nodes.hint(NodeSet::NONE, &batch(), false);
    let grew = |said: &PeerMessage| matches!(said, PeerMessage::Grew { heads } if *heads == [(news(), Offset(7))]);
    assert!(!said(&port, grew));
    cluster.tick();
    assert!(said(&port, grew));
    cluster.tick();
    assert!(!said(&port, grew), "once is enough");
}

#[tokio::test]
async fn one_that_is_dead_is_asked_until_its_address_does_not_refuse_i12() {
    let (cluster, b, _) = spawn_cluster().await;
    let is_unheard = || cluster.hearing().unheard(0, |_, _| false).is_some();
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut addresses = Addresses::default();
    addresses.note([(Arc::clone(&b.id), BootId(1), addr)], &cluster);
    let port: Arc<dyn PeerPort> = b;
    cluster.down(&port, false);
    assert!(is_unheard());
    while is_unheard() {
        addresses.ask(&cluster);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _started_again = std::net::TcpListener::bind(addr).unwrap();
    while !is_unheard() {
        addresses.ask(&cluster);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
