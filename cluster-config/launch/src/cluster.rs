//! A whole cluster of local processes, made from a profile.

mod fill;
mod record;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use toml::Table;

use crate::error::Cause;
use crate::follow::LogFollower;
use crate::haproxy::HaProxy;
use crate::node::{Node, NodeSpec, READY_DEADLINE, address};
use crate::profile::{Layout, NodeGroup, Profile};
use crate::{LaunchError, Process, Redis, RedisCluster, RedisOptions, RedisSentinel, port, wait};

use fill::{NodeAddresses, Shared};
use record::Record;

/// How long nodes may take until all know each other.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// How long HAProxy may take to end.
const PROXY_STOP: Duration = Duration::from_secs(2);

/// How a cluster is to be started.
#[derive(Debug, Clone)]
pub struct Up {
    /// Where all files go; one that was used before is used again with its data and ports.
    pub directory: PathBuf,
    /// The `clarion` program.
    pub program: PathBuf,
    /// Replaces the profile's first port.
    pub first_port: Option<u16>,
    /// What Redis servers are to be like; the profile says how many.
    pub redis: RedisOptions,
    /// Where the nodes run, in their order; those beyond the list on loopback.
    pub places: Vec<Place>,
    /// Further variables of the nodes' environment.
    pub environment: Vec<(String, String)>,
    /// See [`Process::own_group`].
    pub own_group: bool,
}

/// Where a node runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address it listens at.
    pub ip: IpAddr,
    /// A command that runs it there (`ip netns exec NAME`); mostly empty.
    pub entry: Vec<String>,
}

impl Default for Place {
    fn default() -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), entry: Vec::new() }
    }
}

impl Up {
    /// In this directory with this program; everything else as the profile says.
    #[must_use]
    pub fn new(directory: &Path, program: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            program: program.to_owned(),
            first_port: None,
            redis: RedisOptions::default(),
            places: Vec::new(),
            environment: Vec::new(),
            own_group: false,
        }
    }
}

/// The Redis servers of a cluster.
#[derive(Debug)]
pub enum RedisGroup {
    /// None: the nodes' config says where the store is.
    None,
    /// One.
    Standalone(Box<Redis>),
    /// Masters and replicas, with sentinels or without.
    Sentinel(RedisSentinel),
    /// Redis Cluster.
    Cluster(RedisCluster),
}

/// A running cluster. Everything it started is killed when it is dropped; [`Cluster::stop`] ends
/// it in good order.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are to go.
    haproxy: Option<HaProxy>,
    /// The nodes, in the order of the profile; added ones last.
    pub nodes: Vec<Node>,
    /// The Redis servers.
    pub redis: RedisGroup,
    up: Up,
    profile: Profile,
    shared: Shared,
    /// Nobody else uses the directory as long as it is held.
    _lock: File,
}

impl Cluster {
    /// Starts what the profile asks for and waits until all of it is ready and the nodes know each
    /// other.
    ///
    /// # Errors
    /// When something cannot be started, or is not ready in time; what runs by then is killed.
    pub async fn up(profile: &Profile, up: Up) -> Result<Self, LaunchError> {
        let mut cluster = Self::prepare(profile, up)?;
        let names = profile.names();
        let addresses = cluster.addresses(&names)?;
        cluster.shared.seeds(&addresses);
        cluster.shared.proxy = cluster.proxy_addresses()?;
        cluster.must_find_ports(&addresses).await?;
        cluster.start_redis().await?;
        for group in &profile.nodes {
            for name in group.names() {
                let index = cluster.nodes.len();
                let node = cluster.node_of(group, &name, index, addresses[index])?;
                cluster.nodes.push(node);
            }
        }
        cluster.init_store().await?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.wait_ready().await?;
        cluster.wait_joined().await?;
        cluster.must_run()?;
        cluster.start_proxy().await?;
        cluster.record()?;
        Ok(cluster)
    }

    /// Its directory, which it has for itself; nothing is started.
    fn prepare(profile: &Profile, up: Up) -> Result<Self, LaunchError> {
        let at = &up.directory;
        std::fs::create_dir_all(at)
            .map_err(LaunchError::of(format!("cannot make {}", at.display())))?;
        let directory =
            at.canonicalize().map_err(LaunchError::of(format!("cannot use {}", at.display())))?;
        let lock = lock(&directory, at)?;
        Record::read(&directory).ports().for_each(port::keep);
        let up = Up { directory, ..up };
        let shared = Shared::new(&up.directory, profile)?;
        let (profile, redis) = (profile.clone(), RedisGroup::None);
        Ok(Self { haproxy: None, nodes: Vec::new(), redis, up, profile, shared, _lock: lock })
    }

    /// That nobody listens where the nodes and the proxy are to: else they would be taken for them.
    async fn must_find_ports(&self, addresses: &[NodeAddresses]) -> Result<(), LaunchError> {
        let mut all = Vec::new();
        let groups = self.profile.nodes.iter();
        let names =
            groups.flat_map(|group| group.names().into_iter().map(move |name| (group, name)));
        for ((group, name), addresses) in names.zip(addresses) {
            let config = self.config_of(group, &name, *addresses);
            let listens = ["http", "terminals", "cluster"].into_iter();
            let listens = listens.filter_map(|section| address(&config, section, "listen"));
            all.extend(listens.map(|at| (name.clone(), at)));
        }
        let proxy = self.shared.proxy.map(|(http, terminals)| [http, terminals]);
        all.extend(proxy.into_iter().flatten().map(|at| ("haproxy".to_owned(), at)));
        for (name, at) in all {
            port::must_be_free(&name, at).await?;
            port::keep(at.port());
        }
        Ok(())
    }

    async fn start_redis(&mut self) -> Result<(), LaunchError> {
        let (up, plan) = (&self.up, self.profile.redis);
        let mut options = RedisOptions { own_group: up.own_group, ..up.redis.clone() };
        // What inboxes are made for: a hash with values of this size stays one piece of memory.
        options.settings.insert(0, ("hash-max-listpack-value".to_owned(), "4096".to_owned()));
        let (at, replicas) = (&up.directory, plan.replicas());
        self.redis = match plan.layout {
            Layout::None => RedisGroup::None,
            Layout::Standalone => RedisGroup::Standalone(Box::new(
                Redis::standalone_with(&at.join("redis"), &options).await?,
            )),
            Layout::Replicated | Layout::Sentinel => RedisGroup::Sentinel(
                RedisSentinel::start_with(at, plan.shards(), replicas, plan.sentinels(), &options)
                    .await?,
            ),
            Layout::Cluster => RedisGroup::Cluster(
                RedisCluster::start_with(at, plan.shards(), replicas, &options).await?,
            ),
        };
        self.shared.stored_in(&up.directory, &self.redis, &options)
    }

    fn addresses(&self, names: &[String]) -> Result<Vec<NodeAddresses>, LaunchError> {
        let before = Record::read(&self.up.directory);
        let first = self.first_port();
        let mut all = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let place = self.up.places.get(index).cloned().unwrap_or_default();
            all.push(match before.node(name) {
                Some(known) if first == 0 => known,
                _ => NodeAddresses::new(place.ip, first, index)?,
            });
        }
        Ok(all)
    }

    fn first_port(&self) -> u16 {
        self.up.first_port.unwrap_or(self.profile.profile.first_port)
    }

    fn proxy_addresses(&self) -> Result<Option<(SocketAddr, SocketAddr)>, LaunchError> {
        if self.profile.haproxy.is_none() {
            return Ok(None);
        }
        let before = Record::read(&self.up.directory).proxy();
        match (self.first_port(), before) {
            (0, Some(known)) => Ok(Some(known)),
            (0, None) => Ok(Some((port::free()?, port::free()?))),
            (first, _) if first > 10 => {
                let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
                Ok(Some((at(first - 10), at(first - 9))))
            }
            _ => Err(LaunchError::new("the first port must be higher than 10")),
        }
    }

    fn config_of(&self, group: &NodeGroup, name: &str, addresses: NodeAddresses) -> Table {
        let mut config = self.profile.config(group);
        self.shared.fill(&mut config, name, &self.up.directory.join(name), addresses);
        config
    }

    fn node_of(
        &self,
        group: &NodeGroup,
        name: &str,
        index: usize,
        addresses: NodeAddresses,
    ) -> Result<Node, LaunchError> {
        let directory = self.up.directory.join(name);
        let config = self.config_of(group, name, addresses);
        let place = self.up.places.get(index).cloned().unwrap_or_default();
        Node::prepare(NodeSpec {
            name: name.to_owned(),
            directory,
            program: self.up.program.clone(),
            config,
            admin_token: Arc::clone(&self.shared.admin_token),
            entry: place.entry,
            environment: self.up.environment.clone(),
            own_group: self.up.own_group,
        })
    }

    /// Makes the store once: all nodes share the one in Redis, a lone node has its own.
    async fn init_store(&self) -> Result<(), LaunchError> {
        let done = self.up.directory.join("store-made");
        if done.exists() {
            return Ok(());
        }
        let shared = !matches!(self.redis, RedisGroup::None);
        for node in self.nodes.iter().take(if shared { 1 } else { usize::MAX }) {
            node.init_store().await?;
        }
        std::fs::write(&done, "").map_err(LaunchError::of(done.display()))
    }

    async fn start_proxy(&mut self) -> Result<(), LaunchError> {
        let (Some(plan), Some(at)) = (&self.profile.haproxy, self.shared.proxy) else {
            return Ok(());
        };
        let config = self.profile.base.join(&plan.config);
        let (directory, own_group) = (self.up.directory.join("haproxy"), self.up.own_group);
        self.haproxy = Some(HaProxy::start(&directory, &config, at, &self.nodes, own_group).await?);
        Ok(())
    }

    /// Starts one more node like those of a group, which joins by the seeds alone.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add_node(&mut self, group: usize, name: &str) -> Result<&mut Node, LaunchError> {
        let group = self.profile.nodes.get(group).cloned();
        let group = group.ok_or_else(|| LaunchError::new("there is no such group"))?;
        let index = self.nodes.len();
        let place = self.up.places.get(index).cloned().unwrap_or_default();
        // Beyond the first ones any free port will do.
        let addresses = NodeAddresses::new(place.ip, 0, index)?;
        let mut node = self.node_of(&group, name, index, addresses)?;
        node.restart().await?;
        self.nodes.push(node);
        Ok(&mut self.nodes[index])
    }

    /// That every node runs.
    fn must_run(&mut self) -> Result<(), LaunchError> {
        self.nodes.iter_mut().try_for_each(|node| node.process_mut().must_run())
    }

    /// Waits until every node is ready. If one ends meanwhile, nothing more is waited for.
    async fn wait_ready(&mut self) -> Result<(), LaunchError> {
        for at in 0..self.nodes.len() {
            let what = format!("{} ready", self.nodes[at].name());
            let ready = wait::until(what, READY_DEADLINE, async || match self.must_run() {
                Err(ended) => Ok(Err(ended)),
                Ok(()) => self.nodes[at].says_ready().await.map(Ok),
            });
            let late = ready.await;
            late.map_err(|error| error.with(self.nodes[at].process().failure("is not ready")))??;
        }
        Ok(())
    }

    /// Waits until every node that runs has a link to every other one that runs, and knows of
    /// nobody else.
    ///
    /// # Errors
    /// When that does not come about in time, or one of them ends meanwhile.
    pub async fn wait_joined(&mut self) -> Result<(), LaunchError> {
        let nodes = self.nodes.iter_mut();
        let mut running: Vec<&mut Node> =
            nodes.filter_map(|node| node.process_mut().is_running().then_some(node)).collect();
        if running.len() < 2 || self.shared.seeds.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = running.iter().map(|node| node.name().to_owned()).collect();
        names.sort_unstable();
        let joined = wait::until("the nodes know each other", JOIN_DEADLINE, async || {
            // In the place of one that ended another process may answer.
            let ended = running.iter_mut().find_map(|node| node.process_mut().must_run().err());
            if let Some(ended) = ended {
                return Ok(Err(ended));
            }
            for node in &running {
                let seen = reachable(node).await?;
                if seen != names {
                    return Err(LaunchError::new(format!("{} reaches {seen:?}", node.name())));
                }
            }
            Ok(Ok(()))
        });
        joined.await.map_err(|error| {
            let tails = running.iter().map(|node| node.process().failure("is not joined"));
            tails.fold(error, LaunchError::with)
        })?
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&mut self, name: &str) -> Result<&mut Node, LaunchError> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.ok_or_else(|| LaunchError::new(format!("there is no node {name}")))
    }

    /// The proxy, if there is one.
    #[must_use]
    pub const fn haproxy(&self) -> Option<&HaProxy> {
        self.haproxy.as_ref()
    }

    /// The token of the administrator of all nodes.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.shared.admin_token
    }

    /// The secret that the nodes share.
    #[must_use]
    pub fn cookie(&self) -> &str {
        &self.shared.cookie
    }

    /// Where all files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.up.directory
    }

    /// Everything that the nodes and servers print from now on, and have printed in this run.
    #[must_use]
    pub fn follow_logs(&self) -> LogFollower {
        let from = |process: &Process| process.log_before();
        LogFollower::new(self.processes().map(|at| (at.name(), at.log(), from(at))))
    }

    /// All processes: the proxy, the nodes, Redis.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let redis: Box<dyn Iterator<Item = &Process> + '_> = match &self.redis {
            RedisGroup::None => Box::new(std::iter::empty()),
            RedisGroup::Standalone(redis) => Box::new(std::iter::once(redis.server.process())),
            RedisGroup::Sentinel(group) => Box::new(group.processes()),
            RedisGroup::Cluster(cluster) => Box::new(cluster.processes()),
        };
        let proxy = self.haproxy.iter().map(HaProxy::process);
        proxy.chain(self.nodes.iter().map(Node::process)).chain(redis)
    }

    /// Ends everything in good order: the proxy, all nodes at once, then Redis.
    ///
    /// # Errors
    /// When a node did not end by itself; everything is ended all the same.
    pub async fn stop(mut self) -> Result<(), LaunchError> {
        if let Some(proxy) = &mut self.haproxy {
            proxy.process_mut().terminate(PROXY_STOP).await?;
        }
        // They say goodbye side by side.
        let mut stopping = Vec::new();
        for node in &mut self.nodes {
            if node.process_mut().is_running() {
                node.signal(crate::Signal::Continue)?;
                node.signal(crate::Signal::Terminate)?;
                stopping.push(node);
            }
        }
        let mut stopped = Ok(());
        for node in stopping {
            stopped = stopped.and(node.wait_stopped().await);
        }
        stopped
    }

    fn record(&self) -> Result<(), LaunchError> {
        Record::of(self).write(&self.up.directory)
    }
}

/// Takes the directory, `named` so by who asks, for this cluster alone, until the file is closed.
fn lock(directory: &Path, named: &Path) -> Result<File, LaunchError> {
    let path = directory.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(LaunchError::of(format!("cannot write {}", path.display())))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(LaunchError::new(format!(
            "a cluster runs in {} already; stop it with Ctrl-C there, or give --dir another one",
            named.display()
        ))
        .because(Cause::DirectoryInUse)),
        Err(error) => Err(LaunchError::of(format!("cannot lock {}", path.display()))(error)),
    }
}

/// The nodes that `node` reaches, itself included, in order of their names.
async fn reachable(node: &Node) -> Result<Vec<String>, LaunchError> {
    let answer = node.admin("GET", "/v1/cluster").await?;
    if answer.status != 200 {
        let (name, status) = (node.name(), answer.status);
        return Err(LaunchError::new(format!("{name} answers {status} {}", answer.body)));
    }
    let answer = answer.json();
    let nodes = answer["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let there = nodes.iter().filter(|node| node["reachable"] == true);
    let mut names: Vec<String> =
        there.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Sections of a node config, as the profile's text would have them.
///
/// # Errors
/// When `text` is not TOML.
pub fn sections(text: &str) -> Result<Table, LaunchError> {
    text.parse().map_err(LaunchError::of("not TOML"))
}
