//! The appends of an owner until they are durable (step 3 of the way of a push): collected into
//! batches, handed to the store, tried again as I2 says, in the order of each log (I8).
//!
//! It belongs to the owner but outlives its incarnations: callers, the actor and the tasks that
//! carry batches share it. So a crash of the actor loses no append and mixes up no order; it only
//! costs the hints that were on their way, which the relays make up for (I12). Bounded by the
//! lanes: every append in here holds a place in flight there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarion_core::{Batch, Body, Entry, LogKey};
use clarion_protocol::{Epoch, MessageId};
use clarion_storage::{Append, Appended, LogLimits, Store, StoreError, StoreResult};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use crate::fault::{Mutant, mutated};
use crate::nodes::Nodes;
use crate::owner::{OwnerHandle, OwnerMessage};
use crate::task;

/// Appends that one call to the store carries at most.
const BATCH_MAX: usize = 512;
/// How long a full inbox of a terminal that is online is given to write down what it has read.
const FULL_INBOX_PAUSES_MS: [u64; 3] = [5, 20, 80];

/// Full inboxes of one batch about which the other nodes are asked at the same time.
const ASKED_MAX: usize = 128;

/// How long after the beginning of a push a first attempt does not look for its message, in
/// milliseconds: what bounds the time for which a node that died keeps others from the same push.
pub(crate) const UNSEARCHED_MS: u64 = 500;

/// An entry to be appended.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) log: Arc<LogKey>,
    pub(crate) message: MessageId,
    pub(crate) expires_at_ms: u64,
    pub(crate) body: Body,
    pub(crate) limits: LogLimits,
    /// Set if an earlier attempt may have succeeded (I2).
    pub(crate) first_attempt_ms: Option<u64>,
    /// When the push began: no attempt anywhere is older. Unix milliseconds of the store.
    pub(crate) begun_ms: u64,
    /// No attempt starts after this, Unix milliseconds of the store.
    pub(crate) deadline_ms: u64,
}

impl NewEntry {
    /// Since when an attempt that starts now looks for its message first (I2). The claim of a push
    /// that lasts longer than [`UNSEARCHED_MS`] may be taken over, and then somebody else tries too.
    pub(crate) fn searched_since(&self, now_ms: u64) -> Option<u64> {
        let late = now_ms > self.begun_ms.saturating_add(UNSEARCHED_MS);
        self.first_attempt_ms.or_else(|| late.then_some(self.begun_ms))
    }

    /// What is said of it when an attempt ended with `error`: that an earlier one may have stored it,
    /// if this one could not look for it.
    pub(crate) fn refusal(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Unavailable(why) | StoreError::Full(why) | StoreError::Fatal(why)
                if self.first_attempt_ms.is_some() =>
            {
                StoreError::Unknown(why)
            }
            error => error,
        }
    }
}

/// An append and the caller that waits for it.
struct Request {
    entry: NewEntry,
    reply: oneshot::Sender<StoreResult<Appended>>,
    /// How often it was given time because its inbox was full.
    pauses: usize,
    /// An attempt that was made here had an unknown end.
    is_in_doubt: bool,
}

/// The answer to an append. It fails when the append was dropped before it was tried.
pub(crate) type Answer = oneshot::Receiver<StoreResult<Appended>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Intake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Collected for the next call to the store; no two calls hold the same log.
    pending: Vec<Request>,
    /// Logs of which appends are on their way, with those that must wait behind them (I8).
    on_the_way: HashMap<Arc<LogKey>, VecDeque<Request>>,
    /// The actor has a `Flush` in its mailbox.
    flush_scheduled: bool,
}

impl Intake {
    /// Takes an append. The flag says whether the actor must be told to flush.
    pub(crate) fn put(&self, entry: NewEntry) -> (Answer, bool) {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        state.add(Request { entry, reply, pauses: 0, is_in_doubt: false });
        let tell = !state.pending.is_empty() && !state.flush_scheduled;
        state.flush_scheduled |= tell;
        (answer, tell)
    }

    /// A new incarnation, or nobody: what was scheduled is not. Says whether there is work.
    pub(crate) fn reschedule(&self) -> bool {
        let mut state = self.lock();
        state.flush_scheduled = !state.pending.is_empty();
        state.flush_scheduled
    }

    /// The actor could not be told.
    pub(crate) fn unschedule(&self) {
        self.lock().flush_scheduled = false;
    }

    /// The owner is in quarantine: what was not tried is dropped, and asked for again in vain.
    pub(crate) fn drop_pending(&self) {
        let mut state = self.lock();
        state.flush_scheduled = false;
        drop(std::mem::take(&mut state.pending));
    }

    /// Whether an append to this log is in here.
    pub(crate) fn holds(&self, log: &LogKey) -> bool {
        let state = self.lock();
        state.on_the_way.contains_key(log)
            || state.pending.iter().any(|request| *request.entry.log == *log)
    }

    /// Whether nothing is in here.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.pending.is_empty() && state.on_the_way.is_empty()
    }

    /// Hands what was collected to the store.
    pub(crate) fn flush(&self, way: &Way) {
        for requests in self.take_batches() {
            task::spawn(append_batch(way.clone(), requests));
        }
    }

    fn take_batches(&self) -> Vec<Vec<Request>> {
        let mut state = self.lock();
        state.flush_scheduled = false;
        let State { pending, on_the_way, .. } = &mut *state;
        let mut batches: Vec<Vec<Request>> = Vec::new();
        for request in pending.drain(..) {
            if request.reply.is_closed() {
                continue; // its caller has given up: nothing is to happen
            }
            let full = batches.last().is_none_or(|batch| batch.len() >= BATCH_MAX);
            match on_the_way.get_mut(&request.entry.log) {
                // A batch of this log went just before: one that may still grow, or a full one.
                Some(waiting) if full || !holds(batches.last(), &request.entry.log) => {
                    waiting.push_back(request);
                    continue;
                }
                Some(_) => {}
                None => {
                    on_the_way.insert(Arc::clone(&request.entry.log), VecDeque::new());
                }
            }
            if full {
                batches.push(Vec::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(request);
            }
        }
        if pending.capacity() > 4 * BATCH_MAX {
            *pending = Vec::new();
        }
        batches
    }

    /// These logs are free again: what waits behind them is pending. Says whether the actor must
    /// be told.
    fn release(&self, logs: impl Iterator<Item = Arc<LogKey>>) -> bool {
        let mut state = self.lock();
        for log in logs {
            if let Some(waiting) = state.on_the_way.remove(&log) {
                state.pending.extend(waiting);
            }
        }
        let tell = !state.pending.is_empty() && !state.flush_scheduled;
        state.flush_scheduled |= tell;
        tell
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, request: Request) {
        match self.on_the_way.get_mut(&request.entry.log) {
            Some(waiting) => waiting.push_back(request),
            None => self.pending.push(request),
        }
    }
}

fn holds(batch: Option<&Vec<Request>>, log: &Arc<LogKey>) -> bool {
    // Runs of one log are adjacent in practice, so the search from the end is short.
    batch.is_some_and(|batch| batch.iter().rev().any(|request| request.entry.log == *log))
}

/// What a batch needs on its way.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) owner: OwnerHandle,
    pub(crate) nodes: Arc<Nodes>,
    /// How long one attempt may take, in milliseconds.
    pub(crate) attempt_ms: u64,
}

/// Appends, answers each caller as soon as its outcome is known, tells the owner's present
/// incarnation what to hint, and lets go of each log as soon as nothing of it is unresolved.
fn append_batch(way: Way, mut requests: Vec<Request>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        while !requests.is_empty() {
            let started_ms = way.store.time_ms();
            let not_after_ms = started_ms + way.attempt_ms;
            let appends =
                requests.iter().map(|r| attempt(&r.entry, started_ms, not_after_ms)).collect();
            let results = call_store(&way, appends).await;
            let mut round = Round::new(&requests);
            for (request, result) in requests.into_iter().zip(results) {
                round.take(request, result);
            }
            requests = round.finish(&way);
            if !requests.is_empty() {
                // I2: attempts never overlap, not even with one of another request that repeats
                // this one: so also what is given up is answered only now.
                wait_until_after(&*way.store, not_after_ms).await;
                requests = give_up(&way, requests);
            }
        }
    })
}

/// One answer for each, whatever becomes of the call: this task alone lets go of their logs.
async fn call_store(way: &Way, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
    let (count, patience) =
        (appends.len(), Duration::from_millis(way.attempt_ms.saturating_mul(2)));
    let call = AssertUnwindSafe(async { way.store.append(appends).await }).catch_unwind();
    let failed = |why| vec![Err(unknown(why)); count];
    match tokio::time::timeout(patience, call).await {
        Ok(Ok(results)) => results,
        Ok(Err(_)) => {
            metrics::counter!("clarion_append_panics_total").increment(1);
            tracing::error!(count, "the store panicked while it appended");
            failed("the store panicked")
        }
        Err(_) => failed("no answer in time"),
    }
}

async fn wait_until_after(store: &dyn Store, not_after_ms: u64) {
    loop {
        let now_ms = store.time_ms();
        if now_ms > not_after_ms {
            return;
        }
        tokio::time::sleep(Duration::from_millis(not_after_ms + 1 - now_ms)).await;
    }
}

/// Answers those for which there is no time for another attempt; returns the others.
fn give_up(way: &Way, requests: Vec<Request>) -> Vec<Request> {
    let now_ms = way.store.time_ms();
    let mut round = Round::new(&requests);
    for request in requests {
        if now_ms < request.entry.deadline_ms && !request.reply.is_closed() {
            round.unresolved.push(request);
        } else {
            let _ = request.reply.send(Err(unknown("no time for another attempt")));
        }
    }
    round.finish(way)
}

/// Gives the readers of full inboxes the time to write down what they have read, then tries again.
async fn append_when_read(way: Way, requests: Vec<Request>) {
    let mut again = Vec::with_capacity(requests.len());
    let mut round = Round::new(&requests);
    let mut pause_ms = 0;
    let online = have_flushed(&way, &requests).await;
    for mut request in requests {
        match FULL_INBOX_PAUSES_MS.get(request.pauses) {
            Some(ms) if online.contains(&request.entry.log) => {
                pause_ms = pause_ms.max(*ms);
                request.pauses += 1;
                again.push(request);
            }
            _ => drop(request.reply.send(Err(StoreError::LogFull))),
        }
    }
    round.unresolved = again;
    let again = round.finish(&way);
    if !again.is_empty() {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        append_batch(way, again).await;
    }
}

/// Has the sessions of these inboxes write down what they have read, all at the same time; returns
/// the inboxes that have one. Nobody is asked about an append for which there is no time, or nobody
/// waits.
async fn have_flushed(way: &Way, requests: &[Request]) -> HashSet<Arc<LogKey>> {
    let now_ms = way.store.time_ms();
    let wanted = requests.iter().filter(|request| {
        request.pauses < FULL_INBOX_PAUSES_MS.len()
            && now_ms < request.entry.deadline_ms
            && !request.reply.is_closed()
    });
    let logs: HashSet<_> = wanted.map(|request| Arc::clone(&request.entry.log)).collect();
    let flush = |log: Arc<LogKey>| async move {
        way.nodes.flush_cursors(Arc::clone(&log)).await.then_some(log)
    };
    let asked = stream::iter(logs).map(flush).buffer_unordered(ASKED_MAX);
    asked.filter_map(std::future::ready).collect().await
}

fn attempt(entry: &NewEntry, started_ms: u64, not_after_ms: u64) -> Append {
    Append {
        log: Arc::clone(&entry.log),
        message: entry.message,
        expires_at_ms: entry.expires_at_ms,
        body: entry.body.clone(),
        not_after_ms: not_after_ms.min(entry.deadline_ms),
        first_attempt_ms: entry.searched_since(started_ms).filter(|_| !mutated(Mutant::BlindRetry)),
        limits: entry.limits,
    }
}

fn unknown(why: &str) -> StoreError {
    StoreError::Unknown(why.into())
}

/// What one round of a batch brought.
struct Round {
    /// The logs of the batch in order, with what was appended.
    logs: Vec<(Arc<LogKey>, Epoch, Vec<Arc<Entry>>)>,
    index: HashMap<Arc<LogKey>, usize>,
    unresolved: Vec<Request>,
    full: Vec<Request>,
}

impl Round {
    fn new(requests: &[Request]) -> Self {
        let (mut logs, mut index) = (Vec::new(), HashMap::new());
        for request in requests {
            let log = &request.entry.log;
            index.entry(Arc::clone(log)).or_insert_with(|| {
                logs.push((Arc::clone(log), Epoch::default(), Vec::new()));
                logs.len() - 1
            });
        }
        Self { logs, index, unresolved: Vec::new(), full: Vec::new() }
    }

    fn take(&mut self, mut request: Request, result: StoreResult<Appended>) {
        match result {
            Err(StoreError::Unknown(_)) => {
                request.entry.first_attempt_ms.get_or_insert(request.entry.begun_ms);
                request.is_in_doubt = true;
                self.unresolved.push(request);
            }
            // It waited too long in the store's queue: nothing happened.
            Err(StoreError::TooLate) => self.unresolved.push(request),
            Err(StoreError::LogFull) if !request.entry.log.kind.is_wide() => {
                self.full.push(request);
            }
            Ok(appended) => {
                self.add(&request.entry, &appended);
                let _ = request.reply.send(Ok(appended));
            }
            // Of attempts elsewhere whoever asks knows.
            Err(error) if request.is_in_doubt => {
                let refusal = request.entry.refusal(error);
                let _ = request.reply.send(Err(refusal));
            }
            Err(error) => drop(request.reply.send(Err(error))),
        }
    }

    fn add(&mut self, entry: &NewEntry, appended: &Appended) {
        let Some((_, epoch, entries)) =
            self.index.get(&entry.log).and_then(|index| self.logs.get_mut(*index))
        else {
            return;
        };
        *epoch = appended.epoch;
        // A de-duplicated append sends its hint again (I12); sessions that have it ignore it.
        entries.push(Arc::new(Entry::new(
            appended.offset,
            appended.predecessor,
            entry.message,
            entry.expires_at_ms,
            entry.body.clone(),
        )));
    }

    /// Hints what was appended, lets go of the logs that are through, and returns what is
    /// unresolved.
    fn finish(mut self, way: &Way) -> Vec<Request> {
        let mut held: HashSet<Arc<LogKey>> =
            self.unresolved.iter().map(|request| Arc::clone(&request.entry.log)).collect();
        let mut full = Vec::new();
        for request in std::mem::take(&mut self.full) {
            let log = &request.entry.log;
            let has = |index: &usize| !self.logs[*index].2.is_empty();
            if held.contains(log) || self.index.get(log).is_some_and(has) {
                // I8: a later one of the same log may be in already; this one is refused.
                let _ = request.reply.send(Err(StoreError::LogFull));
            } else {
                full.push(request);
            }
        }
        held.extend(full.iter().map(|request| Arc::clone(&request.entry.log)));
        let (mut batches, mut released) = (Vec::new(), Vec::new());
        for (log, epoch, entries) in self.logs {
            if !held.contains(&log) {
                released.push(Arc::clone(&log));
            }
            let batch = |run| Arc::new(Batch::new(Arc::clone(&log), epoch, run));
            batches.extend(consecutive(entries).into_iter().map(batch));
        }
        if !full.is_empty() {
            task::spawn(append_when_read(way.clone(), full));
        }
        // Hints of one log leave in the order of its appends: before the next ones may start.
        if !batches.is_empty() {
            let _ = way.owner.slot.cast(OwnerMessage::Stored { batches });
        }
        if way.owner.intake.release(released.into_iter()) {
            way.owner.tell_flush();
        }
        self.unresolved
    }
}

/// Parts the entries of a log where one does not follow the one before. A de-duplicated append has
/// its place from before, and others may lie between it and what was appended now: whoever took
/// them for a whole would pass those over.
fn consecutive(mut entries: Vec<Arc<Entry>>) -> Vec<Vec<Arc<Entry>>> {
    let mut runs = Vec::with_capacity(1);
    let parted = |pair: &[Arc<Entry>]| pair[0].offset != pair[1].predecessor;
    while let Some(at) = entries.windows(2).position(parted) {
        let rest = entries.split_off(at + 1);
        runs.push(std::mem::replace(&mut entries, rest));
    }
    if !entries.is_empty() {
        runs.push(entries);
    }
    runs
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clarion_core::entry::{Body, Entry};
    use clarion_protocol::{MessageId, Offset};

    use super::*;

    fn entry(first_attempt_ms: Option<u64>) -> NewEntry {
        NewEntry {
            log: LogKey::broadcast(&clarion_protocol::ProductId::new("demo").unwrap()),
            message: MessageId(1),
            expires_at_ms: u64::MAX,
            body: Body::Json("1".into()),
            limits: LogLimits { entries_max: 1, bytes_max: 1, evict: true },
            first_attempt_ms,
            begun_ms: 500,
            deadline_ms: u64::MAX,
        }
    }

    #[test]
    fn a_push_that_lasts_longer_than_its_claim_looks_for_its_message_i2() {
        assert_eq!(entry(None).searched_since(500 + UNSEARCHED_MS), None);
        assert_eq!(entry(None).searched_since(501 + UNSEARCHED_MS), Some(500));
        assert_eq!(entry(Some(7)).searched_since(500), Some(7), "taken over");
    }

    #[test]
    fn what_an_earlier_attempt_may_have_stored_is_not_refused_i2() {
        let (reply, mut answer) = oneshot::channel();
        let request = Request { entry: entry(None), reply, pauses: 0, is_in_doubt: false };
        let mut round = Round::new(std::slice::from_ref(&request));
        round.take(request, Err(StoreError::Unknown("no answer in time".into())));
        let again = round.unresolved.pop().unwrap();
        round.take(again, Err(StoreError::Unavailable("no connection".into())));
        assert!(matches!(answer.try_recv(), Ok(Err(StoreError::Unknown(_)))));
        let first = entry(None).refusal(StoreError::Unavailable("no connection".into()));
        assert!(matches!(first, StoreError::Unavailable(_)), "nothing was tried before");
        // It was looked for before the log was found to be full.
        assert!(matches!(entry(Some(7)).refusal(StoreError::LogFull), StoreError::LogFull));
    }

    #[test]
    fn i8_a_batch_holds_only_what_stands_side_by_side_in_the_log() {
        let entry = |(predecessor, offset): (u64, u64)| {
            let body = Body::Json(Bytes::from_static(b"1"));
            let id = MessageId(offset.into());
            Arc::new(Entry::new(Offset(offset), Offset(predecessor), id, 1_000, body))
        };
        let runs = |places: &[(u64, u64)]| -> Vec<Vec<u64>> {
            let entries = places.iter().copied().map(entry).collect();
            let runs = consecutive(entries).into_iter();
            runs.map(|run| run.iter().map(|entry| entry.offset.0).collect()).collect()
        };
        assert_eq!(runs(&[]), Vec::<Vec<u64>>::new());
        assert_eq!(runs(&[(1, 5), (5, 6), (6, 9)]), [vec![5, 6, 9]]);
        // 5 was appended before a crash and is only found again; 7 came in between.
        assert_eq!(runs(&[(1, 5), (7, 8), (8, 9)]), [vec![5], vec![8, 9]]);
        assert_eq!(runs(&[(7, 8), (1, 5), (8, 9)]), [vec![8], vec![5], vec![9]]);
    }
}
