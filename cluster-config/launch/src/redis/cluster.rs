//! Redis Cluster.

use std::net::SocketAddr;
use std::path::Path;

use super::info::replicas_online;
use super::server::{RedisServer, Spot};
use super::{READY_DEADLINE, RedisOptions, info_field};
use crate::{LaunchError, Process, wait};

/// Hash slots of a cluster.
const SLOTS: usize = 16_384;

/// A cluster: the first servers were masters at the start.
#[derive(Debug)]
pub struct RedisCluster {
    /// All servers.
    pub servers: Vec<RedisServer>,
    masters: usize,
}

/// What a server says of another in `CLUSTER NODES`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    id: String,
    port: u16,
    flags: String,
    master: String,
    linked: bool,
    has_slots: bool,
}

impl RedisCluster {
    /// Starts a cluster of so many masters with so many replicas each.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(
        directory: &Path,
        masters: usize,
        replicas_per: usize,
    ) -> Result<Self, LaunchError> {
        Self::start_with(directory, masters, replicas_per, &RedisOptions::default()).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start_with(
        directory: &Path,
        masters: usize,
        replicas_per: usize,
        options: &RedisOptions,
    ) -> Result<Self, LaunchError> {
        let mut cluster = Self { servers: Vec::new(), masters };
        // In a directory that was used before the servers know each other.
        let formed = directory.join("redis-0").join("nodes.conf").exists();
        // Places are listed shard by shard, servers master by master, then replicas.
        let place = |index: usize| (index % masters) * (1 + replicas_per) + index / masters;
        for index in 0..masters * (1 + replicas_per) {
            let name = format!("redis-{index}");
            let mut lines = vec![
                "cluster-enabled yes".to_owned(),
                "cluster-config-file nodes.conf".to_owned(),
                format!("cluster-node-timeout {}", options.node_timeout_ms),
                "cluster-require-full-coverage no".to_owned(),
                "cluster-migration-barrier 999".to_owned(),
            ];
            if options.tls.is_some() {
                lines.push("tls-cluster yes".to_owned());
            }
            let at = directory.join(&name);
            let spot = Spot::of(&at, options, options.place(&options.places, place(index)))?;
            cluster.servers.push(RedisServer::start(&name, &at, spot, options, &lines)?);
        }
        for server in &mut cluster.servers {
            server.wait_ready().await?;
        }
        if !formed {
            cluster.form().await?;
        }
        cluster.wait_settled().await?;
        Ok(cluster)
    }

    /// Gives out the slots, introduces all servers to each other, and tells replicas whose they are.
    async fn form(&self) -> Result<(), LaunchError> {
        let masters = self.masters;
        for (index, server) in self.servers.iter().take(masters).enumerate() {
            let (first, end) = (index * SLOTS / masters, (index + 1) * SLOTS / masters);
            let (first, last) = (first.to_string(), (end - 1).to_string());
            server.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
            let epoch = (index + 1).to_string();
            server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
        }
        for other in self.servers.iter().skip(1) {
            let (ip, port) = (other.addr().ip().to_string(), other.addr().port().to_string());
            self.servers[0].command(&["CLUSTER", "MEET", &ip, &port]).await?;
        }
        self.all("known to all", async |server| {
            let known = server.members().await?;
            let linked = known.iter().filter(|member| member.linked).count();
            if linked != self.servers.len() || known.iter().any(|m| m.flags.contains("handshake")) {
                return Err(LaunchError::new(format!("{} sees {linked}", server.name())));
            }
            Ok(())
        })
        .await?;
        for (index, server) in self.servers.iter().enumerate().skip(masters) {
            let of = self.servers[index % masters].command(&["CLUSTER", "MYID"]).await?;
            server.command(&["CLUSTER", "REPLICATE", of.text()]).await?;
        }
        Ok(())
    }

    /// Waits until everything is as at the start: the state is `ok` for every server, as many masters
    /// as at the start have slots, and all others are replicas in sync, known to all. For after a fault; all
    /// servers must have been restarted.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn wait_settled(&self) -> Result<(), LaunchError> {
        self.all("settled", async |server| self.server_settled(server).await).await
    }

    /// That it is as [`RedisCluster::wait_settled`] wants it, just now.
    ///
    /// # Errors
    /// When it is not: what is missing.
    pub async fn settled(&self) -> Result<(), LaunchError> {
        for server in &self.servers {
            self.server_settled(server).await?;
        }
        Ok(())
    }

    async fn server_settled(&self, server: &RedisServer) -> Result<(), LaunchError> {
        let state = server.command(&["CLUSTER", "INFO"]).await?;
        let state = info_field(state.text(), "cluster_state").unwrap_or_default().to_owned();
        let members = server.members().await?;
        let (masters, replicas): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| member.has_slots);
        let bad = |member: &Member| !member.linked || member.flags.contains("fail");
        let of_masters =
            replicas.iter().all(|replica| masters.iter().any(|m| m.id == replica.master));
        if state != "ok"
            || masters.len() != self.masters
            || members.len() != self.servers.len()
            || members.iter().any(bad)
            || !of_masters
        {
            return Err(LaunchError::new(format!(
                "{}: {state}, {} masters, {members:?}",
                server.name(),
                masters.len()
            )));
        }
        match members.iter().find(|m| m.is(server)) {
            Some(me) if !me.has_slots => server.replicates().await,
            Some(me) => {
                let mine = members.iter().filter(|member| member.master == me.id).count();
                match replicas_online(&server.info("replication").await?) {
                    online if online == mine => Ok(()),
                    online => {
                        let name = server.name();
                        Err(LaunchError::new(format!("{name} has {online} of {mine} replicas")))
                    }
                }
            }
            None => Ok(()),
        }
    }

    /// Waits until `look` is content with every server.
    async fn all(
        &self,
        what: &str,
        look: impl AsyncFn(&RedisServer) -> Result<(), LaunchError>,
    ) -> Result<(), LaunchError> {
        let content = wait::until(format!("Redis Cluster {what}"), READY_DEADLINE, async || {
            for server in &self.servers {
                look(server).await?;
            }
            Ok(())
        });
        content.await.map_err(|error| {
            let tails = self.processes().map(|process| process.failure("is not ready"));
            tails.fold(error, LaunchError::with)
        })
    }

    /// The places of the servers that serve slots now, as the servers that answer say.
    ///
    /// # Errors
    /// When none answers.
    pub async fn masters(&self) -> Result<Vec<usize>, LaunchError> {
        let mut error = LaunchError::new("there are no servers");
        for server in &self.servers {
            let members = match server.members().await {
                Ok(members) => members,
                Err(e) => {
                    error = e;
                    continue;
                }
            };
            let serves = |at: &RedisServer| {
                members.iter().any(|m| m.is(at) && m.has_slots && !m.flags.contains("fail"))
            };
            let servers = self.servers.iter().enumerate();
            return Ok(servers.filter(|(_, s)| serves(s)).map(|(index, _)| index).collect());
        }
        Err(error)
    }

    /// Waits until the server at `old` serves nothing any more and all slots are served.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn wait_failed_over(&self, old: usize) -> Result<(), LaunchError> {
        wait::until("a fail-over", READY_DEADLINE, async || {
            let masters = self.masters().await?;
            if masters.contains(&old) || masters.len() != self.masters {
                return Err(LaunchError::new(format!("masters are {masters:?}")));
            }
            Ok(())
        })
        .await
    }

    /// Where clients connect.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(RedisServer::addr).collect()
    }

    /// Masters, as at the start.
    #[must_use]
    pub const fn shards(&self) -> usize {
        self.masters
    }

    /// Replicas of each master, as at the start.
    #[must_use]
    pub fn replicas_per(&self) -> usize {
        self.servers.len() / self.masters - 1
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.servers.iter().map(RedisServer::process)
    }
}

impl RedisServer {
    async fn members(&self) -> Result<Vec<Member>, LaunchError> {
        let text = self.command(&["CLUSTER", "NODES"]).await?;
        Ok(text.text().lines().filter_map(Member::parse).collect())
    }
}

impl Member {
    /// A server tells the port of the kind that it was asked at.
    fn is(&self, server: &RedisServer) -> bool {
        [server.addr().port(), server.plain_addr().port()].contains(&self.port)
    }

    /// `id ip:port@bus flags master ping pong epoch link slots…`
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.get(1)?.split('@').next()?;
        Some(Self {
            id: (*words.first()?).to_owned(),
            port: at.rsplit(':').next()?.parse().ok()?,
            flags: (*words.get(2)?).to_owned(),
            master: (*words.get(3)?).to_owned(),
            linked: *words.get(7)? == "connected",
            has_slots: words.len() > 8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_cluster_nodes_is_read() {
        let line = "07c3 127.0.0.1:30004@31004,host slave,fail 6ec2 0 1426238317239 4 disconnected";
        let member = Member::parse(line).unwrap();
        assert_eq!((member.port, member.linked, member.has_slots), (30004, false, false));
        assert_eq!((&*member.flags, &*member.master), ("slave,fail", "6ec2"));
        let line = "6ec2 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460";
        assert!(Member::parse(line).unwrap().has_slots);
        assert_eq!(Member::parse(""), None);
    }
}
