//! Idempotency keys and nonces.

use bytes::Bytes;
use clarion_protocol::{MessageId, ProductId};
use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

use ::redis::Value;

use super::link::Request;
use super::reply::{Args, Parts};
use super::schema::{NONCE_TAGS, claim_tag, gone_tag, nonce_tag};
use super::{KEPT_MS, RedisStore, codec, scripts};
use crate::{Claim, ClaimOutcome, ConsumeNonce, Finish, NonceUse, StoreError, StoreResult};

/// Longest outcome that is kept.
const OUTCOME_BYTES_MAX: usize = 65_536;

/// Sets of nonces of one product that hold its share of `nonces_max`: tags times minutes.
const NONCE_SETS: usize = 64;

const NONCE_MINUTE_S: u64 = 60;

/// Product, share, minute, window.
type NonceSet<'a> = (&'a ProductId, u64, u64, u64);

impl RedisStore {
    pub(super) async fn claim_batch(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>> {
        join_all(claims.iter().map(|claim| self.claim_one(claim))).await
    }

    async fn claim_one(&self, claim: &Claim) -> StoreResult<ClaimOutcome> {
        let (outcome, holder) = self.claim_unless(claim, &[]).await?;
        let Some(holder) = holder.filter(|holder| holder[..] != self.boot) else {
            return Ok(outcome);
        };
        // A process that was closed said so: none of its attempts can still arrive, so nobody has
        // to wait for its time to end (I2). Of one that died nobody can say that.
        if self.get(&gone_tag(&holder)).await? == Value::Nil {
            return Ok(outcome);
        }
        Ok(self.claim_unless(claim, &holder).await?.0)
    }

    /// Claims a key; one that `gone` works on is free. With who works on it, if somebody does.
    async fn claim_unless(
        &self,
        claim: &Claim,
        gone: &[u8],
    ) -> StoreResult<(ClaimOutcome, Option<Vec<u8>>)> {
        let tag = claim_tag(&claim.product, &claim.key);
        let args = Args::new()
            .number(self.shift_ms())
            .bytes(claim.message.0.to_be_bytes())
            .bytes(claim.body_hash)
            .number(claim.expires_at_ms.min(codec::NEVER_MS))
            .number(claim.until_ms.min(codec::NEVER_MS))
            .number(claim.keep_until_ms.min(codec::NEVER_MS))
            .bytes(self.boot)
            .bytes(gone);
        let answer = self.shards.write(&tag, self.call(&scripts::CLAIM, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        Ok(match parts.number()? {
            0 => (ClaimOutcome::New, None),
            1 => {
                let until_ms = parts.number()?;
                (ClaimOutcome::InProgress { until_ms }, Some(parts.bytes()?))
            }
            2 => {
                let outcome = ClaimOutcome::TakenOver {
                    message: message_id(&parts.bytes()?)?,
                    expires_at_ms: parts.number()?,
                    first_attempt_ms: parts.number()?,
                    partial: parts.maybe_bytes()?.map(Bytes::from),
                };
                (outcome, None)
            }
            3 => {
                let message = message_id(&parts.bytes()?)?;
                let outcome = Bytes::from(parts.maybe_bytes()?.unwrap_or_default());
                (ClaimOutcome::Done { message, outcome }, None)
            }
            _ => (ClaimOutcome::Mismatch, None),
        })
    }

    pub(super) async fn finish_batch(&self, outcomes: Vec<Finish>) -> StoreResult<()> {
        if outcomes.iter().any(|finish| finish.outcome.len() > OUTCOME_BYTES_MAX) {
            return Err(StoreError::Unavailable("the outcome is longer than 64 KiB".into()));
        }
        let finished = outcomes.iter().map(|finish| async move {
            let tag = claim_tag(&finish.product, &finish.key);
            let args = Args::new()
                .bytes(finish.message.0.to_be_bytes())
                .flag(finish.done)
                .bytes(&finish.outcome[..]);
            self.shards.write_relaxed(&tag, self.call(&scripts::FINISH, &tag, args)).await
        });
        join_all(finished).await.into_iter().try_for_each(|finished| finished.map(drop))
    }

    /// Says that this process works on nothing any more.
    pub(super) async fn say_gone(&self) -> StoreResult<()> {
        let tag = gone_tag(&self.boot);
        let key = self.keys.main(&tag);
        let lives_ms = KEPT_MS.to_string();
        let command = Request::command([&b"SET"[..], &key, b"1", b"PX", lives_ms.as_bytes()]);
        self.shards.write_relaxed(&tag, command).await.map(drop)
    }

    pub(super) async fn consume_batch(
        &self,
        nonces: Vec<ConsumeNonce>,
    ) -> StoreResult<Vec<NonceUse>> {
        let mut sets: HashMap<NonceSet<'_>, Vec<(usize, u64)>> = HashMap::new();
        for (index, nonce) in nonces.iter().enumerate() {
            let hash = self.nonce_hash(nonce);
            let minute = nonce.timestamp_s / NONCE_MINUTE_S;
            let set = (&nonce.product, hash % NONCE_TAGS, minute, nonce.window_s);
            sets.entry(set).or_default().push((index, hash));
        }
        let used = sets.into_iter().map(|((product, share, minute, window_s), items)| async move {
            let tag = nonce_tag(product, share);
            let mut args = Args::new()
                .number(self.shift_ms())
                .number(minute)
                .number(window_s)
                .number((self.nonces_max / NONCE_SETS).max(1) as u64);
            items.iter().for_each(|(_, hash)| args.push_number(*hash));
            let key = self.keys.with(&tag, &format!(":{minute}"));
            let call = super::call_of(&scripts::NONCE, key, args);
            let mut parts = Parts::of(self.shards.write_relaxed(&tag, call).await?)?;
            let mut used = Vec::with_capacity(items.len());
            for (index, _) in items {
                used.push((index, parts.number()?));
            }
            Ok::<_, StoreError>(used)
        });
        let mut answers = vec![NonceUse::Full; nonces.len()];
        for used in join_all(used).await {
            for (index, used) in used? {
                answers[index] = match used {
                    1 => NonceUse::Fresh,
                    0 => NonceUse::Replayed,
                    _ => {
                        metrics::counter!("clarion_store_nonces_full_total").increment(1);
                        NonceUse::Full
                    }
                };
            }
        }
        Ok(answers)
    }

    /// 62 bits, so that Redis keeps small sets as integers.
    fn nonce_hash(&self, nonce: &ConsumeNonce) -> u64 {
        let mut sha = Sha256::new();
        sha.update(self.epoch.0.to_le_bytes());
        for part in [nonce.product.as_str(), nonce.key.as_str(), &nonce.nonce] {
            sha.update((part.len() as u64).to_le_bytes());
            sha.update(part);
        }
        sha.update(nonce.timestamp_s.to_le_bytes());
        let digest = sha.finalize();
        digest.iter().take(8).fold(0, |hash: u64, &byte| (hash << 8) | u64::from(byte)) >> 2
    }
}

fn message_id(bytes: &[u8]) -> StoreResult<MessageId> {
    let bytes =
        bytes.try_into().map_err(|_| codec::damaged("claims", "", "its id is too short"))?;
    Ok(MessageId(u128::from_be_bytes(bytes)))
}
