//! The world of a run: nodes, Redis servers, sentinels and proxies as processes, each on a host of its
//! own where that can be, and everything that is needed to break one and mend it. Whatever it made
//! is gone when it is dropped; what a run left that was killed, the next one [sweeps](sweep) away.

mod backup;
pub mod binary;
mod clock;
mod component;
mod disk;
mod lease;
pub mod network;
mod plan;
mod signals;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clarion_launch::cluster::sections;
use clarion_launch::process::Resources;
use clarion_launch::{
    Cluster, LaunchError, Node, Place, Process, RedisGroup, RedisServer, Up, wait,
};

use crate::Failure;
use crate::workload::{Door, Doors, Patience};

pub use clock::Clock;
pub use component::Component;
pub use disk::Disk;
pub use lease::{Lease, sweep};
pub use network::{Direction, Network};
pub use plan::WorldPlan;
pub use signals::interrupted;

/// Lines of each log that a failure quotes.
const TAIL_LINES: usize = 25;

/// See the module.
#[derive(Debug)]
pub struct World {
    /// The processes.
    pub cluster: Cluster,
    name: String,
    /// Why there is no network, if there is none.
    no_network: String,
    clocks: BTreeMap<String, Clock>,
    /// Programs that were provided, by whether they have `fault-hooks`.
    programs: BTreeMap<bool, PathBuf>,
    directory: PathBuf,
    // Goes after the processes.
    disks: BTreeMap<Component, Disk>,
    network: Option<Network>,
}

impl World {
    /// Builds it in a directory and waits until it is [whole](World::whole).
    ///
    /// # Errors
    /// When something cannot be started, or is not ready in time; what runs by then is ended.
    pub async fn build(plan: WorldPlan, directory: &Path) -> Result<Self, Failure> {
        let profile = plan.whole_profile()?;
        let processes = WorldPlan::processes(&profile);
        let (network, no_network) = network_for(&plan, &processes);
        let at = directory.join("cluster");
        let (mut disks, mut node_config) = (BTreeMap::new(), BTreeMap::new());
        if !plan.disks.is_empty() {
            let lease = network.as_ref().map(|network| Arc::clone(network.lease()));
            let lease = lease.map_or_else(Lease::take, Ok)?;
            for (component, mib) in &plan.disks {
                let point = at.join(data_directory(component, &profile)?);
                let disk = Disk::mount(&lease, &point, *mib)?;
                if let Component::Node(name) = component {
                    // A store is made beside its place and moved there: not onto a mount point.
                    let path = disk.point().join("data");
                    let path = serde_json::Value::from(path.to_string_lossy());
                    let store = sections(&format!("[store]\npath = {path}"))?;
                    node_config.insert(name.clone(), store);
                }
                disks.insert(component.clone(), disk);
            }
        }
        let mut programs = BTreeMap::new();
        let program = provide(&mut programs, plan.fault_hooks, directory)?;
        let mut up = Up::new(&at, &program);
        up.first_port = Some(0);
        up.redis = plan.redis;
        if let Some(network) = &network {
            let places = |class: &str| -> Vec<Place> {
                let of = processes.iter().filter(|component| component.class() == class);
                of.filter_map(|component| network.place(component)).collect()
            };
            up.places = places("node");
            up.redis.places = places("redis");
            up.redis.sentinel_places = places("sentinel");
            up.proxy_places = places("proxy");
        }
        up.environment.extend(plan.faults.map(|faults| ("CLARION_FAULTS".to_owned(), faults)));
        up.node_environment = plan.environment;
        (up.node_programs, up.node_config) = (plan.programs, node_config);
        let mut clocks = BTreeMap::new();
        if plan.clocks {
            for name in profile.names() {
                let clock = Clock::create(&directory.join(format!("{name}.clock")))?;
                up.node_environment.entry(name.clone()).or_default().extend(clock.environment()?);
                clocks.insert(name, clock);
            }
        }
        let cluster = Cluster::up(&profile, up).await?;
        let (name, directory) = (plan.name, directory.to_owned());
        Ok(Self { cluster, name, no_network, clocks, programs, directory, disks, network })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything that can be broken: all processes, then all links. Links between nodes have a
    /// direction each; any other pair is named once, by who calls whom.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        let mut all = self.processes();
        all.extend(links(&all, &self.doors_of_clients()));
        all
    }

    /// All processes, whether they run or not.
    #[must_use]
    pub fn processes(&self) -> Vec<Component> {
        let nodes = self.cluster.nodes.iter().map(|node| Component::Node(node.name().to_owned()));
        let mut all: Vec<Component> = nodes.collect();
        match &self.cluster.redis {
            RedisGroup::None => {}
            RedisGroup::Standalone(_) => all.push(Component::Redis { shard: 0, index: 0 }),
            RedisGroup::Sentinel(group) => {
                for (shard, servers) in group.shards.iter().enumerate() {
                    let of = 0..servers.servers.len();
                    all.extend(of.map(|index| Component::Redis { shard, index }));
                }
                all.extend((0..group.sentinels.len()).map(Component::Sentinel));
            }
            RedisGroup::Cluster(group) => {
                for shard in 0..group.shards() {
                    let of = 0..=group.replicas_per();
                    all.extend(of.map(|index| Component::Redis { shard, index }));
                }
            }
        }
        all.extend((0..self.cluster.proxies().len()).map(Component::Proxy));
        all
    }

    /// What it is, for tables: of a node its roles (`node:gateway+push+broker`), else as
    /// [`Component::class`].
    #[must_use]
    pub fn class(&self, component: &Component) -> String {
        let Component::Node(name) = component else { return component.class() };
        let node = self.cluster.nodes.iter().find(|node| node.name() == name);
        node.map_or_else(|| component.class(), |node| format!("node:{}", node.roles().join("+")))
    }

    /// The components that a component is made of: the ends of a link.
    #[must_use]
    pub fn parts(component: &Component) -> Vec<Component> {
        match component {
            Component::Link(from, to) => vec![(**from).clone(), (**to).clone()],
            _ => Vec::new(),
        }
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&mut self, name: &str) -> Result<&mut Node, Failure> {
        Ok(self.cluster.node(name)?)
    }

    /// The Redis server or sentinel.
    ///
    /// # Errors
    /// When there is none.
    pub fn redis(&mut self, component: &Component) -> Result<&mut RedisServer, Failure> {
        let found = match (&mut self.cluster.redis, component) {
            (RedisGroup::Standalone(redis), Component::Redis { shard: 0, index: 0 }) => {
                Some(&mut redis.server)
            }
            (RedisGroup::Sentinel(group), Component::Redis { shard, index }) => {
                group.shards.get_mut(*shard).and_then(|shard| shard.servers.get_mut(*index))
            }
            (RedisGroup::Sentinel(group), Component::Sentinel(index)) => {
                group.sentinels.get_mut(*index)
            }
            (RedisGroup::Cluster(group), Component::Redis { shard, index }) => {
                let place = index * group.shards() + shard;
                if *shard < group.shards() { group.servers.get_mut(place) } else { None }
            }
            _ => None,
        };
        found.ok_or_else(|| unknown(component))
    }

    /// The process of a component.
    ///
    /// # Errors
    /// When it has none: it is a link, or not of this world.
    pub fn process(&mut self, component: &Component) -> Result<&mut Process, Failure> {
        match component {
            Component::Node(name) => Ok(self.cluster.node(name)?.process_mut()),
            Component::Redis { .. } | Component::Sentinel(_) => {
                Ok(self.redis(component)?.process_mut())
            }
            Component::Proxy(index) => {
                let proxy = self.cluster.proxies_mut().get_mut(*index);
                Ok(proxy.ok_or_else(|| unknown(component))?.process_mut())
            }
            Component::Client | Component::Link(..) => Err(unknown(component)),
        }
    }

    /// Starts a component again after it ended, with its files and addresses, and waits until it
    /// answers. Whether all is [whole](World::whole) again is another question.
    ///
    /// # Errors
    /// When it runs, or does not answer in time.
    pub async fn restart(&mut self, component: &Component) -> Result<(), Failure> {
        match component {
            Component::Node(name) => self.cluster.node(name)?.restart().await?,
            Component::Redis { .. } | Component::Sentinel(_) => {
                self.redis(component)?.restart().await?;
            }
            Component::Proxy(index) => {
                let proxy = self.cluster.proxies_mut().get_mut(*index);
                proxy.ok_or_else(|| unknown(component))?.restart().await?;
            }
            Component::Client | Component::Link(..) => return Err(unknown(component)),
        }
        Ok(())
    }

    /// Starts one more node like those of the profile's first group, on a host of its own, which joins
    /// by the seeds alone.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add_node(&mut self, name: &str) -> Result<&mut Node, Failure> {
        let place = self.new_host(name)?;
        Ok(self.cluster.add_node_at(0, name, place).await?)
    }

    /// Takes a node that ended out of the world: it is not missed any more.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove_node(&mut self, name: &str) -> Result<Node, Failure> {
        Ok(self.cluster.remove_node(name)?)
    }

    /// Another process under the name of a node, on a host of its own; not started, and not of the
    /// world: who asked for it looks after it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn twin(&mut self, name: &str) -> Result<Node, Failure> {
        let place = self.new_host(&format!("{name}-twin"))?;
        Ok(self.cluster.twin(name, place)?)
    }

    fn new_host(&mut self, name: &str) -> Result<Place, Failure> {
        match &mut self.network {
            Some(network) => network.add(&Component::Node(name.to_owned())),
            None => Ok(Place::default()),
        }
    }

    /// A program, with `fault-hooks` or without, to [replace](Node::set_program) a node's with.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn program(&mut self, fault_hooks: bool) -> Result<PathBuf, Failure> {
        provide(&mut self.programs, fault_hooks, &self.directory)
    }

    /// The ways between the hosts. None when all are one: without root, or when the plan says so.
    #[must_use]
    pub const fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Why there is no network.
    #[must_use]
    pub fn no_network(&self) -> Option<&str> {
        self.network.is_none().then_some(self.no_network.as_str())
    }

    /// Where back-ends and terminals are to run.
    #[must_use]
    pub fn client(&self) -> Place {
        let place = self.network.as_ref().and_then(|network| network.place(&Component::Client));
        place.unwrap_or_default()
    }

    /// The disk of a node or Redis server; none when it shares the machine's.
    #[must_use]
    pub fn disk(&self, component: &Component) -> Option<&Disk> {
        self.disks.get(component)
    }

    /// The wall clock of a node; none when it has the machine's.
    #[must_use]
    pub fn clock(&self, node: &str) -> Option<&Clock> {
        self.clocks.get(node)
    }

    /// How the load reaches the world: by its proxies if there are any, else by every node.
    #[must_use]
    pub fn doors(&self) -> Doors {
        let admin_token = self.cluster.admin_token().to_owned();
        let several = self.cluster.nodes.len() > 1;
        let patience = if several { Patience::SEVERAL_NODES } else { Patience::ONE_NODE };
        let named = |at: SocketAddr, index, scheme: &str| {
            Door::new(Component::Proxy(index).to_string(), format!("{scheme}://{at}"))
        };
        let proxies = self.cluster.proxies().iter().enumerate();
        let http: Vec<Door> =
            proxies.clone().map(|(n, proxy)| named(proxy.http_addr(), n, "http")).collect();
        if !http.is_empty() {
            let terminals = proxies.map(|(n, proxy)| named(proxy.terminals_addr(), n, "ws"));
            return Doors { http, terminals: terminals.collect(), admin_token, patience };
        }
        let nodes = &self.cluster.nodes;
        let pushes = nodes.iter().filter(|node| node.has_role("push"));
        let gateways = nodes.iter().filter(|node| node.terminals_addr().is_some());
        Doors {
            http: pushes.map(|node| Door::new(node.name(), node.http_url())).collect(),
            terminals: gateways.map(|node| Door::new(node.name(), node.terminals_url())).collect(),
            admin_token,
            patience,
        }
    }

    /// Who is asked first by back-ends and terminals.
    fn doors_of_clients(&self) -> Vec<Component> {
        let proxies = self.cluster.proxies().len();
        if proxies > 0 {
            return (0..proxies).map(Component::Proxy).collect();
        }
        let doors = self.cluster.nodes.iter();
        let doors = doors.filter(|node| node.has_role("push") || node.has_role("gateway"));
        doors.map(|node| Component::Node(node.name().to_owned())).collect()
    }

    /// Waits until nothing is missing: all nodes are ready and know all others and nobody else, Redis
    /// is settled (masters with all replicas in sync, sentinels that agree), proxies pass requests on.
    ///
    /// # Errors
    /// When that does not come about in time; with the end of every log.
    pub async fn whole(&mut self, deadline: Duration) -> Result<(), Failure> {
        let cluster = &mut self.cluster;
        let whole = wait::until("everything whole", deadline, async || match cluster.must_run() {
            // What ended does not come back by itself.
            Err(ended) => Ok(Err(ended)),
            Ok(()) => cluster.whole().await.map(Ok),
        });
        let whole = whole.await.and_then(|ended| ended);
        whole.map_err(|error: LaunchError| self.told(&error.to_string()))
    }

    /// What each process holds just now; nothing where it is down.
    #[must_use]
    pub fn resources(&mut self) -> BTreeMap<Component, Option<Resources>> {
        let all = self.processes().into_iter();
        all.map(|component| {
            let held = self.process(&component).ok();
            let held = held.and_then(|process| process.resources().ok());
            (component, held)
        })
        .collect()
    }

    /// A failure after the end of every process's log: what was wrong is read last.
    #[must_use]
    pub fn told(&self, what: &str) -> Failure {
        let mut text = String::new();
        for process in self.cluster.processes() {
            let pid = process.pid().map_or_else(|| "down".to_owned(), |pid| format!("pid {pid}"));
            text += &format!("\n---- {} ({pid})\n{}", process.name(), process.log_tail(TAIL_LINES));
        }
        text += &format!("\n---- what was wrong\n{what}");
        Failure::new(text)
    }

    /// Ends everything in good order and clears it away.
    ///
    /// # Errors
    /// When a node did not end by itself; everything is ended all the same.
    pub async fn stop(self) -> Result<(), Failure> {
        let Self { cluster, disks, network, .. } = self;
        let stopped = cluster.stop().await;
        drop((disks, network));
        Ok(stopped?)
    }
}

fn unknown(component: &Component) -> Failure {
    Failure::new(format!("{component} has no process in this world"))
}

/// The network of a plan, or why there is none.
fn network_for(plan: &WorldPlan, processes: &[Component]) -> (Option<Network>, String) {
    if !plan.isolated {
        return (None, "the world is to have one host".to_owned());
    }
    let hosts: Vec<Component> = processes.iter().cloned().chain([Component::Client]).collect();
    match Network::create(&hosts) {
        Ok(network) => (Some(network), String::new()),
        Err(failure) => (None, failure.to_string()),
    }
}

/// The program, provided once.
fn provide(
    known: &mut BTreeMap<bool, PathBuf>,
    fault_hooks: bool,
    directory: &Path,
) -> Result<PathBuf, Failure> {
    if let Some(program) = known.get(&fault_hooks) {
        return Ok(program.clone());
    }
    let at = directory.join(if fault_hooks { "with-fault-hooks" } else { "plain" });
    std::fs::create_dir_all(&at).map_err(Failure::of("cannot make a directory"))?;
    let program = binary::provide(fault_hooks, &at)?;
    known.insert(fault_hooks, program.clone());
    Ok(program)
}

/// Where a component keeps its data, below the directory of the cluster.
fn data_directory(
    component: &Component,
    profile: &clarion_launch::Profile,
) -> Result<PathBuf, Failure> {
    use clarion_launch::profile::Layout;
    let redis = profile.redis;
    match (component, redis.layout) {
        (Component::Node(name), _) => Ok(Path::new(name).join("disk")),
        (Component::Redis { .. }, Layout::Standalone) => Ok("redis".into()),
        (Component::Redis { shard, index }, Layout::Cluster) => {
            Ok(format!("redis-{}", index * redis.shards() + shard).into())
        }
        (Component::Redis { shard, index }, Layout::Replicated | Layout::Sentinel) => {
            Ok(format!("redis-{shard}-{index}").into())
        }
        _ => Err(Failure::new(format!("{component} keeps no data"))),
    }
}

/// All links between these processes, clients and their doors.
fn links(processes: &[Component], doors: &[Component]) -> Vec<Component> {
    let mut all = Vec::new();
    for from in processes {
        for to in processes {
            let is = match (from, to) {
                (Component::Node(a), Component::Node(b)) => a != b,
                (Component::Node(_), Component::Redis { .. } | Component::Sentinel(_))
                | (Component::Sentinel(_), Component::Redis { .. })
                | (Component::Proxy(_), Component::Node(_)) => true,
                (Component::Sentinel(a), Component::Sentinel(b)) => a < b,
                (
                    Component::Redis { shard: a, index: first },
                    Component::Redis { shard: b, index: second },
                ) => a == b && first < second,
                _ => false,
            };
            if is {
                all.push(Component::link(from, to));
            }
        }
    }
    all.extend(doors.iter().map(|door| Component::link(&Component::Client, door)));
    all
}

#[cfg(test)]
mod tests;
