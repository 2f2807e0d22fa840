//! Masters with replicas, watched by sentinels.

use std::net::SocketAddr;
use std::path::Path;

use super::info::replicas_online;
use super::server::{RedisServer, Spot};
use super::{READY_DEADLINE, RedisOptions};
use crate::resp::Value;
use crate::{LaunchError, Process, wait};

/// Shards (each a master with replicas) and the sentinels that watch all of them.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The shards.
    pub shards: Vec<Shard>,
    /// The sentinels.
    pub sentinels: Vec<RedisServer>,
}

/// A master and its replicas. Which of them is master changes with every fail-over.
#[derive(Debug)]
pub struct Shard {
    /// What the sentinels call it.
    pub name: String,
    /// All its servers; the first was master at the start.
    pub servers: Vec<RedisServer>,
}

impl RedisSentinel {
    /// Starts shards (all masters with replicas; without sentinels nobody promotes one) named `clarion` (or `clarion-0`, `clarion-1`, … when there are several), with
    /// so many replicas each, and sentinels of which a majority decides.
    ///
    /// # Errors
    /// When they are not ready in time.
    pub async fn start(
        directory: &Path,
        shards: usize,
        replicas: usize,
        sentinels: usize,
    ) -> Result<Self, LaunchError> {
        let options = RedisOptions::default();
        Self::start_with(directory, shards, replicas, sentinels, &options).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// When they are not ready in time.
    pub async fn start_with(
        directory: &Path,
        shards: usize,
        replicas: usize,
        sentinels: usize,
        options: &RedisOptions,
    ) -> Result<Self, LaunchError> {
        let mut group = Self { shards: Vec::new(), sentinels: Vec::new() };
        for index in 0..shards {
            let name = if shards == 1 { "clarion".to_owned() } else { format!("clarion-{index}") };
            group.shards.push(Shard::start(directory, &name, index, replicas, options)?);
        }
        for server in group.shards.iter_mut().flat_map(|shard| &mut shard.servers) {
            server.wait_ready().await?;
        }
        let quorum = sentinels / 2 + 1;
        for index in 0..sentinels {
            let name = format!("sentinel-{index}");
            let at = directory.join(&name);
            let spot = Spot::of(&at, options, options.place(&options.sentinel_places, index))?;
            let lines: Vec<String> =
                group.shards.iter().flat_map(|shard| shard.watched(quorum, options)).collect();
            let server = RedisServer::start_sentinel(&name, &at, spot, options, &lines)?;
            group.sentinels.push(server);
        }
        for sentinel in &mut group.sentinels {
            sentinel.wait_ready().await?;
        }
        group.wait_settled().await?;
        Ok(group)
    }

    /// Waits until everything that was started is as at the start: the sentinels know each other
    /// and all servers, one server of each shard is master and all others are its replicas, in sync.
    /// For after a fault; every server and sentinel must have been restarted.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn wait_settled(&self) -> Result<(), LaunchError> {
        let settled = wait::until("Redis with sentinels settled", READY_DEADLINE, async || {
            self.settled().await
        });
        settled.await.map_err(|error| {
            let tails = self.processes().map(|process| process.failure("is not settled"));
            tails.fold(error, LaunchError::with)
        })
    }

    /// That it is as [`RedisSentinel::wait_settled`] wants it, just now.
    ///
    /// # Errors
    /// When it is not: what is missing.
    pub async fn settled(&self) -> Result<(), LaunchError> {
        for index in 0..self.shards.len() {
            self.shard_settled(index).await?;
        }
        Ok(())
    }

    async fn shard_settled(&self, index: usize) -> Result<(), LaunchError> {
        let shard = &self.shards[index];
        let replicas = shard.servers.len() - 1;
        let master = self.master(index).await?;
        for sentinel in &self.sentinels {
            let state = sentinel.command(&["SENTINEL", "MASTER", &shard.name]).await?;
            let field = |name: &str| field_of(&state, name);
            let seen = (field("flags"), field("num-slaves"), field("num-other-sentinels"));
            let wanted = (
                "master".to_owned(),
                replicas.to_string(),
                self.sentinels.len().saturating_sub(1).to_string(),
            );
            let port = field("port");
            if seen != wanted || port != master.addr().port().to_string() {
                let name = sentinel.name();
                return Err(LaunchError::new(format!("{name} sees {seen:?} with master {port}")));
            }
            for others in ["REPLICAS", "SENTINELS"] {
                let all = sentinel.command(&["SENTINEL", others, &shard.name]).await?;
                let flags = all.items().iter().map(|other| field_of(other, "flags"));
                let missed =
                    |flags: &String| ["down", "disconnected"].iter().any(|f| flags.contains(f));
                if let Some(flags) = flags.into_iter().find(missed) {
                    let name = sentinel.name();
                    return Err(LaunchError::new(format!("{name} sees {others} {flags}")));
                }
            }
        }
        let info = master.info("replication").await?;
        let online = replicas_online(&info);
        if !master.is_master().await? || online != replicas {
            return Err(LaunchError::new(format!("{} has {online} replicas", master.name())));
        }
        for server in &shard.servers {
            if server.addr() != master.addr() {
                server.replicates().await?;
            }
        }
        Ok(())
    }

    /// The master of a shard as all sentinels that answer say.
    ///
    /// # Errors
    /// When none answers, or they do not agree.
    pub async fn master(&self, shard: usize) -> Result<&RedisServer, LaunchError> {
        let index = self.master_index(shard).await?;
        Ok(&self.shards[shard].servers[index])
    }

    /// The place of the master in the list of the shard's servers. Without sentinels it is the
    /// first for ever.
    ///
    /// # Errors
    /// As [`RedisSentinel::master`].
    pub async fn master_index(&self, shard: usize) -> Result<usize, LaunchError> {
        let Shard { name, servers } = &self.shards[shard];
        if self.sentinels.is_empty() {
            return Ok(0);
        }
        let mut said: Option<u16> = None;
        for sentinel in &self.sentinels {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name];
            let Ok(answer) = sentinel.command(&ask).await else { continue };
            let port = answer.items().get(1).and_then(|port| port.text().parse().ok());
            let port = port.ok_or_else(|| LaunchError::new(format!("{name} has no master")))?;
            if said.is_some_and(|said| said != port) {
                return Err(LaunchError::new(format!("the sentinels do not agree about {name}")));
            }
            said = Some(port);
        }
        let port = said.ok_or_else(|| LaunchError::new("no sentinel answers"))?;
        let index = servers.iter().position(|server| server.addr().port() == port);
        index.ok_or_else(|| LaunchError::new(format!("nobody of {name} listens at {port}")))
    }

    /// Waits until another server than the one at `old` is master of the shard, says so itself,
    /// and gives its place.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_master_other_than(
        &self,
        shard: usize,
        old: usize,
    ) -> Result<usize, LaunchError> {
        let new = wait::until("a fail-over", READY_DEADLINE, async || {
            let index = self.master_index(shard).await?;
            let server = &self.shards[shard].servers[index];
            if index == old || !server.is_master().await? {
                return Err(LaunchError::new(format!("{} is master", server.name())));
            }
            Ok(index)
        });
        new.await
    }

    /// Where clients ask for masters.
    #[must_use]
    pub fn sentinel_addrs(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(RedisServer::addr).collect()
    }

    /// What the sentinels call the shards.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.shards.iter().map(|shard| shard.name.clone()).collect()
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let servers = self.shards.iter().flat_map(|shard| &shard.servers);
        servers.chain(&self.sentinels).map(RedisServer::process)
    }
}

/// A field of what a sentinel says of somebody: names and values in turn.
fn field_of(said: &Value, name: &str) -> String {
    let mut pairs = said.items().chunks_exact(2);
    let found = pairs.find(|pair| pair[0].text() == name);
    found.map_or_else(String::new, |pair| pair[1].text().to_owned())
}

impl Shard {
    fn start(
        directory: &Path,
        name: &str,
        index: usize,
        replicas: usize,
        options: &RedisOptions,
    ) -> Result<Self, LaunchError> {
        let mut servers: Vec<RedisServer> = Vec::new();
        for number in 0..=replicas {
            let server = format!("redis-{index}-{number}");
            let lines: Vec<String> = servers
                .first()
                .map(|master| format!("replicaof {} {}", master.addr().ip(), master.addr().port()))
                .into_iter()
                .collect();
            let at = directory.join(&server);
            let place = options.place(&options.places, index * (1 + replicas) + number);
            let spot = Spot::of(&at, options, place)?;
            servers.push(RedisServer::start(&server, &at, spot, options, &lines)?);
        }
        Ok(Self { name: name.to_owned(), servers })
    }

    /// What sentinels are told about it.
    fn watched(&self, quorum: usize, options: &RedisOptions) -> Vec<String> {
        let (name, at) = (&self.name, self.servers[0].addr());
        let mut lines = vec![
            format!("sentinel monitor {name} {} {} {quorum}", at.ip(), at.port()),
            format!("sentinel down-after-milliseconds {name} {}", options.down_after_ms),
            format!("sentinel failover-timeout {name} {}", options.failover_timeout_ms),
            format!("sentinel parallel-syncs {name} {}", self.servers.len()),
        ];
        if let Some(password) = &options.password {
            lines.push(format!("sentinel auth-pass {name} {password}"));
        }
        lines
    }
}
