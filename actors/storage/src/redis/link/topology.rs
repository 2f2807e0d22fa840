//! Who is master: asks every sentinel, or every node of a cluster, again and again, each in a task of
//! its own so that one that hangs delays nobody. What a majority says is told to the shards. A crash
//! of a task would stop its vote only; shards without a majority refuse writes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::Value;
use tokio::time::Instant;

use super::Shards;
use super::backoff::Backoff;
use super::cluster::{self, Pictures};
use super::connection::{Connection, Dialer, LinkError};
use super::sentinel::{self, Words};

/// Servers that are asked, at most.
const ASKED_MAX: usize = 128;
/// Between the first sign of a fail-over at a sentinel and its promoting a replica are two of its
/// ticks of 50 to 100 ms: who asks this often sees it coming.
const SENTINEL_PERIOD: Duration = Duration::from_millis(75);
/// A doubt makes everybody ask again, but not more often than this.
const PAUSE: Duration = Duration::from_millis(20);
/// Polls between looks for sentinels that are new.
const POLLS_PER_DISCOVERY: u32 = 32;

/// What everybody who was asked said.
#[derive(Debug)]
pub(super) enum Book {
    /// Per master name.
    Sentinels(Vec<Words>),
    Cluster(Pictures),
}

/// The book and who writes in it.
pub(super) struct Topology {
    book: Mutex<Book>,
    asked: Mutex<HashSet<Arc<str>>>,
    /// Ids of sentinels that somebody asks: one has only one vote, however many names it has.
    ids: Mutex<HashSet<String>>,
    seeds: Vec<Arc<str>>,
    dialer: Dialer,
    last_error: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Topology {
    pub(super) fn new(book: Book, seeds: &[String], dialer: Dialer) -> Arc<Self> {
        Arc::new(Self {
            book: Mutex::new(book),
            asked: Mutex::default(),
            ids: Mutex::default(),
            seeds: seeds.iter().map(|seed| Arc::from(&**seed)).collect(),
            dialer,
            last_error: Mutex::default(),
        })
    }

    /// Begins to ask the seeds.
    pub(super) fn start(self: &Arc<Self>, shards: &Arc<Shards>) {
        self.seeds.iter().for_each(|seed| self.ask(seed, &Arc::downgrade(shards)));
    }

    /// The last thing that went wrong while asking.
    pub(super) fn last_error(&self) -> Option<String> {
        locked(&self.last_error).clone()
    }

    /// For checks: what sentinels said last.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    fn ask(self: &Arc<Self>, address: &Arc<str>, shards: &Weak<Shards>) {
        let mut asked = locked(&self.asked);
        if asked.len() < ASKED_MAX && asked.insert(Arc::clone(address)) {
            let voter = Voter {
                topology: Arc::clone(self),
                address: Arc::clone(address),
                shards: Weak::clone(shards),
                connection: None,
                id: None,
                polls: 0,
            };
            crate::task::spawn(voter.run());
        }
    }

    fn period(&self) -> Duration {
        match &*self.book() {
            Book::Sentinels(_) => SENTINEL_PERIOD,
            Book::Cluster(pictures) => pictures.period(),
        }
    }

    /// Whether the address is still worth asking.
    fn wanted(&self, address: &Arc<str>) -> bool {
        let mut book = self.book();
        let Book::Cluster(pictures) = &mut *book else { return true };
        let known = pictures.addresses(Instant::now());
        if known.is_empty() || known.contains(address) || self.seeds.contains(address) {
            return true;
        }
        pictures.forget(address);
        locked(&self.asked).remove(address);
        false
    }
}

/// Asks one server for as long as there is a store.
struct Voter {
    topology: Arc<Topology>,
    address: Arc<str>,
    shards: Weak<Shards>,
    connection: Option<Connection>,
    /// Of a sentinel.
    id: Option<Arc<str>>,
    polls: u32,
}

impl Voter {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Some(common) = self.shards.upgrade().map(|shards| Arc::clone(&shards.common))
            else {
                return;
            };
            if common.is_closed() || !self.topology.wanted(&self.address) {
                return;
            }
            let doubt = common.doubt.notified();
            match self.poll().await {
                Ok(true) => backoff.reset(),
                Ok(false) => return,
                Err(error) => {
                    self.connection = None;
                    let error = format!("{}: {error}", self.address);
                    tracing::debug!(error, "no word on who is Redis master");
                    *locked(&self.topology.last_error) = Some(error);
                    backoff.failed(Instant::now());
                }
            }
            let period = self.topology.period().mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            tokio::select! {
                () = tokio::time::sleep(period.saturating_sub(PAUSE)) => {}
                () = doubt, if !backoff.waiting(Instant::now()) => {}
            }
        }
    }

    /// False: somebody else asks this server already.
    async fn poll(&mut self) -> Result<bool, LinkError> {
        let asked = Instant::now();
        let sentinels = match &*self.topology.book() {
            Book::Sentinels(_) => true,
            Book::Cluster(_) => false,
        };
        if sentinels { self.poll_sentinel(asked).await } else { self.poll_node(asked).await }
    }

    async fn connection(&mut self) -> Result<(Connection, bool), LinkError> {
        match self.connection.take() {
            Some(connection) => Ok((connection, false)),
            None => Ok((self.topology.dialer.dial(&self.address).await?, true)),
        }
    }

    async fn poll_sentinel(&mut self, asked: Instant) -> Result<bool, LinkError> {
        let Some(masters) = self.shards.upgrade().map(|shards| shards.settings.masters.clone())
        else {
            return Ok(false);
        };
        let timeout = self.topology.dialer.timeout;
        let (mut connection, fresh) = self.connection().await?;
        if fresh {
            let id = connection.ask(&[b"SENTINEL", b"MYID"], timeout).await?;
            let Value::BulkString(id) = id else { return Ok(false) };
            let id = String::from_utf8_lossy(&id).into_owned();
            let known = self.id.as_deref() == Some(&*id);
            if !known && !locked(&self.topology.ids).insert(id.clone()) {
                return Ok(false);
            }
            self.id = Some(id.into());
        }
        let discover = fresh || self.polls.is_multiple_of(POLLS_PER_DISCOVERY);
        self.polls = self.polls.wrapping_add(1);
        for name in &masters {
            connection.push(&[b"SENTINEL", b"MASTER", name.as_bytes()]);
            if discover {
                connection.push(&[b"SENTINEL", b"SENTINELS", name.as_bytes()]);
            }
        }
        let round = tokio::time::timeout(timeout, connection.round());
        let mut replies = round.await.map_err(|_| LinkError::TimedOut)??.into_iter();
        for (index, name) in masters.iter().enumerate() {
            match replies.next() {
                Some(Ok(answer)) => self.heard_of(index, asked, &answer),
                Some(Err(error)) => {
                    let error = format!("master {name}: {}", error.0);
                    *locked(&self.topology.last_error) = Some(error);
                }
                None => {}
            }
            if discover && let Some(Ok(answer)) = replies.next() {
                for other in sentinel::parse_others(&answer) {
                    self.topology.ask(&other, &self.shards);
                }
            }
        }
        self.connection = Some(connection);
        Ok(true)
    }

    fn heard_of(&self, master: usize, asked: Instant, answer: &Value) {
        let (Some(word), Some(id)) = (sentinel::parse_master(answer), &self.id) else { return };
        let Some(shards) = self.shards.upgrade() else { return };
        // Held until the verdict stands: an older one never takes the place of a newer one.
        let mut book = self.topology.book();
        let verdict = match &mut *book {
            Book::Sentinels(masters) => masters.get_mut(master).and_then(|words| {
                words.heard(id, asked, word);
                words.verdict(Instant::now())
            }),
            Book::Cluster(_) => None,
        };
        shards.named_by_sentinels(master, verdict);
    }

    async fn poll_node(&mut self, asked: Instant) -> Result<bool, LinkError> {
        let timeout = self.topology.dialer.timeout;
        let (mut connection, fresh) = self.connection().await?;
        let mut node_timeout = None;
        if fresh {
            connection.push(&[b"CONFIG", b"GET", b"cluster-node-timeout"]);
            let round = tokio::time::timeout(timeout, connection.round());
            let answer = round.await.map_err(|_| LinkError::TimedOut)??.pop();
            node_timeout = answer.and_then(Result::ok).and_then(|answer| config_ms(&answer));
        }
        let answer = connection.ask(&[b"CLUSTER", b"NODES"], timeout).await?;
        self.connection = Some(connection);
        let Value::BulkString(text) = answer else {
            return Err(LinkError::Refused("CLUSTER NODES is not answered".into()));
        };
        let picture = cluster::parse(&String::from_utf8_lossy(&text), &self.address);
        let Some(picture) = picture else {
            return Err(LinkError::Refused("CLUSTER NODES cannot be read".into()));
        };
        let Some(shards) = self.shards.upgrade() else { return Ok(false) };
        let now = Instant::now();
        let mut book = self.topology.book();
        let (verdict, addresses) = match &mut *book {
            Book::Cluster(pictures) => {
                if let Some(found) = node_timeout {
                    let least = pictures.node_timeout.map_or(found, |before| before.min(found));
                    pictures.node_timeout = Some(least);
                }
                pictures.heard(&self.address, asked, picture);
                (pictures.verdict(now), pictures.addresses(now))
            }
            Book::Sentinels(_) => return Ok(false),
        };
        shards.named_by_cluster(&verdict);
        drop(book); // not before the verdict stands, see `heard_of`
        addresses.iter().for_each(|address| self.topology.ask(address, &self.shards));
        Ok(true)
    }
}

/// The answer to `CONFIG GET` of one number.
fn config_ms(answer: &Value) -> Option<Duration> {
    let Value::Array(items) = answer else { return None };
    let [_, Value::BulkString(value)] = items.as_slice() else { return None };
    std::str::from_utf8(value).ok()?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::super::settings::RedisLogin;
    use super::*;

    #[tokio::test]
    async fn servers_that_are_asked_are_bounded_and_asked_once() {
        let dialer =
            Dialer { login: RedisLogin::default(), tls: None, timeout: Duration::from_secs(1) };
        let topology = Topology::new(Book::Cluster(Pictures::default()), &[], dialer);
        for number in 0..2 * ASKED_MAX {
            for _ in 0..2 {
                topology.ask(&format!("127.0.0.1:{number}").into(), &Weak::new());
            }
        }
        assert_eq!(locked(&topology.asked).len(), ASKED_MAX);
    }
}
