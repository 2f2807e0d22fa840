//! The store of a node: opened at the start, made and put back into service by `clarion store`.

mod redis;

use std::path::Path;
use std::sync::Arc;

use clarion_config::{Config, Environment, StoreKind};
use clarion_protocol::Epoch;
use clarion_storage::embedded::{self, EmbeddedConfig, EmbeddedStore, OpenError};
use clarion_storage::redis::{Finding, RedisStore};
use clarion_storage::{Store, StoreError};

use super::error::StartError;

/// Opens the store that the config names. A store without a lineage is never made here (I5).
pub(crate) async fn open(
    config: &Config,
    environment: &Environment,
) -> Result<Arc<dyn Store>, StartError> {
    match config.store.kind {
        StoreKind::Embedded => {
            let embedded = embedded(config);
            let store = blocking(move || EmbeddedStore::open(embedded)).await?;
            Ok(Arc::new(store))
        }
        StoreKind::Redis => {
            let settings = redis::settings(config, environment)?;
            let opened = RedisStore::open(settings).await;
            Ok(Arc::new(opened.map_err(|error| redis::not_opened(config, &error))?))
        }
    }
}

/// Makes the store with a first lineage: the data directory, or the keys in Redis.
///
/// # Errors
/// When something is there already, or it cannot be made.
pub async fn init(config: &Config, environment: &Environment) -> Result<Epoch, StartError> {
    match config.store.kind {
        StoreKind::Embedded => {
            let path = config.store.path.clone();
            blocking(move || embedded::init(&path)).await
        }
        StoreKind::Redis => {
            let settings = redis::settings(config, environment)?;
            let made = clarion_storage::redis::init(&settings).await;
            made.map_err(|error| {
                let shown = StartError::new(format!("{}: {error}", place(config)));
                match error {
                    StoreError::Fatal(_) => shown.mend(
                        "start the nodes if this is their store; else give `store.redis_prefix` \
                         another value. `clarion doctor FILE` looks at every server",
                    ),
                    _ => shown.mend("`clarion doctor FILE` looks at every server"),
                }
            })
        }
    }
}

/// Gives a restored store a new lineage.
///
/// # Errors
/// When there is no store, or a node has it open.
pub async fn restored(config: &Config, environment: &Environment) -> Result<Epoch, StartError> {
    match config.store.kind {
        StoreKind::Embedded => {
            let path = config.store.path.clone();
            blocking(move || embedded::new_epoch(&path)).await
        }
        StoreKind::Redis => {
            let settings = redis::settings(config, environment)?;
            let made = clarion_storage::redis::restored(&settings).await;
            made.map_err(|error| redis::not_opened(config, &error))
        }
    }
}

/// Whether the servers of a Redis store are what its fault model needs.
///
/// # Errors
/// When a password cannot be read, or no server is reached.
pub async fn examine(
    config: &Config,
    environment: &Environment,
) -> Result<Vec<Finding>, StartError> {
    let settings = redis::settings(config, environment)?;
    let found = clarion_storage::redis::examine(&settings).await;
    found.map_err(|error| redis::not_opened(config, &error))
}

/// Where the store is, for people.
#[must_use]
pub fn place(config: &Config) -> String {
    match config.store.kind {
        StoreKind::Embedded => config.store.path.display().to_string(),
        StoreKind::Redis => redis::place(config),
    }
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(job).await {
        Ok(done) => done.map_err(StartError::from),
        Err(error) => Err(StartError::new(format!("the store failed: {error}"))),
    }
}

fn embedded(config: &Config) -> EmbeddedConfig {
    let store = &config.store;
    EmbeddedConfig {
        path: store.path.clone(),
        free_bytes_min: store.free_bytes_min,
        cache_bytes: store.cache_bytes,
        readers: store.readers,
        queue_max: store.queue_max,
        batch_max: store.batch_max,
        nonces_max: config.limits.nonces_max,
        terminal_retention_days: u64::from(config.session.terminal_retention_days),
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        let shown = |path: &Path| path.display().to_string();
        match error {
            OpenError::NoLineage(path) => Self::new(format!("{} holds no store", shown(&path)))
                .mend(
                    "a new node: `clarion store init FILE` makes one; else check `store.path` and \
                     whether its disk is mounted",
                ),
            OpenError::NotEmpty(path) => {
                Self::new(format!("{} is not empty: no store is made there", shown(&path))).mend(
                    "start the node if this is its store; else name an empty or new directory in \
                     `store.path`",
                )
            }
            OpenError::MountPoint(path) => {
                Self::new(format!("{} is a mount point: no store is made there", shown(&path)))
                    .mend("name a directory in it in `store.path`, such as DIRECTORY/data")
            }
            OpenError::Locked(path) => {
                Self::new(format!("{} is in use by another process", shown(&path)))
                    .mend("stop the other node; one at a time may have a store open")
            }
            OpenError::Version { path, found } => {
                Self::new(format!("{} has format {found}, unknown here", shown(&path)))
                    .mend("use the version of Clarion that wrote it")
            }
            OpenError::Corrupt { path, what } => {
                Self::new(format!("{} is damaged: {what}; nothing was changed", shown(&path))).mend(
                    "restore the directory from a backup, then run `clarion store restored FILE` \
                     so that terminals are told of the gap",
                )
            }
            OpenError::Io { path, source } => Self::new(format!("{}: {source}", shown(&path)))
                .mend("check the directory's owner, permissions and disk"),
        }
    }
}
