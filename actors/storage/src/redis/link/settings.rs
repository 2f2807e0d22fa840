//! Where Redis is and how it is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How the servers stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisMode {
    /// Servers without fail-over; each one of the list is a shard.
    Standalone,
    /// Masters that sentinels name; each master name is a shard.
    Sentinel,
    /// Redis Cluster; each master with its slots is a shard.
    Cluster,
}

/// Something that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it from being printed.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who we are to a server: an ACL user, or `requirepass` when only the password is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// The ACL user; `None` is `default`.
    pub username: Option<String>,
    /// Its password; `None` sends no AUTH.
    pub password: Option<Secret>,
}

/// TLS to servers and sentinels. PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Who may have signed the servers' certificates; `None`: the usual public authorities.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, with its key, where servers ask for one.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// Where Redis is and how it is used.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// How the servers stand to each other.
    pub mode: RedisMode,
    /// `host:port` of servers, sentinels or cluster nodes, as the mode says.
    pub nodes: Vec<String>,
    /// Master names that the sentinels know, one per shard. Their order is part of where data is.
    pub masters: Vec<String>,
    /// Who we are to the servers.
    pub login: RedisLogin,
    /// Who we are to the sentinels.
    pub sentinel_login: RedisLogin,
    /// TLS, to servers and sentinels alike.
    pub tls: Option<RedisTls>,
    /// All keys begin with it and a colon.
    pub prefix: String,
    /// Connections per shard that commit, 1 to 4.
    pub lanes: usize,
    /// Nothing waits longer for Redis.
    pub timeout: Duration,
    /// Replicas that confirm every write with WAIT; 0: the master alone.
    pub replicas_min: u32,
    /// Whether servers are checked against the fault model at start.
    pub check: bool,
    /// Calls that may wait for one connection.
    pub queue_max: usize,
    /// Bytes of calls that may wait for one connection or be under way on it.
    pub queue_bytes_max: usize,
    /// Calls of one round on a connection.
    pub batch_max: usize,
    /// Bytes of one round on a connection; a single call may be larger.
    pub batch_bytes_max: usize,
    /// Days that a terminal is kept after it was last seen.
    pub terminal_retention_days: u64,
    /// Nonces that are remembered.
    pub nonces_max: usize,
}

impl RedisSettings {
    /// The defaults for servers.
    pub fn new(mode: RedisMode, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            mode,
            nodes: nodes.into_iter().map(Into::into).collect(),
            masters: vec!["clarion".into()],
            login: RedisLogin::default(),
            sentinel_login: RedisLogin::default(),
            tls: None,
            prefix: "clarion".into(),
            lanes: 2,
            timeout: Duration::from_secs(1),
            replicas_min: 1,
            check: true,
            queue_max: 16_384,
            queue_bytes_max: 16 << 20,
            batch_max: 512,
            batch_bytes_max: 4 << 20,
            terminal_retention_days: 90,
            nonces_max: 4_000_000,
        }
    }
}
