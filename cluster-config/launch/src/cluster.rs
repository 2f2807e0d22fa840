//! A whole cluster of local processes, made from a profile.

mod fill;
mod record;

use std::collections::BTreeMap;
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
use crate::haproxy::{HaProxy, ProxySpec};
use crate::node::{Node, NodeSpec, READY_DEADLINE, address};
use crate::profile::{Layout, NodeGroup, Profile, merge};
use crate::{
    LaunchError, Process, Redis, RedisCluster, RedisOptions, RedisSentinel, RedisServer, port, wait,
};

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
    /// The same for proxies.
    pub proxy_places: Vec<Place>,
    /// Further variables of the nodes' environment.
    pub environment: Vec<(String, String)>,
    /// The same for single nodes, by their names.
    pub node_environment: BTreeMap<String, Vec<(String, String)>>,
    /// Programs of single nodes, by their names.
    pub node_programs: BTreeMap<String, PathBuf>,
    /// Sections of the config of single nodes, by their names; they go before the profile's.
    pub node_config: BTreeMap<String, Table>,
    /// See [`Process::own_group`].
    pub own_group: bool,
}

/// Where a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
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
            proxy_places: Vec::new(),
            environment: Vec::new(),
            node_environment: BTreeMap::new(),
            node_programs: BTreeMap::new(),
            node_config: BTreeMap::new(),
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
    proxies: Vec<HaProxy>,
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
        cluster.shared.proxies = cluster.proxy_addresses()?;
        cluster.must_find_ports(&addresses).await?;
        cluster.start_redis().await?;
        for group in &profile.nodes {
            for name in group.names() {
                let index = cluster.nodes.len();
                let place = cluster.up.places.get(index).cloned().unwrap_or_default();
                let node = cluster.node_of(group, (index, &name), place, addresses[index])?;
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
        cluster.start_proxies().await?;
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
        Ok(Self { proxies: Vec::new(), nodes: Vec::new(), redis, up, profile, shared, _lock: lock })
    }

    /// That nobody listens where the nodes and the proxy are to: else they would be taken for them.
    async fn must_find_ports(&self, addresses: &[NodeAddresses]) -> Result<(), LaunchError> {
        let mut all = Vec::new();
        let groups = self.profile.nodes.iter();
        let names =
            groups.flat_map(|group| group.names().into_iter().map(move |name| (group, name)));
        for (n, ((group, name), addresses)) in names.zip(addresses).enumerate() {
            let config =
                self.config_of(group, (n, &name), &self.up.directory.join(&name), *addresses);
            let listens = ["http", "terminals", "cluster"].into_iter();
            let listens = listens.filter_map(|section| address(&config, section, "listen"));
            all.extend(listens.map(|at| (name.clone(), at)));
        }
        for (index, (http, terminals)) in self.shared.proxies.iter().enumerate() {
            let name = self.proxy_name(index);
            all.extend([http, terminals].map(|at| (name.clone(), *at)));
        }
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

    fn proxy_name(&self, index: usize) -> String {
        match &self.profile.haproxy {
            Some(plan) if plan.count > 1 => format!("haproxy-{index}"),
            _ => "haproxy".to_owned(),
        }
    }

    fn proxy_addresses(&self) -> Result<Vec<(SocketAddr, SocketAddr)>, LaunchError> {
        let before = Record::read(&self.up.directory);
        let count = self.profile.haproxy.as_ref().map_or(0, |plan| plan.count);
        let addresses = (0..count).map(|index| {
            let ip = self.up.proxy_places.get(index).cloned().unwrap_or_default().ip;
            match (self.first_port(), before.proxy(&self.proxy_name(index))) {
                (0, Some(known)) => Ok(known),
                (0, None) => Ok((port::free_at(ip)?, port::free_at(ip)?)),
                (first, _) => {
                    let at = |above: usize| {
                        let port = usize::from(first).checked_sub(10 * (index + 1) - above);
                        let port = port.filter(|port| *port > 0);
                        let port = port.and_then(|port| u16::try_from(port).ok());
                        let port = port.ok_or_else(|| {
                            LaunchError::new(format!("the first port must be above {}", 10 * count))
                        });
                        port.map(|port| SocketAddr::new(ip, port))
                    };
                    Ok((at(0)?, at(1)?))
                }
            }
        });
        addresses.collect()
    }

    fn config_of(
        &self,
        group: &NodeGroup,
        node: (usize, &str),
        directory: &Path,
        addresses: NodeAddresses,
    ) -> Table {
        let mut config = self.profile.config(group);
        if let Some(own) = self.up.node_config.get(node.1) {
            merge(&mut config, own);
        }
        self.shared.fill(&mut config, node, directory, addresses);
        config
    }

    fn node_of(
        &self,
        group: &NodeGroup,
        (index, name): (usize, &str),
        place: Place,
        addresses: NodeAddresses,
    ) -> Result<Node, LaunchError> {
        let directory = self.up.directory.join(name);
        self.node_in(&directory, group, (index, name), place, addresses)
    }

    fn node_in(
        &self,
        directory: &Path,
        group: &NodeGroup,
        (index, name): (usize, &str),
        place: Place,
        addresses: NodeAddresses,
    ) -> Result<Node, LaunchError> {
        let config = self.config_of(group, (index, name), directory, addresses);
        let mut environment = self.up.environment.clone();
        environment.extend(self.up.node_environment.get(name).cloned().unwrap_or_default());
        Node::prepare(NodeSpec {
            name: name.to_owned(),
            directory: directory.to_owned(),
            program: self.up.node_programs.get(name).unwrap_or(&self.up.program).clone(),
            config,
            admin_token: Arc::clone(&self.shared.admin_token),
            entry: place.entry,
            environment,
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

    async fn start_proxies(&mut self) -> Result<(), LaunchError> {
        let Some(plan) = &self.profile.haproxy else { return Ok(()) };
        for (index, (http, terminals)) in self.shared.proxies.clone().into_iter().enumerate() {
            let name = self.proxy_name(index);
            let spec = ProxySpec {
                directory: self.up.directory.join(&name),
                name,
                config: self.profile.base.join(&plan.config),
                http,
                terminals,
                entry: self.up.proxy_places.get(index).cloned().unwrap_or_default().entry,
                own_group: self.up.own_group,
            };
            self.proxies.push(HaProxy::start(spec, &self.nodes).await?);
        }
        Ok(())
    }

    /// Starts one more node like those of a group, which joins by the seeds alone.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add_node(&mut self, group: usize, name: &str) -> Result<&mut Node, LaunchError> {
        let place = self.up.places.get(self.nodes.len()).cloned().unwrap_or_default();
        self.add_node_at(group, name, place).await
    }

    /// The same at this place.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add_node_at(
        &mut self,
        group: usize,
        name: &str,
        place: Place,
    ) -> Result<&mut Node, LaunchError> {
        let group = self.profile.nodes.get(group).cloned();
        let group = group.ok_or_else(|| LaunchError::new("there is no such group"))?;
        let index = self.nodes.len();
        // Beyond the first ones any free port will do.
        let addresses = NodeAddresses::new(place.ip, 0, index)?;
        let mut node = self.node_of(&group, (index, name), place, addresses)?;
        node.restart().await?;
        self.nodes.push(node);
        Ok(&mut self.nodes[index])
    }

    /// Another process under the name of a node, with files and addresses of its own; it is not
    /// started, and who asked for it looks after it.
    ///
    /// # Errors
    /// When there is no such node, or the files cannot be written.
    pub fn twin(&self, name: &str, place: Place) -> Result<Node, LaunchError> {
        let groups = &self.profile.nodes;
        let group = groups.iter().find(|group| group.names().iter().any(|known| known == name));
        let known = self.nodes.iter().position(|node| node.name() == name);
        let (Some(group), Some(index)) = (group.or(groups.first()), known) else {
            return Err(LaunchError::new(format!("there is no node {name}")));
        };
        let addresses = NodeAddresses::new(place.ip, 0, index)?;
        let directory = self.up.directory.join(format!("{name}-twin"));
        self.node_in(&directory, group, (index, name), place, addresses)
    }

    /// Takes a node out that ended: nobody waits for it any more.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove_node(&mut self, name: &str) -> Result<Node, LaunchError> {
        let found = self.nodes.iter().position(|node| node.name() == name);
        let found = found.ok_or_else(|| LaunchError::new(format!("there is no node {name}")))?;
        Ok(self.nodes.remove(found))
    }

    /// That every process runs, or hangs.
    ///
    /// # Errors
    /// When one does not; with the end of its log.
    pub fn must_run(&mut self) -> Result<(), LaunchError> {
        self.processes_mut().try_for_each(Process::must_run)
    }

    /// That nothing is missing just now: every node is ready and knows all others and nobody else,
    /// Redis is settled, proxies pass requests on.
    ///
    /// # Errors
    /// When something is missing: what.
    pub async fn whole(&self) -> Result<(), LaunchError> {
        for node in &self.nodes {
            node.says_ready().await.map_err(LaunchError::of(node.name()))?;
        }
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        if nodes.len() > 1 {
            joined(&nodes).await?;
        }
        match &self.redis {
            RedisGroup::None => {}
            RedisGroup::Standalone(redis) => drop(redis.server.command(&["PING"]).await?),
            RedisGroup::Sentinel(group) => group.settled().await?,
            RedisGroup::Cluster(group) => group.settled().await?,
        }
        for proxy in &self.proxies {
            proxy.passes().await?;
        }
        Ok(())
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
        let joined = wait::until("the nodes know each other", JOIN_DEADLINE, async || {
            // In the place of one that ended another process may answer.
            let ended = running.iter_mut().find_map(|node| node.process_mut().must_run().err());
            if let Some(ended) = ended {
                return Ok(Err(ended));
            }
            let running: Vec<&Node> = running.iter().map(|node| &**node).collect();
            joined(&running).await.map(Ok)
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

    /// The first proxy, if there is one.
    #[must_use]
    pub fn haproxy(&self) -> Option<&HaProxy> {
        self.proxies.first()
    }

    /// All proxies.
    #[must_use]
    pub fn proxies(&self) -> &[HaProxy] {
        &self.proxies
    }

    /// All proxies, to change them.
    pub fn proxies_mut(&mut self) -> &mut [HaProxy] {
        &mut self.proxies
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

    /// All processes: proxies, nodes, Redis.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let redis: Box<dyn Iterator<Item = &Process> + '_> = match &self.redis {
            RedisGroup::None => Box::new(std::iter::empty()),
            RedisGroup::Standalone(redis) => Box::new(std::iter::once(redis.server.process())),
            RedisGroup::Sentinel(group) => Box::new(group.processes()),
            RedisGroup::Cluster(cluster) => Box::new(cluster.processes()),
        };
        let proxies = self.proxies.iter().map(HaProxy::process);
        proxies.chain(self.nodes.iter().map(Node::process)).chain(redis)
    }

    /// The same, to change them.
    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        let redis: Box<dyn Iterator<Item = &mut RedisServer> + '_> = match &mut self.redis {
            RedisGroup::None => Box::new(std::iter::empty()),
            RedisGroup::Standalone(redis) => Box::new(std::iter::once(&mut redis.server)),
            RedisGroup::Sentinel(group) => {
                let servers = group.shards.iter_mut().flat_map(|shard| &mut shard.servers);
                Box::new(servers.chain(&mut group.sentinels))
            }
            RedisGroup::Cluster(cluster) => Box::new(cluster.servers.iter_mut()),
        };
        let nodes = self.nodes.iter_mut().map(Node::process_mut);
        let proxies = self.proxies.iter_mut().map(HaProxy::process_mut);
        proxies.chain(nodes).chain(redis.map(RedisServer::process_mut))
    }

    /// Ends everything in good order: the proxies, all nodes at once, then Redis.
    ///
    /// # Errors
    /// When a node did not end by itself; everything is ended all the same.
    pub async fn stop(mut self) -> Result<(), LaunchError> {
        for proxy in &mut self.proxies {
            let process = proxy.process_mut();
            if process.is_running() {
                // One that hangs goes on to hear it.
                process.signal(crate::Signal::Continue)?;
            }
            process.terminate(PROXY_STOP).await?;
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

/// That each of these nodes knows all of them and nobody else.
async fn joined(nodes: &[&Node]) -> Result<(), LaunchError> {
    let mut names: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
    names.sort_unstable();
    for node in nodes {
        let seen = reachable(node).await?;
        if seen != names {
            return Err(LaunchError::new(format!("{} reaches {seen:?}", node.name())));
        }
    }
    Ok(())
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
