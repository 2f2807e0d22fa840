//! How a node starts: stores first, then owners, relays, link shards; the doors open last.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use clarion_config::Config;
use clarion_protocol::Code;
use clarion_storage::Store;
use clarion_storage::gathered::GatheredStore;
use ractor::SpawnErr;
use tokio::sync::watch;

use super::canary::{Canary, sing};
use super::groups::follow_groups;
use super::judge::{judge, upkeep, watch_over};
use super::{Inner, System};
use crate::cluster::asking::Asking;
use crate::cluster::ownership::Ownership;
use crate::cluster::peers::LinkedPeers;
use crate::cluster::{Cluster, Doors};
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::limits::{inbox_limits, link_limits, push_limits, session_limits};
use crate::link::context::LinkContext;
use crate::link::inbox::LinkEvent;
use crate::link_shard::{LinkShard, LinkShardArguments, LinkShardHandle};
use crate::members::Members;
use crate::nodes::Nodes;
use crate::owners::OwnerLimits;
use crate::products::Products;
use crate::push::Pushes;
use crate::relay::{Relay, RelayArguments, Relays};
use crate::router::{Myself, Router};
use crate::supervisor::{ChildOf, SupervisorHandle};
use crate::task;

impl System {
    /// Starts the actors over an open store: a node that is alone.
    ///
    /// # Errors
    /// An actor did not start; nothing is left running.
    pub async fn start(config: Arc<Config>, store: Arc<dyn Store>) -> Result<Self, Failure> {
        Self::start_as(config, store, false).await
    }

    /// Starts the actors of a node that is one of several. It owns nothing and reaches nobody until
    /// [`System::cluster`] is told of members and links.
    ///
    /// # Errors
    /// An actor did not start; nothing is left running.
    pub async fn start_among_others(
        config: Arc<Config>,
        store: Arc<dyn Store>,
    ) -> Result<Self, Failure> {
        Self::start_as(config, store, true).await
    }

    async fn start_as(
        config: Arc<Config>,
        store: Arc<dyn Store>,
        clustered: bool,
    ) -> Result<Self, Failure> {
        #[cfg(feature = "fault-hooks")]
        crate::fault::arm_from_environment()
            .map_err(|why| Failure::new(Code::Internal).detail(why))?;
        // What sessions ask one by one goes to the store in batches.
        let store: Arc<dyn Store> = Arc::new(GatheredStore::new(store));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let supervisor = SupervisorHandle::start().await.map_err(|e| not_started(&e))?;
        let per_mode = if config.actors.relays == 0 { cores } else { config.actors.relays };
        let relays = Arc::new(Relays::new(per_mode));
        let router = start_router(&config, &store, &supervisor, &relays, clustered).await;
        let shard_count =
            if config.terminals.shards == 0 { 4 * cores } else { config.terminals.shards };
        let shards: Vec<_> =
            (0..shard_count).map(|_| LinkShardHandle::new(Arc::clone(&store))).collect();
        start_relays(&config, &store, &supervisor, &relays, &router, &shards).await?;
        start_link_shards(&config, &store, &supervisor, &shards).await?;
        let products = Arc::new(Products::new(Arc::clone(&store)));
        let members = Members::new(
            Arc::clone(&store),
            Arc::clone(&router),
            Arc::clone(&products),
            config.session.topics_max,
            inbox_limits(&config),
        );
        let pushes = Pushes::new(
            Arc::clone(&store),
            Arc::clone(&router),
            supervisor.clone(),
            push_limits(&config),
        );
        let context = Arc::new(LinkContext::new(
            config.node.id.clone(),
            clustered.then(|| config.node.isolation_group.as_str().into()),
            Arc::clone(&store),
            Arc::clone(&router.nodes),
            Arc::clone(&products),
            link_limits(&config),
            session_limits(&config),
        ));
        let cluster = Cluster::new(Arc::clone(&router), Arc::clone(&products), Arc::clone(&store));
        let inner = Arc::new(Inner {
            config,
            store,
            supervisor,
            relays,
            router,
            cluster,
            products,
            members,
            pushes,
            shards,
            context,
            next_link: AtomicU64::new(1),
            links: AtomicUsize::new(0),
            draining: watch::channel(false).0,
            drain_wanted: watch::channel(false).0,
            push_ready: Mutex::new(Ok(())),
            canary: Canary::default(),
            joined: OnceLock::new(),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
        });
        let doors: Weak<dyn Doors> = Arc::downgrade(&inner) as Weak<dyn Doors>;
        inner.cluster.set_doors(doors);
        task::spawn(judge(Arc::downgrade(&inner)));
        task::spawn(upkeep(Arc::downgrade(&inner)));
        if clustered {
            task::spawn(watch_over(Arc::downgrade(&inner)));
            task::spawn(sing(Arc::downgrade(&inner)));
            task::spawn(follow_groups(Arc::downgrade(&inner)));
        }
        Ok(Self { inner })
    }
}

async fn start_router(
    config: &Config,
    store: &Arc<dyn Store>,
    supervisor: &SupervisorHandle,
    relays: &Arc<Relays>,
    clustered: bool,
) -> Arc<Router> {
    let limits = OwnerLimits {
        inbox_shards: config.actors.inbox_shards,
        attempt_ms: config.limits.append_timeout_ms,
        idle_stop_ms: config.actors.idle_stop_ms,
    };
    let nodes = Nodes::new(
        Arc::clone(relays),
        Arc::new(LinkedPeers::new()),
        Ownership::new(!clustered),
        Arc::new(Asking::default()),
        Arc::clone(store),
    );
    let myself = Myself {
        id: config.node.id.as_str().into(),
        group: config.node.isolation_group.as_str().into(),
        clustered,
    };
    let forward_ms = config.cluster.forward_timeout_ms;
    let router =
        Router::new(myself, nodes, Arc::clone(store), supervisor.clone(), limits, forward_ms);
    router.start().await;
    router
}

async fn start_relays(
    config: &Config,
    store: &Arc<dyn Store>,
    supervisor: &SupervisorHandle,
    relays: &Arc<Relays>,
    router: &Arc<Router>,
    shards: &[Arc<LinkShardHandle>],
) -> Result<(), Failure> {
    let poll_ms = if router.myself.clustered { config.cluster.poll_ms } else { 0 };
    for (number, mode, slot) in relays.each() {
        let (slot, store) = (Arc::clone(slot), Arc::clone(store));
        let (router, shards) = (Arc::downgrade(router), shards.to_vec());
        let ring_entries_max = config.actors.topic_ring_entries;
        let head_check_ms = config.actors.head_check_ms;
        let (relay_slot, backlog) = (Arc::clone(&slot), Arc::clone(relays.backlog(number)));
        let child = ChildOf {
            kind: Kind::Relay,
            label: format!("{}/{number}", mode.as_str()),
            slot,
            make: move |_| {
                let arguments = RelayArguments {
                    store: Arc::clone(&store),
                    router: router.clone(),
                    slot: Arc::clone(&relay_slot),
                    backlog: Arc::clone(&backlog),
                    ring_entries_max,
                    head_check_ms,
                    poll_ms,
                };
                (Relay, arguments)
            },
            started: Box::new(move |incarnation| {
                if incarnation > 1 {
                    for shard in &shards {
                        shard.each(|| LinkEvent::RelayRestarted { relay: number });
                    }
                }
            }),
            forgotten: Box::new(|| {}),
            quarantined: Box::new(|| {}),
        };
        if !supervisor.ensure(Arc::new(child)).await {
            return Err(Failure::new(Code::Internal).detail("a relay did not start"));
        }
    }
    Ok(())
}

async fn start_link_shards(
    config: &Config,
    store: &Arc<dyn Store>,
    supervisor: &SupervisorHandle,
    shards: &[Arc<LinkShardHandle>],
) -> Result<(), Failure> {
    for (number, handle) in shards.iter().enumerate() {
        let (handle, store) = (Arc::clone(handle), Arc::clone(store));
        let cursor_flush_ms = config.session.cursor_flush_ms;
        let child = ChildOf {
            kind: Kind::LinkShard,
            label: number.to_string(),
            slot: Arc::clone(&handle.slot),
            make: move |_| {
                let (handle, store) = (Arc::clone(&handle), Arc::clone(&store));
                (LinkShard, LinkShardArguments { handle, store, cursor_flush_ms })
            },
            started: Box::new(|_| {}),
            forgotten: Box::new(|| {}),
            quarantined: Box::new(|| {}),
        };
        if !supervisor.ensure(Arc::new(child)).await {
            return Err(Failure::new(Code::Internal).detail("a link shard did not start"));
        }
    }
    Ok(())
}

fn not_started(error: &SpawnErr) -> Failure {
    Failure::new(Code::Internal).detail(format!("the supervisor did not start: {error}"))
}
