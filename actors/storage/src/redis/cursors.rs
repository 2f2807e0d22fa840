//! Cursors (I5, I7, I13): written at the terminal, where the truth is, then counted at the logs they
//! passed, all readers of a batch together. A topic or broadcast counts each batch exactly once, and
//! what a process that died left uncounted is found (`tickets.rs`); a user's inbox keeps positions.

use std::collections::HashMap;
use std::sync::Arc;

use clarion_core::{LogKey, LogKind, Settled};
use clarion_protocol::milestone::Milestone;
use clarion_protocol::{Offset, ProductId, TerminalId};
use futures_util::future::join_all;

use super::breaks::Step;
use super::leaving::Leaving;
use super::reply::{Args, Parts};
use super::schema::{stored_name, tag_of};
use super::tickets::{Batch, Pending, Ticket};
use super::waves::{NOTED_MAX, is_noted, waves};
use super::{RedisStore, codec, scripts};
use crate::engine::counts::outcome_of;
use crate::{CursorSave, SaveOutcome, StoreError, StoreResult};

/// Cursors of one terminal in one script.
const SAVES_MAX: usize = 128;
/// Exceptions that a save brings to Redis; a window is far smaller.
const SETTLED_MAX: usize = 1024;
/// Rounds in which something else has to be counted before a cursor can be saved.
const ROUNDS_MAX: usize = 4;
/// Three bytes: more than four hours.
const HEARTBEAT_MS_MAX: u64 = (1 << 24) - 1;

/// A saved cursor that passed something.
pub(super) struct Moved {
    pub(super) index: usize,
    pub(super) before: Offset,
    pub(super) after: Offset,
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
    /// What the terminal left, and is not known to be out of.
    leaving: Vec<Leaving>,
}

/// Saves at a time, each with its heads and the batch under which it is counted.
pub(super) struct Wave {
    pub(super) saves: Vec<CursorSave>,
    heads: HashMap<Arc<LogKey>, StoreResult<Offset>>,
    pub(super) batch: Option<Arc<Batch>>,
    /// When it was asked for.
    pub(super) at_ms: u64,
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
            let first = &wave.saves[chunk[0]];
            self.finish_found(&first.log.product, &first.terminal, &round.leaving).await;
            asked.clear();
            for (index, pending) in round.blocked {
                let save = &wave.saves[index];
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
        while !parts.is_empty() {
            written.leaving.push(codec::parse_leaving(&tag, &parts.bytes()?)?);
        }
        Ok(written)
    }
}

/// A head that could not be read: nothing was saved.
fn not_read(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unknown(why) => StoreError::Unavailable(why.clone()),
        error => error.clone(),
    }
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
