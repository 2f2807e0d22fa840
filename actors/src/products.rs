//! The products as this node knows them: records cached from the store, with their token keys
//! ready for use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use clarion_protocol::{Code, ProductId};
use clarion_storage::{ProductRecord, Store};
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::tokens::TokenKeys;

/// How old a cached record may be before it is read again: how long a change made through another
/// node may take to be seen here, in milliseconds.
const FRESH_MS: u64 = 30_000;

/// A product and what was made of its record.
#[derive(Debug)]
pub(crate) struct KnownProduct {
    pub(crate) record: Arc<ProductRecord>,
    pub(crate) token_keys: TokenKeys,
    read_at_ms: AtomicU64,
}

/// The cache. Bounded by the products there are: unknown names are never kept.
pub(crate) struct Products {
    store: Arc<dyn Store>,
    all: RwLock<HashMap<ProductId, Arc<KnownProduct>>>,
    /// Held while a record is changed, so that changes are serial.
    changing: tokio::sync::Mutex<()>,
    /// Goes up with each change: what was read from the store before it is not kept.
    changes: AtomicU64,
    /// Told of each change of one record.
    changed: Notify,
}

impl Products {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            all: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            changes: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The product, read from the store unless it is fresh. While the store is away what was
    /// known last counts.
    pub(crate) async fn get(
        &self,
        product: &ProductId,
    ) -> Result<Option<Arc<KnownProduct>>, Failure> {
        let cached = self.known(product);
        if let Some(known) = &cached
            && self.store.time_ms() < known.read_at_ms.load(Ordering::Acquire) + FRESH_MS
        {
            return Ok(cached);
        }
        let changes = self.changes.load(Ordering::Acquire);
        match self.store.product(product).await {
            Ok(Some(record)) => Ok(Some(self.learn(record, changes))),
            Ok(None) => {
                self.write().remove(product);
                Ok(None)
            }
            Err(_) if cached.is_some() => Ok(cached),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates or replaces nothing but a new product.
    pub(crate) async fn create(&self, record: ProductRecord) -> Result<(), Failure> {
        let _serial = self.changing.lock().await;
        if !self.store.put_product(record.clone(), true).await? {
            return Err(Failure::new(Code::ProductExists));
        }
        self.learn(record, self.changes.fetch_add(1, Ordering::AcqRel) + 1);
        Ok(())
    }

    /// Changes a record.
    pub(crate) async fn change<T: Send>(
        &self,
        product: &ProductId,
        change: impl FnOnce(&mut ProductRecord) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let _serial = self.changing.lock().await;
        let record = self.store.product(product).await?;
        let mut record = record.ok_or_else(|| Failure::new(Code::ProductUnknown))?;
        let result = change(&mut record)?;
        self.store.put_product(record.clone(), false).await?;
        self.learn(record, self.changes.fetch_add(1, Ordering::AcqRel) + 1);
        self.changed.notify_one();
        Ok(result)
    }

    /// Another node changed a record: it is read again when it is asked for; while the store is
    /// away the former one counts.
    pub(crate) fn forget(&self, product: &ProductId) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(product) {
            known.read_at_ms.store(0, Ordering::Release);
        }
        self.changed.notify_one();
    }

    /// Resolves when a record was changed, here or by another node, since the last time it did. For
    /// one caller.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Other nodes may have changed any.
    pub(crate) fn all_stale(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.write().values().for_each(|known| known.read_at_ms.store(0, Ordering::Release));
    }

    /// The product as it was last read, however long ago.
    pub(crate) fn known(&self, product: &ProductId) -> Option<Arc<KnownProduct>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(product).cloned()
    }

    fn learn(&self, record: ProductRecord, changes: u64) -> Arc<KnownProduct> {
        let known = Arc::new(KnownProduct {
            token_keys: TokenKeys::of(&record),
            read_at_ms: AtomicU64::new(self.store.time_ms()),
            record: Arc::new(record),
        });
        let mut products = self.write();
        if self.changes.load(Ordering::Acquire) == changes {
            products.insert(known.record.product.clone(), Arc::clone(&known));
        }
        drop(products);
        known
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<ProductId, Arc<KnownProduct>>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }
}
