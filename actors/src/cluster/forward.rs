//! Appends whose owner is on another node (step 2 of the way of a push). As in an `intake`, appends
//! of one log go one batch at a time, so an unresolved one holds the later ones of its log and of
//! no other (I8); the links carry batches of many logs.
//!
//! One attempt ends at a time of the store that goes with it: after it the owner's store refuses it.
//! Only then is the append tried elsewhere, and looked for (I2). One that certainly was not sent goes
//! to the next owner at once, and so does one whose owner has no way to the store: that may be so for
//! this owner alone.
//!
//! Bounded by the lanes: every append in here holds a place in flight there. What one peer owes
//! answers for is bounded by [`WAITING_MAX`]. If a task that carries a batch panics, what became of the
//! batch is not known, and the log goes on with what waits behind.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use clarion_core::LogKey;
use clarion_core::placement::{self, Slot};
use clarion_storage::{Appended, Store, StoreError};
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::peers::{Linked, LinkedPeers};
use super::pending::{NotAppended, Pending};
use super::port::Refused;
use super::wire::{AppendResult, PeerMessage};
use crate::intake::NewEntry;
use crate::nodes::NodeNumber;
use crate::owners::Owners;
use crate::task;

/// Appends of one log in one message, and their payload bytes.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Messages to one peer that wait for their answer; above it the lane counts as full.
pub(crate) const WAITING_MAX: usize = 16_384;
/// How long a full lane is given, in milliseconds, each time, before the next owner is asked.
const FULL_PAUSES_MS: [u64; 4] = [2, 8, 32, 128];
/// How long to wait for an owner when nobody can be reached.
const NOBODY_PAUSE_MS: u64 = 50;
/// How long an answer may be late after the end of its attempt, in milliseconds.
const ANSWER_LATE_MS: u64 = 50;
/// How long before its deadline an append is given up, in milliseconds: its caller still hears why.
const GIVE_UP_MS: u64 = 50;
/// How long a node that let an append wait to the end is passed over, in milliseconds.
const SUSPECT_MS: u64 = 3000;

/// Who serves a slot.
pub(crate) trait Route: Send + Sync {
    /// In the order in which they are asked.
    fn order(&self, group: &str, slot: Slot) -> Vec<Arc<str>>;
    fn is_me(&self, id: &str) -> bool;
}

/// An append and the caller that waits for it.
struct Request {
    entry: NewEntry,
    group: Arc<str>,
    /// Until it is answered.
    reply: Option<oneshot::Sender<Result<Appended, NotAppended>>>,
}

impl Request {
    fn answer(mut self, result: Result<Appended, NotAppended>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    fn refuse(self, error: StoreError) {
        let refusal = self.entry.refusal(error);
        self.answer(Err(NotAppended::Store(refusal)));
    }

    /// Whether its caller has given up.
    fn is_unwanted(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Request {
    /// Lost in a panic: an attempt may have been made.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let lost = StoreError::Unknown("the way to its owner crashed".into());
            let _ = reply.send(Err(NotAppended::Store(lost)));
        }
    }
}

/// See the module.
pub(crate) struct Forwarder {
    myself: Weak<Forwarder>,
    store: Arc<dyn Store>,
    owners: Arc<Owners>,
    peers: Arc<LinkedPeers>,
    route: Weak<dyn Route>,
    attempt_ms: u64,
    /// Logs of which appends are on their way, with those that wait behind them (I8).
    on_the_way: Mutex<HashMap<Arc<LogKey>, VecDeque<Request>>>,
    /// Messages that wait for their answer.
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
}

struct Waiting {
    peer: Arc<Linked>,
    reply: oneshot::Sender<Vec<AppendResult>>,
}

/// Where a batch goes next.
enum Next {
    Here(Arc<str>),
    To(Arc<Linked>),
    Nobody,
}

impl Forwarder {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        owners: Arc<Owners>,
        peers: Arc<LinkedPeers>,
        route: Weak<dyn Route>,
        attempt_ms: u64,
    ) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            myself: Weak::clone(myself),
            store,
            owners,
            peers,
            route,
            attempt_ms,
            on_the_way: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Whether an append to this log is unresolved here.
    pub(crate) fn holds(&self, log: &LogKey) -> bool {
        self.on_the_way().contains_key(log)
    }

    /// Takes an append.
    pub(crate) fn forward(&self, entry: NewEntry, group: Arc<str>) -> Pending {
        let (reply, answer) = oneshot::channel();
        let log = Arc::clone(&entry.log);
        let request = Request { entry, group, reply: Some(reply) };
        let mut on_the_way = self.on_the_way();
        if let Some(behind) = on_the_way.get_mut(&log) {
            behind.push_back(request);
            return Pending::There(answer);
        }
        on_the_way.insert(Arc::clone(&log), VecDeque::new());
        drop(on_the_way);
        if let Some(forwarder) = self.myself.upgrade() {
            task::spawn(forwarder.carry_log(log, vec![request]));
        }
        Pending::There(answer)
    }

    /// An answer came.
    pub(crate) fn answered(&self, from: NodeNumber, request: u64, results: Vec<AppendResult>) {
        let mut waiting = self.waiting();
        if waiting.get(&request).is_some_and(|waiting| waiting.peer.number == from)
            && let Some(waits) = waiting.remove(&request)
        {
            let _ = waits.reply.send(results);
        }
    }

    /// The link to a node ended: what it owed is not known.
    pub(crate) fn gone(&self, node: NodeNumber) {
        self.waiting().retain(|_, waiting| waiting.peer.number != node);
    }

    /// Logs with appends on their way, and messages that wait for an answer.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.on_the_way().len(), self.waiting().len())
    }

    async fn carry_log(self: Arc<Self>, log: Arc<LogKey>, mut batch: Vec<Request>) {
        loop {
            if AssertUnwindSafe(self.carry(batch)).catch_unwind().await.is_err() {
                metrics::counter!("clarion_forward_panics_total").increment(1);
                tracing::error!(%log, "a task that carries appends panicked");
                // Its attempt may be under way still, and nothing overtakes it (I8).
                pause(self.attempt_ms + ANSWER_LATE_MS).await;
            }
            let mut on_the_way = self.on_the_way();
            let Some(behind) = on_the_way.get_mut(&log) else { return };
            batch = take_some(behind);
            if batch.is_empty() {
                on_the_way.remove(&log);
                return;
            }
        }
    }

    /// Resolves every append of a batch, in whatever order its owners take them.
    async fn carry(&self, mut requests: Vec<Request>) {
        let mut passed_over: Vec<Arc<str>> = Vec::new();
        // What those said that have no way to the store, as long as all who were asked say so.
        let (mut away, mut others) = (None, false);
        let mut full = 0;
        loop {
            requests = self.still_wanted(requests);
            let Some(first) = requests.first() else { return };
            let slot = placement::slot_of(&first.entry.log);
            let (id, tried) = match self.next(&first.group, slot, &passed_over) {
                Next::Here(id) => (id, self.append_here(requests).await),
                Next::To(peer) => (Arc::clone(peer.id()), self.attempt(&peer, requests).await),
                Next::Nobody => {
                    if let (Some(why), false) = (&away, others) {
                        let unavailable = || StoreError::Unavailable(String::clone(why));
                        return requests.into_iter().for_each(|r| r.refuse(unavailable()));
                    }
                    passed_over.clear();
                    (away, others) = (None, false);
                    self.wait_for_somebody(&requests).await;
                    continue;
                }
            };
            match tried {
                Tried::Refused(back, Refused::Full) if full < FULL_PAUSES_MS.len() => {
                    requests = back;
                    pause(FULL_PAUSES_MS[full]).await;
                    full += 1;
                    continue;
                }
                Tried::Refused(back, _) => {
                    requests = back;
                    others = true;
                }
                // One that answered is asked again; one that did not is passed over.
                Tried::Done(unresolved, Then::Again) => {
                    requests = unresolved;
                    continue;
                }
                Tried::Done(unresolved, Then::Next) => {
                    requests = unresolved;
                    others = true;
                }
                Tried::Done(unresolved, Then::Away(why)) => {
                    requests = unresolved;
                    away = Some(why);
                }
            }
            passed_over.push(id);
        }
    }

    /// No longer than there is time for the first of them to be given up.
    async fn wait_for_somebody(&self, requests: &[Request]) {
        let first_ms = requests.iter().map(|r| r.entry.deadline_ms).min().unwrap_or(0);
        let left_ms = first_ms.saturating_sub(GIVE_UP_MS + self.store.time_ms());
        pause(left_ms.clamp(1, NOBODY_PAUSE_MS)).await;
    }

    fn next(&self, group: &str, slot: Slot, passed_over: &[Arc<str>]) -> Next {
        let Some(route) = self.route.upgrade() else { return Next::Nobody };
        let (order, now_ms) = (route.order(group, slot), self.store.time_ms());
        for suspects in [false, true] {
            for id in order.iter().filter(|id| !passed_over.contains(id)) {
                if route.is_me(id) {
                    return Next::Here(Arc::clone(id));
                }
                let peer = self.peers.of(id);
                if let Some(peer) = peer.filter(|peer| suspects || !peer.is_suspect(now_ms)) {
                    return Next::To(peer);
                }
            }
        }
        Next::Nobody
    }

    /// Answers those for which there is no time left, drops those nobody waits for.
    fn still_wanted(&self, requests: Vec<Request>) -> Vec<Request> {
        let now_ms = self.store.time_ms();
        let mut wanted = Vec::with_capacity(requests.len());
        for request in requests {
            if request.is_unwanted() {
                continue;
            }
            if now_ms + GIVE_UP_MS < request.entry.deadline_ms {
                wanted.push(request);
                continue;
            }
            let error = if request.entry.first_attempt_ms.is_some() {
                NotAppended::Store(StoreError::Unknown("no time for another attempt".into()))
            } else {
                NotAppended::NobodyReached
            };
            request.answer(Err(error));
        }
        wanted
    }

    /// Through the owner on this node, which tries on its own until there is no time left.
    async fn append_here(&self, requests: Vec<Request>) -> Tried {
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = self.owners.append(&request.entry).await;
            waiting.push((request, answer));
        }
        let (mut results, mut dropped) = (Results::default(), false);
        for (mut request, answer) in waiting {
            let answer = match answer {
                Some(answer) => answer.await.ok(),
                None => None,
            };
            match answer {
                Some(Err(error @ (StoreError::Unknown(_) | StoreError::TooLate))) => {
                    results.refuse_away();
                    request.refuse(error);
                }
                Some(result) => results.take(request, result.into()),
                None => {
                    request.entry.first_attempt_ms.get_or_insert(request.entry.begun_ms);
                    results.take(request, AppendResult::NotTried);
                    dropped = true;
                }
            }
        }
        if dropped {
            pause(NOBODY_PAUSE_MS).await;
            let unresolved = results.unresolved.into_iter().map(|(request, _)| request).collect();
            return Tried::Done(unresolved, Then::Again);
        }
        results.tried()
    }

    /// One attempt through another node. What it leaves unresolved may be tried again at once.
    async fn attempt(&self, peer: &Arc<Linked>, mut requests: Vec<Request>) -> Tried {
        let started_ms = self.store.time_ms();
        let end_ms = started_ms + self.attempt_ms;
        let entry = |request: &Request| NewEntry {
            deadline_ms: end_ms.min(request.entry.deadline_ms),
            first_attempt_ms: request.entry.searched_since(started_ms),
            ..request.entry.clone()
        };
        let entries = requests.iter().map(entry).collect();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, _ends) = match self.send(peer, number, entries) {
            Ok(sent) => sent,
            Err(refused) => return Tried::Refused(requests, refused),
        };
        let patience_ms = (end_ms + ANSWER_LATE_MS).saturating_sub(self.store.time_ms());
        let answered = tokio::time::timeout(Duration::from_millis(patience_ms), answer).await;
        let results = match answered {
            Ok(Ok(results)) if results.len() == requests.len() => results,
            Ok(_) => vec![AppendResult::Unknown("the link went down".into()); requests.len()],
            Err(_) => {
                peer.suspect(self.store.time_ms() + SUSPECT_MS);
                metrics::counter!("clarion_forward_timeouts_total").increment(1);
                vec![AppendResult::Unknown("no answer in time".into()); requests.len()]
            }
        };
        let mut sorted = Results::default();
        for (request, result) in requests.drain(..).zip(results) {
            sorted.take(request, result);
        }
        if sorted.unknown > 0 {
            // I2: its attempt has ended before another one begins.
            metrics::counter!("clarion_forwards_unknown_total").increment(sorted.unknown);
            self.wait_until_after(end_ms).await;
        }
        sorted.tried()
    }

    fn send(
        &self,
        peer: &Arc<Linked>,
        request: u64,
        entries: Vec<NewEntry>,
    ) -> Result<(oneshot::Receiver<Vec<AppendResult>>, Ends<'_>), Refused> {
        if peer.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Err(Refused::Full);
        }
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(request, Waiting { peer: Arc::clone(peer), reply });
        peer.waiting.fetch_add(1, Ordering::Relaxed);
        let ends = Ends { forwarder: self, peer: Arc::clone(peer), request };
        peer.send(&PeerMessage::Append { request, entries })?;
        Ok((answer, ends))
    }

    async fn wait_until_after(&self, end_ms: u64) {
        loop {
            let now_ms = self.store.time_ms();
            if now_ms > end_ms {
                return;
            }
            pause(end_ms + 1 - now_ms).await;
        }
    }

    fn on_the_way(&self) -> MutexGuard<'_, HashMap<Arc<LogKey>, VecDeque<Request>>> {
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an attempt ended.
enum Tried {
    /// It was not sent.
    Refused(Vec<Request>, Refused),
    /// What is unresolved, in its order.
    Done(Vec<Request>, Then),
}

/// Who is asked after an attempt.
enum Then {
    Again,
    Next,
    /// The next one: this one has no way to the store.
    Away(String),
}

/// The results of a batch of one log: callers are answered, the rest is tried again or elsewhere.
#[derive(Default)]
struct Results {
    /// With why the store was away, if it was.
    unresolved: Vec<(Request, Option<String>)>,
    unknown: u64,
    not_tried: bool,
}

impl Results {
    fn take(&mut self, mut request: Request, result: AppendResult) {
        match result {
            AppendResult::Done(appended) => {
                self.refuse_away();
                request.answer(Ok(appended));
            }
            AppendResult::NotTried => {
                self.not_tried = true;
                self.unresolved.push((request, None));
            }
            AppendResult::Unknown(_) => {
                self.refuse_away();
                self.unknown += 1;
                request.entry.first_attempt_ms.get_or_insert(request.entry.begun_ms);
                self.unresolved.push((request, None));
            }
            AppendResult::Unavailable(why) => {
                // Its owner would say that it knows nothing, had it tried before with an unknown end.
                self.unresolved.push((request, Some(why)));
            }
            AppendResult::LogFull => request.refuse(StoreError::LogFull),
            AppendResult::Full(why) => request.refuse(StoreError::Full(why)),
        }
    }

    /// I8: a later one of the log is in, or may be; those before it that are not come too late.
    fn refuse_away(&mut self) {
        let away = |(_, away): &mut (Request, Option<String>)| away.is_some();
        for (request, why) in self.unresolved.extract_if(.., away) {
            request.refuse(StoreError::Unavailable(why.unwrap_or_default()));
        }
    }

    fn tried(self) -> Tried {
        let away = self.unresolved.iter().find_map(|(_, away)| away.clone());
        let then = match away {
            _ if self.unknown > 0 || self.not_tried => Then::Next,
            Some(why) => Then::Away(why),
            None => Then::Again,
        };
        Tried::Done(self.unresolved.into_iter().map(|(request, _)| request).collect(), then)
    }
}

/// Takes a message out of the books however the waiting ends.
struct Ends<'a> {
    forwarder: &'a Forwarder,
    peer: Arc<Linked>,
    request: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.forwarder.waiting().remove(&self.request);
        self.peer.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take_some(behind: &mut VecDeque<Request>) -> Vec<Request> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(request) = behind.front() {
        bytes += request.entry.body.len();
        if !batch.is_empty() && (batch.len() >= BATCH_MAX || bytes > BATCH_BYTES_MAX) {
            break;
        }
        batch.extend(behind.pop_front());
    }
    batch
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
