//! Idempotency keys, nonces, products, closing.

use super::*;
use crate::{ApiKey, Claim, ClaimOutcome, ConsumeNonce, Finish, NonceUse, ProductRecord, TokenKey};
use clarion_protocol::KeyId;
use clarion_protocol::http::TokenAlgorithm;

fn claim_of(store: &dyn Store, key: &str, message: u128) -> Claim {
    let now_ms = store.time_ms();
    Claim {
        product: product(),
        key: key.into(),
        body_hash: [7; 32],
        message: MessageId(message),
        expires_at_ms: now_ms + DAY_MS,
        until_ms: now_ms + 5_000,
        keep_until_ms: now_ms + DAY_MS,
    }
}

async fn claim(store: &dyn Store, claim: Claim) -> ClaimOutcome {
    store.claim(vec![claim]).await.remove(0).unwrap()
}

fn finish_of(key: &str, message: u128, done: bool, outcome: &'static [u8]) -> Finish {
    Finish {
        product: product(),
        key: key.into(),
        message: MessageId(message),
        done,
        outcome: Bytes::from_static(outcome),
    }
}

/// Every branch, the take-over included.
pub async fn claims_bind_replay_and_are_taken_over(harness: &mut impl Harness) {
    let store = harness.store();
    let first = claim_of(&*store, "k", 1);
    let first_ms = store.time_ms();
    assert_eq!(claim(&*store, first.clone()).await, ClaimOutcome::New);
    let other = Claim { body_hash: [8; 32], message: MessageId(2), ..first.clone() };
    assert_eq!(claim(&*store, other.clone()).await, ClaimOutcome::Mismatch);
    let second = Claim { message: MessageId(2), ..first.clone() };
    let busy = ClaimOutcome::InProgress { until_ms: first.until_ms };
    assert_eq!(claim(&*store, second.clone()).await, busy);
    // Keys of other products are others.
    let foreign = Claim { product: ProductId::new("other").unwrap(), ..second.clone() };
    assert_eq!(claim(&*store, foreign).await, ClaimOutcome::New);
    // The claimant died: the next one goes on with its id.
    harness.advance_ms(5_001);
    let third = Claim { until_ms: store.time_ms() + 5_000, ..second };
    let ClaimOutcome::TakenOver { message, expires_at_ms, first_attempt_ms, partial } =
        claim(&*store, third.clone()).await
    else {
        panic!()
    };
    assert_eq!((message, expires_at_ms), (MessageId(1), first.expires_at_ms));
    assert!(first_attempt_ms >= first_ms && first_attempt_ms <= first_ms + 1000);
    assert_eq!(partial, None);
    let busy = ClaimOutcome::InProgress { until_ms: third.until_ms };
    assert_eq!(claim(&*store, third.clone()).await, busy);
    // Some targets are to be repeated: at once.
    let wrong = finish_of("k", 9, true, b"wrong");
    store.finish(vec![wrong, finish_of("k", 1, false, b"some")]).await.unwrap();
    let ClaimOutcome::TakenOver { message, partial, .. } = claim(&*store, third.clone()).await
    else {
        panic!()
    };
    assert_eq!((message, partial.as_deref()), (MessageId(1), Some(&b"some"[..])));
    store.finish(vec![finish_of("k", 1, true, b"all")]).await.unwrap();
    let done = ClaimOutcome::Done { message: MessageId(1), outcome: Bytes::from_static(b"all") };
    assert_eq!(claim(&*store, third.clone()).await, done);
    assert_eq!(claim(&*store, other).await, ClaimOutcome::Mismatch);
    drop(store);
    if harness.reopen().await {
        assert_eq!(claim(&*harness.store(), third).await, done);
    }
}

/// Its attempts ended with it: a retry after the restart goes on at once, under the same id (I2).
pub async fn claims_of_a_process_that_is_gone_hold_nobody_up(harness: &mut impl Harness) {
    let first = claim_of(&*harness.store(), "k", 1);
    assert_eq!(claim(&*harness.store(), first.clone()).await, ClaimOutcome::New);
    let retry = Claim { message: MessageId(2), ..first };
    if !harness.reopen().await {
        return;
    }
    let ClaimOutcome::TakenOver { message, .. } = claim(&*harness.store(), retry.clone()).await
    else {
        panic!()
    };
    assert_eq!(message, MessageId(1));
    let busy = ClaimOutcome::InProgress { until_ms: retry.until_ms };
    assert_eq!(claim(&*harness.store(), retry).await, busy);
}

/// One wins; order within a batch counts.
pub async fn claims_are_exclusive_among_concurrent_callers(harness: &mut impl Harness) {
    let store = harness.store();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let store = Arc::clone(&store);
        let claim = claim_of(&*store, "k", n);
        #[allow(clippy::disallowed_methods)] // A test's own tasks.
        callers.spawn(async move { store.claim(vec![claim]).await.remove(0).unwrap() });
    }
    let outcomes = callers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ClaimOutcome::New).count(), 1);
    let batch = vec![claim_of(&*store, "l", 1), claim_of(&*store, "l", 2)];
    let answers = store.claim(batch).await;
    assert_eq!(answers[0], Ok(ClaimOutcome::New));
    assert!(matches!(answers[1], Ok(ClaimOutcome::InProgress { .. })));
    let (finished, next) = tokio::join!(store.finish(vec![finish_of("l", 1, true, b"x")]), async {
        claim(&*store, claim_of(&*store, "l", 3)).await
    });
    finished.unwrap();
    assert!(matches!(next, ClaimOutcome::Done { message: MessageId(1), .. }));
}

/// The record goes; the key is free again.
pub async fn claims_end_with_their_retention(harness: &mut impl Harness) {
    let store = harness.store();
    assert_eq!(claim(&*store, claim_of(&*store, "k", 1)).await, ClaimOutcome::New);
    assert_eq!(claim(&*store, claim_of(&*store, "l", 2)).await, ClaimOutcome::New);
    store.finish(vec![finish_of("k", 1, true, b"x")]).await.unwrap();
    harness.advance_ms(DAY_MS + 1);
    assert_eq!(claim(&*store, claim_of(&*store, "k", 3)).await, ClaimOutcome::New);
    let swept = u64::from(!harness.records_expire_by_themselves());
    assert_eq!(sweep(&*store).await.expired_records, swept);
    let oversize = Finish { outcome: vec![0; 65_537].into(), ..finish_of("k", 3, true, b"") };
    assert!(store.finish(vec![oversize]).await.is_err());
}

fn nonce_of(store: &dyn Store, nonce: &str) -> ConsumeNonce {
    ConsumeNonce {
        product: product(),
        key: KeyId::new("key").unwrap(),
        nonce: nonce.into(),
        timestamp_s: store.time_ms() / 1000,
        window_s: 300,
    }
}

/// Atomic across callers, also after a restart, until they leave the window.
pub async fn nonces_are_used_once_and_kept_in_bounds(harness: &mut impl Harness) {
    let store = harness.store();
    let nonce = nonce_of(&*store, "n");
    let uses = store.consume_nonces(vec![nonce.clone(), nonce.clone()]).await.unwrap();
    assert_eq!(uses, [NonceUse::Fresh, NonceUse::Replayed]);
    let others = vec![
        ConsumeNonce { key: KeyId::new("key2").unwrap(), ..nonce.clone() },
        ConsumeNonce { product: ProductId::new("p2").unwrap(), ..nonce.clone() },
        ConsumeNonce { timestamp_s: nonce.timestamp_s + 1, ..nonce.clone() },
    ];
    assert_eq!(store.consume_nonces(others).await.unwrap(), [NonceUse::Fresh; 3]);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (store, nonce) = (Arc::clone(&store), nonce_of(&*store, "raced"));
        #[allow(clippy::disallowed_methods)] // A test's own tasks.
        callers.spawn(async move { store.consume_nonces(vec![nonce]).await.unwrap()[0] });
    }
    let uses = callers.join_all().await;
    assert!(uses.iter().filter(|used| **used == NonceUse::Fresh).count() <= 2, "one a second");
    drop(store);
    if harness.reopen().await {
        let store = harness.store();
        assert_eq!(store.consume_nonces(vec![nonce.clone()]).await.unwrap(), [NonceUse::Replayed]);
    }
    let store = harness.store();
    harness.advance_ms(600_000);
    sweep(&*store).await;
    // What is outside of the window is the caller's to refuse; it is not remembered.
    assert_eq!(store.consume_nonces(vec![nonce]).await.unwrap(), [NonceUse::Fresh]);
}

fn product_of(name: &str) -> ProductRecord {
    ProductRecord {
        product: ProductId::new(name).unwrap(),
        created_at_ms: 5,
        kinds: vec![TerminalKind::Web, TerminalKind::Android],
        allow_sha1_body_hash: true,
        pushes_per_s_max: Some(9),
        isolation_group: "gold".into(),
        api_keys: vec![ApiKey {
            key: KeyId::new("k1").unwrap(),
            secret: "secret".into(),
            created_at_ms: 6,
            revoked_at_ms: Some(7),
        }],
        token_keys: vec![
            TokenKey {
                kid: KeyId::new("t1").unwrap(),
                algorithm: TokenAlgorithm::HS256,
                key: vec![1, 2],
                created_at_ms: 8,
                revoked_at_ms: None,
            },
            TokenKey {
                kid: KeyId::new("t2").unwrap(),
                algorithm: TokenAlgorithm::EdDSA,
                key: b"pem".to_vec(),
                created_at_ms: 9,
                revoked_at_ms: None,
            },
        ],
    }
}

/// Created once, replaced, listed, durable.
pub async fn products_are_created_once_and_replaced(harness: &mut impl Harness) {
    let store = harness.store();
    let demo = product_of("demo");
    assert_eq!(store.put_product(demo.clone(), true).await, Ok(true));
    assert_eq!(store.put_product(demo.clone(), true).await, Ok(false));
    let changed = ProductRecord { allow_sha1_body_hash: false, ..demo };
    assert_eq!(store.put_product(changed.clone(), false).await, Ok(true));
    for name in ["b", "a", "c"] {
        assert_eq!(store.put_product(product_of(name), true).await, Ok(true));
    }
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    if store.product(&product()).await.unwrap().is_some() {
        assert_eq!(store.product(&product()).await.unwrap(), Some(changed));
        let page = store.products(Some(ProductId::new("a").unwrap()), 2).await.unwrap();
        assert_eq!(page, [product_of("b"), product_of("c")]);
        assert_eq!(store.products(None, 10).await.unwrap().len(), 4);
    }
    assert_eq!(store.product(&ProductId::new("none").unwrap()).await.unwrap(), None);
}

/// Nothing hangs on a store that was closed.
pub async fn a_closed_store_says_so(harness: &mut impl Harness) {
    let store = harness.store();
    append(&*store, &inbox("a"), 1).await;
    store.close().await.unwrap();
    let late = append_one(&*store, append_of(&*store, &inbox("a"), 2)).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    let read = Read { log: inbox("a"), after: Offset::ZERO, entries_max: 1, bytes_max: 1 };
    let late = store.read(vec![read]).await.remove(0).map(drop);
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    assert!(store.health().writable.is_err());
    store.close().await.unwrap();
}
