//! Reading logs, never what could still be lost (I1).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use clarion_core::Page;
use clarion_core::fault::{Mutant, mutated};
use clarion_protocol::Offset;
use futures_util::future::join_all;

use super::link::Term;
use super::reply::Parts;
use super::schema::log_tag;
use super::{RedisStore, codec, scripts};
use crate::{Read, StoreError, StoreResult};

/// An append is answered, or its attempt is over and its connection given up, within this. What is
/// younger may not have been confirmed by replicas yet.
const YOUNG_MS: u64 = 60_000;

/// A page with the time it was read at.
struct Found {
    page: Page,
    now_ms: u64,
}

impl RedisStore {
    pub(super) async fn read_batch(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>> {
        let (mut answers, unconfirmed) = self.read_round(&reads).await;
        // The first confirmation over a new connection speaks of nothing that was read before it.
        let again: Vec<Read> = unconfirmed.iter().map(|index| reads[*index].clone()).collect();
        if !again.is_empty() {
            let (second, _) = self.read_round(&again).await;
            for (index, answer) in unconfirmed.into_iter().zip(second) {
                answers[index] = answer;
            }
        }
        answers
    }

    /// Pages, and which of them could not be confirmed as a whole.
    async fn read_round(&self, reads: &[Read]) -> (Vec<StoreResult<Page>>, Vec<usize>) {
        let tags: Vec<String> = reads.iter().map(|read| log_tag(&read.log)).collect();
        // Before anything is read: what is confirmed is what the same master held.
        let terms: Vec<Term> = tags.iter().map(|tag| self.shards.term(tag)).collect();
        let pages = reads.iter().zip(&tags).map(|(read, tag)| self.read_one(read, tag));
        let pages: Vec<StoreResult<Found>> = join_all(pages).await;
        let confirmed = self.confirm_young(&pages, &terms).await;
        let mut unconfirmed = Vec::new();
        let judged = pages.into_iter().zip(reads.iter().zip(&terms)).enumerate();
        let judged = judged.map(|(index, (found, (read, term)))| {
            let found = found?;
            match confirmed.get(term) {
                Some(Err(error)) if is_young(&found) => {
                    unconfirmed.push(index);
                    cut(found, read.after, error)
                }
                _ => Ok(found.page),
            }
        });
        (judged.collect(), unconfirmed)
    }

    async fn read_one(&self, read: &Read, tag: &str) -> StoreResult<Found> {
        let args = self
            .timed(read.log.kind)
            .number(read.after.0)
            .number(read.entries_max)
            .number(read.bytes_max);
        let answer = self.shards.read(tag, self.call(&scripts::READ, tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        let now_ms = parts.number()?;
        let head = Offset(parts.number()?);
        let evicted_to = Offset(parts.number()?);
        let more = parts.number()? == 1;
        let mut entries = Vec::new();
        while !parts.is_empty() {
            let offset = Offset(parts.number()?);
            let (value, aside) = (parts.bytes()?, parts.bytes()?);
            entries.push(Arc::new(codec::decode_entry(tag, offset, &value, &aside, now_ms)?));
        }
        let page = Page { epoch: self.epoch, entries, head, evicted_to, more };
        Ok(Found { page, now_ms })
    }

    /// Has replicas confirm what is young among the pages, once a shard.
    async fn confirm_young(
        &self,
        pages: &[StoreResult<Found>],
        terms: &[Term],
    ) -> HashMap<Term, StoreResult<()>> {
        if self.replicas_min == 0 || mutated(Mutant::UnconfirmedRead) {
            return HashMap::new();
        }
        let young = pages.iter().zip(terms).filter(|(found, _)| found.as_ref().is_ok_and(is_young));
        let young: HashSet<Term> = young.map(|(_, term)| *term).collect();
        let confirms =
            young.into_iter().map(|term| async move { (term, self.shards.confirm(term).await) });
        join_all(confirms).await.into_iter().collect()
    }
}

fn is_young(found: &Found) -> bool {
    found.page.head > Offset::ZERO
        && found.page.head.time_ms().saturating_add(YOUNG_MS) > found.now_ms
}

/// What is certain of a page that could not be confirmed.
fn cut(found: Found, after: Offset, error: &StoreError) -> StoreResult<Page> {
    let Found { mut page, now_ms } = found;
    let old = |offset: Offset| offset.time_ms().saturating_add(YOUNG_MS) <= now_ms;
    let before = page.entries.len();
    page.entries.retain(|entry| old(entry.offset));
    match page.entries.last() {
        Some(last) => {
            page.head = last.offset;
            page.more = true;
            Ok(page)
        }
        // Who asks was given everything up to there already. Beyond it nobody is told of a head that may
        // still go, nor, when only the head was asked for, of the end of all offsets as if it were one.
        None if before == 0 && after == page.head => Ok(page),
        None => Err(StoreError::Unavailable(format!("not confirmed by replicas: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use clarion_core::{Body, Entry};
    use clarion_protocol::ids::OFFSET_END;
    use clarion_protocol::{Epoch, MessageId};

    use super::*;

    fn found(ages_ms: &[u64]) -> Found {
        let now_ms = 1_800_000_000_000;
        let entries: Vec<_> = ages_ms
            .iter()
            .map(|age_ms| Offset::at_time_ms(now_ms - age_ms))
            .map(|at| Arc::new(Entry::new(at, Offset::ZERO, MessageId(1), 0, Body::Tombstone)))
            .collect();
        let head = entries.last().map_or(Offset::ZERO, |entry| entry.offset);
        let page = Page { epoch: Epoch(1), entries, head, evicted_to: Offset::ZERO, more: false };
        Found { page, now_ms }
    }

    #[test]
    fn i1_an_unconfirmed_page_stops_below_the_first_young_entry() {
        let away = StoreError::Unavailable("away".into());
        let page = cut(found(&[70_000, 61_000, 59_000, 10]), Offset::ZERO, &away).unwrap();
        assert_eq!(page.entries.len(), 2);
        assert_eq!(page.head, page.entries[1].offset);
        assert!(page.more);
        assert!(cut(found(&[10]), Offset::ZERO, &away).is_err());
        let nothing = |after| {
            let mut found = found(&[10]);
            found.page.entries.clear();
            (found.page.head, cut(found, after, &away))
        };
        let head = nothing(Offset::ZERO).0;
        assert_eq!(nothing(head).1.unwrap().head, head);
        assert!(nothing(Offset(head.0 + 1)).1.is_err(), "nor the place that it asked from");
        assert!(nothing(Offset(OFFSET_END - 1)).1.is_err());
        assert!(!is_young(&found(&[60_000])) && is_young(&found(&[70_000, 59_999])));
    }
}
