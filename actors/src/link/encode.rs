//! Frames on their way out, composed into the scratch buffer of the thread: `deliver` frames from
//! fragments that all sessions share, the rest from the protocol's types.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Batch, Body, Entry};
use clarion_protocol::Offset;
use clarion_protocol::terminal::{
    LogAlias, NodeFrame, PayloadRef, SessionNumber, write_deliver_head, write_deliver_tail,
    write_message,
};

use super::io::text_header;

/// What a thread keeps of its scratch buffer between two links.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;
/// The largest `deliver` frame that several messages share, in bytes: readers of frames hold one
/// in memory.
const FRAME_BYTES_MAX: usize = 32 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Takes the thread's scratch buffer, empty.
pub(super) fn take_scratch() -> Vec<u8> {
    SCRATCH.take()
}

/// Gives it back.
pub(super) fn return_scratch(mut scratch: Vec<u8>) {
    scratch.clear();
    scratch.shrink_to(SCRATCH_KEPT_BYTES);
    SCRATCH.set(scratch);
}

/// Appends a frame of the protocol.
pub(super) fn frame(out: &mut Vec<u8>, frame: &NodeFrame) {
    let text = frame.to_json();
    text_header(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends the `deliver` frame of a whole batch.
pub(super) fn batch(out: &mut Vec<u8>, s: SessionNumber, l: LogAlias, batch: &Arc<Batch>) {
    let joined = batch.joined(|batch| {
        let mut joined = Vec::new();
        for (number, entry) in batch.entries.iter().enumerate() {
            if number > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(fragment(entry));
        }
        Bytes::from(joined)
    });
    if joined.len() > FRAME_BYTES_MAX && batch.entries.len() > 1 {
        return entries(out, s, l, false, &batch.entries);
    }
    deliver(out, s, l, false, std::iter::once(joined), joined.len());
}

/// Appends `deliver` frames of some entries.
pub(super) fn entries(
    out: &mut Vec<u8>,
    s: SessionNumber,
    l: LogAlias,
    again: bool,
    entries: &[Arc<Entry>],
) {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut length = 0;
        let mut count = 0;
        for entry in rest {
            let more = fragment(entry).len() + usize::from(count > 0);
            if count > 0 && length + more > FRAME_BYTES_MAX {
                break;
            }
            length += more;
            count += 1;
        }
        let (now, later) = rest.split_at(count);
        deliver(out, s, l, again, now.iter().map(fragment), length);
        rest = later;
    }
}

fn deliver<'a>(
    out: &mut Vec<u8>,
    s: SessionNumber,
    l: LogAlias,
    again: bool,
    parts: impl Iterator<Item = &'a Bytes>,
    parts_length: usize,
) {
    // The head is short: composed at the end first, it says how long the frame is.
    let start = out.len();
    write_deliver_head(out, s, l, again);
    let head_length = out.len() - start;
    let mut head = [0; 96];
    let head = &mut head[..head_length.min(96)];
    head.copy_from_slice(&out[start..start + head.len()]);
    out.truncate(start);
    text_header(out, head.len() + parts_length + 2);
    out.extend_from_slice(head);
    for (number, part) in parts.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(part);
    }
    write_deliver_tail(out);
}

fn fragment(entry: &Arc<Entry>) -> &Bytes {
    entry.fragment(|entry| {
        let mut out = Vec::new();
        let offset = (entry.offset != Offset::ZERO).then_some(entry.offset);
        let payload = match &entry.body {
            Body::Json(text) => PayloadRef::Json(text),
            Body::Bytes { content_type, data } => PayloadRef::Bytes { content_type, data },
            // Sessions pass these silently.
            Body::Control(_) | Body::Tombstone => PayloadRef::Json(b"null"),
        };
        write_message(&mut out, offset, entry.message, payload);
        Bytes::from(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clarion_core::LogKey;
    use clarion_protocol::{Epoch, MessageId, ProductId};
    use std::str::from_utf8;

    fn entry(offset: u64, text: &str) -> Arc<Entry> {
        let body = Body::Json(Bytes::copy_from_slice(text.as_bytes()));
        Arc::new(Entry::new(Offset(offset), Offset(offset - 1), MessageId(7), 0, body))
    }

    /// Splits unmasked server frames.
    fn frames(mut bytes: &[u8]) -> Vec<NodeFrame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(bytes[0], 0x81);
            let (length, head) = match bytes[1] {
                126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
                127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
                length => (usize::from(length), 2),
            };
            frames.push(NodeFrame::parse(from_utf8(&bytes[head..head + length]).unwrap()).unwrap());
            bytes = &bytes[head + length..];
        }
        frames
    }

    fn offsets(frames: &[NodeFrame]) -> Vec<u64> {
        let messages = frames.iter().flat_map(|frame| match frame {
            NodeFrame::Deliver(deliver) => deliver.m.iter(),
            other => panic!("{other:?}"),
        });
        messages.map(|message| message.o.unwrap().0).collect()
    }

    #[test]
    fn a_batch_is_one_frame_with_all_of_its_entries() {
        let log = LogKey::broadcast(&ProductId::new("demo").unwrap());
        let entries = (1..=20).map(|offset| entry(offset, "{\"a\":[1,2]}")).collect();
        let mut out = Vec::new();
        batch(&mut out, 3, 2, &Arc::new(Batch::new(log, Epoch(1), entries)));
        let frames = frames(&out);
        assert_eq!(frames.len(), 1);
        assert_eq!(offsets(&frames), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn many_large_entries_are_split_into_frames_below_the_limit() {
        let big = format!("\"{}\"", "x".repeat(5000));
        let large: Vec<_> = (1..=30).map(|offset| entry(offset, &big)).collect();
        let mut out = Vec::new();
        entries(&mut out, 1, 1, true, &large);
        let frames = frames(&out);
        assert!(frames.len() > 1 && frames.len() < 30, "{}", frames.len());
        assert_eq!(offsets(&frames), (1..=30).collect::<Vec<_>>());
    }
}
