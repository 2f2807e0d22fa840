//! Redis servers: alone, with replicas and sentinels, as a cluster.
//!
//! Settings are those that the fault model of the Redis store asks for (AOF on, `noeviction`, fast
//! detection), unless [`RedisOptions`] say otherwise.

mod cluster;
mod info;
mod sentinel;
mod server;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Place;

pub use cluster::RedisCluster;
pub use info::info_field;
pub use sentinel::{RedisSentinel, Shard};
pub use server::{Redis, RedisServer};

/// How long a server, or a group of them, may take until it is ready.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);

/// What servers are to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// Append-only file.
    pub aof: bool,
    /// What happens when memory is full.
    pub maxmemory_policy: String,
    /// After how long without an answer a sentinel takes a server for dead, milliseconds.
    pub down_after_ms: u64,
    /// How long sentinels try a fail-over before they try again, milliseconds.
    pub failover_timeout_ms: u64,
    /// After how long a cluster takes a server for dead, milliseconds.
    pub node_timeout_ms: u64,
    /// `requirepass` of servers, for the default user; replicas use it, too.
    pub password: Option<String>,
    /// `requirepass` of sentinels.
    pub sentinel_password: Option<String>,
    /// A further user (ACL) with all rights, and its password.
    pub user: Option<(String, String)>,
    /// Clients use TLS; so do replicas, sentinels and the bus of a cluster.
    pub tls: Option<TlsFiles>,
    /// Addresses they listen at, besides the port: where they run in another place.
    pub ip: IpAddr,
    /// Where each server runs, in their order (all of a shard, then the next); those beyond the list
    /// where this program does, at `ip`.
    pub places: Vec<Place>,
    /// The same for sentinels.
    pub sentinel_places: Vec<Place>,
    /// Further lines of the servers' config, key and value.
    pub settings: Vec<(String, String)>,
    /// See [`crate::Process::own_group`].
    pub own_group: bool,
}

/// Certificates in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose certificates are trusted.
    pub authority: PathBuf,
    /// Whether clients must show a certificate, too.
    pub clients: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            aof: true,
            maxmemory_policy: "noeviction".to_owned(),
            down_after_ms: 1000,
            failover_timeout_ms: 5000,
            node_timeout_ms: 1000,
            password: None,
            sentinel_password: None,
            user: None,
            tls: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            places: Vec::new(),
            sentinel_places: Vec::new(),
            settings: Vec::new(),
            own_group: false,
        }
    }
}

impl RedisOptions {
    /// A line more in the config of every server.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The place of the n-th server, and of the n-th sentinel.
    fn place(&self, of: &[Place], n: usize) -> Place {
        let here = || Place { ip: self.ip, entry: Vec::new() };
        of.get(n).cloned().unwrap_or_else(here)
    }

    /// The config that servers of all kinds have.
    fn lines(&self, directory: &Path, ip: IpAddr) -> Vec<String> {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let mut lines = vec![
            format!("bind {ip}"),
            "protected-mode no".to_owned(),
            format!("dir {}", directory.display()),
            "save \"\"".to_owned(),
            format!("appendonly {}", yes(self.aof)),
            "appendfsync everysec".to_owned(),
            format!("maxmemory-policy {}", self.maxmemory_policy),
            // A replica is in sync a moment after it asks for it.
            "repl-diskless-sync yes".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
            "repl-ping-replica-period 1".to_owned(),
        ];
        if let Some(password) = &self.password {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("masterauth {password}"));
        }
        if let Some((user, password)) = &self.user {
            lines.push(format!("user {user} on >{password} ~* &* +@all"));
        }
        lines.extend(self.tls_lines());
        lines.extend(self.settings.iter().map(|(key, value)| format!("{key} {value}")));
        lines
    }

    fn tls_lines(&self) -> Vec<String> {
        let Some(tls) = &self.tls else { return Vec::new() };
        vec![
            format!("tls-cert-file {}", tls.certificate.display()),
            format!("tls-key-file {}", tls.key.display()),
            format!("tls-ca-cert-file {}", tls.authority.display()),
            format!("tls-auth-clients {}", if tls.clients { "yes" } else { "no" }),
            "tls-replication yes".to_owned(),
        ]
    }
}
