//! From what was decoded to messages: every name is checked as anywhere else.

use std::sync::Arc;

use bytes::Bytes;
use clarion_core::placement::SlotSet;
use clarion_core::{Batch, Body, Control, Entry, LogKey, LogKind, Page};
use clarion_protocol::{Epoch, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};
use clarion_storage::{Appended, LogLimits, Read};

use super::{
    Unreadable, WireAppend, WireBatch, WireBody, WireEntry, WireHead, WireInterest, WireLog,
    WireMessage, WirePage, WireQuestion, WireRead, WireReply, WireResult,
};
use crate::cluster::wire::{Announced, AppendResult, PeerMessage, Question, Reply};
use crate::intake::NewEntry;

pub(super) fn from_wire(wire: WireMessage<'_>) -> Result<PeerMessage, Unreadable> {
    Ok(match wire {
        WireMessage::Append { request, log, entries } => {
            let log = log_from(&log)?;
            let entry = |append| append_from(&log, append);
            let entries = entries.into_iter().map(entry).collect::<Result<_, _>>()?;
            PeerMessage::Append { request, entries }
        }
        WireMessage::Appended { request, results } => {
            let results = results.into_iter().map(result_from).collect();
            PeerMessage::Appended { request, results }
        }
        WireMessage::Ephemeral(batch) => PeerMessage::Ephemeral { batch: batch_from(batch)? },
        WireMessage::Hint { batch, ephemeral, listed } => {
            PeerMessage::Hint { batch: batch_from(batch)?, ephemeral, listed }
        }
        WireMessage::Grew(heads) => PeerMessage::Grew { heads: heads_from(&heads)? },
        WireMessage::Heads(heads) => PeerMessage::Heads { heads: heads_from(&heads)? },
        WireMessage::Confirm(heads) => PeerMessage::Confirm { heads: heads_from(&heads)? },
        WireMessage::Interest { logs, since_ms } => {
            let announced = |interest: &WireInterest<'_>| {
                let (log, generation) = (log_from(&interest.log)?, interest.generation);
                Ok(Announced { log, generation })
            };
            let logs = logs.iter().map(announced).collect::<Result<_, _>>()?;
            PeerMessage::Interest { logs, since_ms }
        }
        WireMessage::NoInterest(logs) => PeerMessage::NoInterest { logs: logs_from(&logs)? },
        WireMessage::Complete(slots) => PeerMessage::Complete { slots: slots_from(&slots)? },
        WireMessage::Leave(slots) => PeerMessage::Leave { slots: slots_from(&slots)? },
        WireMessage::AnnounceAgain(slots) => {
            PeerMessage::AnnounceAgain { slots: slots_from(&slots)? }
        }
        WireMessage::OwnerChanged(log) => PeerMessage::OwnerChanged { log: log_from(&log)? },
        WireMessage::Dropped(slots) => PeerMessage::Dropped { slots: slots_from(&slots)? },
        WireMessage::Superseded { log, generation } => {
            PeerMessage::Superseded { log: log_from(&log)?, generation }
        }
        WireMessage::Ask { request, question } => {
            PeerMessage::Ask { request, question: question_from(question)? }
        }
        WireMessage::Answer { request, reply } => {
            let reply = match reply {
                WireReply::Each(each) => Reply::Each(each),
                WireReply::Is(is) => Reply::Is(is),
                WireReply::Text(text) => Reply::Text(text.to_owned()),
                WireReply::Pages(pages) => {
                    let page = |page: Option<_>| page.map(page_from).transpose();
                    Reply::Pages(pages.into_iter().map(page).collect::<Result<_, _>>()?)
                }
            };
            PeerMessage::Answer { request, reply }
        }
        WireMessage::ProductChanged(product) => {
            PeerMessage::ProductChanged { product: ProductId::new(product).map_err(bad_name)? }
        }
        WireMessage::Hello => PeerMessage::Hello,
    })
}

fn bad_name<E>(_: E) -> Unreadable {
    Unreadable("a wrong name")
}

fn slots_from(bytes: &[u8]) -> Result<SlotSet, Unreadable> {
    SlotSet::from_bytes(bytes).ok_or(Unreadable("no set of slots"))
}

fn log_from(log: &WireLog<'_>) -> Result<Arc<LogKey>, Unreadable> {
    let product = ProductId::new(log.product).map_err(bad_name)?;
    Ok(match log.kind {
        k if k == LogKind::Terminal as u8 => {
            LogKey::terminal(&product, &TerminalId::new(log.name).map_err(bad_name)?)
        }
        k if k == LogKind::User as u8 => {
            LogKey::user(&product, &UserId::new(log.name).map_err(bad_name)?)
        }
        k if k == LogKind::Topic as u8 => {
            LogKey::topic(&product, &TopicName::new(log.name).map_err(bad_name)?)
        }
        k if k == LogKind::Broadcast as u8 && log.name.is_empty() => LogKey::broadcast(&product),
        _ => return Err(Unreadable("no kind of log")),
    })
}

fn logs_from(logs: &[WireLog<'_>]) -> Result<Vec<Arc<LogKey>>, Unreadable> {
    logs.iter().map(log_from).collect()
}

fn heads_from(heads: &[WireHead<'_>]) -> Result<Vec<(Arc<LogKey>, Offset)>, Unreadable> {
    heads.iter().map(|head| Ok((log_from(&head.log)?, Offset(head.head)))).collect()
}

/// Payloads are copied: a slice would keep the frame that it came in.
fn body_from(body: WireBody<'_>) -> Result<Body, Unreadable> {
    let topic = |name| TopicName::new(name).map_err(bad_name);
    Ok(match body {
        WireBody::Json(text) => Body::Json(Bytes::copy_from_slice(text)),
        WireBody::Bytes { content_type, data } => {
            Body::Bytes { content_type: content_type.into(), data: Bytes::copy_from_slice(data) }
        }
        WireBody::Subscribed(name) => Body::Control(Control::Subscribed(topic(name)?)),
        WireBody::Unsubscribed(name) => Body::Control(Control::Unsubscribed(topic(name)?)),
        WireBody::Tombstone => Body::Tombstone,
    })
}

fn batch_from(batch: WireBatch<'_>) -> Result<Arc<Batch>, Unreadable> {
    if batch.entries.is_empty() {
        return Err(Unreadable("an empty batch"));
    }
    let log = log_from(&batch.log)?;
    Ok(Arc::new(Batch::new(log, Epoch(batch.epoch), entries_from(batch.entries)?)))
}

fn entries_from(entries: Vec<WireEntry<'_>>) -> Result<Vec<Arc<Entry>>, Unreadable> {
    let entry = |entry: WireEntry<'_>| {
        Ok(Arc::new(Entry::new(
            Offset(entry.offset),
            Offset(entry.predecessor),
            MessageId(entry.message),
            entry.expires_at_ms,
            body_from(entry.body)?,
        )))
    };
    entries.into_iter().map(entry).collect()
}

fn page_from(page: WirePage<'_>) -> Result<Page, Unreadable> {
    Ok(Page {
        epoch: Epoch(page.epoch),
        entries: entries_from(page.entries)?,
        head: Offset(page.head),
        evicted_to: Offset(page.evicted_to),
        more: page.more,
    })
}

fn read_from(read: &WireRead<'_>) -> Result<Read, Unreadable> {
    Ok(Read {
        log: log_from(&read.log)?,
        after: Offset(read.after),
        entries_max: read.entries_max,
        bytes_max: read.bytes_max,
    })
}

fn append_from(log: &Arc<LogKey>, append: WireAppend<'_>) -> Result<NewEntry, Unreadable> {
    Ok(NewEntry {
        log: Arc::clone(log),
        message: MessageId(append.message),
        expires_at_ms: append.expires_at_ms,
        body: body_from(append.body)?,
        limits: LogLimits {
            entries_max: append.entries_max,
            bytes_max: append.bytes_max,
            evict: append.evict,
        },
        first_attempt_ms: append.first_attempt_ms,
        begun_ms: 0, // whoever serves it knows when it came
        deadline_ms: append.deadline_ms,
    })
}

fn result_from(result: WireResult<'_>) -> AppendResult {
    match result {
        WireResult::Done { epoch, offset, predecessor, duplicate, audience, evicted } => {
            AppendResult::Done(Appended {
                epoch: Epoch(epoch),
                offset: Offset(offset),
                predecessor: Offset(predecessor),
                duplicate,
                audience,
                evicted,
            })
        }
        WireResult::NotTried => AppendResult::NotTried,
        WireResult::Away(why) => AppendResult::Unavailable(why.to_owned()),
        // Whoever says `Unavailable` may have tried before: it is looked for (I2).
        WireResult::Unavailable(why) | WireResult::Unknown(why) => {
            AppendResult::Unknown(why.to_owned())
        }
        WireResult::LogFull => AppendResult::LogFull,
        WireResult::Full(why) => AppendResult::Full(why.to_owned()),
    }
}

fn question_from(question: WireQuestion<'_>) -> Result<Question, Unreadable> {
    Ok(match question {
        WireQuestion::Online(logs) => Question::Online(logs_from(&logs)?),
        WireQuestion::FlushCursors(log) => Question::FlushCursors(log_from(&log)?),
        WireQuestion::Kick(log) => Question::Kick(log_from(&log)?),
        WireQuestion::Reload(log) => Question::Reload(log_from(&log)?),
        WireQuestion::Status => Question::Status,
        WireQuestion::Drain => Question::Drain,
        WireQuestion::Read(reads) => {
            Question::Read(reads.iter().map(read_from).collect::<Result<_, _>>()?)
        }
    })
}
