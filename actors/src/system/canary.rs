//! The canary: a push of the node's own, every few seconds, the whole way through a lane, an owner, the
//! store and a relay of this very node to something that reads like a session. Mailboxes that move
//! do not prove that messages arrive; this does. A node whose canary is missed for long is sick, and
//! owns nothing until it is heard again.
//!
//! It is of a product that nobody else can have, so no figure of a product counts it. Its log is a
//! topic of this node's with a few entries that live for a minute. It needs no other node: its owner
//! is the one here, whoever owns its slot, and where hints do not come it reads, as sessions do.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use clarion_core::{Body, LogKey, Mode};
use clarion_protocol::{MessageId, ProductId, TopicName};
use clarion_storage::{Appended, LogLimits, ProductRecord, Read, StoreError};
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::intake::NewEntry;
use crate::link::inbox::{Item, LinkInbox};
use crate::relay::{Relays, Subscriber};

/// Its product. None of this name is ever created.
pub(super) const PRODUCT: &str = "~canary";

/// How often it is sent, and how long it may take. What the store keeps of each for a day makes 2 MB of
/// Redis for a node.
const EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);
/// So many in a row that were missed make a node sick. Not so much time: one that stood still has
/// missed none.
const MISSED_MAX: u32 = 3;
/// How long its hint may take before it is read.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// How long an entry lives, in milliseconds, and what its log holds at most.
const KEPT_MS: u64 = 60_000;
const LIMITS: LogLimits = LogLimits { entries_max: 64, bytes_max: 4096, evict: true };

/// How often the canary was missed in a row.
#[derive(Default)]
pub(super) struct Canary {
    missed: AtomicU32,
}

/// Where one was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    /// The node's lanes take nothing.
    Lane,
    /// It was not appended.
    Append,
    /// It was, and nobody was told and nothing was read.
    Relay,
    /// All of it took too long.
    Time,
}

impl Missed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Append => "append",
            Self::Relay => "relay",
            Self::Time => "time",
        }
    }
}

impl Canary {
    fn heard(&self) {
        self.missed.store(0, Ordering::Relaxed);
    }

    fn missed(&self, at: Missed) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        let at = at.as_str();
        metrics::counter!("clarion_canary_missed_total", "at" => at).increment(1);
        tracing::warn!(at, "a push of the node's own did not come through");
    }

    /// Whether it was missed too often to be chance.
    pub(super) fn is_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= MISSED_MAX
    }
}

/// Sends it, for as long as the node runs.
pub(super) async fn sing(inner: Weak<Inner>) {
    let Some(product) = inner.upgrade().map(|inner| product(&inner)) else { return };
    let Some((product, log)) = product else { return };
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        if inner.joined.get().is_none() {
            continue; // nobody would be told
        }
        let began = Instant::now();
        let round = timeout(PATIENCE, inner.round(&product, &log)).await;
        match round.unwrap_or(Err(Missed::Time)) {
            Ok(()) => {
                metrics::histogram!("clarion_canary_seconds").record(began.elapsed());
                inner.canary.heard();
            }
            // A store that is away is judged as such: nothing can come through.
            Err(_) if inner.store.health().writable.is_err() => inner.canary.heard(),
            Err(missed) => inner.canary.missed(missed),
        }
    }
}

fn product(inner: &Inner) -> Option<(Arc<ProductRecord>, Arc<LogKey>)> {
    let product = ProductId::new(PRODUCT).ok()?;
    let log = LogKey::topic(&product, &TopicName::new(&inner.config.node.id).ok()?);
    let record = ProductRecord {
        product,
        created_at_ms: 0,
        kinds: Vec::new(),
        allow_sha1_body_hash: false,
        pushes_per_s_max: None,
        isolation_group: Arc::clone(&inner.router.myself.group),
        api_keys: Vec::new(),
        token_keys: Vec::new(),
    };
    Some((Arc::new(record), log))
}

/// What stands for a session.
struct Listener<'a> {
    relays: &'a Relays,
    log: &'a Arc<LogKey>,
    subscriber: Subscriber,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.subscriber.inbox.end();
        self.relays.deregister(Arc::clone(self.log), self.subscriber.clone());
    }
}

impl Listener<'_> {
    async fn next(&self) -> Item {
        let inbox = &self.subscriber.inbox;
        poll_fn(|context| {
            inbox.register(context.waker());
            while inbox.take_control().is_some() {}
            inbox.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Until a hint of this message comes.
    async fn hinted(&self, message: MessageId) {
        loop {
            if let Item::Hint { batch, .. } = self.next().await
                && batch.entries.iter().any(|entry| entry.message == message)
            {
                return;
            }
        }
    }

    /// Whether it is read where it is said to be.
    async fn reads(&self, message: MessageId, appended: &Appended) -> bool {
        let (log, after) = (Arc::clone(self.log), appended.predecessor);
        let read = Read { log, after, entries_max: 1, bytes_max: 4096 };
        self.relays.read(read, self.subscriber.clone());
        loop {
            if let Item::Page { page, .. } = self.next().await {
                return page
                    .is_some_and(|page| page.entries.iter().any(|entry| entry.message == message));
            }
        }
    }
}

impl Inner {
    async fn round(&self, product: &Arc<ProductRecord>, log: &Arc<LogKey>) -> Result<(), Missed> {
        let now_ms = self.store.time_ms();
        let inbox = LinkInbox::new(self.next_link.fetch_add(1, Ordering::Relaxed), 16);
        let subscriber = Subscriber { inbox, session: 1, alias: 1 };
        self.relays.register(Arc::clone(log), subscriber.clone(), now_ms, 0);
        let listener = Listener { relays: &self.relays, log, subscriber };
        let place = self.pushes.admit(product, Mode::Multicast).await;
        let _place = place.map_err(|_| Missed::Lane)?;
        let entropy = u128::from(fastrand::u64(..));
        let entry = NewEntry {
            log: Arc::clone(log),
            message: MessageId::from_parts(now_ms, entropy),
            expires_at_ms: now_ms + KEPT_MS,
            body: Body::Json(Bytes::from_static(b"0")),
            limits: LIMITS,
            first_attempt_ms: None,
            begun_ms: now_ms,
            deadline_ms: now_ms + PATIENCE.as_millis() as u64,
        };
        let answer = self.router.owners.append(&entry).await.ok_or(Missed::Append)?;
        let appended = match answer.await {
            Ok(Ok(appended)) => appended,
            // Full is not ill: no other node could append either.
            Ok(Err(StoreError::Full(_))) => return Ok(()),
            Ok(Err(_)) | Err(_) => return Err(Missed::Append),
        };
        if timeout(HINT_PATIENCE, listener.hinted(entry.message)).await.is_ok() {
            return Ok(());
        }
        metrics::counter!("clarion_canary_unhinted_total").increment(1);
        let read = listener.reads(entry.message, &appended).await;
        if read { Ok(()) } else { Err(Missed::Relay) }
    }
}

#[cfg(test)]
mod tests {
    use clarion_config::Config;
    use clarion_protocol::Offset;
    use clarion_storage::Store;
    use clarion_storage::memory::{AppendFault, MemoryStore};

    use super::*;
    use crate::{System, task};

    async fn node(store: &Arc<MemoryStore>) -> System {
        let mut config = Config::default();
        config.actors.inbox_shards = 4;
        config.actors.relays = 1;
        config.terminals.shards = 1;
        config.cluster.listen = Some("127.0.0.1:0".parse().unwrap());
        let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
        let cookie = clarion_cluster::Cookie::new("0123456789abcdef0123456789abcdef").unwrap();
        System::start_in_cluster(Arc::new(config), store, cookie).await.unwrap()
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(Duration::from_secs(60), wait).await.is_ok(), "never: {what}");
    }

    /// On a clock that stands still while anything is left to do.
    #[tokio::test(start_paused = true)]
    async fn a_node_is_sick_while_its_own_pushes_do_not_come_through() {
        let store = Arc::new(MemoryStore::new());
        let of_store = Arc::clone(&store);
        task::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                of_store.advance_ms(5);
            }
        });
        let system = node(&store).await;
        let view = system.view().unwrap();
        let is_sick = || view.borrow().me().sick;
        tokio::time::sleep(10 * EVERY).await;
        assert!(!is_sick(), "it is heard");
        let (product, log) = product(&system.inner).unwrap();
        system.inner.round(&product, &log).await.unwrap();
        // The store says that it is well, and does nothing.
        store.set_append_fault(AppendFault::Hang);
        let began = Instant::now();
        until("it is sick", is_sick).await;
        assert!(began.elapsed() > 2 * EVERY, "one that is missed is no sickness");
        store.set_append_fault(AppendFault::None);
        until("it is well", || !is_sick()).await;
        system.drain().await;
    }

    #[tokio::test]
    async fn it_leaves_little_behind_and_nobody_can_have_its_product() {
        let store = Arc::new(MemoryStore::new());
        let system =
            System::start(Arc::default(), Arc::<MemoryStore>::clone(&store)).await.unwrap();
        let (product, log) = product(&system.inner).unwrap();
        for _ in 0..200 {
            system.inner.round(&product, &log).await.unwrap();
        }
        let log = Arc::clone(&log);
        let read = Read { log, after: Offset::ZERO, entries_max: 1000, bytes_max: u32::MAX };
        let kept = store.read(vec![read]).await.pop().unwrap().unwrap().entries.len();
        assert!(kept <= LIMITS.entries_max as usize, "{kept}");
        let record = ProductRecord::clone(&product);
        let refused = system.create_product(record).await.unwrap_err();
        assert_eq!(refused.code, clarion_protocol::Code::ProductExists);
        assert_eq!(system.products(None, 10).await.unwrap().items.len(), 0);
    }
}
