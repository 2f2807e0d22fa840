//! The scenarios: what is broken, in which world, in which order. Each is a function over a [`Run`]
//! and an entry of the [list](ALL).

mod emptied;
mod links;
mod members;
mod mutants;
mod nodes;
mod proxies;
mod random;
mod redis;
mod spof;
mod squeezed;

use futures_util::future::LocalBoxFuture;

use crate::Failure;
use crate::fault::Need;
use crate::run::{Options, Run, Setting};

/// Pushes that show that everything works.
pub const SOME: u64 = 60;

/// A named run: what is done to a world, and what it is to be like.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is broken, in a line.
    pub about: &'static str,
    /// The name of its world.
    pub world: &'static str,
    /// What it cannot do without; what single faults need besides is skipped by name.
    pub needs: &'static [Need],
    /// Words to choose it by.
    pub tags: &'static [&'static str],
    /// How many faults it makes at least: each has its share of the pushes that must overlap them.
    pub faults: u32,
    /// What is different in its setting.
    pub setting: fn(Setting) -> Result<Setting, Failure>,
    /// What it does between warm-up and healing.
    pub steps: Steps,
}

/// The steps of a scenario.
pub type Steps = for<'a> fn(&'a mut Run) -> LocalBoxFuture<'a, Result<(), Failure>>;

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scenario").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Scenario {
    /// A scenario in a world: what it does between warm-up and healing.
    #[must_use]
    pub const fn new(name: &'static str, world: &'static str, steps: Steps) -> Self {
        let (needs, tags): (&[Need], &[&str]) = (&[], &[]);
        Self { name, about: "", world, needs, tags, faults: 1, setting: as_it_is, steps }
    }

    /// What is broken, in a line.
    #[must_use]
    pub const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    /// What it cannot do without.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// How many faults it makes at least, if more than one.
    #[must_use]
    pub const fn faults(self, faults: u32) -> Self {
        Self { faults, ..self }
    }

    /// Words to choose it by.
    #[must_use]
    pub const fn tags(self, tags: &'static [&'static str]) -> Self {
        Self { tags, ..self }
    }

    /// What is different in its world or load.
    #[must_use]
    pub const fn setting(self, setting: fn(Setting) -> Result<Setting, Failure>) -> Self {
        Self { setting, ..self }
    }
}

/// As the world of this name is.
const fn as_it_is(setting: Setting) -> Result<Setting, Failure> {
    Ok(setting)
}

const ROOT: &[Need] = &[Need::Namespaces];
const HOOKS: &[Need] = &[Need::FaultHooks];
const FAKETIME: &[Need] = &[Need::Command("faketime", "faketime")];
const MOUNT: &[Need] = &[Need::Mount];

/// As many as it takes.
const DRAWN: u32 = u32::MAX;

/// All scenarios, but the kill loop of the embedded node, which has a world of its own.
pub const ALL: &[Scenario] = &[
    Scenario::new("node-killed", "three-nodes", |run| Box::pin(nodes::killed(run)))
        .about("the owner of a product: SIGKILL, and again before it is stable")
        .faults(2)
        .tags(&["node"]),
    Scenario::new("node-hung", "three-nodes", |run| Box::pin(nodes::hung(run)))
        .about("the owner of a product: SIGSTOP until the others notice, then it wakes")
        .tags(&["node"]),
    Scenario::new("node-twin", "three-nodes", |run| Box::pin(nodes::twin(run)))
        .about("a node starts under its name while the old one hangs, which then wakes")
        .tags(&["node"]),
    Scenario::new("roles-killed", "roles-apart", |run| Box::pin(nodes::roles_killed(run)))
        .about("gateway, owner and push node, each on a node of its own: SIGKILL")
        .faults(3)
        .tags(&["node"]),
    Scenario::new("roles-hung", "roles-apart", |run| Box::pin(nodes::roles_hung(run)))
        .about("gateway, owner and push node, each on a node of its own: SIGSTOP")
        .faults(3)
        .tags(&["node"]),
    Scenario::new("node-joins", "three-nodes", |run| Box::pin(members::joins_and_leaves(run)))
        .about("a fourth node joins with a seed and takes its share, the third leaves")
        .faults(2)
        .tags(&["members"]),
    Scenario::new("nodes-in-turn", "three-nodes", |run| Box::pin(members::in_turn(run)))
        .about("every node is ended in good order and started again")
        .faults(3)
        .tags(&["members"]),
    Scenario::new("upgrade", "three-nodes", |run| Box::pin(members::upgrade(run)))
        .about("every node is replaced by the next release, which speaks another wire version")
        .faults(3)
        .tags(&["members"])
        .needs(HOOKS)
        .setting(members::with_hooks),
    Scenario::new("memory", "three-nodes", |run| Box::pin(nodes::memory(run)))
        .about("memory of the others while a node hangs under load")
        .tags(&["node"])
        .setting(nodes::loaded),
    Scenario::new("redis-master-killed", "sentinel", |run| Box::pin(redis::master_killed(run)))
        .about("the Redis master: SIGKILL")
        .tags(&["redis"]),
    Scenario::new("redis-master-hung", "sentinel", |run| Box::pin(redis::master_hung(run)))
        .about("the Redis master: SIGSTOP until another is master, then it wakes")
        .tags(&["redis"]),
    Scenario::new("redis-others", "sentinel", |run| Box::pin(redis::others(run)))
        .about("a replica and a sentinel: SIGKILL and SIGSTOP")
        .faults(4)
        .tags(&["redis"]),
    Scenario::new("redis-rolling", "sentinel", |run| Box::pin(redis::rolling(run)))
        .about("master, replica, sentinel in turn: killed, hung, read-only, after each resync")
        .faults(6)
        .tags(&["redis"])
        .setting(redis::read_only),
    Scenario::new("redis-cluster", "redis-cluster", |run| Box::pin(redis::cluster(run)))
        .about("masters of a Redis Cluster: SIGKILL and SIGSTOP")
        .faults(2)
        .tags(&["redis"]),
    Scenario::new("redis-emptied", "sentinel", |run| Box::pin(emptied::redis(run)))
        .about("outside the fault model: the master comes back empty at once, a backup is put back")
        .tags(&["redis", "outside"])
        .setting(emptied::without_a_store),
    Scenario::new("store-set-back", "single", |run| Box::pin(emptied::embedded(run)))
        .about("outside the fault model: the one node's store is replaced by an older copy")
        .tags(&["node", "outside"])
        .setting(emptied::without_a_store),
    Scenario::new("redis-cut-off", "sentinel", |run| Box::pin(mutants::replicas_cut_off(run)))
        .about("the Redis master loses the way to its replicas, then it dies: SIGKILL")
        .tags(&["redis", "mutants"])
        .needs(ROOT),
    Scenario::new("answers-lost", "three-nodes", |run| Box::pin(mutants::answers_lost(run)))
        .about("an owner's appends reach Redis, the answers do not reach the owner")
        .tags(&["link", "mutants"])
        .needs(ROOT),
    Scenario::new("come-and-go", "single", |run| Box::pin(mutants::come_and_go(run)))
        .about("nothing but terminals that leave and come back, soon and late")
        .tags(&["terminals", "mutants"])
        .setting(mutants::unbroken),
    Scenario::new("proxy-redis", "haproxy", |run| Box::pin(proxies::redis_master(run)))
        .about("behind HAProxy the Redis master dies: no terminal link is closed")
        .tags(&["proxy", "redis"])
        .setting(proxies::with_sentinels),
    Scenario::new("proxy-drain", "haproxy", |run| Box::pin(proxies::drain(run)))
        .about("behind HAProxy a draining node gets no new links, another dies")
        .tags(&["proxy"]),
    Scenario::new("links", "three-nodes", |run| Box::pin(links::between_nodes(run)))
        .about("the way between two nodes: both directions, one, the other, flapping")
        .faults(4)
        .tags(&["link"])
        .needs(ROOT),
    Scenario::new("node-alone", "three-nodes", |run| Box::pin(links::alone(run)))
        .about("a node that reaches nobody; one that does not hear Redis; one whose writes come too late")
        .faults(4)
        .tags(&["link"])
        .needs(ROOT),
    Scenario::new("links-weather", "three-nodes", |run| Box::pin(links::weather(run)))
        .about("peer links that are late, narrow, lossy, cut, corrupted, replayed")
        .faults(7)
        .tags(&["link"])
        .needs(ROOT),
    Scenario::new("squeezed", "three-nodes", |run| Box::pin(squeezed::squeezed(run)))
        .about("a node short of descriptors, of memory, of CPU time")
        .faults(3)
        .tags(&["node"]),
    Scenario::new("panics", "three-nodes", |run| Box::pin(squeezed::panics(run)))
        .about("actors panic at random and in crash loops")
        .faults(2)
        .tags(&["node"])
        .needs(HOOKS)
        .setting(members::with_hooks),
    Scenario::new("clocks", "three-nodes", |run| Box::pin(squeezed::clocks(run)))
        .about("the wall clock of a node: seconds and hours forward and back")
        .faults(6)
        .tags(&["node"])
        .needs(FAKETIME)
        .setting(squeezed::with_clocks),
    Scenario::new("disk", "single", |run| Box::pin(squeezed::disk(run)))
        .about("the disk of the one node with its own store: full, then read-only")
        .faults(2)
        .tags(&["node"])
        .needs(MOUNT)
        .setting(squeezed::with_a_disk),
    Scenario::new("crowds", "three-nodes", |run| Box::pin(squeezed::crowds(run)))
        .about("storms, slow, silent and malicious terminals, a product that floods")
        .faults(5)
        .tags(&["terminals"]),
    Scenario::new("spof", "proxies", |run| Box::pin(spof::every_component(run)))
        .about("every component killed, hung and cut off in turn: the table of single points of failure")
        .faults(35)
        .tags(&["ci", "spof"])
        .setting(spof::complete),
    Scenario::new("random", "proxies", |run| Box::pin(random::schedule(run)))
        .about("faults drawn from the seed, several at once, within the fault model")
        .faults(DRAWN)
        .tags(&["ci", "soak"])
        .setting(spof::setting),
    Scenario::new("random-cluster", "redis-cluster", |run| Box::pin(random::schedule(run)))
        .about("the same on a Redis Cluster")
        .faults(DRAWN)
        .tags(&["soak"])
        .setting(spof::setting),
    Scenario::new("random-roles", "roles-apart", |run| Box::pin(random::schedule(run)))
        .about("the same on nodes that do one thing each")
        .faults(DRAWN)
        .tags(&["soak"])
        .setting(random::on_roles),
];

/// The scenario of this name.
///
/// # Errors
/// When there is none; names those that are like it.
pub fn named(name: &str) -> Result<&'static Scenario, Failure> {
    ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        Failure::new(format!("there is no scenario {name}; there are {}", names.join(", ")))
    })
}

/// Makes a run of the scenario and judges it.
///
/// # Errors
/// When a promise was broken or the run could not be made; its files are kept and named.
pub async fn run(scenario: &'static Scenario, options: Options) -> Result<Outcome, Failure> {
    Run::make(scenario, options).await
}

/// How a run came out, if nothing was wrong with it.
#[derive(Debug)]
pub enum Outcome {
    /// Every promise was kept.
    Kept(Box<crate::summary::Summary>),
    /// It cannot be made here, and why.
    Skipped(String),
}
