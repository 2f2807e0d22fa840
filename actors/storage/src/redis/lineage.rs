//! The lineage (I5): a random epoch under every anchor tag, so that each shard has it. Written by
//! `init`, replaced after a restore, never made silently; every connection checks it.

use std::time::Duration;

use ::redis::Value;
use clarion_protocol::Epoch;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::link::{Lineage, RedisSettings, Request, Shards};
use super::reply::{Args, number};
use super::schema::Keys;
use super::scripts;
use crate::{StoreError, StoreResult};

/// What is in front of the epoch: the version of everything stored.
const FORMAT: &str = "clarion 1 ";

/// Time-outs that shards are given to become ready at the start.
const PATIENCE: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

fn key(keys: &Keys, anchor: &str) -> Vec<u8> {
    keys.with(anchor, ":lineage")
}

fn record(epoch: Epoch) -> String {
    format!("{FORMAT}{epoch}")
}

fn missing(prefix: &str) -> String {
    format!(
        "Redis has no lineage record for prefix {prefix:?}, or a shard lost it: for a new store run \
         `clarion store init FILE`; after a restore or the loss of a shard `clarion store restored FILE`"
    )
}

fn parse(value: &Value, prefix: &str) -> Result<Epoch, String> {
    let Value::BulkString(bytes) = value else { return Err(missing(prefix)) };
    let text = String::from_utf8_lossy(bytes);
    let Some(epoch) = text.strip_prefix(FORMAT) else {
        return Err(format!("the lineage record {text:?} is of another version of Clarion"));
    };
    let epoch = epoch.parse().ok().and_then(|epoch: u64| Epoch::try_from(epoch).ok());
    epoch.filter(|epoch| epoch.0 != 0).ok_or_else(|| format!("the lineage record is {text:?}"))
}

/// The lineage that all shards agree on. Waits a while for a majority that names the masters.
pub(super) async fn read(
    shards: &Shards,
    keys: &Keys,
    settings: &RedisSettings,
) -> StoreResult<Epoch> {
    let prefix = &settings.prefix;
    let until = Instant::now() + settings.timeout * PATIENCE;
    let values = loop {
        match values(shards, keys).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            settled => break settled?,
        }
    };
    let mut found: Option<Epoch> = None;
    for value in values {
        let epoch = parse(&value, prefix).map_err(StoreError::Fatal)?;
        if *found.get_or_insert(epoch) != epoch {
            return Err(StoreError::Fatal(different(epoch)));
        }
    }
    found.ok_or_else(|| StoreError::Fatal(missing(prefix)))
}

fn different(epoch: Epoch) -> String {
    format!(
        "a shard of Redis is of another lineage ({epoch}): it was restored or belongs to another \
         store; run `clarion store restored FILE`"
    )
}

async fn values(shards: &Shards, keys: &Keys) -> StoreResult<Vec<Value>> {
    let reads = shards.anchors().map(|anchor| async move {
        let key = key(keys, anchor);
        shards.read(anchor, Request::command([&b"GET"[..], &key])).await
    });
    join_all(reads).await.into_iter().collect()
}

/// Has every connection check the lineage before it is used.
pub(super) fn guard(shards: &Shards, keys: &Keys, prefix: &str, epoch: Epoch) {
    let (keys, prefix) = (keys.clone(), prefix.to_owned());
    shards.guard(Lineage {
        key: Box::new(move |anchor| key(&keys, anchor)),
        check: Box::new(move |value| match parse(value, &prefix) {
            Ok(found) if found == epoch => Ok(()),
            Ok(found) => Err(different(found)),
            Err(error) => Err(error),
        }),
    });
}

/// Gives Redis a lineage, if there is none under this prefix.
///
/// # Errors
/// [`StoreError::Fatal`] if there is one already, in whole or in part.
pub async fn init(settings: &RedisSettings) -> StoreResult<Epoch> {
    write(settings, true).await
}

/// Gives Redis a new lineage after a restore: every session is then told a gap (I5).
///
/// # Errors
/// As of connecting and writing.
pub async fn restored(settings: &RedisSettings) -> StoreResult<Epoch> {
    write(settings, false).await
}

/// Waits until all shards take writes: it is not to be written to some of them only.
async fn writable(shards: &Shards, patience: Duration) -> StoreResult<()> {
    let until = Instant::now() + patience;
    loop {
        match shards.health().writable {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            settled => return settled,
        }
    }
}

async fn write(settings: &RedisSettings, is_new: bool) -> StoreResult<Epoch> {
    let shards = Shards::connect(settings).await?;
    let keys = Keys::new(&settings.prefix);
    writable(&shards, settings.timeout * PATIENCE).await?;
    if is_new && values(&shards, &keys).await?.iter().any(|value| *value != Value::Nil) {
        return Err(StoreError::Fatal(format!(
            "prefix {:?} has a lineage already: this is the store of a cluster",
            settings.prefix
        )));
    }
    let epoch = Epoch(rand::random_range(1..(1 << 53)));
    // One after the other: of two that do this at once, one stops at the first.
    for anchor in shards.anchors() {
        let args = Args::new().bytes(record(epoch)).flag(is_new);
        let call = super::call_of(&scripts::LINEAGE, key(&keys, anchor), args);
        if number(shards.write(anchor, call).await?)? == 0 {
            return Err(StoreError::Fatal("somebody else gives it a lineage right now".into()));
        }
    }
    shards.close();
    Ok(epoch)
}
