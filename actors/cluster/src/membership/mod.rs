//! Who is in the cluster. Nodes gossip (chitchat: scuttlebutt reconciliation and phi accrual, over
//! signed UDP datagrams); what each hears of the others, together with what its peer links tell,
//! becomes a [`View`]: who lives, what they do, and who owns which slots.
//!
//! In the order of the way of a heartbeat: `transport` with `datagram` (signed?) and `admit`
//! (fit?), chitchat in `gossip`, `facts` (what a node says of itself), `seats` (which process
//! stands for a name, does it live), `clarion_core::membership` (may it own), `assembly` of the
//! `view`. `keeper` is the task that does it; `contacts` are whom it knocks at.
//!
//! A crash of the keeper or of chitchat ends nothing but news: the last view stays, gossip is
//! started anew under the same boot, and the others see no other life in that.

mod admit;
mod assembly;
mod contacts;
mod datagram;
mod facts;
mod gossip;
mod keeper;
mod seats;
mod task;
mod transport;
mod view;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clarion_core::membership::Members;
use clarion_core::placement::PLACEMENT_VERSION;
use clarion_core::{BootId, Roles};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use clarion_core::membership::{Standing, Why};
pub use facts::Load;
pub use seats::{Conflict, LinkState};
pub use view::{Member, View};

use crate::cookie::Cookie;
use crate::identity::NodeIdentity;
use admit::NODE_ID_BYTES_MAX;
use assembly::Assembly;
use contacts::Contacts;
use facts::{Facts, Marks};
use gossip::Gossip;
use keeper::Keeper;
use seats::Seats;
use transport::SignedUdp;

/// Most members of a cluster: as many as have numbers where links are told apart, this node and 127
/// others. More are not let in, and told in the log.
pub const MEMBERS_MAX: usize = 128;
/// Most link events that wait for the keeper; far more than a cluster has links.
const EVENTS_MAX: usize = 8 * MEMBERS_MAX;
/// Kernel buffers of the gossip socket: a burst of everybody's longest messages.
const SOCKET_BYTES: usize = 1 << 20;

/// What membership needs of the config.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where gossip is heard (UDP) and, on the same number, peer links are taken (TCP).
    pub listen: SocketAddr,
    /// What others are told to reach this node at, if not `listen`.
    pub advertise: Option<SocketAddr>,
    /// Nodes to knock at: `host:port` or address and port.
    pub seeds: Vec<String>,
    /// The cluster's name: gossip of other names is not heard.
    pub cluster: String,
    /// Time between rounds of gossip, 10 to 10,000 ms. A node is declared dead after about 12.
    pub gossip_ms: u64,
    /// First quarantine of a member that comes back.
    pub quarantine_ms: u64,
    /// What this node does.
    pub roles: Roles,
    /// Its release.
    pub version: String,
    /// Oldest and newest version of the messages between nodes that it speaks.
    pub wire: (u16, u16),
    /// Where its HTTP API is reached; empty if it has none.
    pub http_url: String,
    /// Where terminals reach it, if it takes any.
    pub terminals_url: Option<String>,
}

/// Why membership cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The socket.
    #[error("cannot listen for gossip on {addr}/udp: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody can reach `0.0.0.0`.
    #[error("cluster.listen is {0}, which others cannot reach: set cluster.advertise")]
    Unspecified(SocketAddr),
    /// A bound of what may be gossiped.
    #[error("the {0} of this node is empty or too long to be gossiped")]
    Length(&'static str),
    /// Gossip itself.
    #[error("gossip does not start: {0}")]
    Gossip(String),
}

/// What others want of the keeper. Small and behind a lock that is never held across a wait.
#[derive(Default)]
struct Wanted {
    load: Load,
    marks: Marks,
    links: Vec<Linked>,
}

/// A link event: whose, and what.
type Linked = (Arc<str>, BootId, LinkState);

#[derive(Default)]
struct Desk {
    wanted: Mutex<Wanted>,
    rung: Notify,
}

impl Desk {
    fn leave(&self, note: impl FnOnce(&mut Wanted)) {
        note(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.rung.notify_one();
    }

    /// Load and marks as they are, and the link events since.
    fn take(&self) -> (Load, Marks, Vec<Linked>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        (wanted.load, wanted.marks, std::mem::take(&mut wanted.links))
    }
}

/// This node's place in the cluster. Dropping it is a death; [`Membership::leave`] says farewell.
pub struct Membership {
    /// Also kept here so that watchers of the view go on after [`Membership::leave`].
    view: watch::Sender<Arc<View>>,
    desk: Arc<Desk>,
    farewell: mpsc::Sender<oneshot::Sender<()>>,
    local_addr: SocketAddr,
    _keeper: task::Held,
    _look_up: task::Held,
}

impl Membership {
    /// Opens the socket and begins to gossip. The first view holds this node alone. Peer links must
    /// be listening already: others dial as soon as they hear of this node.
    ///
    /// # Errors
    /// [`StartError`]: the address cannot be bound or advertised, or a text is too long.
    pub async fn start(
        settings: Settings,
        identity: NodeIdentity,
        cookie: Cookie,
    ) -> Result<Self, StartError> {
        if identity.id.is_empty() || identity.id.len() > NODE_ID_BYTES_MAX {
            return Err(StartError::Length("id"));
        }
        let listen = |source| StartError::Listen { addr: settings.listen, source };
        let socket = bind(settings.listen).map_err(listen)?;
        let local_addr = socket.local_addr().map_err(listen)?;
        let mut advertise = settings.advertise.unwrap_or(local_addr);
        if advertise.port() == 0 {
            advertise.set_port(local_addr.port());
        }
        if advertise.ip().is_unspecified() {
            return Err(StartError::Unspecified(advertise));
        }
        let facts = Facts {
            boot: identity.boot,
            group: identity.group.to_string(),
            roles: settings.roles.to_string(),
            peer_addr: advertise,
            version: settings.version,
            wire: settings.wire,
            placement_version: PLACEMENT_VERSION,
            http_url: settings.http_url,
            terminals_url: settings.terminals_url,
        };
        if let Some(field) = facts.too_long() {
            return Err(StartError::Length(field));
        }
        let udp = SignedUdp {
            socket: Arc::new(socket),
            key: cookie.key(&format!("gossip 1 of {}", settings.cluster)),
            known: Arc::default(),
        };
        let every = Duration::from_millis(settings.gossip_ms.clamp(10, 10_000));
        let id = Arc::clone(&identity.id);
        let cluster = settings.cluster;
        let plan = gossip::Plan { id: Arc::clone(&id), facts, cluster, every, udp };
        let gossip = Gossip::start(plan).await;
        let gossip = gossip.map_err(|error| StartError::Gossip(error.to_string()))?;
        let members = Members::new(Arc::clone(&id), settings.quarantine_ms);
        let assembly = Assembly::new(Arc::clone(&id), settings.seeds.is_empty(), members);
        let (found, seeds) = watch::channel(Vec::new());
        let contacts = Contacts::new(advertise, seeds);
        let desk = Arc::<Desk>::default();
        let seats = Seats::new(id, identity.boot);
        let (keeper, view) =
            Keeper::start(gossip, every, seats, assembly, contacts, Arc::clone(&desk)).await;
        let (farewell, farewells) = mpsc::channel(1);
        Ok(Self {
            view,
            desk,
            farewell,
            local_addr,
            _keeper: task::Held::spawn(keeper.run(farewells)),
            _look_up: task::Held::spawn(contacts::look_up(settings.seeds, found)),
        })
    }

    /// The cluster as it is, and news of every change.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Where gossip is heard.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How busy this node is; cheap, to be called as often as is handy.
    pub fn set_load(&self, load: Load) {
        // Not rung: load is told with the next round anyway.
        self.desk.wanted.lock().unwrap_or_else(PoisonError::into_inner).load = load;
    }

    /// Whether this node is on its way out: it owns nothing from then on.
    pub fn set_draining(&self, draining: bool) {
        self.desk.leave(|wanted| wanted.marks.draining = draining);
    }

    /// Whether this node works as it should.
    pub fn set_sick(&self, sick: bool) {
        self.desk.leave(|wanted| wanted.marks.sick = sick);
    }

    /// What happened to the link to a node. Never waits; the newest of one node's events counts.
    pub fn link(&self, id: &str, boot: BootId, state: LinkState) {
        self.desk.leave(|wanted| {
            if wanted.links.len() < EVENTS_MAX {
                wanted.links.push((id.into(), boot, state));
            }
        });
    }

    /// Says farewell, so that the others drop this node at once, and stops gossip. Takes about two
    /// rounds of gossip. The view stays as it was.
    pub async fn leave(&self) {
        let (done, said) = oneshot::channel();
        if self.farewell.send(done).await.is_ok() {
            let _ = said.await;
        }
    }
}

/// Says what the metrics of membership mean; for the recorder of the node, once.
pub fn describe_metrics() {
    metrics::describe_gauge!("clarion_cluster_members", "Living members, this node included.");
    metrics::describe_counter!("clarion_cluster_gossip_sent_total", "Gossip messages sent.");
    metrics::describe_counter!("clarion_cluster_gossip_received_total", "Gossip messages taken.");
    metrics::describe_counter!(
        "clarion_cluster_gossip_dropped_total",
        "Gossip not taken or not sent, by reason."
    );
    metrics::describe_counter!(
        "clarion_cluster_gossip_restarts_total",
        "Times gossip began anew within one run of the node; more than 0 is a bug or an attack."
    );
}

fn bind(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // As large as the system allows; less is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
