//! Appending (I2, I6, I8): all entries of a batch for one log in one script; beside it, a note per
//! message that says in which logs it may be found.

use std::collections::HashMap;
use std::sync::Arc;

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{MessageId, Offset, ProductId};
use futures_util::future::{join, join_all};

use super::breaks::Step;
use super::reply::{Args, Parts};
use super::schema::{Index, kind_letter, log_tag, message_tag};
use super::{KEPT_MS, RedisStore, codec, scripts};
use crate::engine::logs::size_of;
use crate::{Append, Appended, StoreError, StoreResult};

/// Entries of one log in one script: what Redis does in one go stays short.
const ENTRIES_MAX: usize = 64;
/// Payload bytes in one script, above which no further entry is added.
const BYTES_MAX: usize = 1 << 20;

impl RedisStore {
    pub(super) async fn append_batch(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>> {
        let calls = by_log(&appends);
        let notes = notes_of(&appends);
        // Queued in this order at the first poll, so that entries of one log keep theirs (I8).
        let appended = join_all(calls.iter().map(|call| self.append_log(call, &appends)));
        let noted = join_all(notes.iter().map(|(message, note)| self.note(*message, note)));
        let (appended, _) = join(appended, noted).await;
        let mut answers: Vec<Option<StoreResult<Appended>>> = vec![None; appends.len()];
        for (call, outcome) in calls.iter().zip(appended) {
            match outcome {
                Ok(outcomes) => {
                    for (index, outcome) in call.iter().zip(outcomes) {
                        answers[*index] = Some(outcome);
                    }
                }
                Err(error) => {
                    for index in call {
                        answers[*index] = Some(Err(error.clone()));
                    }
                }
            }
        }
        let missing = || Err(StoreError::Unknown("Redis left out an answer".into()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Some entries of one log, in one script.
    async fn append_log(
        &self,
        call: &[usize],
        appends: &[Append],
    ) -> StoreResult<Vec<StoreResult<Appended>>> {
        let log = &appends[call[0]].log;
        let tag = log_tag(log);
        let mut args = self.timed(log.kind).number(self.retention_ms);
        for append in call.iter().map(|index| &appends[*index]) {
            let limits = append.limits;
            let rest = codec::encode_rest(append.message, append.expires_at_ms, &append.body);
            args = args
                .bytes(append.message.0.to_be_bytes())
                .bytes(rest)
                .number(append.expires_at_ms.min(codec::NEVER_MS))
                .number(size_of(&append.body))
                .number(append.not_after_ms)
                .flag(append.first_attempt_ms.is_some())
                .number(limits.entries_max)
                .number(limits.bytes_max)
                .flag(limits.evict);
        }
        let answer = self.shards.write(&tag, self.call(&scripts::APPEND, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        let is_new = parts.number()? == 1;
        let mut outcomes = Vec::with_capacity(call.len());
        for _ in call {
            outcomes.push(self.appended(parts.list()?)?);
        }
        if is_new && outcomes.iter().any(Result::is_ok) {
            self.enlist_log(log).await;
        }
        Ok(outcomes)
    }

    fn appended(&self, mut parts: Parts) -> StoreResult<StoreResult<Appended>> {
        let status = parts.number()?;
        Ok(match status {
            0 | 1 => {
                let offset = Offset(parts.number()?);
                let predecessor = Offset(parts.number()?);
                let audience = parts.number()?;
                let evicted = u32::try_from(parts.number()?).unwrap_or(u32::MAX);
                if evicted > 0 {
                    metrics::counter!("clarion_store_evicted_entries_total")
                        .increment(u64::from(evicted));
                }
                let (epoch, duplicate) = (self.epoch, status == 1);
                Ok(Appended { epoch, offset, predecessor, duplicate, audience, evicted })
            }
            2 => Err(StoreError::TooLate),
            3 => {
                metrics::counter!("clarion_store_log_full_total").increment(1);
                Err(StoreError::LogFull)
            }
            _ => Err(StoreError::Fatal("the log has no offsets left".into())),
        })
    }

    /// A log that upkeep has to visit from now on. It is an index: what is lost here is added when
    /// the log is written to anew.
    pub(super) async fn enlist_log(&self, log: &LogKey) {
        let index = match log.kind {
            LogKind::Terminal => Index::Inboxes,
            LogKind::User => Index::Users,
            LogKind::Topic => Index::Topics,
            LogKind::Broadcast => return self.announce(&log.product).await,
        };
        self.announce(&log.product).await;
        if let Err(error) = self.enlist(&log.product, index, &log.name).await {
            super::index_failed(&error);
        }
    }

    /// Notes where a message may be found, durably. A note that could not be written waits for upkeep:
    /// until then, and for good if this process ends before, [`crate::Store::message`] does not find
    /// what was appended. Delivery does not look at it.
    async fn note(&self, message: MessageId, note: &Note<'_>) {
        let tag = message_tag(note.product, message);
        let lives_ms = note.expires_at_ms.saturating_sub(self.now_ms()).saturating_add(KEPT_MS);
        let mut args = Args::new().number(lives_ms.min(codec::NEVER_MS));
        for log in &note.logs {
            args = args.bytes(format!("{}{}", kind_letter(log.kind), log.name));
        }
        self.write_note(tag, args.0).await;
    }

    async fn write_note(&self, tag: String, args: Vec<Vec<u8>>) {
        let call = self.call(&scripts::NOTE, &tag, Args(args.clone()));
        if let Err(error) = self.broken(Step::Note, &tag, call).await {
            super::index_failed(&error);
            self.unnoted.add(tag, args);
        }
    }

    /// Writes notes that could not be written. The same note again changes nothing.
    pub(super) async fn write_notes(&self) {
        let notes = self.unnoted.take();
        join_all(notes.into_iter().map(|(tag, args)| self.write_note(tag, args))).await;
    }
}

struct Note<'a> {
    product: &'a ProductId,
    expires_at_ms: u64,
    logs: Vec<&'a LogKey>,
}

/// Indexes of a batch by log, a call for each.
fn by_log(appends: &[Append]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut open: HashMap<&Arc<LogKey>, (usize, usize)> = HashMap::new();
    for (index, append) in appends.iter().enumerate() {
        let bytes = append.body.len();
        match open.get_mut(&append.log) {
            Some((call, used)) if calls[*call].len() < ENTRIES_MAX && *used < BYTES_MAX => {
                calls[*call].push(index);
                *used += bytes;
            }
            _ => {
                open.insert(&append.log, (calls.len(), bytes));
                calls.push(vec![index]);
            }
        }
    }
    calls
}

fn notes_of(appends: &[Append]) -> Vec<(MessageId, Note<'_>)> {
    let mut notes: HashMap<(&ProductId, MessageId), Note<'_>> = HashMap::new();
    for append in appends {
        let product = &append.log.product;
        let note = notes.entry((product, append.message)).or_insert_with(|| Note {
            product,
            expires_at_ms: 0,
            logs: Vec::new(),
        });
        note.expires_at_ms = note.expires_at_ms.max(append.expires_at_ms);
        note.logs.push(&append.log);
    }
    notes.into_iter().map(|((_, message), note)| (message, note)).collect()
}
