//! The link against real servers.

mod basics;
mod cluster;
mod doors;
mod figures;
mod health;
mod load;
mod sentinel;
mod stalls;

use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use clarion_launch::{LaunchError, wait};

use super::{RedisMode, RedisSettings, Request, Script, ScriptCall, Shards};
use crate::StoreResult;

/// Long enough for everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

static PUSH: Script = Script::new("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])");
static LENGTH: Script = Script::new("length", "return redis.call('LLEN', KEYS[1])");

fn key(tag: &str) -> Vec<u8> {
    format!("test:{{{tag}}}").into_bytes()
}

fn push(tag: &str, item: u64) -> ScriptCall {
    ScriptCall { script: &PUSH, keys: vec![key(tag)], args: vec![item.to_string().into_bytes()] }
}

fn length(tag: &str) -> ScriptCall {
    ScriptCall { script: &LENGTH, keys: vec![key(tag)], args: Vec::new() }
}

/// What a list holds.
async fn items(shards: &Shards, tag: &str) -> StoreResult<Vec<u64>> {
    let range = Request::command([&b"LRANGE"[..], &key(tag), b"0", b"-1"]);
    let Value::Array(items) = shards.read(tag, range).await? else { panic!("not a list") };
    let number = |item: Value| match item {
        Value::BulkString(text) => String::from_utf8(text).unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    };
    Ok(items.into_iter().map(number).collect())
}

fn settings(mode: RedisMode, nodes: &[std::net::SocketAddr], replicas_min: u32) -> RedisSettings {
    let nodes = nodes.iter().map(ToString::to_string);
    RedisSettings { replicas_min, ..RedisSettings::new(mode, nodes) }
}

/// Waits until the store says that it can be written to.
async fn writable(shards: &Arc<Shards>) {
    until("writable", || shards.health().writable.map_err(|error| error.to_string())).await;
}

/// Waits until it says that it cannot, and why.
async fn unwritable(shards: &Arc<Shards>, because: &str) {
    until("unwritable", || match shards.health().writable {
        Err(error) if error.to_string().contains(because) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Writes, again if it takes that: on a busy machine a lane may have timed out beside a probe that
/// did not.
async fn write_at_last(shards: &Arc<Shards>, tag: &str, item: u64) {
    let write = async || shards.write(tag, push(tag, item)).await.map_err(LaunchError::of("write"));
    wait::until("written", DEADLINE, write).await.unwrap();
}

async fn until(what: &str, look: impl Fn() -> Result<(), String>) {
    let look = async || look().map_err(LaunchError::new);
    wait::until(what, DEADLINE, look).await.unwrap();
}
