//! The commit marker: a record in every batch that numbers it and says up to which number batches
//! were known to be synced. Whoever finds a damaged batch in a journal can tell by the markers
//! behind it whether that batch had been promised durable.

use crate::engine::codec;
use crate::engine::tables::{Slice, Table};

/// Begins with a zero, as no other key of any table does but those of nonces, which are longer.
pub(super) const MARKER_KEY: &[u8] = b"\0commit";

/// Number of the batch, and of the last one that was synced before it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) durable: u64,
}

pub(super) fn decode_mark(value: &[u8]) -> Option<Mark> {
    let (number, durable) = codec::decode_quietly(MARKER_KEY, value)?;
    Some(Mark { number, durable })
}

/// Numbers the batches of this process.
#[derive(Debug)]
pub(super) struct Marker {
    number: u64,
    durable: u64,
    vouched: u64,
}

impl Marker {
    /// Goes on behind the last batch that recovery found, which is durable now.
    pub(super) const fn after(last: u64) -> Self {
        Self { number: last, durable: last, vouched: last }
    }

    /// The marker of the next batch.
    pub(super) fn next(&mut self) -> (Slice, Slice) {
        self.number += 1;
        self.vouched = self.durable;
        let value = codec::encode(&(self.number, self.durable), MARKER_KEY);
        (Slice::from(MARKER_KEY), value)
    }

    /// The last batch is durable, and all before it.
    pub(super) const fn synced(&mut self) {
        self.durable = self.number;
    }

    /// Whether a synced batch has no marker behind it yet.
    pub(super) const fn is_open(&self) -> bool {
        self.durable > self.vouched
    }
}

/// The number of the last batch, from its marker.
pub(super) fn last_number(value: Option<&Slice>) -> Result<u64, crate::StoreError> {
    match value {
        Some(value) => {
            let mark = decode_mark(value);
            mark.map(|mark| mark.number)
                .ok_or_else(|| codec::damaged(Table::Meta, MARKER_KEY, "it cannot be read"))
        }
        None => Ok(0),
    }
}
