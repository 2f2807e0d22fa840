//! Cursors (I5, I7, I13): written at the terminal, where the truth is, then counted at the logs they
//! passed, all readers of a batch together. A process that dies between the two leaves a topic's or
//! broadcast's count short by what it was about to count; a user's inbox keeps positions and is
//! counted exactly once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clarion_core::{LogKey, LogKind, Settled};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Offset, ProductId, TerminalId};
use futures_util::future::join_all;

use super::reply::{Args, Parts, number};
use super::schema::{log_tag, stored_name, tag_of};
use super::{RedisStore, codec, scripts};
use crate::engine::codec::Outcome;
use crate::engine::counts::{gaps_of, is_exception, outcome_of};
use crate::{CursorSave, SaveOutcome, StoreError, StoreResult};

/// Messages that one script looks at.
const ROWS_MAX: u32 = 2048;
/// Cursors of one terminal in one script.
const SAVES_MAX: usize = 128;
/// Exceptions that a save brings to Redis; a window is far smaller.
const SETTLED_MAX: usize = 1024;
/// Three bytes: more than four hours.
const HEARTBEAT_MS_MAX: u64 = (1 << 24) - 1;

/// What passed over the messages of a log: changes of the number of readers at the offsets behind
/// which they hold, and what became of single entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    edges: BTreeMap<Offset, [i64; 2]>,
    /// They are readers no more: nothing was acknowledged.
    left: bool,
    exceptions: BTreeMap<Offset, [i64; 5]>,
}

const BY_ACK: usize = 0;
const BY_GAP: usize = 1;

impl Passed {
    fn add(&mut self, from: Offset, to: Offset, how: usize) {
        if from < to {
            self.edges.entry(from).or_default()[how] += 1;
            self.edges.entry(to).or_default()[how] -= 1;
        }
    }

    /// A reader left with everything behind `after` before it.
    pub(super) fn by_leaving(after: Offset, up_to: Offset) -> Self {
        let mut passed = Self { left: true, ..Self::default() };
        passed.add(after, up_to, BY_ACK);
        passed
    }

    /// A reader came past what is behind `after` up to `up_to`.
    fn pass(&mut self, after: Offset, up_to: Offset, settled: &[Settled]) {
        let gaps: Vec<(Offset, Offset)> = gaps_of(settled)
            .map(|(from, to)| {
                let from = from.clamp(after, up_to);
                (from, to.clamp(from, up_to))
            })
            .collect();
        let mut next = after;
        for (from, to) in &gaps {
            self.add(next, *from, BY_ACK);
            self.add((*from).max(next), *to, BY_GAP);
            next = next.max(*to);
        }
        self.add(next, up_to, BY_ACK);
        for settled in settled.iter().filter(|settled| is_exception(settled.how)) {
            let at = settled.offset;
            if at <= after || at > up_to {
                continue;
            }
            let in_gap = gaps.iter().any(|(from, to)| at > *from && at <= *to);
            let counts = self.exceptions.entry(at).or_default();
            counts[if in_gap { BY_GAP } else { BY_ACK }] += 1;
            match outcome_of(settled.how) {
                Outcome::Expired => counts[2] += 1,
                Outcome::Undeliverable => counts[3] += 1,
                Outcome::Suppressed => counts[4] += 1,
                Outcome::Acknowledged | Outcome::Evicted => {}
            }
        }
    }

    fn ends(&self) -> Option<(Offset, Offset)> {
        Some((*self.edges.first_key_value()?.0, *self.edges.last_key_value()?.0))
    }
}

/// A reader of a user's inbox and its position before and after.
pub(super) struct Reader<'a> {
    terminal: &'a TerminalId,
    before: Offset,
    after: Offset,
}

/// A saved cursor that passed something.
pub(super) struct Moved {
    index: usize,
    before: Offset,
    after: Offset,
}

impl RedisStore {
    pub(super) async fn save_batch(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        let heads = self.heads_of(&saves).await;
        let mut terminals: HashMap<(&ProductId, &TerminalId), Vec<usize>> = HashMap::new();
        for (index, save) in saves.iter().enumerate() {
            terminals.entry((&save.log.product, &save.terminal)).or_default().push(index);
        }
        let chunks: Vec<Vec<usize>> = terminals
            .into_values()
            .flat_map(|indexes| indexes.chunks(SAVES_MAX).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect();
        let written = chunks.iter().map(|chunk| self.save_terminal(chunk, &saves, &heads));
        let mut answers = vec![None; saves.len()];
        let mut moves = Vec::new();
        for (chunk, outcome) in chunks.iter().zip(join_all(written).await) {
            match outcome {
                Ok((outcomes, moved)) => {
                    moves.extend(moved);
                    for (index, outcome) in outcomes {
                        answers[index] = Some(outcome);
                    }
                }
                Err(error) => {
                    for index in chunk {
                        answers[*index] = Some(Err(error.clone()));
                    }
                }
            }
        }
        self.count_moves(&saves, moves).await;
        let missing = || Err(StoreError::Unknown("Redis left out an answer".into()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Heads of the logs that are not the terminal's own: no cursor is stored above one (I5).
    async fn heads_of(&self, saves: &[CursorSave]) -> HashMap<Arc<LogKey>, StoreResult<Offset>> {
        let mut logs: HashMap<Arc<LogKey>, ()> = HashMap::new();
        for save in saves.iter().filter(|save| save.log.kind != LogKind::Terminal) {
            logs.insert(Arc::clone(&save.log), ());
        }
        self.heads(logs.into_keys()).await
    }

    /// Writes cursors of one terminal.
    #[allow(clippy::type_complexity)]
    async fn save_terminal(
        &self,
        chunk: &[usize],
        saves: &[CursorSave],
        heads: &HashMap<Arc<LogKey>, StoreResult<Offset>>,
    ) -> StoreResult<(Vec<(usize, StoreResult<SaveOutcome>)>, Vec<Moved>)> {
        let first = &saves[chunk[0]];
        let tag = tag_of(&first.log.product, LogKind::Terminal, first.terminal.as_str());
        let mut args = Args::new().number(self.shift_ms()).number(self.retention_ms);
        let (mut outcomes, mut asked) = (Vec::with_capacity(chunk.len()), Vec::new());
        for index in chunk {
            let save = &saves[*index];
            let head = match heads.get(&save.log) {
                Some(Ok(head)) => Some(head.0),
                Some(Err(error)) => {
                    outcomes.push((*index, Err(error.clone())));
                    continue;
                }
                None => None,
            };
            asked.push(*index);
            args = save_args(args, save, self.epoch == save.epoch, head);
        }
        if asked.is_empty() {
            return Ok((outcomes, Vec::new()));
        }
        let answer = self.shards.write(&tag, self.call(&scripts::SAVE, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        let mut moves = Vec::new();
        for index in asked {
            let mut part = parts.list()?;
            let outcome = match part.number()? {
                0 => {
                    let (before, after) = (Offset(part.number()?), Offset(part.number()?));
                    if before < after {
                        moves.push(Moved { index, before, after });
                    }
                    SaveOutcome::Saved
                }
                1 => SaveOutcome::Stale,
                2 => SaveOutcome::NotSubscribed,
                _ => SaveOutcome::AboveHead,
            };
            outcomes.push((index, Ok(outcome)));
        }
        Ok((outcomes, moves))
    }

    /// Counts what cursors passed, in each log once.
    pub(super) async fn count_moves(&self, saves: &[CursorSave], moves: Vec<Moved>) {
        let mut wide: HashMap<Arc<LogKey>, Passed> = HashMap::new();
        let mut users = Vec::new();
        for Moved { index, before, after } in moves {
            let save = &saves[index];
            match save.log.kind {
                LogKind::Terminal => {}
                LogKind::User => {
                    let mut passed = Passed::default();
                    passed.pass(before, after, &save.settled);
                    users.push((save, passed, before, after));
                }
                LogKind::Topic | LogKind::Broadcast => {
                    let passed = wide.entry(Arc::clone(&save.log)).or_default();
                    passed.pass(before, after, &save.settled);
                }
            }
        }
        let wide = wide.into_iter().chain(self.uncounted.take());
        let wide = wide.map(|(log, passed)| async move {
            if let Err(StoreError::Unavailable(_)) = self.count(&log, &passed, None).await {
                self.uncounted.add(log, passed);
            }
        });
        let users = users.iter().map(|(save, passed, before, after)| {
            let reader = Reader { terminal: &save.terminal, before: *before, after: *after };
            self.count(&save.log, passed, Some(reader))
        });
        let (_, users) = futures_util::future::join(join_all(wide), join_all(users)).await;
        // What a user's inbox could not count is made up for with its next cursor.
        users.into_iter().filter_map(Result::err).for_each(|error| super::index_failed(&error));
    }

    /// Counts in one log. An error that says that nothing happened is one of the first script.
    pub(super) async fn count(
        &self,
        log: &LogKey,
        passed: &Passed,
        reader: Option<Reader<'_>>,
    ) -> StoreResult<()> {
        let Some((mut from, up_to)) = passed.ends() else { return Ok(()) };
        let tag = log_tag(log);
        let mut begun = false;
        loop {
            let mut args = self.timed(log.kind);
            args = match &reader {
                Some(reader) => args
                    .bytes(reader.terminal.as_str())
                    .number(reader.before.0)
                    .number(reader.after.0),
                None => args.bytes("").bytes("").bytes(""),
            };
            args = args.number(from.0).number(up_to.0).number(ROWS_MAX).flag(passed.left);
            args = args.number(passed.edges.len() as u64);
            for (offset, [acks, gaps]) in &passed.edges {
                args = args.number(offset.0).number(*acks).number(*gaps);
            }
            for (offset, counts) in &passed.exceptions {
                args = args.number(offset.0);
                counts.iter().for_each(|count| args.push_number(*count));
            }
            let counted = self.shards.write(&tag, self.call(&scripts::COUNT, &tag, args)).await;
            match counted.and_then(number) {
                Ok(0) => return Ok(()),
                Ok(offset) => (from, begun) = (Offset(offset), true),
                Err(error) => {
                    metrics::counter!("clarion_redis_counts_failed_total").increment(1);
                    tracing::warn!(%error, %log, "what cursors passed was not counted");
                    return Err(match error {
                        StoreError::Unavailable(why) if begun => StoreError::Unknown(why),
                        error => error,
                    });
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

fn save_args(args: Args, save: &CursorSave, is_epoch: bool, head: Option<u64>) -> Args {
    let log = match save.log.kind {
        LogKind::Terminal if *save.log.name == *save.terminal.as_str() => b"t".to_vec(),
        // Another terminal's inbox: a name that no record has.
        LogKind::Terminal => b"-".to_vec(),
        LogKind::User => [b"u", save.log.name.as_bytes()].concat(),
        LogKind::Topic | LogKind::Broadcast => stored_name(&save.log.local_name()),
    };
    // I5: nothing of a history that is gone; a head of zero refuses it as above the head.
    let cursor = if is_epoch { save.cursor.0 } else { u64::MAX >> 11 };
    let exceptions: Vec<&Settled> = match save.log.kind {
        LogKind::Terminal => save
            .settled
            .iter()
            .filter(|settled| settled.how != Milestone::Acknowledged)
            .take(SETTLED_MAX)
            .collect(),
        _ => Vec::new(),
    };
    let mut args = args
        .bytes(log)
        .number(save.generation)
        .number(save.epoch.0)
        .number(cursor)
        .number(save.attempts)
        .number(save.heartbeat_ms.unwrap_or(0).min(HEARTBEAT_MS_MAX))
        .maybe(head)
        .number(exceptions.len() as u64);
    for settled in exceptions {
        args.push_number(settled.offset.0);
        args.push_number(codec::stored_outcome(outcome_of(settled.how)));
    }
    args
}
