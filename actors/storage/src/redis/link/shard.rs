//! What is known of one shard: its master as named now, until when a majority vouches for it, what
//! keeps it from being written to, its clock. Shared by lanes, probe and topology; no task of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::redis::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::call::Wish;
use super::clock::{Clock, Sample};
use super::connection::{Connection, Dialer, LinkError};
use super::settings::RedisSettings;
use crate::{StoreError, StoreResult};

/// A clock that is further off than this makes a node say so (I11).
pub(in crate::redis) const SKEW_MS_MAX: i64 = 2000;

/// A shard's master and what of the shard's tags matters for connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Master {
    /// `host:port`; `None` while nobody names one.
    pub(super) address: Option<Arc<str>>,
    /// A tag of this shard, for the fence.
    pub(super) fence_tag: Arc<str>,
    /// Anchor tags of this shard.
    pub(super) anchors: Arc<[String]>,
}

/// Makes the key of a record of an anchor tag.
type KeyOf = dyn Fn(&str) -> Vec<u8> + Send + Sync;
/// Says what is wrong with a value.
type Check = dyn Fn(&Value) -> Result<(), String> + Send + Sync;

/// Reads the record of the lineage off a server.
pub(crate) struct Lineage {
    pub(crate) key: Box<KeyOf>,
    pub(crate) check: Box<Check>,
}

/// What all shards share.
pub(super) struct Common {
    pub(super) dialer: Dialer,
    pub(super) lineage: OnceLock<Lineage>,
    /// Someone doubts a master: whoever resolves them is to look at once.
    pub(super) doubt: Notify,
    pub(super) closed: AtomicBool,
}

impl Common {
    #[cfg(test)]
    pub(super) fn of_tests() -> Arc<Self> {
        let login = super::settings::RedisLogin::default();
        let dialer = Dialer { login, tls: None, timeout: Duration::from_secs(1) };
        let (lineage, doubt) = (OnceLock::new(), Notify::new());
        Arc::new(Self { dialer, lineage, doubt, closed: AtomicBool::new(false) })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.doubt.notify_waiters();
    }
}

#[derive(Debug, Default)]
struct State {
    /// The store is to stop; stays.
    fatal: Option<String>,
    /// Why it is not to be written to, as the probe found.
    problem: Option<StoreError>,
    last_error: Option<String>,
    /// Until when a majority vouches for which master; `None`: nobody needs to.
    vouched: Option<(Arc<str>, Instant)>,
    clock: Option<Clock>,
    skew_ms: i64,
    used_bytes: u64,
    run_id: Option<(Arc<str>, String)>,
    /// Times its master was another process at the same address.
    restarts: u64,
    /// The probe came to an end once.
    looked_at: bool,
}

/// Our wall clock, since the epoch of Unix.
pub(super) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One shard.
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) settings: Arc<RedisSettings>,
    pub(super) common: Arc<Common>,
    /// Whether a master needs a majority that vouches for it.
    pub(super) vouching: bool,
    master: watch::Sender<Master>,
    state: Mutex<State>,
    term: AtomicU64,
    pub(super) probe: Notify,
}

impl Shard {
    pub(super) fn new(
        name: String,
        settings: &Arc<RedisSettings>,
        common: &Arc<Common>,
        vouching: bool,
    ) -> Arc<Self> {
        let state = State {
            problem: Some(StoreError::Unavailable("not looked at yet".into())),
            ..State::default()
        };
        Arc::new(Self {
            name,
            settings: Arc::clone(settings),
            common: Arc::clone(common),
            vouching,
            master: watch::channel(Master::default()).0,
            state: Mutex::new(state),
            term: AtomicU64::new(0),
            probe: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn master(&self) -> watch::Receiver<Master> {
        self.master.subscribe()
    }

    /// Names the master. Lanes that were connected to another one connect anew.
    pub(super) fn name_master(&self, master: Master) {
        self.master.send_if_modified(|now| {
            let changed = *now != master;
            if changed {
                let address = master.address.as_deref().unwrap_or("not known");
                tracing::info!(shard = self.name, address, "Redis master");
                *now = master;
                self.new_term();
            }
            changed
        });
    }

    /// Names the master, all else as it was.
    pub(super) fn readdress(&self, address: &Arc<str>) {
        let mut master = self.master.borrow().clone();
        master.address = Some(Arc::clone(address));
        self.name_master(master);
    }

    /// All connections are made anew, so that what was set since is checked on each.
    pub(super) fn reconnect(&self) {
        self.master.send_modify(|_| {});
    }

    /// The number of the process that is master, as far as we can tell: what was read in one term
    /// may be gone in the next.
    pub(super) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The master is another process, or may be.
    pub(super) fn new_term(&self) {
        self.term.fetch_add(1, Ordering::AcqRel);
    }

    /// A majority vouches for this master until then, or for none any more.
    pub(super) fn vouched(&self, vouched: Option<(Arc<str>, Instant)>) {
        self.state().vouched = vouched;
    }

    /// Whether `address` may be talked to as the master at this moment.
    pub(super) fn named(&self, address: &str) -> Result<(), String> {
        if self.common.is_closed() {
            return Err("the store is closed".into());
        }
        if self.master.borrow().address.as_deref() != Some(address) {
            return Err(format!("{address} is no longer the master of shard {}", self.name));
        }
        let state = self.state();
        if let Some(fatal) = &state.fatal {
            return Err(fatal.clone());
        }
        let vouched = state.vouched.as_ref();
        let heard =
            vouched.is_some_and(|(who, until)| **who == *address && Instant::now() < *until);
        if self.vouching && !heard {
            return Err(format!(
                "no majority names {address} as the master of shard {} any more",
                self.name
            ));
        }
        Ok(())
    }

    /// Whether a call may be sent to it.
    pub(super) fn gate(&self, address: &str, wish: Wish) -> StoreResult<()> {
        self.named(address).map_err(StoreError::Unavailable)?;
        match (&self.state().problem, wish) {
            (Some(problem), Wish::Durable) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Why nothing can be sent.
    pub(super) fn why_not(&self) -> String {
        let state = self.state();
        if let Some(fatal) = &state.fatal {
            return fatal.clone();
        }
        let error = state.last_error.as_deref().unwrap_or("connecting");
        match self.master.borrow().address.as_deref() {
            Some(address) => {
                format!("the Redis master of shard {} ({address}) is away: {error}", self.name)
            }
            None => format!("no Redis master of shard {} is known: {error}", self.name),
        }
    }

    /// Whether such a call has a chance.
    pub(super) fn admits(&self, wish: Wish) -> StoreResult<()> {
        let Some(address) = self.master.borrow().address.clone() else {
            return Err(StoreError::Unavailable(self.why_not()));
        };
        self.gate(&address, wish)
    }

    /// Whether it can be written to, and if not, why.
    pub(super) fn writable(&self) -> StoreResult<()> {
        let fatal = self.state().fatal.clone();
        fatal.map_or_else(|| self.admits(Wish::Durable), |fatal| Err(StoreError::Fatal(fatal)))
    }

    /// A connection was given up: nothing durable until the probe has looked, which it does at once.
    pub(super) fn doubted(&self, why: &str) {
        self.new_term();
        let why = format!("the Redis master of shard {} is in doubt: {why}", self.name);
        if self.state().problem.is_none() {
            self.problem(Some(StoreError::Unavailable(why)));
        }
        self.suspect();
    }

    /// Someone had trouble with the master: topology and probe look at once.
    pub(super) fn suspect(&self) {
        self.common.doubt.notify_waiters();
        self.probe.notify_one();
    }

    /// A connection could not be made.
    pub(super) fn failed(&self, error: &LinkError) {
        self.state().last_error = Some(error.to_string());
    }

    /// WAIT counted fewer replicas than asked for: nothing durable until the probe counts more.
    pub(super) fn too_few_replicas(&self, replicas: i64) -> String {
        let what = format!(
            "{replicas} of the {} replicas that must confirm did so in time (shard {})",
            self.settings.replicas_min, self.name
        );
        self.problem(Some(StoreError::Unavailable(what.clone())));
        self.probe.notify_one();
        what
    }

    /// What keeps it from being written to, or that nothing does.
    pub(super) fn problem(&self, problem: Option<StoreError>) {
        let mut state = self.state();
        if state.problem != problem {
            match &problem {
                None => tracing::info!(shard = self.name, "Redis can be written to"),
                Some(why) if !state.looked_at => {
                    tracing::info!(shard = self.name, %why, "Redis cannot be written to yet");
                }
                Some(why) => tracing::warn!(shard = self.name, %why, "Redis cannot be written to"),
            }
            state.problem = problem;
        }
    }

    /// Notes that the probe came to an end.
    pub(super) fn looked_at(&self) {
        self.state().looked_at = true;
    }

    /// Whether it was reached and looked at once.
    pub(super) fn known(&self) -> bool {
        let state = self.state();
        state.looked_at && state.clock.is_some()
    }

    /// The store is to stop.
    pub(super) fn fatal(&self, why: &str) {
        tracing::error!(shard = self.name, why, "the Redis store failed");
        self.state().fatal.get_or_insert_with(|| why.to_owned());
    }

    /// A write of our own and WAIT: what WAIT counts has everything that was written before.
    pub(super) fn push_fence(&self, connection: &mut Connection) {
        let tag = Arc::clone(&self.master.borrow().fence_tag);
        let key = format!("{}:{{{tag}}}:fence", self.settings.prefix);
        connection.push(&[b"SET", key.as_bytes(), b"1"]);
        if self.settings.replicas_min > 0 {
            let replicas = self.settings.replicas_min.to_string();
            let ms = (self.settings.timeout.as_millis() * 4 / 5).max(1).to_string();
            connection.push(&[b"WAIT", replicas.as_bytes(), ms.as_bytes()]);
        }
    }

    /// Connects to what is named as the master and makes sure that it is one, of our lineage (I5).
    pub(super) async fn connect(&self, address: &str) -> Result<Connection, LinkError> {
        let connect = async {
            let mut connection = self.common.dialer.dial(address).await?;
            connection.push(&[b"ROLE"]);
            let role = connection.one().await?;
            let Value::Array(parts) = &role else {
                return Err(LinkError::Refused("ROLE is not answered".into()));
            };
            if parts.first() != Some(&Value::BulkString(b"master".to_vec())) {
                return Err(LinkError::Refused(format!("{address} is not a master (read-only)")));
            }
            self.check_lineage(&mut connection).await?;
            Ok(connection)
        };
        let timeout = self.settings.timeout;
        tokio::time::timeout(timeout, connect).await.map_err(|_| LinkError::TimedOut)?
    }

    async fn check_lineage(&self, connection: &mut Connection) -> Result<(), LinkError> {
        let Some(lineage) = self.common.lineage.get() else { return Ok(()) };
        let anchors = Arc::clone(&self.master.borrow().anchors);
        if anchors.is_empty() {
            return Ok(());
        }
        for anchor in &*anchors {
            let key = (lineage.key)(anchor);
            connection.push(&[b"GET", &key]);
        }
        for reply in connection.round().await? {
            let wrong = match reply {
                Ok(value) => (lineage.check)(&value).err(),
                // Slots on their way to another server; it is checked there.
                Err(error) if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN") => None,
                Err(error) => return Err(LinkError::Refused(error.0)),
            };
            if let Some(wrong) = wrong {
                self.fatal(&wrong);
                return Err(LinkError::Refused(wrong));
            }
        }
        Ok(())
    }

    /// Notes the server's time.
    pub(super) fn sample(&self, sample: Sample) {
        let mut state = self.state();
        state.skew_ms = sample.skew_ms(wall_clock());
        match &mut state.clock {
            Some(clock) => clock.correct(sample),
            None => state.clock = Some(Clock::new(sample)),
        }
    }

    /// A lower bound of its time; `None` before it was ever reached.
    pub(super) fn time(&self, now: Instant) -> Option<Duration> {
        self.state().clock.as_ref().map(|clock| clock.now(now))
    }

    /// How far its clock is from ours, milliseconds.
    pub(super) fn skew_ms(&self) -> i64 {
        self.state().skew_ms
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.state().used_bytes
    }

    /// Times its master was restarted and not failed over.
    #[cfg(test)]
    pub(super) fn restarts(&self) -> u64 {
        self.state().restarts
    }

    /// Notes memory in use, and which process it is: a master that restarted before a fail-over is
    /// outside of the fault model. True if it did.
    pub(super) fn seen(&self, address: &Arc<str>, run_id: String, used_bytes: u64) -> bool {
        let mut state = self.state();
        state.used_bytes = used_bytes;
        let before = state.run_id.replace((Arc::clone(address), run_id));
        let restarted = before.is_some_and(|(at, run)| {
            at == *address && state.run_id.as_ref().is_some_and(|(_, now)| *now != run)
        });
        state.restarts += u64::from(restarted);
        restarted
    }
}
