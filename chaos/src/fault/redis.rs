//! Redis servers that answer, and do not do what they are asked.

use clarion_launch::RedisServer;

use crate::Failure;
use crate::world::{Component, World};

/// More than there are: no write has enough of them.
const TOO_MANY: &str = "99";

/// It takes no writes, and says so (`NOREPLICAS`). Sentinels see nothing wrong with it.
pub(super) async fn refuse_writes(world: &mut World, on: &Component) -> Result<(), Failure> {
    let set = ["CONFIG", "SET", "min-replicas-to-write", TOO_MANY];
    Ok(server(world, on)?.command(&set).await.map(drop)?)
}

/// It takes them again.
pub(super) async fn take_writes(world: &mut World, on: &Component) -> Result<(), Failure> {
    let set = ["CONFIG", "SET", "min-replicas-to-write", "0"];
    Ok(server(world, on)?.command(&set).await.map(drop)?)
}

/// It is killed, its data is deleted, and it is back before anybody has noticed: its replicas make
/// themselves as empty as it is.
pub(super) async fn empty(world: &mut World, on: &Component) -> Result<(), Failure> {
    let data = server(world, on)?.directory().join("appendonlydir");
    world.process(on)?.kill().await?;
    if data.exists() {
        std::fs::remove_dir_all(&data).map_err(Failure::of("cannot delete its data"))?;
    }
    world.restart(on).await
}

fn server<'a>(world: &'a mut World, on: &Component) -> Result<&'a mut RedisServer, Failure> {
    match on {
        Component::Redis { .. } => world.redis(on),
        other => Err(Failure::new(format!("{other} is no Redis server"))),
    }
}
