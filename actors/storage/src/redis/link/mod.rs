//! The connections of the Redis store. Everything is asked of a shard's master over dedicated
//! connections that are never retried behind our back (I2): lanes commit in groups, each group with
//! fence and WAIT; readers read; one more lane per shard only confirms (I1). One code path serves
//! single servers, Sentinel and Redis Cluster: a topology names the master of each shard, lanes
//! connect to it. See the README of this crate for the fault model.

mod backoff;
mod call;
mod check;
mod clock;
mod cluster;
mod connection;
mod fault;
mod info;
mod lane;
mod map;
mod probe;
mod resp;
mod sentinel;
mod settings;
pub(super) mod shard;
mod slot;
#[cfg(test)]
mod tests;
mod tls;
mod topology;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use ::redis::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::call::{Request, Script, ScriptCall};
pub use self::check::Finding;
pub use self::settings::{RedisLogin, RedisMode, RedisSettings, RedisTls, Secret};
pub(crate) use self::shard::Lineage;

use self::call::Wish;
use self::cluster::{Pictures, Vouched};
use self::connection::Dialer;
use self::map::{Entry, Maker, Map};
use self::sentinel::{Verdict, Words};
use self::shard::Common;
use self::topology::{Book, Topology};
use crate::{StoreError, StoreResult};

/// The number of a shard: an index from 0. In Redis Cluster a shard keeps it while this process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ShardId(pub(crate) u16);

/// A stretch of time in which a shard's master was one process, and no slot moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    shard: ShardId,
    term: u64,
    /// What was read in it was read from this shard, unless it serves something else since.
    serves: u64,
}

/// How the link is.
#[derive(Debug, Clone)]
pub(crate) struct LinkHealth {
    /// Whether every shard can be written to; if not, why the first one cannot.
    pub(crate) writable: StoreResult<()>,
    /// Calls that wait for a connection.
    pub(crate) queued: usize,
    /// Bytes that the masters use, together.
    pub(crate) used_bytes: u64,
}

/// All shards of the store. Connections end when it is dropped.
pub(crate) struct Shards {
    settings: Arc<RedisSettings>,
    common: Arc<Common>,
    maker: Maker,
    map: RwLock<Arc<Map>>,
    /// `None`: the servers of the settings are masters for ever.
    topology: Option<Arc<Topology>>,
    /// Highest time ever told.
    told_ms: AtomicU64,
}

impl Shards {
    /// Finds the servers and waits until every shard has been reached once.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] for settings or servers that do not do, [`StoreError::Unavailable`] if
    /// nothing answers.
    pub(crate) async fn connect(settings: &RedisSettings) -> StoreResult<Arc<Self>> {
        let this = Arc::new(Self::new(settings)?);
        if let Some(topology) = &this.topology {
            topology.start(&this);
        }
        this.reached().await?;
        this.warm_up().await;
        if this.settings.check {
            check::tell(&check::look(&this).await)?;
        }
        Ok(this)
    }

    /// What is to be said about the servers of these settings, for whoever asks before a start.
    ///
    /// # Errors
    /// When no server can be reached.
    pub(crate) async fn examine(settings: &RedisSettings) -> StoreResult<Vec<Finding>> {
        let settings = RedisSettings { check: false, ..settings.clone() };
        let this = Self::connect(&settings).await?;
        Ok(check::look(&this).await)
    }

    fn new(settings: &RedisSettings) -> StoreResult<Self> {
        let settings = Arc::new(settings.clone());
        let tls = settings.tls.as_ref().map(tls::client_config).transpose();
        let tls = tls.map_err(StoreError::Fatal)?;
        let timeout = settings.timeout;
        let dialer =
            |login: &RedisLogin| Dialer { login: login.clone(), tls: tls.clone(), timeout };
        let common = Arc::new(Common {
            dialer: dialer(&settings.login),
            lineage: OnceLock::new(),
            doubt: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let anchors = slot::anchors().collect();
        let maker = Maker { settings: Arc::clone(&settings), common: Arc::clone(&common), anchors };
        let nodes = &settings.nodes;
        let (map, topology) = match settings.mode {
            RedisMode::Standalone => (maker.divided(nodes, false), None),
            RedisMode::Sentinel => {
                let words = settings.masters.iter().map(|_| Words::default()).collect();
                let dialer = dialer(&settings.sentinel_login);
                let topology = Topology::new(Book::Sentinels(words), nodes, dialer);
                (maker.divided(&settings.masters, true), Some(topology))
            }
            RedisMode::Cluster => {
                let book = Book::Cluster(Pictures::default());
                let topology = Topology::new(book, nodes, dialer(&settings.login));
                (Map::default(), Some(topology))
            }
        };
        if nodes.is_empty() || settings.masters.is_empty() {
            return Err(StoreError::Fatal(
                "redis_nodes and redis_masters must not be empty".into(),
            ));
        }
        let map = RwLock::new(Arc::new(map));
        Ok(Self { settings, common, maker, map, topology, told_ms: AtomicU64::new(0) })
    }

    /// Has the lanes that confirm connect, so that a term does not end with the first confirmation.
    async fn warm_up(&self) {
        for entry in &self.map().shards {
            let deadline = Instant::now() + self.settings.timeout;
            // It does not matter here what comes of it.
            let _ = entry.confirms.call(Request::Nothing, Wish::Relaxed, 0, deadline).await;
        }
    }

    /// Waits until every shard was reached and looked at once.
    async fn reached(&self) -> StoreResult<()> {
        let until = Instant::now() + self.settings.timeout * 5;
        while Instant::now() < until {
            let map = self.map();
            if map.whole() && map.shards.iter().all(|entry| entry.shard.known()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let map = self.map();
        let away = map.shards.iter().find(|entry| !entry.shard.known());
        let mut why =
            away.map_or("not every slot has a server".into(), |entry| entry.shard.why_not());
        if let Some(error) = self.topology.as_ref().and_then(|topology| topology.last_error()) {
            why = format!("{why} ({error})");
        }
        Err(StoreError::Unavailable(why))
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn entry(&self, slot: u16) -> StoreResult<Arc<Entry>> {
        let map = self.map();
        let entry = map.at(slot).map(|(_, entry)| Arc::clone(entry));
        entry.ok_or_else(|| StoreError::Unavailable(format!("no server serves slot {slot}")))
    }

    /// The sentinels say this of a master, by majority; `None`: they do not agree.
    fn named_by_sentinels(&self, index: usize, verdict: Option<Verdict>) {
        if let Some(entry) = self.map().shards.get(index) {
            if let Some(verdict) = &verdict {
                entry.shard.readdress(&verdict.address);
            }
            let vouched = verdict.and_then(|verdict| Some((verdict.address, verdict.until?)));
            entry.shard.vouched(vouched);
        }
    }

    /// This is what the cluster looks like.
    fn named_by_cluster(&self, found: &[Vouched]) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = self.maker.look(&map, found) {
            *map = Arc::new(next);
        }
    }

    /// Nobody waits longer than this for a call; what executes later was stalled on its way.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.settings.timeout.as_millis() as u64
    }

    /// The shard of a tag: what stands between the braces of a key.
    #[cfg(test)]
    pub(crate) fn shard_of(&self, tag: &str) -> ShardId {
        self.map().at(slot::slot_of(tag.as_bytes())).map_or(ShardId(0), |(index, _)| ShardId(index))
    }

    /// All shards.
    #[cfg(test)]
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        (0..self.map().shards.len()).map(|index| ShardId(index as u16)).collect()
    }

    /// Tags that are spread over all slots, the same for ever: a record under each of them is on every
    /// shard, also after slots have moved. In the order of their slots.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = &str> {
        self.maker.anchors.iter().map(|(_, tag)| tag.as_str())
    }

    /// Has every connection made from now on check the lineage, and makes all anew (I5).
    pub(crate) fn guard(&self, lineage: Lineage) {
        if self.common.lineage.set(lineage).is_ok() {
            self.map().shards.iter().for_each(|entry| entry.shard.reconnect());
        }
    }

    /// Writes, durable on return: `replicas_min` replicas have it. Calls of one tag take effect in
    /// the order they were made. [`StoreError::Unknown`] once it was sent and not confirmed.
    pub(crate) async fn write(&self, tag: &str, request: impl Into<Request>) -> StoreResult<Value> {
        self.on_lane(tag, request.into(), Wish::Durable).await
    }

    /// Writes, ordered as [`Shards::write`], not confirmed by replicas.
    pub(crate) async fn write_relaxed(
        &self,
        tag: &str,
        request: impl Into<Request>,
    ) -> StoreResult<Value> {
        self.on_lane(tag, request.into(), Wish::Relaxed).await
    }

    async fn on_lane(&self, tag: &str, request: Request, wish: Wish) -> StoreResult<Value> {
        let slot = slot::slot_of(tag.as_bytes());
        let entry = self.entry(slot)?;
        let lane = &entry.lanes[usize::from(slot) % entry.lanes.len()];
        lane.call(request, wish, slot, Instant::now() + self.settings.timeout).await
    }

    /// Reads from the master; a script must have no effect (it is run with `EVALSHA_RO`).
    pub(crate) async fn read(&self, tag: &str, request: impl Into<Request>) -> StoreResult<Value> {
        let slot = slot::slot_of(tag.as_bytes());
        let entry = self.entry(slot)?;
        let lane = &entry.readers[usize::from(slot) % entry.readers.len()];
        lane.call(request.into(), Wish::Read, slot, Instant::now() + self.settings.timeout).await
    }

    /// To be taken before something is read that is to be confirmed.
    pub(crate) fn term(&self, tag: &str) -> Term {
        let map = self.map();
        let (shard, term) = match map.at(slot::slot_of(tag.as_bytes())) {
            Some((shard, entry)) => (shard, entry.shard.term()),
            None => (u16::MAX, 0),
        };
        Term { shard: ShardId(shard), term, serves: map.version(shard) }
    }

    /// Returns when everything that was read from a shard since `term` was taken is on `replicas_min`
    /// replicas too (I1): the master has been the same all the time, what it was asked for has not moved
    /// to another one before it was read, and they confirm a fence. Shared with whoever asks at the
    /// same time.
    pub(crate) async fn confirm(&self, term: Term) -> StoreResult<()> {
        let entry = self.map().shards.get(usize::from(term.shard.0)).map(Arc::clone);
        let changed = || StoreError::Unavailable("another master was named meanwhile".into());
        let entry = entry.ok_or_else(changed)?;
        let deadline = Instant::now() + self.settings.timeout;
        entry.confirms.call(Request::Nothing, Wish::Durable, 0, deadline).await?;
        let same =
            entry.shard.term() == term.term && self.map().version(term.shard.0) == term.serves;
        if same { Ok(()) } else { Err(changed()) }
    }

    fn lowest(&self, now: Instant) -> Option<Duration> {
        let map = self.map();
        let mut lowest = Duration::MAX;
        for entry in &map.shards {
            lowest = lowest.min(entry.shard.time(now)?);
        }
        Some(lowest)
    }

    /// A lower bound of the time of every shard, Unix milliseconds; never steps back.
    pub(crate) fn time_ms(&self) -> u64 {
        let now_ms = self.lowest(Instant::now()).map_or(0, |time| time.as_millis() as u64);
        self.told_ms.fetch_max(now_ms, Ordering::AcqRel).max(now_ms)
    }

    /// Times that a master was seen to have restarted before a fail-over.
    #[cfg(test)]
    fn restarts(&self) -> u64 {
        self.map().shards.iter().map(|entry| entry.shard.restarts()).sum()
    }

    /// How it is. No I/O.
    pub(crate) fn health(&self) -> LinkHealth {
        let map = self.map();
        let failed = map.shards.iter().map(|entry| entry.shard.writable()).find(Result::is_err);
        LinkHealth {
            writable: failed.unwrap_or(Ok(())),
            queued: map.shards.iter().map(|entry| entry.queued()).sum(),
            used_bytes: map.shards.iter().map(|entry| entry.shard.used_bytes()).sum(),
        }
    }

    /// Nothing is sent any more; calls answer [`StoreError::Unavailable`].
    pub(crate) fn close(&self) {
        self.common.close();
        self.map().shards.iter().for_each(|entry| entry.shard.reconnect());
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.close();
    }
}
