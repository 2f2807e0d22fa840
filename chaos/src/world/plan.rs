//! What a world is to be made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clarion_launch::cluster::sections;
use clarion_launch::profile::{Layout, ProxyPlan};
use clarion_launch::{Profile, RedisOptions};

use super::Component;
use crate::Failure;

/// The proxy's config that is shipped; it is for nodes `node-1` to `node-3`.
const PROXY_CONFIG: &str = "haproxy.cfg";

/// Worlds that are no shipped profile: their name, the profile that they are made from, and how many
/// proxies stand in front.
const MORE: [(&str, &str, usize); 1] = [("proxies", "sentinel", 2)];

/// One node with its own store. What it may take of a small disk is not left free.
const SINGLE: &str = "
[profile]
about = \"One node with its own store\"
[common.store]
free_bytes_min = 0
[[nodes]]
name = \"node-1\"
";

/// Every link comes from a proxy's address.
const BEHIND_PROXIES: &str = "
[terminals]
links_per_ip_max = 0
";

/// What a world is to be made of.
#[derive(Debug, Clone)]
pub struct WorldPlan {
    /// Its name.
    pub name: String,
    /// Nodes, their config, how Redis is laid out.
    pub profile: Profile,
    /// How many proxies stand in front; none: as the profile says.
    pub proxies: Option<usize>,
    /// Whether every host is a network namespace. Without root it stays a wish: then
    /// [`World::network`](super::World::network) has none.
    pub isolated: bool,
    /// Whether nodes run the program with `fault-hooks`.
    pub fault_hooks: bool,
    /// The value of `CLARION_FAULTS` for every node; needs `fault_hooks`.
    pub faults: Option<String>,
    /// Further variables of the environment of single nodes.
    pub environment: BTreeMap<String, Vec<(String, String)>>,
    /// Programs of single nodes, where they are others.
    pub programs: BTreeMap<String, PathBuf>,
    /// What Redis servers are to be like.
    pub redis: RedisOptions,
    /// Whether every node's wall clock can be [set](super::Clock).
    pub clocks: bool,
    /// Which nodes and Redis servers have a [disk](super::Disk) of their own, and its MiB.
    pub disks: BTreeMap<Component, u64>,
}

impl WorldPlan {
    /// A plan by its name: `sentinel`, `roles-apart`, `redis-cluster`, `proxies` (a pair of them before
    /// nodes with Sentinel), `single`, or any other launch profile of `cluster-config/profiles`.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn named(name: &str) -> Result<Self, Failure> {
        let directory = profiles();
        let more = MORE.iter().find(|(known, ..)| *known == name);
        let (file, proxies) = more.map_or((name, None), |(_, file, count)| (*file, Some(*count)));
        let profile = match name {
            "single" => Profile::parse(SINGLE, &directory)?,
            _ => Profile::load(&directory.join(format!("{file}.toml")))?,
        };
        Ok(Self { proxies, ..Self::of(name, profile) })
    }

    /// A world of this profile, with nothing special about it.
    #[must_use]
    pub fn of(name: &str, profile: Profile) -> Self {
        Self {
            name: name.to_owned(),
            profile,
            proxies: None,
            isolated: true,
            fault_hooks: false,
            faults: None,
            environment: BTreeMap::new(),
            programs: BTreeMap::new(),
            redis: RedisOptions::default(),
            clocks: false,
            disks: BTreeMap::new(),
        }
    }

    /// Adds sections to the config of all nodes.
    ///
    /// # Errors
    /// When `text` is not TOML.
    pub fn common(mut self, text: &str) -> Result<Self, Failure> {
        self.profile.add_common(&sections(text)?);
        Ok(self)
    }

    /// The profile with everything in it that the plan says besides.
    pub(super) fn whole_profile(&self) -> Result<Profile, Failure> {
        let mut profile = self.profile.clone();
        let Some(count) = self.proxies else { return Ok(profile) };
        if count == 0 {
            profile.haproxy = None;
            return Ok(profile);
        }
        let config = || profiles().join(PROXY_CONFIG);
        let config = profile.haproxy.take().map_or_else(config, |plan| plan.config);
        profile.haproxy = Some(ProxyPlan { config, count });
        profile.add_common(&sections(BEHIND_PROXIES)?);
        Ok(profile)
    }

    /// The processes of it, but for nodes that are added later.
    pub(super) fn processes(profile: &Profile) -> Vec<Component> {
        let mut all: Vec<_> = profile.names().into_iter().map(Component::Node).collect();
        let redis = profile.redis;
        if redis.layout != Layout::None {
            let shards = 0..redis.shards();
            let servers = |shard| (0..=redis.replicas()).map(move |index| (shard, index));
            let servers = shards.flat_map(servers);
            all.extend(servers.map(|(shard, index)| Component::Redis { shard, index }));
        }
        all.extend((0..redis.sentinels()).map(Component::Sentinel));
        let proxies = profile.haproxy.as_ref().map_or(0, |plan| plan.count);
        all.extend((0..proxies).map(Component::Proxy));
        all
    }
}

fn profiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config/profiles")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str) -> [usize; 4] {
        let profile = WorldPlan::named(name).unwrap().whole_profile().unwrap();
        let all = WorldPlan::processes(&profile);
        ["node", "redis", "sentinel", "proxy"]
            .map(|class| all.iter().filter(|component| component.class() == class).count())
    }

    #[test]
    fn named_worlds_have_what_they_are_named_for() {
        assert_eq!(count("sentinel"), [3, 3, 3, 0]);
        assert_eq!(count("roles-apart"), [7, 3, 0, 0]);
        assert_eq!(count("redis-cluster"), [3, 9, 0, 0]);
        assert_eq!(count("proxies"), [3, 3, 3, 2]);
        assert_eq!(count("haproxy"), [3, 3, 0, 1]);
        assert_eq!(count("single"), [1, 0, 0, 0]);
        assert!(WorldPlan::named("none").is_err());
    }
}
