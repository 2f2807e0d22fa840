//! What every part sets up: a cluster of nodes of this very program with a Redis master and replicas
//! (no sentinels: nobody is promoted meanwhile), a product, terminals in load processes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clarion_launch::{Cluster, LaunchError, Node, Profile, RedisGroup, Up, wait};
use clarion_protocol::ProductId;
use clarion_protocol::http::ProductCreate;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::super::Common;
use super::super::load::{Client, Loads, Terminals, identity};
use super::super::stage::{float, made, topic};
use super::flow::Pushers;
use super::usage::{Used, cpu_s, resident_bytes};
use crate::cli::connection::Connection;
use crate::cli::credentials::ProductKeys;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::product::keys_of;

/// Defaults, but for what would make a bench measure a limit of one address instead of the nodes.
const COMMON: &str = "
[common.node]
drain_timeout_ms = 2000
[common.terminals]
links_per_ip_max = 0
accepts_per_s_max = 1000000
# Terminals stay where they were put.
rebalance_links_per_s = 0
[common.log]
level = \"warn\"
";

/// How long nodes may take to agree on something.
const AGREED: Duration = Duration::from_secs(60);

/// How long memory may take until it stands still.
const SETTLED: Duration = Duration::from_secs(30);

/// Questions to a node at the same time.
const ASKED: usize = 32;

/// Several run at a time, each in a directory of its own.
static GROUNDS: AtomicU32 = AtomicU32::new(0);

/// How long a heartbeat may be late, milliseconds; never longer than the heartbeat.
const GRACE_MS: u32 = 10_000;

/// What is to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Nodes, each with all roles: `node-1`, `node-2`, …
    pub(super) nodes: u16,
    /// Replicas of the Redis master; with any, one confirms every append (`WAIT 1`).
    pub(super) replicas: u16,
    /// Every link is heard of so often, so that idle CPU is that of this heartbeat; seconds.
    pub(super) heartbeat_s: u32,
}

impl Plan {
    /// So many nodes, so many replicas of the Redis master, and a heartbeat of 30 s.
    pub(super) const fn new(nodes: u16, replicas: u16) -> Self {
        Self { nodes, replicas, heartbeat_s: 30 }
    }
}

/// A running cluster with a product.
pub(super) struct Ground {
    // Goes first: what it started writes into the directory.
    pub(super) cluster: Cluster,
    pub(super) keys: ProductKeys,
    output: Output,
    part: &'static str,
    _directory: Directory,
}

/// Removed with everything in it when dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left over is in a directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Ground {
    /// Starts the cluster and makes a product.
    pub(super) async fn set(
        part: &'static str,
        plan: Plan,
        common: &Common,
        output: Output,
    ) -> Result<Self, Failure> {
        let number = GROUNDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("clarion-bench-{}-{part}-{number}", std::process::id());
        let directory = Directory(common.data.join(name));
        let program = std::env::current_exe()
            .map_err(|error| Failure::local("cannot find the program itself", error))?;
        let profile = Profile::parse(&profile(plan), &directory.0).map_err(launch)?;
        let mut up = Up::new(&directory.0, &program);
        up.first_port = Some(0);
        // Ctrl-C comes to the bench alone, which takes the others down.
        up.own_group = true;
        let cluster = Cluster::up(&profile, up).await.map_err(launch)?;
        let keys = product(&cluster, part).await?;
        let ground = Self { cluster, keys, output, part, _directory: directory };
        ground.progress(&format!("{} nodes and Redis are ready", plan.nodes));
        Ok(ground)
    }

    /// Says on stderr how far the part is.
    pub(super) fn progress(&self, text: &str) {
        self.output.note(&format!("bench cluster {}: {text}", self.part));
    }

    /// The numbers of all nodes.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.cluster.nodes.len()).collect()
    }

    /// One of the nodes.
    pub(super) fn node(&self, index: usize) -> Result<&Node, Failure> {
        let missing = || Failure::new(Exit::Failed, format!("there is no node {index}"));
        self.cluster.nodes.get(index).ok_or_else(missing)
    }

    fn connection(&self, index: usize) -> Result<Connection, Failure> {
        connection(self.node(index)?)
    }

    /// What terminals are made with that take turns on the nodes with these numbers.
    pub(super) fn terminals(&self, client: Client, nodes: &[usize]) -> Result<Terminals, Failure> {
        let missing =
            || Failure::new(Exit::Failed, "the node made a product without a token secret");
        let urls = nodes.iter().map(|index| Ok(self.node(*index)?.terminals_url()));
        Ok(Terminals {
            nodes: urls.collect::<Result<_, Failure>>()?,
            product: self.keys.product.clone(),
            token_key: self.keys.token_key.clone().ok_or_else(missing)?,
            token_secret: self.keys.token_secret.clone().ok_or_else(missing)?,
            topics: vec![topic()?],
            client,
            concurrency: super::super::stage::CONCURRENCY,
        })
    }

    /// Starts load processes and connects `count` terminals, which take turns on these nodes.
    pub(super) async fn connected(
        &self,
        client: Client,
        count: u32,
        nodes: &[usize],
    ) -> Result<Loads, Failure> {
        let mut loads = Loads::start(count)?;
        loads.connect(&self.terminals(client, nodes)?, count).await?;
        self.progress(&format!("{count} terminals are live"));
        Ok(loads)
    }

    /// Back-ends that push through the nodes with these numbers.
    pub(super) fn pushers(&self, nodes: &[usize]) -> Result<Pushers, Failure> {
        let nodes: Vec<&Node> =
            nodes.iter().map(|index| self.node(*index)).collect::<Result<_, _>>()?;
        Pushers::new(&nodes, &self.keys)
    }

    /// The nodes that own the inboxes of the first `count` terminals, as the first node tells.
    pub(super) async fn owners(&self, count: u32) -> Result<Vec<Option<String>>, Failure> {
        let admin = self.connection(0)?.admin()?;
        let asked = (0..count).map(|index| {
            let admin = &admin;
            async move {
                let name = identity(index).0;
                let place = admin.where_is(&self.keys.product, "terminal", Some(&name)).await?;
                Ok(place.owner)
            }
        });
        futures_util::stream::iter(asked).buffered(ASKED).try_collect().await
    }

    /// Starts one more node and waits until all that run know it, and it owns its share.
    pub(super) async fn add_node(&mut self, name: &str) -> Result<(), Failure> {
        self.cluster.add_node(0, name).await.map_err(launch)?;
        self.cluster.wait_joined().await.map_err(launch)?;
        let admin = self.connection(0)?.admin()?;
        let owns = wait::until(format!("{name} owns slots"), AGREED, async || {
            let seen = admin.cluster().await.map_err(LaunchError::of("GET /v1/cluster"))?;
            let found = seen.nodes.iter().find(|node| node.node == name);
            match found.filter(|node| node.slots > 0) {
                Some(_) => Ok(()),
                None => Err(LaunchError::new(format!("seen: {found:?}"))),
            }
        });
        owns.await.map_err(launch)
    }

    /// What everything used so far; a process that does not run counts for nothing.
    pub(super) fn used(&self) -> Used {
        let of = |pid: Option<u32>| pid.and_then(cpu_s).unwrap_or(0.0);
        let nodes = self.cluster.nodes.iter().map(|node| of(node.process().pid())).sum();
        let mut redis = self.redis_pids().into_iter().map(|pid| of(Some(pid)));
        Used { nodes, master: redis.next().unwrap_or(0.0), replicas: redis.sum() }
    }

    /// The master first.
    fn redis_pids(&self) -> Vec<u32> {
        match &self.cluster.redis {
            RedisGroup::Sentinel(group) => {
                let servers = group.shards.iter().flat_map(|shard| &shard.servers);
                servers.filter_map(clarion_launch::RedisServer::pid).collect()
            }
            RedisGroup::Standalone(redis) => redis.server.pid().into_iter().collect(),
            RedisGroup::Cluster(_) | RedisGroup::None => Vec::new(),
        }
    }

    /// The Redis server that appends go to.
    pub(super) fn redis(&self) -> Result<&clarion_launch::RedisServer, Failure> {
        let found = match &self.cluster.redis {
            RedisGroup::Sentinel(group) => {
                group.shards.first().and_then(|shard| shard.servers.first())
            }
            RedisGroup::Standalone(redis) => Some(&redis.server),
            RedisGroup::Cluster(_) | RedisGroup::None => None,
        };
        found.ok_or_else(|| Failure::new(Exit::Failed, "there is no Redis"))
    }

    /// Resident memory of all nodes together, in bytes.
    pub(super) fn resident(&self) -> f64 {
        let pids = self.cluster.nodes.iter().filter_map(|node| node.process().pid());
        float(pids.filter_map(resident_bytes).sum())
    }

    /// Resident memory of all nodes when it has stopped moving: two readings a second apart within
    /// 1 %, and hardly any work meanwhile.
    pub(super) async fn settled(&self) -> f64 {
        const MOVE_MAX: f64 = 0.01;
        const WORK_MAX_S: f64 = 0.05;
        let deadline = Instant::now() + SETTLED;
        let mut before = (self.resident(), self.used().nodes);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = (self.resident(), self.used().nodes);
            let moved = (now.0 - before.0).abs() > now.0 * MOVE_MAX;
            #[allow(clippy::cast_precision_loss)] // some nodes
            let worked = now.1 - before.1 > WORK_MAX_S * self.cluster.nodes.len() as f64;
            if (!moved && !worked) || Instant::now() > deadline {
                return now.0;
            }
            before = now;
        }
    }

    /// Takes everything down.
    pub(super) async fn strike(self) -> Result<(), Failure> {
        let Self { cluster, _directory, .. } = self;
        cluster.stop().await.map_err(launch)
    }
}

fn profile(plan: Plan) -> String {
    let redis = match plan.replicas {
        0 => "layout = \"standalone\"".to_owned(),
        replicas => format!("layout = \"replicated\"\nreplicas = {replicas}"),
    };
    let heartbeat_ms = plan.heartbeat_s * 1000;
    let grace_ms = heartbeat_ms.min(GRACE_MS);
    format!(
        "[profile]\nabout = \"a bench\"\n[redis]\n{redis}\n{COMMON}\n[common.session]\n\
         heartbeat_min_ms = {heartbeat_ms}\nheartbeat_max_ms = {heartbeat_ms}\n\
         heartbeat_grace_ms = {grace_ms}\n[[nodes]]\n\
         name = \"node\"\ncount = {}\n",
        plan.nodes
    )
}

fn connection(node: &Node) -> Result<Connection, Failure> {
    Ok(Connection::to(&node.http_url(), &node.terminals_url(), node.admin_token().to_owned()))
}

async fn product(cluster: &Cluster, part: &str) -> Result<ProductKeys, Failure> {
    let node = cluster.nodes.first().ok_or_else(|| Failure::new(Exit::Failed, "no nodes"))?;
    let create = ProductCreate {
        product: made(ProductId::new(&format!("bench-{part}-{:08x}", rand::random::<u32>())))?,
        kinds: None,
        allow_sha1_body_hash: None,
        pushes_per_s_max: None,
        isolation_group: None,
        token_public_key_pem: None,
    };
    keys_of(&connection(node)?.admin()?.create_product(&create).await?)
}

/// What could not be launched, reached or stopped.
pub(super) fn launch(error: LaunchError) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
        .hint("`redis-server` must be installed; the data of a cluster goes to --data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_are_ones_that_the_launcher_reads() {
        for replicas in [0, 2] {
            let text = profile(Plan::new(3, replicas));
            let profile = Profile::parse(&text, std::path::Path::new("base")).unwrap();
            assert_eq!(profile.names(), ["node-1", "node-2", "node-3"]);
            assert_eq!(profile.redis.replicas(), usize::from(replicas));
            let config = profile.config(&profile.nodes[0]);
            assert_eq!(config["session"]["heartbeat_max_ms"].as_integer(), Some(30_000));
        }
    }

    #[test]
    fn a_heartbeat_is_never_shorter_than_its_grace() {
        for heartbeat_s in [1, 5, 10, 30] {
            let text = profile(Plan { heartbeat_s, ..Plan::new(1, 1) });
            let profile = Profile::parse(&text, std::path::Path::new("base")).unwrap();
            let session = &profile.config(&profile.nodes[0])["session"];
            let of = |key: &str| session[key].as_integer().unwrap();
            assert!(of("heartbeat_grace_ms") <= of("heartbeat_min_ms"), "{session}");
        }
    }
}
