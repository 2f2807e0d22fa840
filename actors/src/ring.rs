//! The tail of a wide log in memory, so that a session that is a little behind need not read the
//! store (step 7 of the way of a push). Kept by the relay of the log; lost with it, which costs
//! reads and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clarion_core::{Batch, LogKey, Page};
use clarion_protocol::{Epoch, Offset};
use clarion_storage::Read;

/// Payload bytes that one log may keep.
pub(crate) const RING_BYTES_MAX: usize = 256 * 1024;

/// The latest batches of a wide log, for sessions that are a little behind.
#[derive(Default)]
pub(crate) struct TailRing {
    epoch: Epoch,
    batches: VecDeque<Arc<Batch>>,
    entries: usize,
    bytes: usize,
    entries_max: usize,
}

impl TailRing {
    /// Of at most so many entries.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries_max, ..Self::default() }
    }

    pub(crate) fn push(&mut self, batch: &Arc<Batch>) {
        let continues =
            match (self.batches.back().and_then(|last| last.entries.last()), batch.entries.first())
            {
                (Some(last), Some(first)) => {
                    last.offset == first.predecessor && self.epoch == batch.epoch
                }
                _ => true,
            };
        if !continues {
            self.clear();
        }
        self.epoch = batch.epoch;
        self.entries += batch.entries.len();
        self.bytes += payload_bytes(batch);
        self.batches.push_back(Arc::clone(batch));
        while self.batches.len() > 1
            && (self.entries > self.entries_max || self.bytes > RING_BYTES_MAX)
        {
            if let Some(old) = self.batches.pop_front() {
                self.entries -= old.entries.len();
                self.bytes -= payload_bytes(&old);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.batches = VecDeque::new();
        (self.entries, self.bytes) = (0, 0);
    }

    /// The page, if everything from behind `read.after` up to the head is here.
    pub(crate) fn read(&self, read: &Read, head: Offset) -> Option<Page> {
        let first = self.batches.front()?.entries.first()?;
        let newest = self.batches.back()?.entries.last()?.offset;
        if read.after < first.predecessor || head > newest {
            return None;
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for entry in self.batches.iter().flat_map(|batch| &batch.entries) {
            if entry.offset <= read.after {
                continue;
            }
            let full = entries.len() >= read.entries_max as usize
                || (!entries.is_empty() && bytes + entry.body.len() > read.bytes_max as usize);
            if full {
                more = true;
                break;
            }
            bytes += entry.body.len();
            entries.push(Arc::clone(entry));
        }
        metrics::counter!("clarion_tail_ring_reads_total").increment(1);
        Some(Page { epoch: self.epoch, entries, head: newest, evicted_to: Offset::ZERO, more })
    }

    pub(crate) fn take_written(&self, counts: &mut Vec<(Arc<LogKey>, Offset, u32)>) {
        for batch in &self.batches {
            let written = batch.written.swap(0, Ordering::Relaxed);
            if written > 0 {
                let offsets = batch.entries.iter().map(|entry| entry.offset);
                counts.extend(offsets.map(|offset| (Arc::clone(&batch.log), offset, written)));
            }
        }
    }
}

fn payload_bytes(batch: &Batch) -> usize {
    batch.entries.iter().map(|entry| entry.body.len()).sum()
}
