//! The in-memory store passes the suite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use clarion_storage::Store;
use clarion_storage::conformance::Harness;
use clarion_storage::memory::MemoryStore;

struct Memory(Arc<MemoryStore>);

impl Harness for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0) as Arc<dyn Store>
    }

    fn advance_ms(&self, by_ms: u64) {
        self.0.advance_ms(by_ms);
    }

    async fn reopen(&mut self) -> bool {
        false
    }
}

clarion_storage::conformance_tests!(Memory(Arc::new(MemoryStore::new())));
