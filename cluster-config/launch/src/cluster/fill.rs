//! What a node's config gets besides what the profile says: addresses, seeds, secrets, the store.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::{Table, Value};

use super::RedisGroup;
use crate::node::value;
use crate::profile::{Layout, Profile};
use crate::{LaunchError, RedisOptions, port};

/// Nodes that others ask first.
const SEEDS: usize = 3;
/// Ports of a node.
const PORTS_PER_NODE: usize = 10;
/// Characters of a secret.
const SECRET_LENGTH: usize = 32;

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeAddresses {
    pub http: SocketAddr,
    pub terminals: SocketAddr,
    pub peers: SocketAddr,
}

impl NodeAddresses {
    /// The n-th node's; free ports when `first` is 0.
    pub fn new(ip: IpAddr, first: u16, index: usize) -> Result<Self, LaunchError> {
        if first == 0 {
            let (http, terminals) = (port::free_at(ip)?, port::free_at(ip)?);
            return Ok(Self { http, terminals, peers: port::free_at(ip)? });
        }
        let at = |offset: usize| {
            let number = usize::from(first) + index * PORTS_PER_NODE + offset;
            let number = u16::try_from(number)
                .map_err(|_| LaunchError::new(format!("there is no port {number}")))?;
            Ok::<_, LaunchError>(SocketAddr::new(ip, number))
        };
        Ok(Self { http: at(0)?, terminals: at(1)?, peers: at(2)? })
    }
}

/// What all nodes of a cluster share.
#[derive(Debug)]
pub(super) struct Shared {
    pub admin_token: Arc<str>,
    pub cookie: Arc<str>,
    admin_token_file: PathBuf,
    cookie_file: PathBuf,
    /// The `[store]` section.
    store: Table,
    pub seeds: Vec<String>,
    /// Where the proxies listen: for back-ends, and for terminals.
    pub proxies: Vec<(SocketAddr, SocketAddr)>,
    /// One node with its own store: no cluster.
    alone: bool,
}

impl Shared {
    pub fn new(directory: &Path, profile: &Profile) -> Result<Self, LaunchError> {
        let (admin_token_file, cookie_file) =
            (directory.join("admin-token"), directory.join("cookie"));
        let alone = profile.names().len() == 1 && profile.redis.layout == Layout::None;
        Ok(Self {
            admin_token: secret(&admin_token_file)?,
            cookie: secret(&cookie_file)?,
            admin_token_file,
            cookie_file,
            store: Table::new(),
            seeds: Vec::new(),
            proxies: Vec::new(),
            alone,
        })
    }

    /// These servers are the store.
    pub fn stored_in(
        &mut self,
        directory: &Path,
        redis: &RedisGroup,
        options: &RedisOptions,
    ) -> Result<(), LaunchError> {
        self.store = store(directory, redis, options)?;
        Ok(())
    }

    /// The first nodes are the seeds.
    pub fn seeds(&mut self, nodes: &[NodeAddresses]) {
        if !self.alone {
            self.seeds = nodes.iter().take(SEEDS).map(|node| node.peers.to_string()).collect();
        }
    }

    /// Adds to the config of the n-th node what it does not say itself.
    pub fn fill(
        &self,
        config: &mut Table,
        (n, name): (usize, &str),
        directory: &Path,
        at: NodeAddresses,
    ) {
        let text = |value: &dyn ToString| Value::String(value.to_string());
        let path = |path: &Path| Value::String(path.to_string_lossy().into_owned());
        let gateway = roles(config).is_none_or(|roles| roles.contains(&"gateway"));
        default(config, "node", "id", text(&name));
        default(config, "http", "listen", text(&at.http));
        if gateway {
            default(config, "terminals", "listen", text(&at.terminals));
        }
        default(config, "auth", "admin_token_file", path(&self.admin_token_file));
        if !self.alone {
            default(config, "cluster", "listen", text(&at.peers));
            let seeds = self.seeds.iter().cloned().map(Value::String).collect();
            default(config, "cluster", "seeds", Value::Array(seeds));
            default(config, "cluster", "cookie_file", path(&self.cookie_file));
        }
        if let Some((http, terminals)) = self.proxies.get(n % self.proxies.len().max(1)) {
            // Before several there is no one URL: signatures are made of the one that was asked.
            if self.proxies.len() == 1 {
                default(config, "http", "external_url", text(&format!("http://{http}")));
            }
            if gateway {
                default(config, "terminals", "external_url", text(&format!("ws://{terminals}")));
            }
        }
        for (key, value) in &self.store {
            default(config, "store", key, value.clone());
        }
        let embedded =
            value(config, "store", "kind").is_none_or(|k| k.as_str() == Some("embedded"));
        if embedded {
            default(config, "store", "path", path(&directory.join("data")));
        }
    }
}

/// Sets a key that is not set.
fn default(config: &mut Table, section: &str, key: &str, value: Value) {
    let section = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(keys) = section {
        keys.entry(key).or_insert(value);
    }
}

/// The roles that a config names.
fn roles(config: &Table) -> Option<Vec<&str>> {
    let roles = value(config, "node", "roles")?.as_array()?;
    Some(roles.iter().filter_map(Value::as_str).collect())
}

/// The section of the store for these servers; empty if there are none.
fn store(
    directory: &Path,
    redis: &RedisGroup,
    options: &RedisOptions,
) -> Result<Table, LaunchError> {
    let (mode, nodes, replicas) = match redis {
        RedisGroup::None => return Ok(Table::new()),
        RedisGroup::Standalone(redis) => ("standalone", vec![redis.addr()], 0),
        RedisGroup::Sentinel(group) if group.sentinels.is_empty() => {
            let servers = &group.shards[0].servers;
            ("standalone", vec![servers[0].addr()], servers.len() - 1)
        }
        RedisGroup::Sentinel(group) => {
            let replicas = group.shards.iter().map(|shard| shard.servers.len() - 1).min();
            ("sentinel", group.sentinel_addrs(), replicas.unwrap_or(0))
        }
        RedisGroup::Cluster(cluster) => ("cluster", cluster.addrs(), cluster.replicas_per()),
    };
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let path = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let mut store = Table::new();
    let mut set = |key: &str, value: Value| store.insert(key.to_owned(), value);
    set("kind", Value::String("redis".to_owned()));
    set("redis_mode", Value::String(mode.to_owned()));
    set("redis_nodes", texts(nodes.iter().map(ToString::to_string).collect()));
    if let RedisGroup::Sentinel(group) = redis
        && mode == "sentinel"
    {
        set("redis_masters", texts(group.names()));
    }
    set("redis_replicas_min", Value::Integer(i64::from(replicas > 0)));
    let mut password = |key: &str, name: &str, password: &str| -> Result<(), LaunchError> {
        let file = directory.join(name);
        write_secret(&file, password)?;
        set(key, path(&file));
        Ok(())
    };
    match (&options.user, &options.password) {
        (Some((_, own)), _) | (None, Some(own)) => {
            password("redis_password_file", "redis-password", own)?;
        }
        (None, None) => {}
    }
    if let Some(own) = &options.sentinel_password {
        password("redis_sentinel_password_file", "redis-sentinel-password", own)?;
    }
    if let Some((user, _)) = &options.user {
        set("redis_username", Value::String(user.clone()));
    }
    if let Some(tls) = &options.tls {
        set("redis_tls", Value::Boolean(true));
        set("redis_tls_ca_file", path(&tls.authority));
        if tls.clients {
            set("redis_tls_cert_file", path(&tls.certificate));
            set("redis_tls_key_file", path(&tls.key));
        }
    }
    Ok(store)
}

/// The secret in a file that only its owner reads; made when it is not there.
fn secret(path: &Path) -> Result<Arc<str>, LaunchError> {
    if let Ok(known) = std::fs::read_to_string(path) {
        return Ok(known.trim().into());
    }
    let mut random = [0; SECRET_LENGTH];
    let read = || -> std::io::Result<()> {
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)
    };
    let mut read = read;
    read().map_err(LaunchError::of("/dev/urandom"))?;
    let letter =
        |byte: &u8| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]);
    let made: String = random.iter().map(letter).collect();
    write_secret(path, &made)?;
    Ok(made.into())
}

fn write_secret(path: &Path, secret: &str) -> Result<(), LaunchError> {
    let mut file = std::fs::File::options();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{secret}"));
    written.map_err(LaunchError::of(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(directory: &Path, profile: &str) -> Shared {
        let profile = Profile::parse(profile, directory).unwrap();
        Shared::new(directory, &profile).unwrap()
    }

    fn addresses(index: usize) -> NodeAddresses {
        NodeAddresses::new("127.0.0.1".parse().unwrap(), 8080, index).unwrap()
    }

    #[test]
    fn what_the_profile_says_stays_and_the_rest_is_filled_in() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[profile]\nabout = \"x\"\n[[nodes]]\nname = \"n\"\ncount = 2";
        let mut shared = shared(directory.path(), text);
        shared.seeds(&[addresses(0), addresses(1)]);
        let mut config: Table =
            "[node]\nroles = [\"broker\"]\n[http]\nlisten = \"1.2.3.4:5\"".parse().unwrap();
        shared.fill(&mut config, (1, "n-2"), directory.path(), addresses(1));
        assert_eq!(config["http"]["listen"].as_str(), Some("1.2.3.4:5"));
        assert_eq!(config["node"]["id"].as_str(), Some("n-2"));
        assert!(config.get("terminals").is_none(), "no gateway");
        assert_eq!(config["cluster"]["listen"].as_str(), Some("127.0.0.1:8092"));
        let seeds = config["cluster"]["seeds"].as_array().unwrap();
        assert_eq!(seeds[0].as_str(), Some("127.0.0.1:8082"));
        for (section, key) in [("auth", "admin_token_file"), ("cluster", "cookie_file")] {
            use std::os::unix::fs::PermissionsExt as _;
            let file = std::fs::metadata(config[section][key].as_str().unwrap()).unwrap();
            assert_eq!(file.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_lone_node_is_no_cluster_and_secrets_are_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[profile]\nabout = \"x\"\n[[nodes]]\nname = \"n\"";
        let mut first = shared(directory.path(), text);
        first.seeds(&[addresses(0)]);
        let mut config = Table::new();
        first.fill(&mut config, (0, "n"), directory.path(), addresses(0));
        assert!(config.get("cluster").is_none());
        assert!(config["store"]["path"].as_str().unwrap().ends_with("data"));
        let second = shared(directory.path(), text);
        assert_eq!(first.admin_token, second.admin_token);
        assert_ne!(first.admin_token, first.cookie);
        assert_eq!(first.cookie.len(), SECRET_LENGTH);
    }
}
