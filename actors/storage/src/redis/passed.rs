//! What cursors passed in one log, all readers of a batch together (I13).

use std::collections::BTreeMap;

use clarion_core::Settled;
use clarion_protocol::Offset;

use super::reply::Args;
use crate::engine::codec::Outcome;
use crate::engine::counts::{gaps_of, is_exception, outcome_of};

/// What passed over the messages of a log: changes of the number of readers at the offsets behind
/// which they hold, and what became of single entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    edges: BTreeMap<Offset, [i64; 2]>,
    /// When.
    at_ms: u64,
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

    /// Behind where it begins, and up to where it goes.
    pub(super) fn ends(&self) -> Option<(Offset, Offset)> {
        Some((*self.edges.first_key_value()?.0, *self.edges.last_key_value()?.0))
    }

    /// As COUNT takes it: when, edges, exceptions.
    pub(super) fn put(&self, args: &mut Args) {
        args.push_number(self.at_ms);
        args.push_number(self.edges.len() as u64);
        for (offset, changes) in &self.edges {
            args.push_number(offset.0);
            changes.iter().for_each(|change| args.push_number(*change));
        }
        for (offset, counts) in &self.exceptions {
            args.push_number(offset.0);
            counts.iter().for_each(|count| args.push_number(*count));
        }
    }

    /// What it says of one entry: acknowledged, told as a gap, and exceptions.
    #[cfg(test)]
    pub(super) fn at_offset(&self, offset: Offset) -> [i64; 5] {
        let mut counts = [0; 5];
        for changes in self.edges.range(..offset).map(|(_, changes)| changes) {
            counts.iter_mut().zip(changes).for_each(|(count, change)| *count += change);
        }
        if let Some([acks, gaps, others @ ..]) = self.exceptions.get(&offset) {
            counts[BY_ACK] -= acks;
            counts[BY_GAP] -= gaps;
            counts[2..].copy_from_slice(others);
        }
        counts
    }
}
