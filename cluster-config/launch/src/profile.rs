//! Launch profiles: what `clarion cluster up` starts. The format is described beside the profiles.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::LaunchError;

/// A profile as the file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// About the whole.
    pub profile: About,
    /// The Redis servers.
    #[serde(default)]
    pub redis: RedisPlan,
    /// Proxies before the nodes.
    #[serde(default)]
    pub haproxy: Option<ProxyPlan>,
    /// Sections of a node config that all nodes have.
    #[serde(default)]
    pub common: Table,
    /// The nodes, in groups.
    pub nodes: Vec<NodeGroup>,
    /// Where relative paths start.
    #[serde(skip)]
    pub base: PathBuf,
}

/// About a profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What comes up, in one line.
    pub about: String,
    /// The port of the first node's API; 0 takes free ports for everything.
    #[serde(default)]
    pub first_port: u16,
}

/// How Redis is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// No Redis.
    #[default]
    None,
    /// One server.
    Standalone,
    /// A master with replicas, and nobody who promotes them.
    Replicated,
    /// Masters with replicas and sentinels.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// The Redis servers of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisPlan {
    /// How they are laid out.
    #[serde(default)]
    pub layout: Layout,
    shards: Option<usize>,
    replicas: Option<usize>,
    sentinels: Option<usize>,
}

/// The proxies of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyPlan {
    /// Its config, relative to the profile.
    pub config: PathBuf,
    /// How many of them; clients know all.
    #[serde(default = "one")]
    pub count: usize,
}

const fn one() -> usize {
    1
}

/// Nodes that are alike.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeGroup {
    /// The name of the node, or how the names begin.
    pub name: String,
    /// How many; without it one, whose name has no number.
    #[serde(default)]
    pub count: Option<usize>,
    /// Sections of a node config; they go before the common ones.
    #[serde(default)]
    pub config: Table,
}

impl RedisPlan {
    /// Masters.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.unwrap_or(if self.layout == Layout::Cluster { 3 } else { 1 })
    }

    /// Replicas of each.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.replicas.unwrap_or(if self.layout == Layout::Standalone { 0 } else { 2 })
    }

    /// Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> usize {
        if self.layout == Layout::Sentinel { self.sentinels.unwrap_or(3) } else { 0 }
    }

    fn check(&self) -> Result<(), LaunchError> {
        let wrong = |what: &str| Err(LaunchError::new(what));
        match self.layout {
            Layout::None if self.shards.or(self.replicas).or(self.sentinels).is_some() => {
                wrong("redis: a layout is missing")
            }
            Layout::Standalone | Layout::Replicated if self.shards() != 1 => {
                wrong("redis.shards: only \"sentinel\" and \"cluster\" have more than one")
            }
            Layout::Standalone if self.replicas() != 0 => {
                wrong("redis.replicas: \"standalone\" has none; \"replicated\" has")
            }
            Layout::Sentinel | Layout::Cluster if self.shards() == 0 => {
                wrong("redis.shards: at least 1")
            }
            Layout::Cluster if self.shards() < 3 => {
                wrong("redis.shards: a Redis Cluster has 3 at least")
            }
            Layout::Sentinel if self.sentinels() == 0 => wrong("redis.sentinels: at least 1"),
            Layout::None | Layout::Standalone | Layout::Replicated | Layout::Cluster
                if self.sentinels.is_some() =>
            {
                wrong("redis.sentinels: only \"sentinel\" has them")
            }
            _ => Ok(()),
        }
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// When it cannot be read, or is not one.
    pub fn load(path: &Path) -> Result<Self, LaunchError> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(LaunchError::of(&name))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(""))).map_err(LaunchError::of(&name))
    }

    /// Reads a profile from its text; relative paths start at `base`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &str, base: &Path) -> Result<Self, LaunchError> {
        let table: Table = text.parse().map_err(LaunchError::of("not TOML"))?;
        if !table.contains_key("profile") {
            return Err(LaunchError::new(
                "this is no launch profile: it has no [profile] section. \
                 A node config is started with `clarion start`",
            ));
        }
        let mut profile: Self = toml::from_str(text).map_err(LaunchError::of("not a profile"))?;
        base.clone_into(&mut profile.base);
        profile.redis.check()?;
        if profile.names().is_empty() {
            return Err(LaunchError::new("nodes: there is none"));
        }
        let mut names = profile.names();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(LaunchError::new(format!("nodes: {} is there twice", twice[0])));
        }
        Ok(profile)
    }

    /// Replaces the count of the first group that has one.
    ///
    /// # Errors
    /// When none has.
    pub fn set_count(&mut self, count: usize) -> Result<(), LaunchError> {
        let group = self.nodes.iter_mut().find(|group| group.count.is_some());
        let group = group.ok_or_else(|| LaunchError::new("no group of the profile has a count"))?;
        group.count = Some(count);
        Ok(())
    }

    /// Adds sections that all nodes have; they go before those that are there.
    pub fn add_common(&mut self, sections: &Table) {
        merge(&mut self.common, sections);
    }

    /// The names of all nodes, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().flat_map(NodeGroup::names).collect()
    }

    /// The config of a node of a group, before the launcher fills in what is missing.
    #[must_use]
    pub fn config(&self, group: &NodeGroup) -> Table {
        let mut config = self.common.clone();
        merge(&mut config, &group.config);
        config
    }
}

/// Sets every key of `sections` in `config`.
pub(crate) fn merge(config: &mut Table, sections: &Table) {
    for (section, keys) in sections {
        match (config.get_mut(section), keys) {
            (Some(Value::Table(known)), Value::Table(keys)) => {
                known.extend(keys.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            _ => {
                config.insert(section.clone(), keys.clone());
            }
        }
    }
}

impl NodeGroup {
    /// The names of its nodes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self.count {
            None => vec![self.name.clone()],
            Some(count) => (1..=count).map(|number| format!("{}-{number}", self.name)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Profile, LaunchError> {
        Profile::parse(text, Path::new("base"))
    }

    #[test]
    fn a_profile_is_read_with_its_defaults_and_groups_go_before_what_is_common() {
        let profile = parse(
            "[profile]\nabout = \"x\"\n[redis]\nlayout = \"sentinel\"\n\
             [common.log]\nlevel = \"info\"\nformat = \"json\"\n\
             [[nodes]]\nname = \"a\"\ncount = 2\n\
             [[nodes]]\nname = \"b\"\n[nodes.config.log]\nlevel = \"debug\"\n\
             [nodes.config.node]\nroles = [\"push\"]\n",
        )
        .unwrap();
        assert_eq!(profile.names(), ["a-1", "a-2", "b"]);
        let redis = profile.redis;
        assert_eq!((redis.shards(), redis.replicas(), redis.sentinels()), (1, 2, 3));
        let config = profile.config(&profile.nodes[1]);
        assert_eq!(config["log"]["level"].as_str(), Some("debug"));
        assert_eq!(config["log"]["format"].as_str(), Some("json"));
        assert_eq!(config["node"]["roles"][0].as_str(), Some("push"));
        assert_eq!(profile.config(&profile.nodes[0])["log"]["level"].as_str(), Some("info"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("[node]\nid = \"x\"\n", "clarion start"),
            ("[profile]\nabout = \"x\"\nport = 1\n[[nodes]]\nname = \"a\"", "port"),
            ("[profile]\nabout = \"x\"\nnodes = []", "nodes"),
            ("nodes = []\n[profile]\nabout = \"x\"", "there is none"),
            ("[profile]\nabout = \"x\"\n[[nodes]]\nname = \"a\"\n[[nodes]]\nname = \"a\"", "twice"),
            (
                "[profile]\nabout = \"x\"\n[redis]\nlayout = \"cluster\"\nshards = 2\n[[nodes]]\nname = \"a\"",
                "3 at least",
            ),
            (
                "[profile]\nabout = \"x\"\n[redis]\nlayout = \"cluster\"\nsentinels = 2\n[[nodes]]\nname = \"a\"",
                "sentinels",
            ),
            ("[profile]\nabout = \"x\"\n[redis]\nshards = 2\n[[nodes]]\nname = \"a\"", "layout"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn the_count_of_the_first_group_that_has_one_is_replaced() {
        let text =
            "[profile]\nabout = \"x\"\n[[nodes]]\nname = \"a\"\n[[nodes]]\nname = \"b\"\ncount = 1";
        let mut profile = parse(text).unwrap();
        profile.set_count(2).unwrap();
        assert_eq!(profile.names(), ["a", "b-1", "b-2"]);
        profile.nodes.pop();
        assert!(profile.set_count(3).is_err());
    }
}
