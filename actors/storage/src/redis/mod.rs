//! The store of a cluster: Redis. See the README of this crate for what it promises and under which
//! faults.
//!
//! Every record has one place, told by its hash tag (`schema.rs`). What one operation changes under
//! one tag is one script (`scripts/`), atomic and durable as one; what it changes under several is
//! done in steps, the truth first, and what follows is an index or a count that is repaired.

mod append;
mod breaks;
mod claims;
mod codec;
mod counting;
mod cursors;
mod leaving;
mod lineage;
mod link;
mod memory;
mod passed;
mod query;
mod read;
mod registry;
mod reply;
mod schema;
mod scripts;
mod sessions;
mod store;
mod tickets;
mod topics;
mod upkeep;
mod waves;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_core::LogKind;
use clarion_protocol::Epoch;

use self::link::{Script, ScriptCall, Shards};
use self::memory::{AllParked, Announced, Uncounted, Unnoted};
use self::reply::Args;
use self::schema::Keys;
use self::tickets::Tellers;
use self::upkeep::Sweep;
use crate::{Seldom, StoreError, StoreResult};

#[cfg(any(test, feature = "conformance"))]
pub use self::breaks::{Breaks, Step};
pub use self::lineage::{init, restored};
pub use self::link::{Finding, RedisLogin, RedisMode, RedisSettings, RedisTls, Secret};

/// A message's record outlives it by a day.
const KEPT_MS: u64 = 86_400_000;

const DAY_MS: u64 = 86_400_000;

/// A record lives this much longer in Redis than its retention, so that upkeep finds it and counts
/// what goes with it.
const GRACE_DAYS: u64 = 7;

/// A Redis store that is open.
pub struct RedisStore {
    shards: Arc<Shards>,
    keys: Keys,
    epoch: Epoch,
    replicas_min: u32,
    /// How long Redis keeps what holds cursors.
    retention_ms: u64,
    /// How long a terminal is kept after it was last seen.
    terminal_retention_ms: u64,
    nonces_max: usize,
    /// Who holds the claims of this process.
    boot: [u8; 8],
    /// Tests: time that is added to that of Redis.
    shift_ms: AtomicU64,
    announced: Announced,
    uncounted: Uncounted,
    parked: AllParked,
    unnoted: Unnoted,
    tellers: Arc<Tellers>,
    #[cfg(any(test, feature = "conformance"))]
    breaks: breaks::Breaks,
    sweep: tokio::sync::Mutex<Sweep>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects and checks the lineage (I5).
    ///
    /// # Errors
    /// [`StoreError::Fatal`] for settings or servers that do not do, and for a lineage that is missing
    /// or not the same everywhere; [`StoreError::Unavailable`] if nothing answers.
    pub async fn open(settings: RedisSettings) -> StoreResult<Self> {
        let shards = Shards::connect(&settings).await?;
        let keys = Keys::new(&settings.prefix);
        let epoch = lineage::read(&shards, &keys, &settings).await?;
        lineage::guard(&shards, &keys, &settings.prefix, epoch);
        let terminal_retention_ms = settings.terminal_retention_days.saturating_mul(DAY_MS);
        Ok(Self {
            shards,
            keys,
            epoch,
            replicas_min: settings.replicas_min,
            retention_ms: terminal_retention_ms.saturating_add(GRACE_DAYS * DAY_MS),
            terminal_retention_ms,
            nonces_max: settings.nonces_max,
            boot: rand::random(),
            shift_ms: AtomicU64::new(0),
            announced: Announced::default(),
            uncounted: Uncounted::default(),
            parked: AllParked::default(),
            unnoted: Unnoted::default(),
            tellers: Arc::default(),
            #[cfg(any(test, feature = "conformance"))]
            breaks: breaks::Breaks::default(),
            sweep: tokio::sync::Mutex::default(),
        })
    }

    /// Moves the store's time forward, for tests.
    #[cfg(any(test, feature = "conformance"))]
    pub fn advance_ms(&self, by_ms: u64) {
        self.shift_ms.fetch_add(by_ms, Ordering::AcqRel);
    }

    /// Steps that break, for tests.
    #[cfg(any(test, feature = "conformance"))]
    pub const fn breaks(&self) -> &breaks::Breaks {
        &self.breaks
    }

    fn shift_ms(&self) -> u64 {
        self.shift_ms.load(Ordering::Acquire)
    }

    fn now_ms(&self) -> u64 {
        self.shards.time_ms().saturating_add(self.shift_ms())
    }

    /// Arguments that begin with the kind of a log and the shift of time.
    fn timed(&self, kind: LogKind) -> Args {
        Args::new().kind(kind).number(self.shift_ms())
    }

    /// A script over the main key of a tag.
    fn call(&self, script: &'static Script, tag: &str, args: Args) -> ScriptCall {
        call_of(script, self.keys.main(tag), args)
    }
}

/// What is to be said about the servers of these settings: whether they are what the fault model
/// needs.
///
/// # Errors
/// When no server can be reached.
pub async fn examine(settings: &RedisSettings) -> StoreResult<Vec<Finding>> {
    Shards::examine(settings).await
}

fn call_of(script: &'static Script, key: Vec<u8>, args: Args) -> ScriptCall {
    ScriptCall { script, keys: vec![key], args: args.0 }
}

/// An index or a count does not follow its record for now; upkeep, or the next that touches it,
/// makes up for it.
fn index_failed(error: &StoreError) {
    metrics::counter!("clarion_redis_index_failed_total").increment(1);
    static SAID: Seldom = Seldom::new();
    if let Some(unsaid) = SAID.turn() {
        tracing::warn!(%error, unsaid, "an index of the store does not follow for now");
    }
}
