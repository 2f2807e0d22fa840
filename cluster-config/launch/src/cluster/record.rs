//! `cluster.json`: what runs, for people and programs that look; and for the next start in the
//! same directory, which uses the same ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Cluster, NodeAddresses, RedisGroup};
use crate::LaunchError;
use crate::redis::RedisServer;

const FILE: &str = "cluster.json";

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    about: String,
    processes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    /// `node`, `redis`, `sentinel`, `haproxy`.
    kind: String,
    pid: Option<u32>,
    /// By what is spoken there: `http`, `terminals`, `peers`, `redis`.
    addresses: BTreeMap<String, SocketAddr>,
    log: PathBuf,
}

impl Record {
    /// What was recorded before; empty if nothing was.
    pub fn read(directory: &Path) -> Self {
        let text = std::fs::read_to_string(directory.join(FILE)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn write(&self, directory: &Path) -> Result<(), LaunchError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(LaunchError::of(FILE))?;
        std::fs::write(&path, text + "\n").map_err(LaunchError::of(path.display()))
    }

    pub fn of(cluster: &Cluster) -> Self {
        let mut processes = Vec::new();
        for node in &cluster.nodes {
            let mut addresses = BTreeMap::from([("http".to_owned(), node.http_addr())]);
            addresses.extend(node.terminals_addr().map(|at| ("terminals".to_owned(), at)));
            addresses.extend(node.peers_addr().map(|at| ("peers".to_owned(), at)));
            processes.push(Entry {
                name: node.name().to_owned(),
                kind: "node".to_owned(),
                pid: node.process().pid(),
                addresses,
                log: node.process().log().to_owned(),
            });
        }
        for proxy in &cluster.proxies {
            processes.push(Entry {
                name: proxy.process().name().to_owned(),
                kind: "haproxy".to_owned(),
                pid: proxy.process().pid(),
                addresses: BTreeMap::from([
                    ("http".to_owned(), proxy.http_addr()),
                    ("terminals".to_owned(), proxy.terminals_addr()),
                ]),
                log: proxy.process().log().to_owned(),
            });
        }
        match &cluster.redis {
            RedisGroup::None => {}
            RedisGroup::Standalone(redis) => processes.push(Entry::redis("redis", &redis.server)),
            RedisGroup::Sentinel(group) => {
                let servers = group.shards.iter().flat_map(|shard| &shard.servers);
                processes.extend(servers.map(|server| Entry::redis("redis", server)));
                let sentinels = group.sentinels.iter();
                processes.extend(sentinels.map(|server| Entry::redis("sentinel", server)));
            }
            RedisGroup::Cluster(group) => {
                processes.extend(group.servers.iter().map(|server| Entry::redis("redis", server)));
            }
        }
        Self { about: cluster.profile.profile.about.clone(), processes }
    }

    /// All ports that were used, as far as they are known.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.processes.iter().flat_map(|entry| entry.addresses.values().map(SocketAddr::port))
    }

    /// Where a node listened.
    pub fn node(&self, name: &str) -> Option<NodeAddresses> {
        let entry = self.processes.iter().find(|e| e.kind == "node" && e.name == name)?;
        let at = |what: &str| entry.addresses.get(what).copied();
        let http = at("http")?;
        // One that had no such listener needs none now, unless its config changed meanwhile.
        let other = || crate::port::free_at(http.ip()).ok();
        Some(NodeAddresses {
            http,
            terminals: at("terminals").or_else(other)?,
            peers: at("peers").or_else(other)?,
        })
    }

    /// Where the proxy of this name listened.
    pub fn proxy(&self, name: &str) -> Option<(SocketAddr, SocketAddr)> {
        let is = |entry: &&Entry| entry.kind == "haproxy" && entry.name == name;
        let entry = self.processes.iter().find(is)?;
        Some((*entry.addresses.get("http")?, *entry.addresses.get("terminals")?))
    }
}

impl Entry {
    fn redis(kind: &str, server: &RedisServer) -> Self {
        Self {
            name: server.name().to_owned(),
            kind: kind.to_owned(),
            pid: server.pid(),
            addresses: BTreeMap::from([("redis".to_owned(), server.addr())]),
            log: server.process().log().to_owned(),
        }
    }
}
