//! Cursors (I5, I7, I13): written at the terminal, where the truth is, then counted at the logs they
//! passed, all readers of a batch together. A topic or broadcast counts each batch exactly once, and
//! what a process that died left uncounted is found (`tickets.rs`); a user's inbox keeps positions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use clarion_core::{LogKey, LogKind, Settled};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Offset, ProductId, TerminalId};
use futures_util::future::join_all;

use super::breaks::Step;
use super::memory::Waiting;
use super::reply::{Args, Parts, number};
use super::schema::{log_tag, stored_name, tag_of};
use super::tickets::{Batch, Pending, Ticket};
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
/// Exceptions that a record notes of a cursor in a topic or broadcast; what has more is saved in pieces.
const NOTED_MAX: usize = 100;
/// Saves under one ticket: their index in it has two bytes.
const WAVE_MAX: usize = 1 << 16;
/// Saves of unknown outcome that a log is told of; with more, nothing of the batch is counted as one.
const LEFT_OUT_MAX: usize = 512;
/// Rounds in which something else has to be counted before a cursor can be saved.
const ROUNDS_MAX: usize = 4;
/// What COUNT answers of a teller that was closed.
const CLOSED: u64 = 1;
/// Three bytes: more than four hours.
const HEARTBEAT_MS_MAX: u64 = (1 << 24) - 1;

/// What passed over the messages of a log: changes of the number of readers at the offsets behind
/// which they hold, and what became of single entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    edges: BTreeMap<Offset, [i64; 2]>,
    /// When.
    at_ms: u64,
    /// They are readers no more: nothing was acknowledged.
    left: bool,
    exceptions: BTreeMap<Offset, [i64; 5]>,
}

const BY_ACK: usize = 0;
const BY_GAP: usize = 1;

impl Passed {
    pub(super) fn at(at_ms: u64) -> Self {
        Self { at_ms, ..Self::default() }
    }

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
    pub(super) fn pass(&mut self, after: Offset, up_to: Offset, settled: &[Settled]) {
        if after >= up_to {
            return;
        }
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

/// What makes counting happen once.
pub(super) enum Once<'a> {
    /// Nothing does.
    No,
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

/// A saved cursor that passed something.
pub(super) struct Moved {
    index: usize,
    before: Offset,
    after: Offset,
}

/// What became of saves of one terminal.
#[derive(Default)]
struct Written {
    outcomes: Vec<(usize, StoreResult<SaveOutcome>)>,
    moves: Vec<Moved>,
    /// Those that wait until something else is counted.
    blocked: Vec<(usize, Pending)>,
    /// Those that may have happened or not.
    left_out: Vec<usize>,
}

/// Saves at a time, each with its heads and the batch under which it is counted.
struct Wave {
    saves: Vec<CursorSave>,
    heads: HashMap<Arc<LogKey>, StoreResult<Offset>>,
    batch: Option<Arc<Batch>>,
    /// When it was asked for.
    at_ms: u64,
}

impl RedisStore {
    pub(super) async fn save_batch(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>> {
        let mut answers = vec![None; saves.len()];
        for mut wave in waves(saves) {
            // Of a save in pieces, nothing after one that failed.
            wave.retain(|(of, _)| matches!(answers[*of], None | Some(Ok(SaveOutcome::Saved))));
            Box::pin(self.save_wave(wave, &mut answers)).await;
        }
        let missing = || Err(StoreError::Unknown("Redis left out an answer".into()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    async fn save_wave(
        &self,
        wave: Vec<(usize, CursorSave)>,
        answers: &mut [Option<StoreResult<SaveOutcome>>],
    ) {
        let at_ms = self.now_ms();
        let (of, saves): (Vec<usize>, Vec<CursorSave>) = wave.into_iter().unzip();
        let heads = self.heads_of(&saves).await;
        let counts = saves.iter().any(is_noted);
        let batch = counts.then(|| self.tellers.batch());
        let wave = Wave { saves, heads, batch, at_ms };
        let mut terminals: HashMap<(&ProductId, &TerminalId), Vec<usize>> = HashMap::new();
        for (index, save) in wave.saves.iter().enumerate() {
            terminals.entry((&save.log.product, &save.terminal)).or_default().push(index);
        }
        let chunks: Vec<Vec<usize>> = terminals
            .into_values()
            .flat_map(|indexes| indexes.chunks(SAVES_MAX).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect();
        let (mut moves, mut left_out) = (Vec::new(), Vec::new());
        for written in join_all(chunks.iter().map(|chunk| self.save_chunk(chunk, &wave))).await {
            moves.extend(written.moves);
            left_out.extend(written.left_out);
            for (index, outcome) in written.outcomes {
                answers[of[index]] = Some(outcome);
            }
        }
        self.count_moves(&wave, moves, &left_out).await;
    }

    /// Heads of the logs that are not the terminal's own: no cursor is stored above one (I5).
    async fn heads_of(&self, saves: &[CursorSave]) -> HashMap<Arc<LogKey>, StoreResult<Offset>> {
        let mut logs: HashMap<Arc<LogKey>, ()> = HashMap::new();
        for save in saves.iter().filter(|save| save.log.kind != LogKind::Terminal) {
            logs.insert(Arc::clone(&save.log), ());
        }
        self.heads(logs.into_keys()).await
    }

    /// Writes cursors of one terminal. Where what the cursor before passed is not known to be counted,
    /// it is counted first.
    async fn save_chunk(&self, chunk: &[usize], wave: &Wave) -> Written {
        let mut all = Written::default();
        let mut asked: Vec<(usize, Option<Ticket>)> = chunk.iter().map(|i| (*i, None)).collect();
        for _ in 0..ROUNDS_MAX {
            if asked.is_empty() {
                return all;
            }
            let round = match self.save_terminal(&asked, wave).await {
                Ok(round) => round,
                Err(error) => {
                    if !matches!(error, StoreError::Unavailable(_) | StoreError::Full(_)) {
                        all.left_out.extend(asked.iter().map(|(index, _)| *index));
                    }
                    all.outcomes.extend(asked.iter().map(|(i, _)| (*i, Err(error.clone()))));
                    return all;
                }
            };
            all.outcomes.extend(round.outcomes);
            all.moves.extend(round.moves);
            asked.clear();
            for (index, pending) in round.blocked {
                let save = &wave.saves[index];
                self.tellers.wait_for(pending.ticket).await;
                match Box::pin(self.settle_pending(&save.log, &save.terminal, &pending, true)).await
                {
                    Ok(counted) => asked.push((index, counted)),
                    Err(error) => {
                        let why = format!("what it passed before is not counted: {error}");
                        all.outcomes.push((index, Err(StoreError::Unavailable(why))));
                    }
                }
            }
        }
        let busy = || Err(StoreError::Unavailable("its cursor changes all the time".into()));
        all.outcomes.extend(asked.into_iter().map(|(index, _)| (index, busy())));
        all
    }

    /// One script; each save with a ticket that is known to be counted.
    async fn save_terminal(
        &self,
        asked: &[(usize, Option<Ticket>)],
        wave: &Wave,
    ) -> StoreResult<Written> {
        let first = &wave.saves[asked[0].0];
        let tag = tag_of(&first.log.product, LogKind::Terminal, first.terminal.as_str());
        let mut args = Args::new()
            .number(self.shift_ms())
            .number(self.retention_ms)
            .bytes(self.tellers.told())
            .number(wave.at_ms);
        let (mut written, mut sent) = (Written::default(), Vec::new());
        for (index, known) in asked {
            let save = &wave.saves[*index];
            let head = match wave.heads.get(&save.log) {
                Some(Ok(head)) => Some(head.0),
                Some(Err(error)) => {
                    written.outcomes.push((*index, Err(not_read(error))));
                    continue;
                }
                None => None,
            };
            sent.push(*index);
            let batch = wave.batch.as_ref().filter(|_| is_noted(save));
            let tickets = [batch.map(|batch| batch.ticket(*index as u16)), *known];
            args = save_args(args, save, self.epoch == save.epoch, head, tickets);
        }
        if sent.is_empty() {
            return Ok(written);
        }
        let answer = self.broken(Step::Save, &tag, self.call(&scripts::SAVE, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        for index in sent {
            let mut part = parts.list()?;
            let outcome = match part.number()? {
                0 => {
                    let (before, after) = (Offset(part.number()?), Offset(part.number()?));
                    if before < after {
                        written.moves.push(Moved { index, before, after });
                    }
                    SaveOutcome::Saved
                }
                1 => SaveOutcome::Stale,
                2 => SaveOutcome::NotSubscribed,
                3 => SaveOutcome::AboveHead,
                _ => {
                    let (packed, to) = (part.bytes()?, Offset(part.number()?));
                    written.blocked.push((index, codec::parse_pending(&tag, &packed, to)?));
                    continue;
                }
            };
            written.outcomes.push((index, Ok(outcome)));
        }
        Ok(written)
    }

    /// Counts what cursors passed, in each log once.
    async fn count_moves(&self, wave: &Wave, moves: Vec<Moved>, left_out: &[usize]) {
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
            let once = match &waiting.batch {
                Some((batch, left_out)) => Once::Batch { ticket: batch.ticket(0), left_out },
                None => Once::No,
            };
            match (self.count(&waiting.log, &waiting.passed, once).await, &waiting.batch) {
                (Ok(true), Some((batch, _))) => batch.counted(),
                // With a ticket the same may be asked any number of times.
                (Err(StoreError::Unavailable(_)), _) | (Err(StoreError::Unknown(_)), Some(_)) => {
                    self.uncounted.add(waiting);
                }
                // Closed: somebody counts its parts one by one.
                (Ok(_) | Err(_), _) => {}
            }
        });
        join_all(counts).await;
    }

    /// Counts in one log; false if nothing is taken from the teller any more. An error that says that
    /// nothing happened is one of the first script.
    pub(super) async fn count(
        &self,
        log: &LogKey,
        passed: &Passed,
        once: Once<'_>,
    ) -> StoreResult<bool> {
        let Some((mut from, up_to)) = passed.ends() else { return Ok(true) };
        let tag = log_tag(log);
        let mut begun = false;
        loop {
            let mut args = self.timed(log.kind);
            args = match &once {
                Once::No => args.bytes("").bytes("").bytes(""),
                Once::Reader(reader) => args
                    .bytes(reader.terminal.as_str())
                    .number(reader.before.0)
                    .number(reader.after.0),
                Once::Batch { ticket, left_out } => args
                    .bytes(&ticket.teller.to_le_bytes()[..5])
                    .number(ticket.batch)
                    .bytes(left_out.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>()),
            };
            args = args
                .number(from.0)
                .number(up_to.0)
                .number(ROWS_MAX)
                .flag(passed.left)
                .number(passed.at_ms);
            args = args.number(passed.edges.len() as u64);
            for (offset, [acks, gaps]) in &passed.edges {
                args = args.number(offset.0).number(*acks).number(*gaps);
            }
            for (offset, counts) in &passed.exceptions {
                args = args.number(offset.0);
                counts.iter().for_each(|count| args.push_number(*count));
            }
            let call = self.call(&scripts::COUNT, &tag, args);
            let counted = match &once {
                // Readers that left: nothing makes it happen once, so it is not tried again.
                Once::No => self.shards.write(&tag, call).await,
                Once::Reader(_) | Once::Batch { .. } => self.broken(Step::Count, &tag, call).await,
            };
            match counted.and_then(number) {
                Ok(0) => return Ok(true),
                Ok(CLOSED) => return Ok(false),
                Ok(offset) => (from, begun) = (Offset(offset), true),
                Err(error) => {
                    metrics::counter!("clarion_redis_counts_failed_total").increment(1);
                    tracing::warn!(%error, %log, "what cursors passed is not counted yet");
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

/// Whether what a save passes is noted until it is counted: not in the terminal's own inbox, where both
/// are one.
fn is_noted(save: &CursorSave) -> bool {
    save.log.kind != LogKind::Terminal
}

/// A head that could not be read: nothing was saved.
fn not_read(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unknown(why) => StoreError::Unavailable(why.clone()),
        error => error.clone(),
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
        let batch = Some((Arc::clone(batch), left_out.clone()));
        (left_out.len() <= LEFT_OUT_MAX).then_some(Waiting { log, passed, batch })
    });
    counts.collect()
}

/// Saves with where they were asked for, so that in each part of them no terminal saves the same
/// log twice, and none has more exceptions than a record notes. Mostly one part.
fn waves(saves: Vec<CursorSave>) -> Vec<Vec<(usize, CursorSave)>> {
    let mut seen = HashSet::new();
    let simple = |save: &CursorSave| save.settled.len() <= NOTED_MAX;
    let once = saves
        .iter()
        .filter(|save| save.log.kind.is_wide())
        .all(|save| simple(save) && seen.insert((save.terminal.clone(), Arc::clone(&save.log))));
    if once && saves.len() <= WAVE_MAX {
        return vec![saves.into_iter().enumerate().collect()];
    }
    let mut waves: Vec<Vec<(usize, CursorSave)>> = Vec::new();
    let mut next: HashMap<(TerminalId, Arc<LogKey>), usize> = HashMap::new();
    for (of, save) in saves.into_iter().enumerate() {
        for piece in pieces(save) {
            let key = (piece.terminal.clone(), Arc::clone(&piece.log));
            let wave = next.entry(key).or_default();
            while waves.get(*wave).is_some_and(|wave| wave.len() >= WAVE_MAX) {
                *wave += 1;
            }
            waves.resize_with(waves.len().max(*wave + 1), Vec::new);
            waves[*wave].push((of, piece));
            *wave += 1;
        }
    }
    waves
}

/// A save, in as many pieces as it takes for its exceptions to be noted.
fn pieces(save: CursorSave) -> Vec<CursorSave> {
    if !is_noted(&save) || save.settled.len() <= NOTED_MAX {
        return vec![save];
    }
    let mut pieces: Vec<CursorSave> = save
        .settled
        .chunks(NOTED_MAX)
        .map(|settled| {
            let cursor = settled.last().map_or(save.cursor, |last| last.offset.min(save.cursor));
            CursorSave { cursor, attempts: 0, settled: settled.to_vec(), ..save.clone() }
        })
        .collect();
    if let Some(last) = pieces.last_mut() {
        (last.cursor, last.attempts) = (save.cursor, save.attempts);
    }
    pieces
}

fn save_args(
    args: Args,
    save: &CursorSave,
    is_epoch: bool,
    head: Option<u64>,
    tickets: [Option<Ticket>; 2],
) -> Args {
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
        LogKind::User | LogKind::Topic | LogKind::Broadcast => {
            save.settled.iter().take(NOTED_MAX).collect()
        }
    };
    let packed = |ticket: Option<Ticket>| ticket.map(codec::encode_ticket).unwrap_or_default();
    let [ticket, known] = tickets.map(packed);
    let mut args = args
        .bytes(log)
        .number(save.generation)
        .number(save.epoch.0)
        .number(cursor)
        .number(save.attempts)
        .number(save.heartbeat_ms.unwrap_or(0).min(HEARTBEAT_MS_MAX))
        .maybe(head)
        .bytes(ticket)
        .bytes(known)
        .number(exceptions.len() as u64);
    for settled in exceptions {
        args.push_number(settled.offset.0);
        args.push_number(codec::stored_outcome(outcome_of(settled.how)));
    }
    args
}
