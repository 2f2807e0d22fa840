//! Which Redis server does what just now.

use clarion_launch::{LaunchError, RedisGroup, wait};

use super::Run;
use crate::Failure;
use crate::fault::Redis;
use crate::settle::DEADLINE;
use crate::world::Component;

impl Run {
    /// How many masters there are.
    #[must_use]
    pub fn redis_shards(&self) -> usize {
        match &self.world.cluster.redis {
            RedisGroup::None => 0,
            RedisGroup::Standalone(_) => 1,
            RedisGroup::Sentinel(group) => group.shards.len(),
            RedisGroup::Cluster(group) => group.servers.len() / (1 + group.replicas_per()),
        }
    }

    /// The master of a shard.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn redis_master(&self, shard: usize) -> Result<Component, Failure> {
        let master = wait::until(format!("a master of shard {shard}"), DEADLINE, async || {
            self.master_index(shard).await
        });
        Ok(Component::Redis { shard, index: master.await? })
    }

    async fn master_index(&self, shard: usize) -> Result<usize, LaunchError> {
        match &self.world.cluster.redis {
            RedisGroup::None => Err(LaunchError::new("there is no Redis")),
            RedisGroup::Standalone(_) => Ok(0),
            RedisGroup::Sentinel(group) => group.master_index(shard).await,
            RedisGroup::Cluster(group) => {
                // The first servers were masters, the others follow them in turn.
                let shards = self.redis_shards();
                let masters = group.masters().await?;
                let place = masters.into_iter().find(|place| place % shards == shard);
                let place = place.ok_or_else(|| LaunchError::new("nobody has its slots"))?;
                Ok(place / shards)
            }
        }
    }

    /// The other servers of a shard.
    ///
    /// # Errors
    /// When there is no master in time.
    pub async fn redis_replicas(&self, shard: usize) -> Result<Vec<Component>, Failure> {
        let master = self.redis_master(shard).await?;
        let servers = self.world.components().into_iter();
        let of =
            |one: &Component| matches!(one, Component::Redis { shard: of, .. } if *of == shard);
        Ok(servers.filter(|one| of(one) && *one != master).collect())
    }

    /// Waits until another server than `old` is master of its shard.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn redis_failed_over(&self, old: &Component) -> Result<(), Failure> {
        let Component::Redis { shard, index } = old else {
            return Err(Failure::new(format!("{old} is no Redis server")));
        };
        match &self.world.cluster.redis {
            RedisGroup::Sentinel(group) => {
                group.wait_master_other_than(*shard, *index).await?;
            }
            RedisGroup::Cluster(group) => {
                group.wait_failed_over(index * self.redis_shards() + shard).await?;
            }
            RedisGroup::None | RedisGroup::Standalone(_) => {}
        }
        Ok(())
    }

    /// Whether it was master before it was broken, and others can take its place.
    pub(super) async fn is_master(&self, component: &Component) -> bool {
        matches!(component, Component::Redis { .. })
            && self.redis_role(component).await == Redis::Master
    }

    /// What the Redis server that a component is, or leads to, is just now.
    pub(super) async fn redis_role(&self, component: &Component) -> Redis {
        let server = match component {
            Component::Link(_, to) => to,
            other => other,
        };
        let Component::Redis { shard, index } = server else { return Redis::Replica };
        let replaced = match &self.world.cluster.redis {
            RedisGroup::Sentinel(group) => !group.sentinels.is_empty(),
            RedisGroup::Cluster(_) => true,
            RedisGroup::None | RedisGroup::Standalone(_) => false,
        };
        match (self.master_index(*shard).await, replaced) {
            (Ok(master), true) if master == *index => Redis::Master,
            (Ok(master), false) if master == *index => Redis::OnlyMaster,
            // Who is master is in doubt: then it may be this one.
            (Err(_), true) => Redis::Master,
            _ => Redis::Replica,
        }
    }
}
