//! Idempotency keys of callers, and products.

use std::collections::HashMap;

use bytes::Bytes;
use clarion_protocol::MessageId;

use super::codec::{self, ClaimRow};
use super::tables::{Table, View};
use super::{Engine, keys};
use crate::record::ProductRecord;
use crate::{Claim, ClaimOutcome, Finish, StoreError, StoreResult};

/// Longest outcome that is kept.
const OUTCOME_BYTES_MAX: usize = 65_536;
/// Claims in memory from which on those whose time is over are dropped.
const CLAIMED_SWEPT_FROM: usize = 4096;

/// Keys that were claimed since the store was opened and are not finished, and until when. A claim
/// that is not here was made by a process that is gone: none of its attempts can still arrive, for
/// only one process has the store open, so nobody has to wait for its time to end (I2).
#[derive(Default)]
pub(crate) struct Claimed {
    until_ms: HashMap<Box<[u8]>, u64>,
    swept_len: usize,
}

impl Claimed {
    fn add(&mut self, key: &[u8], until_ms: u64, now_ms: u64) {
        if self.until_ms.len() >= CLAIMED_SWEPT_FROM.max(2 * self.swept_len) {
            self.until_ms.retain(|_, until_ms| *until_ms > now_ms);
            self.swept_len = self.until_ms.len();
        }
        self.until_ms.insert(key.into(), until_ms);
    }
}

impl<B: View> Engine<B> {
    fn claim_row(&self, key: &[u8]) -> StoreResult<Option<ClaimRow>> {
        match self.txn.get(Table::Claims, key)? {
            Some(value) => codec::decode(Table::Claims, key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Claims a key, durably before the first append.
    pub(crate) fn claim(&mut self, claim: &Claim) -> StoreResult<ClaimOutcome> {
        let key = keys::pair(claim.product.as_str(), &claim.key);
        let row = self.claim_row(&key)?.filter(|row| row.keep_until_ms > self.now_ms);
        let Some(mut row) = row else {
            if self.full {
                return Err(self.full_error());
            }
            let row = ClaimRow {
                message: claim.message.0,
                body_hash: claim.body_hash,
                expires_at_ms: claim.expires_at_ms,
                until_ms: claim.until_ms,
                keep_until_ms: claim.keep_until_ms,
                first_attempt_ms: self.now_ms,
                done: false,
                outcome: None,
            };
            self.put_claim(&key, &row);
            self.claimed.add(&key, claim.until_ms, self.now_ms);
            self.sync = true;
            return Ok(ClaimOutcome::New);
        };
        if row.body_hash != claim.body_hash {
            return Ok(ClaimOutcome::Mismatch);
        }
        let message = MessageId(row.message);
        let outcome = row.outcome.clone().map(Bytes::from);
        if row.done {
            return Ok(ClaimOutcome::Done { message, outcome: outcome.unwrap_or_default() });
        }
        if row.until_ms > self.now_ms && self.claimed.until_ms.contains_key(&*key) {
            return Ok(ClaimOutcome::InProgress { until_ms: row.until_ms });
        }
        if self.full {
            return Err(self.full_error());
        }
        row.until_ms = claim.until_ms;
        row.keep_until_ms = row.keep_until_ms.max(claim.keep_until_ms);
        self.put_claim(&key, &row);
        self.claimed.add(&key, claim.until_ms, self.now_ms);
        self.sync = true;
        Ok(ClaimOutcome::TakenOver {
            message,
            expires_at_ms: row.expires_at_ms,
            first_attempt_ms: row.first_attempt_ms,
            partial: outcome,
        })
    }

    fn put_claim(&mut self, key: &[u8], row: &ClaimRow) {
        let value = codec::encode(row, key);
        self.txn.put(Table::Claims, key, value);
    }

    /// Records outcomes; needs no sync.
    pub(crate) fn finish(&mut self, outcomes: &[Finish]) -> StoreResult<()> {
        for finish in outcomes {
            if finish.outcome.len() > OUTCOME_BYTES_MAX {
                return Err(StoreError::Unavailable("the outcome is longer than 64 KiB".into()));
            }
            let key = keys::pair(finish.product.as_str(), &finish.key);
            let Some(mut row) = self.claim_row(&key)? else { continue };
            if row.message == finish.message.0 && !row.done {
                self.claimed.until_ms.remove(&*key);
                row.done = finish.done;
                row.outcome = Some(finish.outcome.to_vec());
                row.until_ms = 0;
                self.put_claim(&key, &row);
            }
        }
        Ok(())
    }

    /// Creates or replaces a product.
    pub(crate) fn put_product(
        &mut self,
        product: &ProductRecord,
        expect_absent: bool,
    ) -> StoreResult<bool> {
        let key = product.product.as_str().as_bytes();
        if expect_absent && self.txn.contains(Table::Products, key)? {
            return Ok(false);
        }
        if self.full {
            return Err(self.full_error());
        }
        let value = codec::encode_product(product, key);
        self.txn.put(Table::Products, key, value);
        self.sync = true;
        Ok(true)
    }
}
