//! The suite holds with the gathering store in front.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use clarion_storage::Store;
use clarion_storage::conformance::Harness;
use clarion_storage::gathered::GatheredStore;
use clarion_storage::memory::MemoryStore;

struct Gathered(Arc<MemoryStore>, Arc<GatheredStore>);

impl Gathered {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(GatheredStore::new(Arc::clone(&memory) as Arc<dyn Store>));
        Self(memory, store)
    }
}

impl Harness for Gathered {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.1) as Arc<dyn Store>
    }

    fn advance_ms(&self, by_ms: u64) {
        self.0.advance_ms(by_ms);
    }

    async fn reopen(&mut self) -> bool {
        false
    }
}

clarion_storage::conformance_tests!(Gathered::new());
