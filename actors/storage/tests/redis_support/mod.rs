//! A Redis store under test.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_launch::{Redis, RedisOptions};
use clarion_storage::Store;
use clarion_storage::conformance::Harness;
use clarion_storage::redis::{RedisMode, RedisSettings, RedisStore, init};
use tempfile::TempDir;

pub struct Fixture {
    pub store: Arc<RedisStore>,
    pub settings: RedisSettings,
    advanced_ms: AtomicU64,
}

impl Fixture {
    /// A new store on servers that run.
    pub async fn of(settings: RedisSettings) -> Self {
        init(&settings).await.unwrap();
        let store = open(&settings).await;
        Self { store, settings, advanced_ms: AtomicU64::new(0) }
    }
}

/// Opens a store and waits until it takes writes.
async fn open(settings: &RedisSettings) -> Arc<RedisStore> {
    let store = RedisStore::open(settings.clone()).await.unwrap();
    while store.health().writable.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Arc::new(store)
}

impl Harness for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn advance_ms(&self, by_ms: u64) {
        self.advanced_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.store.advance_ms(by_ms);
    }

    async fn reopen(&mut self) -> bool {
        self.store.close().await.unwrap();
        self.store = open(&self.settings).await;
        self.store.advance_ms(self.advanced_ms.load(Ordering::Relaxed));
        true
    }

    fn break_one_in(&self, steps: u32) -> bool {
        self.store.breaks().one_in(steps);
        true
    }

    fn records_expire_by_themselves(&self) -> bool {
        true
    }
}

/// A store alone on a server of its own.
pub struct Alone {
    pub fixture: Fixture,
    pub redis: Redis,
    _dir: TempDir,
}

impl Alone {
    pub async fn new() -> Self {
        Self::with(&RedisOptions::default()).await
    }

    /// As operators are told to set it.
    pub async fn tuned() -> Self {
        let options = RedisOptions::default()
            .setting("hash-max-listpack-value", "4096")
            .setting("hash-max-listpack-entries", "512");
        Self::with(&options).await
    }

    async fn with(options: &RedisOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::standalone_with(dir.path(), options).await.unwrap();
        let settings = RedisSettings {
            replicas_min: 0,
            check: false,
            timeout: std::time::Duration::from_secs(5),
            ..RedisSettings::new(RedisMode::Standalone, [redis.addr().to_string()])
        };
        Self { fixture: Fixture::of(settings).await, redis, _dir: dir }
    }
}

impl Harness for Alone {
    fn store(&self) -> Arc<dyn Store> {
        self.fixture.store()
    }

    fn advance_ms(&self, by_ms: u64) {
        self.fixture.advance_ms(by_ms);
    }

    async fn reopen(&mut self) -> bool {
        self.fixture.reopen().await
    }

    fn break_one_in(&self, steps: u32) -> bool {
        self.fixture.break_one_in(steps)
    }

    fn records_expire_by_themselves(&self) -> bool {
        true
    }
}
