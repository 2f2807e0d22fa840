//! I13, exactly, where many read a log: a cursor is at its terminal, what it passed is counted at the
//! log, and the two are in different slots. So the record notes what the cursor passed as *pending*, in
//! the script that writes the cursor, under a ticket: teller, batch, index in the batch. The log
//! remembers of each teller up to which batch it has counted.
//!
//! - A teller has one batch under way at a time, and is given back for the next when all of that is
//!   counted. So "batches up to n" says it all, and the same batch again counts nothing again.
//! - Who finds something pending of a teller that it does not know (a process that died, a batch with
//!   an outcome that stayed unknown) closes the teller at the log: what it has not counted by then it
//!   never will. That part gets a ticket of the finder's own in the record, and only then is counted:
//!   so a finder that dies is found in the same way.
//! - A save whose outcome is unknown may have left its note or not. It is left out of its batch, and the
//!   teller is not used again.
//!
//! In a user's inbox the position of each reader, kept there, says what was counted: no teller is
//! closed, and the note is there for what was not acknowledged.
//!
//! Found by the next save, by leaving, by a session that opens, and by upkeep.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ::redis::Value;
use clarion_core::{LogKey, LogKind, Settled};
use clarion_protocol::{LogName, Offset, ProductId, TerminalId, UserId};
use futures_util::future::join_all;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use super::breaks::Step;
use super::counting::Once;
use super::passed::Passed;
use super::reply::{Args, Parts, number};
use super::schema::{log_tag, stored_name, tag_of};
use super::{RedisStore, codec, scripts};
use crate::engine::terminals::shared_key;
use crate::{StoreError, StoreResult};

/// Of other tellers what is known is remembered for this many logs; then it begins anew.
const KNOWN_MAX: usize = 8192;
/// Tellers that scripts are told of.
const TOLD_MAX: usize = 64;
/// How long a batch that is not counted yet is left to its teller.
const GRACE: Duration = Duration::from_millis(100);
/// Two saves of one cursor at a time: how long the second waits until the first is counted.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// What others left is counted for so many terminals at a time.
const FINDERS: usize = 32;
/// How long a session that opens waits for what was left to be counted; then others find it.
const OPENING: Duration = Duration::from_millis(250);
/// Tellers are numbers of five bytes.
const TELLERS: u64 = 1 << 40;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) teller: u64,
    pub(super) batch: u32,
    pub(super) index: u16,
}

/// What a cursor passed, behind `from` up to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) from: Offset,
    pub(super) to: Offset,
    /// When: what expired since was there.
    pub(super) at_ms: u64,
    /// What of it was not acknowledged.
    pub(super) settled: Vec<Settled>,
}

impl Pending {
    /// From where on nothing of it is counted, if its batch is up to there: batches hold cursors of
    /// many terminals, so that may be beyond its own end.
    fn rest(&self, counted_to: Offset) -> Offset {
        self.from.max(counted_to).min(self.to)
    }
}

/// What a log says of a teller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    batch: u32,
    /// Up to where the newest batch is counted, if not as a whole.
    part: Option<Offset>,
    closed: bool,
    left_out: Vec<u16>,
}

/// What became of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Counted,
    /// Counted up to there, never further.
    UpTo(Offset),
    /// It may be counted at any time.
    Open,
}

impl Told {
    fn fate(&self, ticket: Ticket) -> Fate {
        if ticket.batch < self.batch {
            return Fate::Counted;
        }
        if ticket.batch == self.batch && self.left_out.contains(&ticket.index) {
            return Fate::UpTo(Offset::ZERO);
        }
        match self.part {
            None if ticket.batch == self.batch => Fate::Counted,
            Some(part) if ticket.batch == self.batch && self.closed => Fate::UpTo(part),
            _ if self.closed => Fate::UpTo(Offset::ZERO),
            _ => Fate::Open,
        }
    }
}

#[derive(Debug)]
struct Teller {
    id: u64,
    batch: u32,
}

#[derive(Debug, Default)]
struct Counters {
    /// With their batches. The lowest go first: scripts are told of the lowest.
    idle: BTreeMap<u64, u32>,
    /// Of each teller of ours, up to which batch all is counted.
    counted: BTreeMap<u64, u32>,
}

/// The tellers of this process, and what it knows of others.
#[derive(Debug)]
pub(super) struct Tellers {
    counters: Mutex<Counters>,
    /// A batch ended.
    ended: Notify,
    known: Mutex<HashMap<(Arc<LogKey>, u64), Told>>,
    finders: Semaphore,
    /// One at a time asks a log for a teller: its batch is of many terminals.
    asking: [AsyncMutex<()>; FINDERS],
}

impl Default for Tellers {
    fn default() -> Self {
        Self {
            counters: Mutex::default(),
            ended: Notify::new(),
            known: Mutex::default(),
            finders: Semaphore::new(FINDERS),
            asking: Default::default(),
        }
    }
}

impl Tellers {
    fn asking(&self, log: &LogKey, teller: u64) -> &AsyncMutex<()> {
        let mut hasher = std::hash::DefaultHasher::new();
        (log, teller).hash(&mut hasher);
        &self.asking[hasher.finish() as usize % FINDERS]
    }

    /// A batch of a teller that has nothing else under way.
    pub(super) fn batch(self: &Arc<Self>) -> Arc<Batch> {
        let mut counters = lock(&self.counters);
        let mut teller = counters
            .idle
            .pop_first()
            .map(|(id, batch)| Teller { id, batch })
            .unwrap_or_else(|| Teller { id: rand::random_range(0..TELLERS), batch: 0 });
        counters.counted.insert(teller.id, teller.batch);
        teller.batch += 1;
        let (tellers, counted) = (Arc::clone(self), AtomicUsize::new(0));
        Arc::new(Batch { tellers, teller, logs: OnceLock::new(), counted })
    }

    /// Tellers of ours with the batch up to which all is counted, for scripts.
    pub(super) fn told(&self) -> Vec<u8> {
        let counters = lock(&self.counters);
        let mut packed = Vec::with_capacity(9 * counters.counted.len().min(TOLD_MAX));
        for (teller, batch) in counters.counted.iter().take(TOLD_MAX) {
            packed.extend_from_slice(&teller.to_le_bytes()[..5]);
            packed.extend_from_slice(&batch.to_le_bytes());
        }
        packed
    }

    /// Whether a batch of ours is going to count it.
    pub(super) fn is_under_way(&self, ticket: Ticket) -> bool {
        let counters = lock(&self.counters);
        counters.counted.get(&ticket.teller).is_some_and(|counted| ticket.batch > *counted)
    }

    /// Waits while a batch of ours is going to count it, for a while.
    pub(super) async fn wait_for(&self, ticket: Ticket) {
        let ended = async {
            loop {
                let ended = self.ended.notified();
                if !self.is_under_way(ticket) {
                    return;
                }
                ended.await;
            }
        };
        // What takes longer is taken away from that batch.
        let _ = tokio::time::timeout(UNDER_WAY, ended).await;
    }

    fn known(&self, log: &Arc<LogKey>, ticket: Ticket) -> Option<Fate> {
        let ours = lock(&self.counters).counted.get(&ticket.teller).copied();
        if ours.is_some_and(|counted| ticket.batch <= counted) {
            return Some(Fate::Counted);
        }
        let known = lock(&self.known);
        let fate = known.get(&(Arc::clone(log), ticket.teller))?.fate(ticket);
        (fate != Fate::Open).then_some(fate)
    }

    fn learn(&self, log: &Arc<LogKey>, teller: u64, told: Told) {
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert((Arc::clone(log), teller), told);
    }
}

/// A batch under way. Its teller is given back when everything in it was counted; else, however it
/// ends, the teller is gone, and what is pending is found by others.
#[derive(Debug)]
pub(super) struct Batch {
    tellers: Arc<Tellers>,
    teller: Teller,
    /// Logs in which it is to be counted; not set if something in it is unknown.
    logs: OnceLock<usize>,
    counted: AtomicUsize,
}

impl Batch {
    pub(super) const fn ticket(&self, index: u16) -> Ticket {
        Ticket { teller: self.teller.id, batch: self.teller.batch, index }
    }

    /// All that is left is to count it in so many logs.
    pub(super) fn of_logs(&self, logs: usize) {
        let _ = self.logs.set(logs);
    }

    /// One log has counted it.
    pub(super) fn counted(&self) {
        self.counted.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Teller { id, batch } = self.teller;
        let mut counters = lock(&self.tellers.counters);
        let whole = self.logs.get().is_some_and(|logs| *logs == *self.counted.get_mut());
        if whole && batch < u32::MAX {
            counters.counted.insert(id, batch);
            counters.idle.insert(id, batch);
        } else {
            counters.counted.remove(&id);
            metrics::counter!("clarion_redis_counts_left_total").increment(1);
        }
        drop(counters);
        self.tellers.ended.notify_waiters();
    }
}

impl RedisStore {
    /// Waits while a batch of ours is going to count it, for a while.
    async fn wait_for_own(&self, ticket: Ticket) {
        if self.tellers.is_under_way(ticket) {
            // It may be one that waited for Redis to be back.
            Box::pin(self.count_wide(Vec::new())).await;
            self.tellers.wait_for(ticket).await;
        }
    }

    /// Counts what is pending in a terminal's record, unless it was; a ticket of it that is certain
    /// to be counted then. Not `closes`: `None` if somebody may be about to count it.
    pub(super) async fn settle_pending(
        &self,
        log: &Arc<LogKey>,
        terminal: &TerminalId,
        pending: &Pending,
        closes: bool,
    ) -> StoreResult<Option<Ticket>> {
        let ticket = pending.ticket;
        if closes {
            self.wait_for_own(ticket).await;
        }
        let _finds = self.tellers.finders.acquire().await;
        let fate = match self.tellers.known(log, ticket) {
            Some(Fate::Counted) => Fate::Counted,
            _ if log.kind == LogKind::User => {
                self.count_reader(log, terminal, pending).await?;
                Fate::Counted
            }
            Some(fate) => fate,
            None => self.ask_for_fate(log, pending, closes).await?,
        };
        match fate {
            Fate::Counted => Ok(Some(ticket)),
            Fate::Open => Ok(None),
            Fate::UpTo(up_to) => self.count_rest(log, terminal, pending, up_to).await.map(Some),
        }
    }

    async fn ask_for_fate(
        &self,
        log: &Arc<LogKey>,
        pending: &Pending,
        closes: bool,
    ) -> StoreResult<Fate> {
        let _asks = self.tellers.asking(log, pending.ticket.teller).lock().await;
        if let Some(fate) = self.tellers.known(log, pending.ticket) {
            return Ok(fate);
        }
        let fate = self.fate_of(log, pending, false).await?;
        if fate != Fate::Open || !closes {
            return Ok(fate);
        }
        // Mostly of a process that lives and is at it: closing would leave all of that batch to be
        // counted one by one.
        tokio::time::sleep(GRACE).await;
        self.fate_of(log, pending, true).await
    }

    /// Counts, under a ticket of our own, what its teller never will.
    async fn count_rest(
        &self,
        log: &Arc<LogKey>,
        terminal: &TerminalId,
        pending: &Pending,
        up_to: Offset,
    ) -> StoreResult<Ticket> {
        let batch = self.tellers.batch();
        let (mine, from) = (batch.ticket(0), pending.rest(up_to));
        if !self.reticket(log, terminal, pending.ticket, Some((mine, from))).await? {
            batch.of_logs(0);
            return Err(StoreError::Unavailable("somebody else counts the same".into()));
        }
        batch.of_logs(1);
        metrics::counter!("clarion_redis_counts_resumed_total").increment(1);
        let mut passed = Passed::at(pending.at_ms);
        passed.pass(from, pending.to, &pending.settled);
        let once = Once::Batch { ticket: mine, left_out: &[] };
        if !self.count(log, &passed, once).await? {
            return Err(StoreError::Unavailable("somebody else counts the same".into()));
        }
        batch.counted();
        Ok(mine)
    }

    async fn fate_of(
        &self,
        log: &Arc<LogKey>,
        pending: &Pending,
        closes: bool,
    ) -> StoreResult<Fate> {
        let (tag, ticket) = (log_tag(log), pending.ticket);
        let args = self
            .timed(log.kind)
            .bytes(&ticket.teller.to_le_bytes()[..5])
            .number(ticket.batch)
            .flag(closes)
            .number(pending.from.0)
            .number(pending.to.0);
        // Confirmed by replicas, also what was counted before by somebody who did not wait for it.
        let answer = self.broken(Step::Close, &tag, self.call(&scripts::CLOSE, &tag, args)).await?;
        if let Value::BulkString(_) = answer {
            // Nothing is there any more that it speaks of.
            return Ok(Fate::Counted);
        }
        let mut parts = Parts::of(answer)?;
        let batch = u32::try_from(parts.number()?).unwrap_or(u32::MAX);
        let part = match parts.number()? {
            0 => None,
            part => Some(Offset(part)),
        };
        let closed = parts.number()? == 1;
        let left_out = parts.bytes()?;
        let left_out = left_out.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        let told = Told { batch, part, closed, left_out: left_out.collect() };
        let fate = told.fate(ticket);
        self.tellers.learn(log, ticket.teller, told);
        Ok(fate)
    }

    /// Gives what is pending another ticket, or takes it out. False: it is not pending any more, not
    /// under this ticket.
    async fn reticket(
        &self,
        log: &LogKey,
        terminal: &TerminalId,
        from: Ticket,
        to: Option<(Ticket, Offset)>,
    ) -> StoreResult<bool> {
        let tag = tag_of(&log.product, LogKind::Terminal, terminal.as_str());
        let args = Args::new()
            .bytes(stored_name(&log.local_name()))
            .bytes(codec::encode_ticket(from))
            .bytes(to.map(|(ticket, _)| codec::encode_ticket(ticket)).unwrap_or_default())
            .number(to.map_or(0, |(_, from)| from.0));
        let call = self.call(&scripts::TICKET, &tag, args);
        let answer = match to {
            Some(_) => self.broken(Step::Ticket, &tag, call).await?,
            // Should it be lost, it is found anew, and to be counted.
            None => self.shards.write_relaxed(&tag, call).await?,
        };
        Ok(number(answer)? == 1)
    }

    /// Counts what others left pending in a terminal's record. A session opens: at once, but it does
    /// not wait long.
    pub(super) async fn settle_opened(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        user: Option<&UserId>,
        all_pending: &[(LogName, Pending)],
    ) {
        let others =
            all_pending.iter().filter(|(_, pending)| !self.tellers.is_under_way(pending.ticket));
        let settled = others.map(|(name, pending)| async move {
            let Some(log) = shared_key(product, terminal, user, name) else { return };
            if let Err(error) = self.settle_pending(&log, terminal, pending, true).await {
                super::index_failed(&error);
            }
        });
        let _ = tokio::time::timeout(OPENING, join_all(settled)).await;
    }

    /// Takes out of a record what is pending there and was counted.
    pub(super) async fn drop_pending(
        &self,
        log: &LogKey,
        terminal: &TerminalId,
        ticket: Ticket,
    ) -> StoreResult<()> {
        self.reticket(log, terminal, ticket, None).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ticket(batch: u32, index: u16) -> Ticket {
        Ticket { teller: 7, batch, index }
    }

    #[test]
    fn what_a_log_says_of_a_teller_decides_every_ticket() {
        let told = |part, closed| Told { batch: 5, part, closed, left_out: vec![3] };
        let open = told(None, false);
        assert_eq!(open.fate(ticket(4, 3)), Fate::Counted, "it went on, so that was whole");
        assert_eq!(open.fate(ticket(5, 2)), Fate::Counted);
        assert_eq!(open.fate(ticket(5, 3)), Fate::UpTo(Offset::ZERO), "left out, for good");
        assert_eq!(open.fate(ticket(6, 2)), Fate::Open);
        assert_eq!(told(None, true).fate(ticket(6, 2)), Fate::UpTo(Offset::ZERO));
        let half = Some(Offset(99));
        assert_eq!(told(half, false).fate(ticket(5, 2)), Fate::Open);
        assert_eq!(told(half, true).fate(ticket(5, 2)), Fate::UpTo(Offset(99)));
        assert_eq!(told(half, true).fate(ticket(5, 3)), Fate::UpTo(Offset::ZERO));
        assert_eq!(told(half, true).fate(ticket(4, 2)), Fate::Counted);
    }

    #[test]
    fn what_is_left_of_a_batch_that_was_counted_in_part_is_nothing_beyond_its_end() {
        let (from, to) = (Offset(10), Offset(50));
        let (ticket, settled) = (Ticket { teller: 1, batch: 1, index: 0 }, Vec::new());
        let pending = Pending { ticket, from, to, at_ms: 0, settled };
        assert_eq!(pending.rest(Offset::ZERO), from);
        assert_eq!(pending.rest(Offset(30)), Offset(30));
        assert_eq!(pending.rest(Offset(99)), to);
        // Nor does a range that is over panic, which an earlier release may have written.
        let gap =
            [Settled { offset: Offset(20), how: clarion_protocol::milestone::Milestone::Evicted }];
        let mut passed = Passed::default();
        passed.pass(Offset(99), to, &gap);
        assert_eq!(passed, Passed::default());
    }

    #[test]
    fn after_a_burst_those_tellers_are_used_that_scripts_are_told_of() {
        let tellers = Arc::new(Tellers::default());
        let burst: Vec<_> = (0..4 * TOLD_MAX).map(|_| tellers.batch()).collect();
        for batch in burst {
            batch.of_logs(0);
        }
        let next = tellers.batch();
        let used = next.ticket(0).teller.to_le_bytes();
        assert!(tellers.told().chunks(9).any(|told| told[..5] == used[..5]));
    }

    #[test]
    fn a_teller_is_used_again_only_when_all_was_counted() {
        let tellers = Arc::new(Tellers::default());
        let whole = tellers.batch();
        let first = whole.ticket(0);
        let beside = tellers.batch();
        assert_ne!(beside.ticket(0).teller, first.teller, "one batch under way at a time");
        whole.of_logs(2);
        whole.counted();
        whole.counted();
        let log = LogKey::broadcast(&ProductId::new("demo").unwrap());
        assert!(tellers.is_under_way(first) && tellers.known(&log, first).is_none());
        drop(whole);
        assert_eq!(tellers.known(&log, first), Some(Fate::Counted));
        let second = tellers.batch();
        assert_eq!((second.ticket(0).teller, second.ticket(0).batch), (first.teller, 2));
        // Dropped half-way: nobody knows what was counted.
        second.of_logs(2);
        second.counted();
        drop(second);
        drop(beside);
        assert!(tellers.told().is_empty() && tellers.known(&log, first).is_none());
    }
}
