//! A lane: one connection to a shard's master and the queue in front of it. It takes whatever waits,
//! sends it in one round and answers when the round is over; what comes meanwhile is the next round.
//! A round that has something durable in it ends with a fence (a write of its own: WAIT answers at
//! once on a connection that wrote nothing) and WAIT. No answer in time, or any failure: the
//! connection is reset, what was sent is unknown, and the next round connects anew.

use std::collections::HashSet;
use std::sync::Arc;

use ::redis::Value;
use clarion_core::fault::{Mutant, mutated};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::backoff::Backoff;
use super::call::{Call, Request, Weight, Wish};
use super::connection::{Connection, LinkError};
use super::fault::judge;
use super::resp::Reply;
use super::shard::{Master, Shard};
use crate::{StoreError, StoreResult};

/// The callers' end of a lane. The lane ends when it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    calls: mpsc::Sender<Call>,
    weight: Arc<Weight>,
}

impl Lane {
    /// `confirms`: what it connects to is the master whose term it is.
    pub(super) fn start(shard: &Arc<Shard>, confirms: bool) -> Self {
        let settings = &shard.settings;
        let (calls, queue) = mpsc::channel(settings.queue_max.max(1));
        let weight = Weight::new(settings.queue_bytes_max);
        let worker = Worker {
            shard: Arc::clone(shard),
            master: shard.master(),
            queue,
            connection: None,
            backoff: Backoff::default(),
            carried: None,
            confirms,
        };
        let (worker, shard) = (crate::task::spawn(worker.run()), Arc::clone(shard));
        crate::task::spawn(async move {
            if worker.await.is_err_and(|error| error.is_panic()) {
                metrics::counter!("clarion_store_errors_total", "kind" => "panic").increment(1);
                shard.fatal("a lane of the store panicked");
            }
        });
        Self { calls, weight }
    }

    /// Calls that wait.
    pub(super) fn queued(&self) -> usize {
        self.calls.max_capacity() - self.calls.capacity()
    }

    /// Queues a call and waits for its answer, until the deadline.
    pub(super) async fn call(
        &self,
        request: Request,
        wish: Wish,
        slot: u16,
        deadline: Instant,
    ) -> StoreResult<Value> {
        let full = || {
            metrics::counter!("clarion_store_errors_total", "kind" => "queue_full").increment(1);
            StoreError::Unavailable("too many requests wait for the store".into())
        };
        let made = Call::new(request, wish, slot, deadline, &self.weight);
        let (call, mut waiting) = made.ok_or_else(full)?;
        if let Err(error) = self.calls.try_send(call) {
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => closed(),
            });
        }
        let why = match timeout_at(deadline, &mut waiting.answer).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => "the connection to the store was given up",
            Err(_) => "the store did not answer in time",
        };
        Err(if waiting.ticket.abandon() || wish == Wish::Read {
            StoreError::Unavailable(why.into())
        } else {
            StoreError::Unknown(why.into())
        })
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

struct Worker {
    shard: Arc<Shard>,
    master: watch::Receiver<Master>,
    queue: mpsc::Receiver<Call>,
    connection: Option<Connection>,
    backoff: Backoff,
    /// Taken off the queue, but too large for the round before.
    carried: Option<Call>,
    confirms: bool,
}

/// How a round ended as far as durability goes.
enum Confirmed {
    Yes,
    No(String),
}

impl Worker {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let batch = self.collect(first);
            self.commit(batch).await;
        }
    }

    /// The next call; meanwhile a connection to a master that is none any more is dropped.
    async fn next(&mut self) -> Option<Call> {
        if self.carried.is_some() {
            return self.carried.take();
        }
        loop {
            tokio::select! {
                call = self.queue.recv() => return call,
                changed = self.master.changed() => {
                    changed.ok()?;
                    self.connection = None;
                    self.backoff.reset();
                }
            }
        }
    }

    fn collect(&mut self, first: Call) -> Vec<Call> {
        let settings = &self.shard.settings;
        let mut bytes = first.bytes;
        // Answers to reads are long; all of a round are in memory at once.
        let most = match first.wish {
            Wish::Read => settings.batch_max / 8,
            Wish::Durable | Wish::Relaxed => settings.batch_max,
        };
        let mut batch = vec![first];
        while batch.len() < most {
            let Ok(call) = self.queue.try_recv() else { break };
            bytes += call.bytes;
            if bytes > settings.batch_bytes_max {
                self.carried = Some(call);
                break;
            }
            batch.push(call);
        }
        batch
    }

    async fn commit(&mut self, batch: Vec<Call>) {
        let batch = self.admitted(batch);
        if batch.is_empty() {
            return;
        }
        let Some((mut connection, address)) = self.connected().await else {
            let why = self.shard.why_not();
            return batch.into_iter().for_each(|call| call.refuse(&why));
        };
        let now = Instant::now();
        // What has little time left would be given up before the round is over.
        let least = now + self.shard.settings.timeout / 4;
        let mut calls = Vec::with_capacity(batch.len());
        for call in batch {
            let open = self.shard.gate(&address, call.wish);
            match open {
                Err(why) => call.answer(Err(why)),
                Ok(()) if call.deadline < least => call.refuse("its turn came too late"),
                Ok(()) if call.send() => calls.push(call),
                Ok(()) => {}
            }
        }
        if calls.is_empty() {
            self.connection = Some(connection);
            return;
        }
        let until = now + self.shard.settings.timeout;
        let mut calls = match self.round(&mut connection, &address, calls, until).await {
            Ok(unknown_script) => unknown_script,
            Err(error) => return self.given_up(&error),
        };
        if !calls.is_empty() {
            // Only after SCRIPT FLUSH. These did nothing, and nothing of their slots came after.
            calls = match self.round(&mut connection, &address, calls, until).await {
                Ok(still) => still,
                Err(error) => return self.given_up(&error),
            };
            calls.into_iter().for_each(|call| call.refuse("the server forgets its scripts"));
        }
        self.connection = Some(connection);
    }

    /// The connection is dropped by the caller.
    fn given_up(&mut self, why: &str) {
        metrics::counter!("clarion_redis_connections_lost_total").increment(1);
        tracing::warn!(shard = self.shard.name, why, "connection to Redis given up");
        self.shard.doubted(why);
    }

    /// Without those that are certain to be refused, so that they do not wait for a connection.
    fn admitted(&self, batch: Vec<Call>) -> Vec<Call> {
        let mut admitted = Vec::with_capacity(batch.len());
        for call in batch {
            match self.shard.admits(call.wish) {
                Ok(()) => admitted.push(call),
                Err(why) => call.answer(Err(why)),
            }
        }
        admitted
    }

    /// The connection to the master as it is named now, if there is one.
    async fn connected(&mut self) -> Option<(Connection, Arc<str>)> {
        if self.master.has_changed().unwrap_or(false) {
            self.connection = None;
            self.backoff.reset();
        }
        let address = self.master.borrow_and_update().address.clone()?;
        if let Some(mut connection) = self.connection.take() {
            if !connection.is_dead() {
                return Some((connection, address));
            }
            // What would be sent over it nobody could say anything of.
            self.given_up("the server has closed it");
        }
        if self.backoff.waiting(Instant::now()) {
            return None;
        }
        match Box::pin(self.shard.connect(&address)).await {
            Ok(connection) => {
                self.backoff.reset();
                if self.confirms {
                    self.shard.new_term();
                }
                Some((connection, address))
            }
            Err(error) => {
                let wait = self.backoff.failed(Instant::now());
                tracing::debug!(address = &*address, %error, ?wait, "cannot connect to Redis");
                self.shard.failed(&error);
                self.shard.suspect();
                None
            }
        }
    }

    /// One round. Answers every call but those whose script was unknown and may be sent again. An
    /// error means that the connection is to be dropped; all are answered then too.
    async fn round(
        &mut self,
        connection: &mut Connection,
        address: &Arc<str>,
        calls: Vec<Call>,
        until: Instant,
    ) -> Result<Vec<Call>, String> {
        let loads = load_scripts(connection, &calls);
        for call in &calls {
            connection.push_request(&call.request, call.wish == Wish::Read);
        }
        let fence =
            calls.iter().any(|call| call.wish == Wish::Durable) && !mutated(Mutant::SkipWait);
        if fence {
            self.shard.push_fence(connection);
        }
        let started = Instant::now();
        let outcome = tokio::select! {
            outcome = timeout_at(until, connection.round()) => {
                outcome.unwrap_or(Err(LinkError::TimedOut)).map_err(|error| error.to_string())
            }
            _ = self.master.changed() => Err("another master was named".to_owned()),
        };
        let mut replies = match outcome {
            Ok(replies) => replies.into_iter(),
            Err(why) => {
                for call in calls {
                    // A call that never left this process has certainly not happened.
                    if connection.begun() { call.lost(&why) } else { call.refuse(&why) }
                }
                return Err(why);
            }
        };
        metrics::histogram!("clarion_store_commit_seconds").record(started.elapsed());
        metrics::histogram!("clarion_store_commit_batch_items").record(calls.len() as f64);
        let mut stale = None;
        for reply in replies.by_ref().take(loads) {
            if let Err(error) = reply {
                stale = Some(error.0);
            }
        }
        let own = calls.iter().filter(|call| !matches!(call.request, Request::Nothing)).count();
        let answers: Vec<Reply> = replies.by_ref().take(own).collect();
        let confirmed = if fence {
            self.shard.confirmed(address, replies.next(), replies.next(), &mut stale)
        } else {
            Confirmed::Yes
        };
        let again = settle(connection, calls, answers, &confirmed, &mut stale);
        match stale {
            None => Ok(again),
            Some(why) => {
                again.into_iter().for_each(|call| call.refuse(&why));
                Err(why)
            }
        }
    }
}

/// Puts scripts that this server has not seen from us in front of the round.
fn load_scripts(connection: &mut Connection, calls: &[Call]) -> usize {
    let mut loads = 0;
    for call in calls {
        if let Request::Script(script) = &call.request
            && connection.scripts.insert(script.script.sha())
        {
            connection.push(&[b"SCRIPT", b"LOAD", script.script.source().as_bytes()]);
            loads += 1;
        }
    }
    loads
}

/// Answers the calls; gives back those whose script was unknown, if no later call of the same slot
/// did anything (I8).
fn settle(
    connection: &mut Connection,
    calls: Vec<Call>,
    answers: Vec<Reply>,
    confirmed: &Confirmed,
    stale: &mut Option<String>,
) -> Vec<Call> {
    let mut answers = answers.into_iter().rev();
    let mut done = HashSet::new();
    let mut again = Vec::new();
    for call in calls.into_iter().rev() {
        let answer = match call.request {
            Request::Nothing => Ok(Value::Nil),
            Request::Script(_) | Request::Command(_) => match answers.next() {
                Some(answer) => answer,
                None => {
                    call.lost("the server answered less than it was asked");
                    continue;
                }
            },
        };
        match answer {
            Err(error) if error.code() == "NOSCRIPT" => {
                if let Request::Script(script) = &call.request {
                    connection.scripts.remove(script.script.sha());
                }
                if done.contains(&call.slot) {
                    call.refuse("the server forgot its scripts");
                } else {
                    again.push(call);
                }
            }
            Err(error) => {
                done.insert(call.slot);
                let what = match &call.request {
                    Request::Script(script) => script.script.name,
                    Request::Command(_) | Request::Nothing => "command",
                };
                let fault = judge(&error, call.wish, what);
                if fault.stale {
                    *stale = Some(error.0);
                }
                call.answer(Err(fault.told));
            }
            Ok(value) => {
                done.insert(call.slot);
                match (call.wish, confirmed) {
                    (Wish::Durable, Confirmed::No(why)) => call.lost(why),
                    _ => call.answer(Ok(value)),
                }
            }
        }
    }
    again.reverse();
    again
}

impl Shard {
    /// Whether the fence and its WAIT speak for everything before them.
    fn confirmed(
        &self,
        address: &str,
        fence: Option<Reply>,
        wait: Option<Reply>,
        stale: &mut Option<String>,
    ) -> Confirmed {
        match fence {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if judge(&error, Wish::Durable, "fence").stale {
                    *stale = Some(error.0.clone());
                }
                return Confirmed::No(error.0);
            }
            None => return Confirmed::No("the fence was not answered".into()),
        }
        if self.settings.replicas_min > 0 {
            match wait {
                Some(Ok(Value::Int(replicas)))
                    if replicas >= i64::from(self.settings.replicas_min) => {}
                Some(Ok(Value::Int(replicas))) => {
                    return Confirmed::No(self.too_few_replicas(replicas));
                }
                Some(Err(error)) => {
                    *stale = Some(error.0.clone());
                    return Confirmed::No(error.0);
                }
                Some(Ok(_)) | None => return Confirmed::No("WAIT was not answered".into()),
            }
        }
        match self.named(address) {
            Ok(()) => Confirmed::Yes,
            Err(why) => Confirmed::No(why),
        }
    }
}
