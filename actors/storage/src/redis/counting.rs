//! Counts at the logs what saved cursors passed (I13), a script per log and batch.

use std::collections::HashMap;
use std::sync::Arc;

use clarion_core::fault::{Mutant, mutated};
use clarion_core::{LogKey, LogKind};
use clarion_protocol::{Offset, TerminalId};
use futures_util::future::join_all;

use super::breaks::Step;
use super::cursors::{Moved, Wave};
use super::memory::Waiting;
use super::passed::Passed;
use super::reply::{Args, number};
use super::schema::log_tag;
use super::tickets::{Batch, Pending, Ticket};
use super::waves::is_noted;
use super::{RedisStore, scripts};
use crate::{Seldom, StoreError, StoreResult};

/// Messages that one script looks at.
const ROWS_MAX: u32 = 2048;
/// Saves of unknown outcome that a log is told of; with more, nothing of the batch is counted as one.
const LEFT_OUT_MAX: usize = 512;
/// What COUNT answers of a teller that was closed.
const CLOSED: u64 = 1;

/// A reader of a user's inbox and its position before and after.
pub(super) struct Reader<'a> {
    terminal: &'a TerminalId,
    before: Offset,
    after: Offset,
}

/// What makes counting happen once.
pub(super) enum Once<'a> {
    /// The position of the reader of a user's inbox.
    Reader(Reader<'a>),
    /// What the log remembers of the teller.
    Batch {
        /// Of any save in it.
        ticket: Ticket,
        /// Saves in it that may not have happened.
        left_out: &'a [u16],
    },
}

impl RedisStore {
    /// Counts what cursors passed, in each log once.
    pub(super) async fn count_moves(&self, wave: &Wave, moves: Vec<Moved>, left_out: &[usize]) {
        let mut wide: HashMap<Arc<LogKey>, Passed> = HashMap::new();
        let mut users = Vec::new();
        for Moved { index, before, after } in moves {
            let save = &wave.saves[index];
            match save.log.kind {
                LogKind::Terminal => {}
                LogKind::User => {
                    let mut passed = Passed::at(wave.at_ms);
                    passed.pass(before, after, &save.settled);
                    users.push((save, passed, before, after));
                }
                LogKind::Topic | LogKind::Broadcast => {
                    let passed = wide.entry(Arc::clone(&save.log));
                    let passed = passed.or_insert_with(|| Passed::at(wave.at_ms));
                    passed.pass(before, after, &save.settled);
                }
            }
        }
        let Some(batch) = &wave.batch else { return };
        if left_out.iter().all(|index| !is_noted(&wave.saves[*index])) {
            batch.of_logs(wide.len() + users.len());
        }
        let wide = self.count_wide(waiting(wave, batch, wide, left_out));
        let users = users.iter().map(|(save, passed, before, after)| async move {
            let reader = Reader { terminal: &save.terminal, before: *before, after: *after };
            match self.count(&save.log, passed, Once::Reader(reader)).await {
                Ok(_) => batch.counted(),
                // Made up for with its next cursor, or by upkeep.
                Err(error) => super::index_failed(&error),
            }
        });
        futures_util::future::join(wide, join_all(users)).await;
    }

    /// Counts what a reader of a user's inbox passed, unless its position says that it was.
    pub(super) async fn count_reader(
        &self,
        log: &LogKey,
        terminal: &TerminalId,
        pending: &Pending,
    ) -> StoreResult<()> {
        let mut passed = Passed::at(pending.at_ms);
        passed.pass(pending.from, pending.to, &pending.settled);
        let reader = Reader { terminal, before: pending.from, after: pending.to };
        self.count(log, &passed, Once::Reader(reader)).await.map(drop)
    }

    /// Counts in topics and broadcasts, with what could not be counted before.
    pub(super) async fn count_wide(&self, counts: Vec<Waiting>) {
        let counts = counts.into_iter().chain(self.uncounted.take()).map(|waiting| async move {
            let Waiting { log, passed, batch, left_out } = &waiting;
            let once = Once::Batch { ticket: batch.ticket(0), left_out };
            if mutated(Mutant::CountTwice) {
                let ticket = self.tellers.batch().ticket(0);
                let _ = self.count(log, passed, Once::Batch { ticket, left_out: &[] }).await;
            }
            match self.count(log, passed, once).await {
                Ok(true) => batch.counted(),
                // With a ticket the same may be asked any number of times.
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                    self.uncounted.add(waiting);
                }
                // Closed: somebody counts its parts one by one.
                Ok(false) | Err(_) => {}
            }
        });
        join_all(counts).await;
    }

    /// Counts in one log; false if nothing is taken from the teller any more.
    pub(super) async fn count(
        &self,
        log: &LogKey,
        passed: &Passed,
        once: Once<'_>,
    ) -> StoreResult<bool> {
        let Some((mut from, up_to)) = passed.ends() else { return Ok(true) };
        let tag = log_tag(log);
        loop {
            let args = match &once {
                Once::Reader(reader) => self
                    .timed(log.kind)
                    .bytes(reader.terminal.as_str())
                    .number(reader.before.0)
                    .number(reader.after.0),
                Once::Batch { ticket, left_out } => self
                    .timed(log.kind)
                    .bytes(&ticket.teller.to_le_bytes()[..5])
                    .number(ticket.batch)
                    .bytes(left_out.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>()),
            };
            let mut args = args.number(from.0).number(up_to.0).number(ROWS_MAX);
            passed.put(&mut args);
            let call = self.call(&scripts::COUNT, &tag, args);
            match self.broken(Step::Count, &tag, call).await.and_then(number) {
                Ok(0) => return Ok(true),
                Ok(CLOSED) => return Ok(false),
                Ok(offset) => from = Offset(offset),
                Err(error) => {
                    metrics::counter!("clarion_redis_counts_failed_total").increment(1);
                    static SAID: Seldom = Seldom::new();
                    if let Some(unsaid) = SAID.turn() {
                        tracing::warn!(%error, %log, unsaid, "what cursors passed is not counted yet");
                    }
                    return Err(error);
                }
            }
        }
    }

    /// First writes to terminals.
    pub(super) async fn count_deliveries(
        &self,
        counts: Vec<(Arc<LogKey>, Offset, u32)>,
    ) -> StoreResult<()> {
        let mut logs: HashMap<Arc<LogKey>, Args> = HashMap::new();
        for (log, offset, terminals) in counts {
            let args = logs.entry(log).or_insert_with_key(|log| Args::new().kind(log.kind));
            args.push_number(offset.0);
            args.push_number(terminals);
        }
        let calls = logs.into_iter().map(|(log, args)| async move {
            let tag = log_tag(&log);
            self.shards.write_relaxed(&tag, self.call(&scripts::DELIVERED, &tag, args)).await
        });
        join_all(calls).await.into_iter().try_for_each(|counted| counted.map(drop))
    }
}

/// What is to be counted in each log under the batch.
fn waiting(
    wave: &Wave,
    batch: &Arc<Batch>,
    wide: HashMap<Arc<LogKey>, Passed>,
    left_out: &[usize],
) -> Vec<Waiting> {
    let mut unknown: HashMap<&Arc<LogKey>, Vec<u16>> = HashMap::new();
    for index in left_out {
        let log = &wave.saves[*index].log;
        if log.kind.is_wide() {
            unknown.entry(log).or_default().push(*index as u16);
        }
    }
    let counts = wide.into_iter().filter_map(|(log, passed)| {
        let left_out = unknown.remove(&log).unwrap_or_default();
        let batch = Arc::clone(batch);
        (left_out.len() <= LEFT_OUT_MAX).then_some(Waiting { log, passed, batch, left_out })
    });
    counts.collect()
}
