//! Bytes of the messages between nodes: the one file that knows `bincode` (varint, little endian,
//! positional). A message is the wire version as two bytes, the variant's number, its fields. What a
//! later version adds comes behind the fields of the former, so a node writes for a former version by
//! leaving it away; see [`Later`].
//!
//! Bytes from a peer are checked: lengths before anything is allocated, names as anywhere else, and
//! nothing may be left over. What does not fit is an error, never a panic.

mod read;

use std::sync::Arc;

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use clarion_core::placement::SlotSet;
use clarion_core::{Batch, Body, Control, Entry, LogKey, Page};
use clarion_protocol::Offset;
use clarion_storage::Read;

use super::wire::{Announced, AppendResult, PeerMessage, Question, Reply, WIRE_MIN, wire_max};
use crate::intake::NewEntry;

/// Longest message that is decoded, in bytes; peer links refuse what is longer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const CONFIG: Configuration<LittleEndian, Varint, Limit<MESSAGE_BYTES_MAX>> =
    standard().with_limit::<MESSAGE_BYTES_MAX>();

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) &'static str);

#[derive(Encode, BorrowDecode)]
struct WireLog<'a> {
    product: &'a str,
    kind: u8,
    name: &'a str,
}

#[derive(Encode, BorrowDecode)]
enum WireBody<'a> {
    Json(&'a [u8]),
    Bytes { content_type: &'a str, data: &'a [u8] },
    Subscribed(&'a str),
    Unsubscribed(&'a str),
    Tombstone,
}

#[derive(Encode, BorrowDecode)]
struct WireEntry<'a> {
    offset: u64,
    predecessor: u64,
    message: u128,
    expires_at_ms: u64,
    body: WireBody<'a>,
}

#[derive(Encode, BorrowDecode)]
struct WireBatch<'a> {
    log: WireLog<'a>,
    epoch: u64,
    entries: Vec<WireEntry<'a>>,
}

#[derive(Encode, BorrowDecode)]
struct WireAppend<'a> {
    message: u128,
    expires_at_ms: u64,
    body: WireBody<'a>,
    entries_max: u32,
    bytes_max: u64,
    evict: bool,
    first_attempt_ms: Option<u64>,
    deadline_ms: u64,
}

/// Variants are numbered by their order: new ones go to the end. `Unavailable` is of releases whose owners
/// said so also of an append that they had tried before with an unknown end; `Away` says that nothing
/// happened at all. Such a release cannot read the latter, and waits for the end of its attempt as if the
/// answer were lost (I2).
#[derive(Encode, BorrowDecode)]
enum WireResult<'a> {
    Done { epoch: u64, offset: u64, predecessor: u64, duplicate: bool, audience: u64, evicted: u32 },
    NotTried,
    Unavailable(&'a str),
    Unknown(&'a str),
    LogFull,
    Full(&'a str),
    Away(&'a str),
}

#[derive(Encode, BorrowDecode)]
struct WireHead<'a> {
    log: WireLog<'a>,
    head: u64,
}

#[derive(Encode, BorrowDecode)]
struct WireInterest<'a> {
    log: WireLog<'a>,
    generation: u64,
}

#[derive(Encode, BorrowDecode)]
struct WireRead<'a> {
    log: WireLog<'a>,
    after: u64,
    entries_max: u32,
    bytes_max: u32,
}

#[derive(Encode, BorrowDecode)]
struct WirePage<'a> {
    epoch: u64,
    entries: Vec<WireEntry<'a>>,
    head: u64,
    evicted_to: u64,
    more: bool,
}

/// Variants are numbered by their order: new ones go to the end.
#[derive(Encode, BorrowDecode)]
enum WireQuestion<'a> {
    Online(Vec<WireLog<'a>>),
    FlushCursors(WireLog<'a>),
    Kick(WireLog<'a>),
    Reload(WireLog<'a>),
    Status,
    Drain,
    Read(Vec<WireRead<'a>>),
}

/// As above.
#[derive(Encode, BorrowDecode)]
enum WireReply<'a> {
    Each(Vec<bool>),
    Is(bool),
    Text(&'a str),
    Pages(Vec<Option<WirePage<'a>>>),
}

/// Variants are numbered by their order: new ones go to the end.
#[derive(Encode, BorrowDecode)]
enum WireMessage<'a> {
    Append { request: u64, log: WireLog<'a>, entries: Vec<WireAppend<'a>> },
    Appended { request: u64, results: Vec<WireResult<'a>> },
    Ephemeral(WireBatch<'a>),
    Hint { batch: WireBatch<'a>, ephemeral: bool, listed: bool },
    Grew(Vec<WireHead<'a>>),
    Heads(Vec<WireHead<'a>>),
    Confirm(Vec<WireHead<'a>>),
    Interest { logs: Vec<WireInterest<'a>>, since_ms: u64 },
    NoInterest(Vec<WireLog<'a>>),
    Complete(Vec<u8>),
    Leave(Vec<u8>),
    AnnounceAgain(Vec<u8>),
    OwnerChanged(WireLog<'a>),
    Dropped(Vec<u8>),
    Superseded { log: WireLog<'a>, generation: u64 },
    Ask { request: u64, question: WireQuestion<'a> },
    Answer { request: u64, reply: WireReply<'a> },
    ProductChanged(&'a str),
    Hello,
}

/// What version 2 puts behind a hint: when it left its owner, Unix milliseconds of the store.
#[derive(Encode, BorrowDecode, Default)]
struct Later {
    sent_ms: u64,
}

/// The bytes of a message for a peer that speaks `version`.
pub(crate) fn encode(message: &PeerMessage, version: u16, now_ms: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&version.to_le_bytes());
    let wire = to_wire(message);
    let mut done = bincode::encode_into_std_write(&wire, &mut bytes, CONFIG);
    if version >= 2 && matches!(wire, WireMessage::Hint { .. }) {
        let later = Later { sent_ms: now_ms };
        done = done.and(bincode::encode_into_std_write(&later, &mut bytes, CONFIG));
    }
    if let Err(error) = done {
        // Writing to memory does not fail; a link refuses what comes of it.
        tracing::error!(%error, "a message to a peer was not encoded");
        bytes.clear();
    }
    Bytes::from(bytes)
}

/// The message that these bytes are.
pub(crate) fn decode(bytes: &[u8], now_ms: u64) -> Result<PeerMessage, Unreadable> {
    decode_up_to(wire_max(), bytes, now_ms)
}

fn decode_up_to(highest: u16, bytes: &[u8], now_ms: u64) -> Result<PeerMessage, Unreadable> {
    let (version, body) = bytes.split_at_checked(2).ok_or(Unreadable("too short"))?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    if !(WIRE_MIN..=highest).contains(&version) {
        return Err(Unreadable("an unknown version"));
    }
    let (wire, mut read): (WireMessage<'_>, usize) =
        bincode::borrow_decode_from_slice(body, CONFIG).map_err(|_| Unreadable("damaged"))?;
    if version >= 2 && matches!(wire, WireMessage::Hint { .. }) {
        let rest = body.get(read..).unwrap_or_default();
        let (found, more): (Later, usize) =
            bincode::borrow_decode_from_slice(rest, CONFIG).map_err(|_| Unreadable("damaged"))?;
        read += more;
        note_way(found.sent_ms, now_ms);
    }
    if read != body.len() {
        return Err(Unreadable("longer than it says"));
    }
    read::from_wire(wire)
}

/// How long a hint was on its way, by the clocks of both ends.
fn note_way(sent_ms: u64, now_ms: u64) {
    let way_ms = now_ms.saturating_sub(sent_ms);
    metrics::histogram!("clarion_hint_way_ms").record(way_ms as f64);
}

fn to_wire(message: &PeerMessage) -> WireMessage<'_> {
    let slots = |slots: &SlotSet| slots.to_bytes().to_vec();
    match message {
        PeerMessage::Append { request, entries } => WireMessage::Append {
            request: *request,
            log: entries.first().map_or_else(no_log, |entry| log_to(&entry.log)),
            entries: entries.iter().map(append_to).collect(),
        },
        PeerMessage::Appended { request, results } => WireMessage::Appended {
            request: *request,
            results: results.iter().map(result_to).collect(),
        },
        PeerMessage::Ephemeral { batch } => WireMessage::Ephemeral(batch_to(batch)),
        PeerMessage::Hint { batch, ephemeral, listed } => {
            WireMessage::Hint { batch: batch_to(batch), ephemeral: *ephemeral, listed: *listed }
        }
        PeerMessage::Grew { heads } => WireMessage::Grew(heads_to(heads)),
        PeerMessage::Heads { heads } => WireMessage::Heads(heads_to(heads)),
        PeerMessage::Confirm { heads } => WireMessage::Confirm(heads_to(heads)),
        PeerMessage::Interest { logs, since_ms } => {
            let logs = logs.iter().map(interest_to).collect();
            WireMessage::Interest { logs, since_ms: *since_ms }
        }
        PeerMessage::NoInterest { logs } => {
            WireMessage::NoInterest(logs.iter().map(|log| log_to(log)).collect())
        }
        PeerMessage::Complete { slots: of } => WireMessage::Complete(slots(of)),
        PeerMessage::Leave { slots: of } => WireMessage::Leave(slots(of)),
        PeerMessage::AnnounceAgain { slots: of } => WireMessage::AnnounceAgain(slots(of)),
        PeerMessage::OwnerChanged { log } => WireMessage::OwnerChanged(log_to(log)),
        PeerMessage::Dropped { slots: of } => WireMessage::Dropped(slots(of)),
        PeerMessage::Superseded { log, generation } => {
            WireMessage::Superseded { log: log_to(log), generation: *generation }
        }
        PeerMessage::Ask { request, question } => {
            WireMessage::Ask { request: *request, question: question_to(question) }
        }
        PeerMessage::Answer { request, reply } => {
            let reply = match reply {
                Reply::Each(each) => WireReply::Each(each.clone()),
                Reply::Is(is) => WireReply::Is(*is),
                Reply::Text(text) => WireReply::Text(text),
                Reply::Pages(pages) => {
                    WireReply::Pages(pages.iter().map(|page| page.as_ref().map(page_to)).collect())
                }
            };
            WireMessage::Answer { request: *request, reply }
        }
        PeerMessage::ProductChanged { product } => WireMessage::ProductChanged(product.as_str()),
        PeerMessage::Hello => WireMessage::Hello,
    }
}

fn no_log<'a>() -> WireLog<'a> {
    WireLog { product: "", kind: 0, name: "" }
}

fn log_to(log: &LogKey) -> WireLog<'_> {
    WireLog { product: log.product.as_str(), kind: log.kind as u8, name: &log.name }
}

fn interest_to(announced: &Announced) -> WireInterest<'_> {
    WireInterest { log: log_to(&announced.log), generation: announced.generation }
}

fn heads_to(heads: &[(Arc<LogKey>, Offset)]) -> Vec<WireHead<'_>> {
    heads.iter().map(|(log, head)| WireHead { log: log_to(log), head: head.0 }).collect()
}

fn body_to(body: &Body) -> WireBody<'_> {
    match body {
        Body::Json(text) => WireBody::Json(text),
        Body::Bytes { content_type, data } => WireBody::Bytes { content_type, data },
        Body::Control(Control::Subscribed(topic)) => WireBody::Subscribed(topic.as_str()),
        Body::Control(Control::Unsubscribed(topic)) => WireBody::Unsubscribed(topic.as_str()),
        Body::Tombstone => WireBody::Tombstone,
    }
}

fn batch_to(batch: &Batch) -> WireBatch<'_> {
    WireBatch {
        log: log_to(&batch.log),
        epoch: batch.epoch.0,
        entries: batch.entries.iter().map(|entry| entry_to(entry)).collect(),
    }
}

fn entry_to(entry: &Entry) -> WireEntry<'_> {
    WireEntry {
        offset: entry.offset.0,
        predecessor: entry.predecessor.0,
        message: entry.message.0,
        expires_at_ms: entry.expires_at_ms,
        body: body_to(&entry.body),
    }
}

fn read_to(read: &Read) -> WireRead<'_> {
    WireRead {
        log: log_to(&read.log),
        after: read.after.0,
        entries_max: read.entries_max,
        bytes_max: read.bytes_max,
    }
}

fn page_to(page: &Page) -> WirePage<'_> {
    WirePage {
        epoch: page.epoch.0,
        entries: page.entries.iter().map(|entry| entry_to(entry)).collect(),
        head: page.head.0,
        evicted_to: page.evicted_to.0,
        more: page.more,
    }
}

fn append_to(entry: &NewEntry) -> WireAppend<'_> {
    WireAppend {
        message: entry.message.0,
        expires_at_ms: entry.expires_at_ms,
        body: body_to(&entry.body),
        entries_max: entry.limits.entries_max,
        bytes_max: entry.limits.bytes_max,
        evict: entry.limits.evict,
        first_attempt_ms: entry.first_attempt_ms,
        deadline_ms: entry.deadline_ms,
    }
}

fn result_to(result: &AppendResult) -> WireResult<'_> {
    match result {
        AppendResult::Done(appended) => WireResult::Done {
            epoch: appended.epoch.0,
            offset: appended.offset.0,
            predecessor: appended.predecessor.0,
            duplicate: appended.duplicate,
            audience: appended.audience,
            evicted: appended.evicted,
        },
        AppendResult::NotTried => WireResult::NotTried,
        AppendResult::Unavailable(why) => WireResult::Away(why),
        AppendResult::Unknown(why) => WireResult::Unknown(why),
        AppendResult::LogFull => WireResult::LogFull,
        AppendResult::Full(why) => WireResult::Full(why),
    }
}

fn question_to(question: &Question) -> WireQuestion<'_> {
    match question {
        Question::Online(logs) => WireQuestion::Online(logs.iter().map(|l| log_to(l)).collect()),
        Question::FlushCursors(log) => WireQuestion::FlushCursors(log_to(log)),
        Question::Kick(log) => WireQuestion::Kick(log_to(log)),
        Question::Reload(log) => WireQuestion::Reload(log_to(log)),
        Question::Status => WireQuestion::Status,
        Question::Drain => WireQuestion::Drain,
        Question::Read(reads) => WireQuestion::Read(reads.iter().map(read_to).collect()),
    }
}

#[cfg(test)]
mod tests;
