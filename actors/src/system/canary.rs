//! The canary: a push of the node's own, every few seconds, the whole way through a lane, an owner, the
//! store and a relay of this very node to something that reads like a session. Mailboxes that move
//! do not prove that messages arrive; this does. A node whose canary is missed for long is sick, and
//! owns nothing until it is heard again.
//!
//! What all nodes suffer from must not make them sick one after the other, for each would be out in its
//! turn: all sing at the same time by the clock of the store, one that is missed is followed by the next
//! within a second, what counts is for how long none came through, and while the store is not well,
//! or full, or all places are taken, none counts.
//!
//! It is of a product that nobody else can have, so no figure of a product counts it. Its log is a
//! topic of this node's with a few entries that live for a minute. It needs no other node: its owner
//! is the one here, whoever owns its slot, and where hints do not come it reads, as sessions do.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use clarion_core::{Body, LogKey, Mode};
use clarion_protocol::{Code, MessageId, ProductId, TopicName};
use clarion_storage::{Appended, LogLimits, ProductRecord, Read, StoreError};
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::intake::NewEntry;
use crate::link::inbox::{Item, LinkInbox};
use crate::relay::{Relays, Subscriber};

/// Its product. None of this name is ever created.
pub(super) const PRODUCT: &str = "~canary";

/// How often it is sent, in milliseconds, and how long it may take. What the store keeps of each for a day
/// makes 2 MB of Redis for a node.
const EVERY_MS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon after one that was missed the next is sent.
const AGAIN: Duration = Duration::from_secs(1);
/// A node is sick once none came through for so long, from the first that was missed. Time in which
/// none was tried does not count: one that stood still has missed none.
const SICK_AFTER: Duration = Duration::from_secs(30);
/// How long after an append that the store refused it is tried again, and how often the health of
/// the store is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long its hint may take before it is read.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// How long an entry lives, in milliseconds, and what its log holds at most.
const KEPT_MS: u64 = 60_000;
const LIMITS: LogLimits = LogLimits { entries_max: 64, bytes_max: 4096, evict: true };

/// For how long the canary has been missed.
#[derive(Default)]
pub(super) struct Canary {
    missed_ms: AtomicU64,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sung {
    Heard,
    /// It did not come through, and that says nothing about this node.
    Excused,
    Missed(Missed),
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
        self.missed_ms.store(0, Ordering::Relaxed);
    }

    /// One was missed, so long after the one before, or after it was sent.
    fn missed(&self, at: Missed, after: Duration) {
        let at = at.as_str();
        metrics::counter!("clarion_canary_missed_total", "at" => at).increment(1);
        let after = after.min(2 * AGAIN + PATIENCE).max(Duration::from_millis(1));
        if self.missed_ms.fetch_add(after.as_millis() as u64, Ordering::Relaxed) == 0 {
            tracing::warn!(at, "a push of the node's own did not come through");
        }
    }

    /// Whether it was missed for too long to be chance.
    pub(super) fn is_missed(&self) -> bool {
        u128::from(self.missed_ms.load(Ordering::Relaxed)) >= SICK_AFTER.as_millis()
    }
}

/// Sends it, for as long as the node runs.
pub(super) async fn sing(inner: Weak<Inner>) {
    let Some(product) = inner.upgrade().map(|inner| product(&inner)) else { return };
    let Some((product, log)) = product else { return };
    // When the last one was missed.
    let mut missed_at: Option<Instant> = None;
    loop {
        let pause = missed_at.map_or_else(|| next(&inner), |_| Some(AGAIN));
        let Some(pause) = pause else { return };
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        if inner.joined.get().is_none() {
            continue; // nobody would be told
        }
        let began = Instant::now();
        let sung = inner.watched(&product, &log).await;
        match sung {
            Sung::Heard => metrics::histogram!("clarion_canary_seconds").record(began.elapsed()),
            Sung::Excused => {}
            Sung::Missed(at) => {
                inner.canary.missed(at, missed_at.unwrap_or(began).elapsed());
                missed_at = Some(Instant::now());
                continue;
            }
        }
        inner.canary.heard();
        missed_at = None;
    }
}

/// Until all nodes send the next one.
fn next(inner: &Weak<Inner>) -> Option<Duration> {
    let now_ms = inner.upgrade()?.store.time_ms();
    Some(Duration::from_millis(EVERY_MS - now_ms % EVERY_MS))
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
        self.relays.read(read, appended.offset, self.subscriber.clone());
        loop {
            if let Item::Page { page, .. } = self.next().await {
                return page
                    .is_some_and(|page| page.entries.iter().any(|entry| entry.message == message));
            }
        }
    }
}

impl Inner {
    /// One, judged by what the store says meanwhile: where that is away, nothing can come through.
    async fn watched(&self, product: &Arc<ProductRecord>, log: &Arc<LogKey>) -> Sung {
        let mut round = Box::pin(timeout(PATIENCE, self.round(product, log)));
        let mut was_ill = false;
        loop {
            was_ill |= self.store.health().writable.is_err();
            let Ok(sung) = timeout(LOOK_EVERY, &mut round).await else { continue };
            was_ill |= self.store.health().writable.is_err();
            return match sung.unwrap_or(Sung::Missed(Missed::Time)) {
                Sung::Missed(_) if was_ill => Sung::Excused,
                sung => sung,
            };
        }
    }

    async fn round(&self, product: &Arc<ProductRecord>, log: &Arc<LogKey>) -> Sung {
        let now_ms = self.store.time_ms();
        let inbox = LinkInbox::new(self.next_link.fetch_add(1, Ordering::Relaxed), 16);
        let subscriber = Subscriber { inbox, session: 1, alias: 1 };
        self.relays.register(Arc::clone(log), subscriber.clone(), now_ms, 0);
        let listener = Listener { relays: &self.relays, log, subscriber };
        let _place = match self.pushes.admit(product, Mode::Multicast).await {
            Ok(place) => place,
            Err(failure) if failure.code == Code::LaneFull => return Sung::Excused,
            Err(_) => return Sung::Missed(Missed::Lane),
        };
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
        let appended = match self.append_canary(&entry).await {
            Ok(appended) => appended,
            Err(sung) => return sung,
        };
        if timeout(HINT_PATIENCE, listener.hinted(entry.message)).await.is_ok() {
            return Sung::Heard;
        }
        metrics::counter!("clarion_canary_unhinted_total").increment(1);
        let read = listener.reads(entry.message, &appended).await;
        if read { Sung::Heard } else { Sung::Missed(Missed::Relay) }
    }

    /// Tries again what the store refuses: it may be on its way to another master. The caller has the
    /// patience.
    async fn append_canary(&self, entry: &NewEntry) -> Result<Appended, Sung> {
        loop {
            let answer = self.router.owners.append(entry).await;
            let answer = answer.ok_or(Sung::Missed(Missed::Append))?;
            match answer.await {
                Ok(Ok(appended)) => return Ok(appended),
                // Full is not ill: no other node could append either.
                Ok(Err(StoreError::Full(_) | StoreError::LogFull)) => return Err(Sung::Excused),
                Ok(Err(StoreError::Unavailable(_))) => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Err(_)) | Err(_) => return Err(Sung::Missed(Missed::Append)),
            }
        }
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

    /// A store whose time goes with a clock that stands still while anything is left to do.
    fn store() -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::new());
        let of_store = Arc::clone(&store);
        task::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                of_store.advance_ms(5);
            }
        });
        store
    }

    const EVERY: Duration = Duration::from_millis(EVERY_MS);

    #[tokio::test(start_paused = true)]
    async fn what_the_store_does_to_all_makes_no_node_sick() {
        let store = store();
        let system = node(&store).await;
        let missed_ms = || system.inner.canary.missed_ms.load(Ordering::Relaxed);
        let (product, log) = product(&system.inner).unwrap();
        // Refused for a moment, as before anybody noticed that the master is away.
        store.set_append_fault(AppendFault::Unavailable);
        let moment = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            store.set_append_fault(AppendFault::None);
        };
        let (sung, ()) = tokio::join!(system.inner.watched(&product, &log), moment);
        assert_eq!(sung, Sung::Heard);
        // Away in the midst of one, and well again when that ends.
        store.set_append_fault(AppendFault::Hang);
        let moment = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            store.set_unavailable(true);
            tokio::time::sleep(Duration::from_secs(1)).await;
            store.set_unavailable(false);
        };
        let (sung, ()) = tokio::join!(system.inner.watched(&product, &log), moment);
        assert_eq!(sung, Sung::Excused);
        store.set_append_fault(AppendFault::None);
        // Away for a minute.
        store.set_unavailable(true);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(missed_ms(), 0);
        }
        store.set_unavailable(false);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(missed_ms(), 0);
        }
        system.drain().await;
    }

    /// Not in phases of its own, as one that started at another time would.
    #[tokio::test(start_paused = true)]
    async fn nodes_that_started_at_different_times_are_sick_at_the_same() {
        let store = store();
        let first = node(&store).await;
        tokio::time::sleep(Duration::from_millis(4_700)).await;
        let second = node(&store).await;
        tokio::time::sleep(2 * EVERY).await;
        store.set_append_fault(AppendFault::Hang);
        let missed = [&first, &second].map(|system| &system.inner.canary);
        while !missed.iter().any(|canary| canary.is_missed()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(missed.iter().all(|canary| canary.is_missed()));
        store.set_append_fault(AppendFault::None);
        first.drain().await;
        second.drain().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_sick_while_its_own_pushes_do_not_come_through() {
        let store = store();
        let system = node(&store).await;
        let view = system.view().unwrap();
        let is_sick = || view.borrow().me().sick;
        tokio::time::sleep(10 * EVERY).await;
        assert!(!is_sick(), "it is heard");
        let (product, log) = product(&system.inner).unwrap();
        assert_eq!(system.inner.round(&product, &log).await, Sung::Heard);
        // The store says that it is well, and does nothing.
        store.set_append_fault(AppendFault::Hang);
        let began = Instant::now();
        until("it is sick", is_sick).await;
        assert!(began.elapsed() >= SICK_AFTER, "a few that are missed are no sickness");
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
            assert_eq!(system.inner.round(&product, &log).await, Sung::Heard);
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
