//! Links between nodes of one process, which tests cut, stall and lose things on. Each lane is a queue
//! of its own, so lanes overtake one another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use clarion_actors::cluster::{Cluster, Lane, PeerPort, Refused};
use tokio::sync::{mpsc, watch};

/// What becomes of messages in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Runs,
    /// They wait, as at a hung peer.
    Stalls,
    /// They vanish, as behind a cut that nobody has noticed yet.
    Loses,
}

/// One end: what this node sends to the other.
pub struct Port {
    to: Arc<str>,
    boot: u64,
    wire: u16,
    up: AtomicBool,
    lanes: [mpsc::Sender<Bytes>; 4],
    refused: [AtomicBool; 4],
    pub sent: AtomicU64,
    pub flow: watch::Sender<Flow>,
    back: OnceLock<Arc<Port>>,
}

impl PeerPort for Port {
    fn id(&self) -> &Arc<str> {
        &self.to
    }
    fn boot(&self) -> u64 {
        self.boot
    }
    fn wire(&self) -> u16 {
        self.wire
    }
    fn send(&self, lane: Lane, message: Bytes) -> Result<(), Refused> {
        if !self.up.load(Ordering::Acquire) {
            return Err(Refused::Down);
        }
        assert!(message.len() < 1 << 20, "larger than a link takes");
        if self.lanes[lane as usize].try_send(message).is_err() {
            self.refused[lane as usize].store(true, Ordering::Release);
            return Err(Refused::Full);
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "node": &*self.to })
    }
}

/// A link between two nodes.
pub struct Link {
    ends: [(Arc<Cluster>, Arc<Port>); 2],
}

impl Link {
    /// Brings a link up: each lane holds at most `room` messages.
    pub fn up(
        (a, a_id, a_boot): (&Arc<Cluster>, &str, u64),
        (b, b_id, b_boot): (&Arc<Cluster>, &str, u64),
        room: usize,
    ) -> Self {
        let (to_b, from_a) = port(b_id, b_boot, room);
        let (to_a, from_b) = port(a_id, a_boot, room);
        let _ = to_b.back.set(Arc::clone(&to_a));
        let _ = to_a.back.set(Arc::clone(&to_b));
        a.up(Arc::<Port>::clone(&to_b));
        b.up(Arc::<Port>::clone(&to_a));
        pump(&to_b, from_a, a, b);
        pump(&to_a, from_b, b, a);
        Self { ends: [(Arc::clone(a), to_b), (Arc::clone(b), to_a)] }
    }

    /// What the node that was named first, or second, sends.
    pub fn way(&self, end: usize) -> &Port {
        &self.ends[end].1
    }

    pub fn flow(&self, flow: Flow) {
        for (_, port) in &self.ends {
            port.flow.send_replace(flow);
        }
    }

    /// Both ends notice that it is over.
    pub fn down(&self, refused: bool) {
        self.ends.iter().for_each(|(_, port)| port.up.store(false, Ordering::Release));
        for (cluster, port) in &self.ends {
            let port: Arc<dyn PeerPort> = Arc::<Port>::clone(port);
            cluster.down(&port, false);
            if refused {
                cluster.down(&port, true);
            }
        }
    }

    pub fn is_of(&self, a: &str, b: &str) -> bool {
        let of = |end: usize, id: &str| &*self.ends[end].1.to == id;
        (of(0, a) && of(1, b)) || (of(0, b) && of(1, a))
    }

    pub fn touches(&self, id: &str) -> bool {
        self.ends.iter().any(|(_, port)| &*port.to == id)
    }
}

fn port(to: &str, boot: u64, room: usize) -> (Arc<Port>, [mpsc::Receiver<Bytes>; 4]) {
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in Lane::ALL {
        let (sender, receiver) = mpsc::channel(room);
        senders.push(sender);
        receivers.push(receiver);
    }
    let port = Port {
        to: to.into(),
        boot,
        wire: clarion_actors::cluster::wire_versions().1,
        up: AtomicBool::new(true),
        lanes: senders.try_into().unwrap(),
        refused: Default::default(),
        sent: AtomicU64::new(0),
        flow: watch::Sender::new(Flow::Runs),
        back: OnceLock::new(),
    };
    (Arc::new(port), receivers.try_into().unwrap())
}

/// Carries what `port` was given to the node at its other end.
fn pump(
    port: &Arc<Port>,
    lanes: [mpsc::Receiver<Bytes>; 4],
    from: &Arc<Cluster>,
    to: &Arc<Cluster>,
) {
    for (lane, mut messages) in Lane::ALL.into_iter().zip(lanes) {
        let (port, from, to) = (Arc::clone(port), Arc::downgrade(from), Arc::downgrade(to));
        tokio::spawn(async move {
            let mut flow = port.flow.subscribe();
            let mut some = Vec::new();
            while messages.recv_many(&mut some, 64).await > 0 {
                // Lanes overtake one another.
                if fastrand::bool() {
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..500))).await;
                }
                let _ = flow.wait_for(|flow| *flow != Flow::Stalls).await;
                let (Some(from), Some(to)) = (from.upgrade(), to.upgrade()) else { return };
                let lost = *flow.borrow() == Flow::Loses || !port.up.load(Ordering::Acquire);
                let some = std::mem::take(&mut some);
                if !lost {
                    let back: Arc<dyn PeerPort> =
                        Arc::<Port>::clone(port.back.get().expect("both ends are known"));
                    to.received(&back, lane, some);
                }
                if messages.is_empty() && port.refused[lane as usize].swap(false, Ordering::AcqRel)
                {
                    let port: Arc<dyn PeerPort> = Arc::<Port>::clone(&port);
                    from.dropped(&port, lane);
                }
            }
        });
    }
}
