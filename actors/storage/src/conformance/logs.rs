//! Appending, reading, limits, TTL.

use clarion_core::Control;

use super::*;

/// Offsets of a log rise in the order given, also across calls, and name their predecessors.
pub async fn i8_offsets_of_a_log_rise_in_the_order_given(harness: &mut impl Harness) {
    let store = harness.store();
    let (a, b) = (inbox("a"), topic_log("b"));
    let mut last = [Offset::ZERO; 2];
    for round in 0..20_u128 {
        let batch = (0..10_u128).map(|n| {
            let log = if n % 2 == 0 { &a } else { &b };
            append_of(&*store, log, round * 10 + n)
        });
        for (n, answer) in store.append(batch.collect()).await.into_iter().enumerate() {
            let appended = answer.unwrap();
            assert!(appended.offset > last[n % 2]);
            assert_eq!(appended.predecessor, last[n % 2]);
            assert_eq!(appended.epoch, store.epoch());
            assert!(!appended.duplicate);
            last[n % 2] = appended.offset;
        }
    }
    let page = read(&*store, &a, Offset::ZERO).await;
    assert_eq!(page.entries.len(), 100);
    assert!(page.entries.is_sorted_by_key(|entry| (entry.offset, entry.message)));
    assert_eq!((page.head, page.more, page.evicted_to), (last[0], false, Offset::ZERO));
    // Offsets carry the store's time, so that time and offsets agree.
    let now_ms = store.time_ms();
    assert!(last[0].time_ms() <= now_ms && last[0].time_ms() + 60_000 > now_ms);
}

/// What a reader is given is durable; here: it is never given what a failed or unanswered append
/// wrote, and everything that was answered before.
pub async fn i1_no_reader_sees_an_entry_before_its_append_is_answered(harness: &mut impl Harness) {
    let store = harness.store();
    let log = topic_log("news");
    let answered = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writer = {
        let (store, log, answered) = (Arc::clone(&store), Arc::clone(&log), Arc::clone(&answered));
        async move {
            for id in 0..300 {
                let appended = append(&*store, &log, id).await;
                answered.store(appended.offset.0, std::sync::atomic::Ordering::Release);
            }
        }
    };
    let reader = async {
        let (mut position, mut seen) = (Offset::ZERO, 0);
        while seen < 300 {
            let before = Offset(answered.load(std::sync::atomic::Ordering::Acquire));
            let page = read(&*store, &log, position).await;
            assert!(page.head >= before, "an answered append is not visible");
            if let Some(last) = page.entries.last() {
                assert_eq!(page.entries[0].predecessor, position, "an entry was left out");
                assert_eq!(page.head, last.offset);
                position = last.offset;
            }
            seen += page.entries.len();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writer, reader);
}

/// A retry finds its message, however many entries lie between, and also when it is gone.
pub async fn i2_a_retry_finds_its_message_behind_any_number_of_entries(harness: &mut impl Harness) {
    let store = harness.store();
    for log in [inbox("a"), topic_log("a")] {
        let base = u128::from(log.kind as u8) << 64;
        let first = append_of(&*store, &log, base);
        let first_ms = store.time_ms();
        let done = append_one(&*store, first.clone()).await.unwrap();
        let between = (1..1500).map(|n| append_of(&*store, &log, base + n)).collect();
        assert!(store.append(between).await.iter().all(Result::is_ok));
        let retry = Append { first_attempt_ms: Some(first_ms), ..first };
        let again = append_one(&*store, retry.clone()).await.unwrap();
        assert!(again.duplicate);
        assert_eq!((again.offset, again.audience), (done.offset, done.audience));
        assert_eq!(again.predecessor, done.predecessor);
        assert_eq!(read(&*store, &log, Offset::ZERO).await.entries.len(), 1500);
        // Another log takes the same message.
        let other = Append { log: inbox("other"), ..retry.clone() };
        assert!(!append_one(&*store, other).await.unwrap().duplicate);
    }
    let opened = open(&*store, open_of("a")).await;
    let page = read(&*store, &inbox("a"), Offset::ZERO).await;
    let ack = save_of(&*store, "a", &inbox("a"), opened.generation, page.head);
    assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
    let mut retry = append_of(&*store, &inbox("a"), 1 << 64);
    retry.first_attempt_ms = Some(store.time_ms());
    assert!(append_one(&*store, retry).await.unwrap().duplicate);
    assert!(ids(&*store, &inbox("a"), Offset::ZERO).await.is_empty());
}

/// Two attempts in one batch; an attempt after its deadline.
pub async fn i2_a_message_is_in_a_log_once_and_a_late_attempt_is_refused(
    harness: &mut impl Harness,
) {
    let store = harness.store();
    let log = user_log("u");
    let first = append_of(&*store, &log, 1);
    let retry = Append { first_attempt_ms: Some(store.time_ms()), ..first.clone() };
    let answers = store.append(vec![first.clone(), retry.clone()]).await;
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0].offset, answers[1].offset);
    assert!(!answers[0].duplicate && answers[1].duplicate);
    harness.advance_ms(60_001);
    let late = Append { message: MessageId(2), ..first };
    assert_eq!(append_one(&*store, late.clone()).await, Err(StoreError::TooLate));
    let late_retry = Append { first_attempt_ms: Some(0), ..late };
    assert_eq!(append_one(&*store, late_retry).await, Err(StoreError::TooLate));
    // A late retry of what did happen says so.
    assert!(append_one(&*store, retry).await.unwrap().duplicate);
    assert_eq!(ids(&*store, &log, Offset::ZERO).await, [1]);
}

/// Entries and bytes; the message that was refused is not there.
pub async fn i6_a_full_inbox_refuses_and_takes_again_when_it_is_read(harness: &mut impl Harness) {
    let store = harness.store();
    let log = inbox("a");
    let opened = open(&*store, open_of("a")).await;
    let entries = LogLimits { entries_max: 3, ..ROOMY };
    for id in 0..3 {
        let append = Append { limits: entries, ..append_of(&*store, &log, id) };
        append_one(&*store, append).await.unwrap();
    }
    let fourth = Append { limits: entries, ..append_of(&*store, &log, 3) };
    assert_eq!(append_one(&*store, fourth.clone()).await, Err(StoreError::LogFull));
    let bytes = LogLimits { bytes_max: 25, ..ROOMY };
    let too_long = Append { limits: bytes, ..append_of(&*store, &log, 4) };
    assert_eq!(append_one(&*store, too_long).await, Err(StoreError::LogFull));
    let page = read(&*store, &log, Offset::ZERO).await;
    assert_eq!(page.entries.len(), 3);
    let ack = save_of(&*store, "a", &log, opened.generation, page.entries[0].offset);
    assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
    append_one(&*store, fourth).await.unwrap();
    assert_eq!(ids(&*store, &log, Offset::ZERO).await, [1, 2, 3]);
    // It took nothing away from anybody.
    assert_eq!(read(&*store, &log, Offset::ZERO).await.evicted_to, Offset::ZERO);
    assert!(store.message(&product(), MessageId(4)).await.unwrap().is_none());
}

/// The oldest go, counted; `evicted_to` tells readers.
pub async fn i6_a_full_wide_log_evicts_and_says_up_to_where(harness: &mut impl Harness) {
    let store = harness.store();
    let log = topic_log("news");
    let limits = LogLimits { entries_max: 300, bytes_max: 1 << 20, evict: true };
    let mut offsets = Vec::new();
    for id in 0..1000 {
        let append = Append { limits, ..append_of(&*store, &log, id) };
        let appended = append_one(&*store, append).await.unwrap();
        assert_eq!(appended.evicted, u32::from(id >= 300));
        offsets.push(appended.offset);
    }
    let page = read(&*store, &log, Offset::ZERO).await;
    assert_eq!(page.entries.len(), 300);
    assert_eq!(page.entries[0].offset, offsets[700]);
    assert_eq!(page.evicted_to, offsets[699]);
    assert_eq!(page.head, offsets[999]);
    // One long entry pushes out several.
    let tight = LogLimits { bytes_max: 3000, ..limits };
    let long = Body::Json(Bytes::from(vec![b'1'; 2000]));
    let long = Append { limits: tight, body: long, ..append_of(&*store, &log, 1000) };
    assert!(append_one(&*store, long.clone()).await.unwrap().evicted > 100);
    let page = read(&*store, &log, Offset::ZERO).await;
    assert!(page.entries.iter().map(|entry| entry.body.len()).sum::<usize>() <= 3000);
    // One that never fits evicts nothing.
    let limits = LogLimits { bytes_max: 1000, ..limits };
    let never = Append { message: MessageId(1001), limits, ..long };
    assert_eq!(append_one(&*store, never).await, Err(StoreError::LogFull));
    assert_eq!(read(&*store, &log, Offset::ZERO).await.entries.len(), page.entries.len());
}

/// What expired goes first, and is no gap.
pub async fn i6_expired_entries_make_room_without_a_gap(harness: &mut impl Harness) {
    let store = harness.store();
    for (log, evict) in [(inbox("a"), false), (topic_log("a"), true)] {
        let base = u128::from(log.kind as u8) << 64;
        let limits = LogLimits { entries_max: 2, bytes_max: 1000, evict };
        for id in 0..2 {
            let expires_at_ms = store.time_ms() + 1000;
            let append = Append { limits, expires_at_ms, ..append_of(&*store, &log, base + id) };
            append_one(&*store, append).await.unwrap();
        }
        harness.advance_ms(1001);
        let append = Append { limits, ..append_of(&*store, &log, base + 2) };
        assert_eq!(append_one(&*store, append).await.unwrap().evicted, 0);
        let page = read(&*store, &log, Offset::ZERO).await;
        assert_eq!(page.entries.last().unwrap().message, MessageId(base + 2));
        assert_eq!(page.evicted_to, Offset::ZERO);
    }
    assert_eq!(counts(&*store, 1 << 64).await.expired, 1);
}

/// Entries and bytes bound a page; it holds one at least.
pub async fn pages_are_bounded_and_say_if_there_is_more(harness: &mut impl Harness) {
    let store = harness.store();
    let log = topic_log("news");
    for id in 10..20 {
        append(&*store, &log, id).await;
    }
    let page = |after, entries_max, bytes_max| {
        let read = Read { log: Arc::clone(&log), after, entries_max, bytes_max };
        let store = Arc::clone(&store);
        async move {
            let page = store.read(vec![read]).await.remove(0).unwrap();
            let ids: Vec<u128> = page.entries.iter().map(|entry| entry.message.0).collect();
            (ids, page.more, page.entries.last().map(|entry| entry.offset), page.head)
        }
    };
    let (first, more, position, head) = page(Offset::ZERO, 4, u32::MAX).await;
    assert_eq!((first, more), (vec![10, 11, 12, 13], true));
    let (second, more, position, same) = page(position.unwrap(), 6, u32::MAX).await;
    assert_eq!((second, more), (vec![14, 15, 16, 17, 18, 19], false));
    assert_eq!((position, same), (Some(head), head));
    let (one, more, ..) = page(Offset::ZERO, 100, 1).await;
    assert_eq!((one, more), (vec![10], true));
    let (two, ..) = page(Offset::ZERO, 100, 9).await;
    assert_eq!(two, [10, 11]);
    let (none, more, last, same) = page(head, 100, 100).await;
    assert_eq!((none, more, last, same), (vec![], false, None, head));
    let (above, more, ..) = page(Offset(head.0 + 1), 100, 100).await;
    assert_eq!((above, more), (vec![], false));
}

/// The head is that of the last entry ever, whatever became of it, also after a restart.
pub async fn heads_stay_when_entries_go(harness: &mut impl Harness) {
    let store = harness.store();
    let opened = open(&*store, OpenSession { user: Some(user("u")), ..open_of("a") }).await;
    let mut heads = Vec::new();
    for (n, log) in [inbox("a"), user_log("u"), inbox("b")].iter().enumerate() {
        let mut append = append_of(&*store, log, n as u128);
        append.expires_at_ms = store.time_ms() + 1000;
        let head = append_one(&*store, append).await.unwrap().offset;
        if n < 2 {
            let ack = save_of(&*store, "a", log, opened.generation, head);
            assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
        }
        heads.push((Arc::clone(log), head));
    }
    harness.advance_ms(DAY_MS / 2);
    sweep(&*store).await;
    drop(store);
    for restarted in [false, true] {
        if restarted && !harness.reopen().await {
            return;
        }
        let store = harness.store();
        for (log, head) in &heads {
            let page = read(&*store, log, Offset::ZERO).await;
            assert_eq!((page.entries.len(), page.head), (0, *head), "{log}");
            assert_eq!(page.evicted_to, Offset::ZERO);
            assert_eq!(read(&*store, log, *head).await.head, *head);
        }
        let opened = open(&*store, OpenSession { user: Some(user("u")), ..open_of("a") }).await;
        assert_eq!((opened.logs[0].head, opened.logs[1].head), (heads[0].1, heads[1].1));
    }
    let store = harness.store();
    for (log, head) in heads {
        let next = append(&*store, &log, 100).await;
        assert!(next.offset > head && next.predecessor == head);
    }
}

/// Expired entries go after a grace, their records a day later.
pub async fn ttl_removes_entries_and_later_their_records(harness: &mut impl Harness) {
    let store = harness.store();
    open(&*store, open_of("a")).await;
    let logs = [inbox("a"), broadcast()];
    for (n, log) in logs.iter().enumerate() {
        for (m, ttl_ms) in [10_000, 3 * DAY_MS].into_iter().enumerate() {
            let mut append = append_of(&*store, log, (n * 2 + m) as u128);
            append.expires_at_ms = store.time_ms() + ttl_ms;
            append_one(&*store, append).await.unwrap();
        }
    }
    assert_eq!(sweep(&*store).await.expired_entries, 0);
    harness.advance_ms(10_001);
    // Expired for whoever asks; still there for acknowledgements on their way.
    assert_eq!(counts(&*store, 0).await.expired, 1);
    harness.advance_ms(120_000);
    assert_eq!(sweep(&*store).await.expired_entries, 2);
    for (n, log) in logs.iter().enumerate() {
        assert_eq!(ids(&*store, log, Offset::ZERO).await, [n as u128 * 2 + 1]);
        let counts = counts(&*store, n as u128 * 2).await;
        assert_eq!((counts.audience, counts.expired, counts.pending), (1, 1, 0));
    }
    harness.advance_ms(DAY_MS);
    assert!(store.message(&product(), MessageId(0)).await.unwrap().is_none());
    assert_eq!(sweep(&*store).await.expired_records, 2);
    assert_eq!(counts(&*store, 1).await.pending, 1);
}

/// Payloads, content types, control entries, tombstones.
pub async fn every_kind_of_body_comes_back_as_it_was(harness: &mut impl Harness) {
    let store = harness.store();
    let log = inbox("a");
    let bodies = [
        Body::Json(Bytes::from_static(b"null")),
        Body::Bytes { content_type: "image/png".into(), data: Bytes::from_static(&[0, 255, 7]) },
        Body::Bytes { content_type: "".into(), data: Bytes::new() },
        Body::Control(Control::Subscribed(topic("news"))),
        Body::Control(Control::Unsubscribed(topic("old:news"))),
        Body::Tombstone,
        Body::Json(Bytes::from(vec![b'7'; 100_000])),
    ];
    for (id, body) in bodies.iter().enumerate() {
        let append = Append { body: body.clone(), ..append_of(&*store, &log, id as u128) };
        append_one(&*store, append).await.unwrap();
    }
    let page = read(&*store, &log, Offset::ZERO).await;
    let read: Vec<Body> = page.entries.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(read, bodies);
}
