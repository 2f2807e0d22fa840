//! Membership and links of this node's own, and the events they bring: what makes one of several
//! nodes out of a [`System`](crate::System).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use clarion_cluster::membership::{LinkState, Membership, Settings, View};
use clarion_cluster::peer::{Lane, Peer, PeerEvents, PeerSettings, PeerTls, Peers, Target};
use clarion_cluster::{Cookie, NodeIdentity, new_boot};
use clarion_config::Config;
use clarion_core::Roles;
use clarion_protocol::Code;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Cluster;
use super::absent::{ASK_EVERY, Addresses};
use super::port::PeerPort;
use super::topology::{Topology, TopologyNode};
use super::wire::wire_versions;
use crate::failure::Failure;
use crate::task;

/// What a node in a cluster holds besides its actors.
pub(crate) struct Joined {
    pub(crate) membership: Arc<Membership>,
    pub(crate) peers: Arc<Peers>,
}

impl Joined {
    /// Listens for peers, then says that it is there.
    pub(crate) async fn join(
        cluster: &Arc<Cluster>,
        config: &Config,
        cookie: Cookie,
    ) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(Code::Internal).detail(why);
        let listen = config.cluster.listen.ok_or_else(|| failed("no cluster.listen".into()))?;
        let identity = NodeIdentity {
            id: config.node.id.as_str().into(),
            boot: new_boot(),
            group: config.node.isolation_group.as_str().into(),
        };
        let events =
            Arc::new(Events { cluster: Arc::downgrade(cluster), membership: OnceLock::new() });
        let told: Arc<dyn PeerEvents> = Arc::<Events>::clone(&events);
        let settings = peer_settings(config, listen);
        let peers = Peers::start(settings, identity.clone(), cookie.clone(), tls(config), told);
        let peers = Arc::new(peers.await.map_err(|error| failed(error.to_string()))?);
        let settings = membership_settings(config, listen);
        let membership = Membership::start(settings, identity, cookie).await;
        let membership = match membership {
            Ok(membership) => Arc::new(membership),
            Err(error) => {
                peers.stop().await;
                return Err(failed(error.to_string()));
            }
        };
        let _ = events.membership.set(Arc::downgrade(&membership));
        // Links that came up before anybody could be told.
        for peer in peers.peers() {
            membership.link(&peer.id, peer.boot, LinkState::Up);
        }
        if others_are_named(config, listen) {
            cluster.expect_others();
        }
        task::spawn(follow(membership.view(), Arc::downgrade(cluster), Arc::downgrade(&peers)));
        Ok(Self { membership, peers })
    }
}

/// Whether the config names another node to knock at.
fn others_are_named(config: &Config, listen: SocketAddr) -> bool {
    let cluster = &config.cluster;
    let mine = [Some(listen), cluster.advertise].map(|addr| addr.map(|addr| addr.to_string()));
    cluster.seeds.iter().any(|seed| !mine.iter().flatten().any(|mine| mine == seed))
}

/// Members come and go: routing and links follow. Who is gone is asked whether it is.
async fn follow(mut view: watch::Receiver<Arc<View>>, cluster: Weak<Cluster>, peers: Weak<Peers>) {
    let mut addresses = Addresses::default();
    let mut ask = tokio::time::interval(ASK_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        let (Some(here), Some(peers)) = (cluster.upgrade(), peers.upgrade()) else { return };
        peers.want(targets(&now));
        // Before others can have been heard nobody knows who owns what.
        if now.settled {
            here.set_topology(Arc::new(topology(&now)));
        }
        addresses.note(targets(&now).into_iter().map(|one| (one.id, one.boot, one.addr)), &here);
        drop((here, peers));
        loop {
            tokio::select! {
                changed = view.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = ask.tick() => {
                    let Some(cluster) = cluster.upgrade() else { return };
                    addresses.ask(&cluster);
                }
            }
        }
    }
}

fn targets(view: &View) -> Vec<Target> {
    let others = view.members.iter().filter(|member| member.id != view.me().id);
    let target = |member: &clarion_cluster::membership::Member| Target {
        id: Arc::clone(&member.id),
        boot: member.boot,
        addr: member.peer_addr,
    };
    others.map(target).collect()
}

fn topology(view: &View) -> Topology {
    let node = |member: &clarion_cluster::membership::Member| {
        let node = TopologyNode {
            group: Arc::clone(&member.group),
            boot: member.boot.0,
            broker: member.roles.has(clarion_core::Role::Broker),
            draining: member.draining,
        };
        (Arc::clone(&member.id), node)
    };
    Topology {
        revision: view.revision,
        nodes: view.members.iter().map(node).collect(),
        tables: view.tables.clone(),
    }
}

fn peer_settings(config: &Config, listen: SocketAddr) -> PeerSettings {
    let cluster = &config.cluster;
    PeerSettings {
        heartbeat_ms: cluster.heartbeat_ms,
        handshake_timeout_ms: cluster.handshake_timeout_ms,
        lane_credit_bytes: cluster.lane_credit_bytes,
        lane_queue_bytes: usize::try_from(cluster.lane_queue_bytes).unwrap_or(usize::MAX),
        frame_bytes_max: cluster.frame_bytes_max,
        frame_messages_max: cluster.frame_messages_max,
        frame_delay_us: cluster.frame_delay_us,
        ..PeerSettings::new(listen, cluster.name.clone(), wire_versions())
    }
}

fn tls(config: &Config) -> Option<PeerTls> {
    let cluster = &config.cluster;
    Some(PeerTls {
        cert_file: cluster.tls_cert_file.clone()?,
        key_file: cluster.tls_key_file.clone()?,
        ca_file: cluster.tls_ca_file.clone()?,
    })
}

fn membership_settings(config: &Config, listen: SocketAddr) -> Settings {
    let (cluster, node) = (&config.cluster, &config.node);
    let gateway = node.roles.contains(&clarion_config::Role::Gateway);
    let scheme = |tls: bool, plain: &str| if tls { format!("{plain}s") } else { plain.to_owned() };
    let http_url = config.http.advertise_url.clone().unwrap_or_else(|| {
        let scheme = scheme(config.http.tls_cert_file.is_some(), "http");
        format!("{scheme}://{}", config.http.listen)
    });
    let terminals_url = config.terminals.external_url.clone().unwrap_or_else(|| {
        let scheme = scheme(config.terminals.tls_cert_file.is_some(), "ws");
        format!("{scheme}://{}", config.terminals.listen)
    });
    let roles = node.roles.iter().map(|role| role.as_str());
    Settings {
        listen,
        advertise: cluster.advertise,
        seeds: cluster.seeds.clone(),
        cluster: cluster.name.clone(),
        gossip_ms: cluster.gossip_ms,
        quarantine_ms: cluster.quarantine_ms,
        roles: Roles::from_names(roles).unwrap_or(Roles::ALL),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wire: wire_versions(),
        http_url,
        terminals_url: gateway.then_some(terminals_url),
    }
}

/// From links to routing and to membership.
struct Events {
    cluster: Weak<Cluster>,
    membership: OnceLock<Weak<Membership>>,
}

impl Events {
    fn tell(&self, peer: &Peer, state: LinkState) {
        if let Some(membership) = self.membership.get().and_then(Weak::upgrade) {
            membership.link(&peer.id, peer.boot, state);
        }
    }
}

fn port(peer: &Arc<Peer>) -> Arc<dyn PeerPort> {
    Arc::<Peer>::clone(peer)
}

impl PeerEvents for Events {
    fn up(&self, peer: &Arc<Peer>) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.up(port(peer));
        }
        self.tell(peer, LinkState::Up);
    }

    fn down(&self, peer: &Arc<Peer>, refused: bool) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.down(&port(peer), refused);
        }
        self.tell(peer, if refused { LinkState::Refused } else { LinkState::Down });
    }

    fn received(&self, peer: &Arc<Peer>, lane: Lane, messages: Vec<Bytes>) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.received(&port(peer), lane, messages);
        }
    }

    fn dropped(&self, peer: &Arc<Peer>, lane: Lane) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.dropped(&port(peer), lane);
        }
    }
}
