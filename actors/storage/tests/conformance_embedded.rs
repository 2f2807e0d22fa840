//! The embedded store passes the suite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_storage::Store;
use clarion_storage::conformance::Harness;
use clarion_storage::embedded::{EmbeddedConfig, EmbeddedStore, init};
use tempfile::TempDir;

struct Embedded {
    store: Arc<EmbeddedStore>,
    advanced_ms: AtomicU64,
    dir: TempDir,
}

impl Embedded {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init(&dir.path().join("data")).unwrap();
        let store = Self::open(&dir);
        Self { store, advanced_ms: AtomicU64::new(0), dir }
    }

    fn open(dir: &TempDir) -> Arc<EmbeddedStore> {
        let config =
            EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::new(dir.path().join("data")) };
        Arc::new(EmbeddedStore::open(config).unwrap())
    }
}

impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn advance_ms(&self, by_ms: u64) {
        self.advanced_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.store.advance_ms(by_ms);
    }

    async fn reopen(&mut self) -> bool {
        self.store.close().await.unwrap();
        self.store = Self::open(&self.dir);
        self.store.advance_ms(self.advanced_ms.load(Ordering::Relaxed));
        true
    }
}

clarion_storage::conformance_tests!(Embedded::new());
