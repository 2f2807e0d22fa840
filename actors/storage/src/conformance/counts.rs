//! I13: what is counted, and that it adds up.

use clarion_protocol::LogName;
use clarion_protocol::milestone::Milestone;

use super::*;
use crate::record::{Subscription, SubscriptionState};
use crate::{Settled, Unsubscribe, UnsubscribeOutcome};

/// Acknowledged, given up, pending, expired; delivered at least what was acknowledged.
pub async fn i13_counts_of_inboxes(harness: &mut impl Harness) {
    let store = harness.store();
    let opened = open(&*store, open_of("a")).await;
    let mut offsets = Vec::new();
    for id in 0..4 {
        let appended = append(&*store, &inbox("a"), id).await;
        assert_eq!(appended.audience, 1);
        offsets.push(appended.offset);
    }
    let written = offsets.iter().take(3).map(|offset| (inbox("a"), *offset, 1)).collect();
    store.count_delivered(written).await.unwrap();
    let ack = CursorSave {
        settled: vec![
            Settled { offset: offsets[1], how: Milestone::Undeliverable },
            Settled { offset: offsets[3], how: Milestone::Undeliverable },
        ],
        ..save_of(&*store, "a", &inbox("a"), opened.generation, offsets[1])
    };
    assert_eq!(save(&*store, ack.clone()).await, SaveOutcome::Saved);
    // The same again counts nothing again.
    assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
    let base = Counts { audience: 1, ..Counts::default() };
    let expected = [
        Counts { delivered: 1, acknowledged: 1, ..base },
        Counts { delivered: 1, undeliverable: 1, ..base },
        Counts { delivered: 1, pending: 1, ..base },
        Counts { pending: 1, ..base },
    ];
    for (id, expected) in expected.into_iter().enumerate() {
        assert_eq!(counts(&*store, id as u128).await, expected, "message {id}");
    }
    // A user's inbox: one entry, several terminals; it goes when all have passed it.
    for name in ["b", "c"] {
        open(&*store, OpenSession { user: Some(user("u")), ..open_of(name) }).await;
    }
    let appended = append(&*store, &user_log("u"), 10).await;
    assert_eq!(appended.audience, 2);
    for (n, name) in ["b", "c"].into_iter().enumerate() {
        let wants = OpenSession { user: Some(user("u")), ..open_of(name) };
        let generation = open(&*store, wants).await.generation;
        let ack = save_of(&*store, name, &user_log("u"), generation, appended.offset);
        assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
        let counts = counts(&*store, 10).await;
        assert_eq!((counts.acknowledged, counts.pending), (n as u64 + 1, 1 - n as u64));
        assert_eq!(ids(&*store, &user_log("u"), Offset::ZERO).await.len(), 1 - n);
    }
}

/// One call with the acknowledgements of many terminals; gaps; those who leave.
pub async fn i13_counts_of_wide_logs(harness: &mut impl Harness) {
    let store = harness.store();
    let names: Vec<String> = (0..200).map(|n| format!("t{n:03}")).collect();
    let opens =
        names.iter().map(|name| OpenSession { topics: vec![topic("news")], ..open_of(name) });
    let opened: Vec<u64> = store
        .open_session(opens.collect())
        .await
        .into_iter()
        .map(|o| o.unwrap().generation)
        .collect();
    let mut offsets = Vec::new();
    for id in 0..20 {
        let appended = append(&*store, &topic_log("news"), id).await;
        assert_eq!(appended.audience, 200);
        offsets.push(appended.offset);
    }
    store.count_delivered(vec![(topic_log("news"), offsets[19], 150)]).await.unwrap();
    // Terminal n acknowledges up to entry n % 20; every tenth gives up on entry 0.
    let saves = names.iter().enumerate().map(|(n, name)| CursorSave {
        settled: match n % 10 {
            0 => vec![Settled { offset: offsets[0], how: Milestone::Undeliverable }],
            _ => Vec::new(),
        },
        ..save_of(&*store, name, &topic_log("news"), opened[n], offsets[n % 20])
    });
    let answers = store.save_cursors(saves.collect()).await;
    assert!(answers.iter().all(|answer| *answer == Ok(SaveOutcome::Saved)));
    for id in 0..20_u64 {
        let counts = counts(&*store, u128::from(id)).await;
        let passed = 200 - 10 * id;
        let given_up = if id == 0 { 20 } else { 0 };
        let delivered = if id == 19 { 150 } else { passed - given_up };
        let expected = Counts {
            audience: 200,
            delivered,
            acknowledged: passed - given_up,
            undeliverable: given_up,
            pending: 200 - passed,
            ..Counts::default()
        };
        assert_eq!(counts, expected, "message {id}");
    }
}

/// A reader that was told a gap: what it had acknowledged before counts as such, though it is gone.
pub async fn i13_gaps_are_counted_from_where_they_begin(harness: &mut impl Harness) {
    let store = harness.store();
    let opened = open(&*store, OpenSession { topics: vec![topic("news")], ..open_of("a") }).await;
    let log = topic_log("news");
    let limits = LogLimits { entries_max: 3, bytes_max: 1 << 20, evict: true };
    let mut offsets = Vec::new();
    for id in 0..10 {
        let append = Append { limits, ..append_of(&*store, &log, id) };
        offsets.push(append_one(&*store, append).await.unwrap().offset);
    }
    // It had read 0 and 1, given up 2, lost 3 to 6, read 7, and has 8 and 9 before it.
    let ack = CursorSave {
        settled: vec![
            Settled { offset: offsets[2], how: Milestone::Undeliverable },
            Settled { offset: offsets[2], how: Milestone::Acknowledged },
            Settled { offset: offsets[6], how: Milestone::Evicted },
        ],
        ..save_of(&*store, "a", &log, opened.generation, offsets[7])
    };
    assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
    for id in 0..10 {
        let counts = counts(&*store, id).await;
        let numbers = (counts.acknowledged, counts.undeliverable, counts.evicted, counts.pending);
        let expected = match id {
            0 | 1 | 7 => (1, 0, 0, 0),
            2 => (0, 1, 0, 0),
            3..=6 => (0, 0, 1, 0),
            _ => (0, 0, 0, 1),
        };
        assert_eq!(numbers, expected, "message {id}");
    }
}

/// A reader says which entries it passed as expired; of what was not there any more it need not. Who
/// says nothing of an entry that was there acknowledged it.
pub async fn i13_what_was_passed_as_expired_is_counted_so(harness: &mut impl Harness) {
    let store = harness.store();
    let names = ["a", "b", "c", "d"];
    let wants = |name: &str| OpenSession {
        user: Some(user("u")),
        topics: vec![topic("news")],
        ..open_of(name)
    };
    let mut generations = Vec::new();
    for name in names {
        generations.push(open(&*store, wants(name)).await.generation);
    }
    let logs = [topic_log("news"), broadcast(), user_log("u"), inbox("a")];
    let mut offsets = Vec::new();
    for (id, log) in (1..).zip(&logs) {
        let expires_at_ms = store.time_ms() + 30_000;
        let soon = Append { expires_at_ms, ..append_of(&*store, log, id) };
        let soon = append_one(&*store, soon).await.unwrap().offset;
        offsets.push((soon, append(&*store, log, id + 100).await.offset));
    }
    let saves = |n: usize, says: bool| {
        let logs = logs.iter().zip(&offsets).filter(|(log, _)| n == 0 || **log != inbox("a"));
        let save = |(log, (soon, to)): (&Arc<LogKey>, &(Offset, Offset))| {
            let expired = Settled { offset: *soon, how: Milestone::Expired };
            let settled = if says { vec![expired] } else { Vec::new() };
            CursorSave { settled, ..save_of(&*store, names[n], log, generations[n], *to) }
        };
        logs.map(save).collect::<Vec<_>>()
    };
    // Expired and not removed yet: one passed it so, one had acknowledged it in time.
    harness.advance_ms(31_000);
    for (n, says) in [(0, true), (1, false)] {
        let answers = store.save_cursors(saves(n, says)).await;
        assert!(answers.iter().all(|answer| *answer == Ok(SaveOutcome::Saved)));
    }
    // Removed: it does not matter what is said of it.
    harness.advance_ms(61_000);
    sweep(&*store).await;
    for (n, says) in [(2, true), (3, false)] {
        let answers = store.save_cursors(saves(n, says)).await;
        assert!(answers.iter().all(|answer| *answer == Ok(SaveOutcome::Saved)));
    }
    for id in 1..=3 {
        let counts = counts(&*store, id).await;
        let numbers = (counts.expired, counts.acknowledged, counts.pending);
        assert_eq!(numbers, (3, 1, 0), "message {id}: {counts:?}");
    }
    assert_eq!(counts(&*store, 4).await.expired, 1);
    for id in 101..=104 {
        let counts = counts(&*store, id).await;
        let readers = if id == 104 { 1 } else { 4 };
        assert_eq!((counts.acknowledged, counts.expired), (readers, 0), "message {id}");
    }
}

/// Cursors of many terminals over topic and broadcast, with everything that can break between a cursor
/// and its count; the process dies as well. Each is counted once: when its terminal saves again, when it
/// opens a session, when it leaves, or, if it never comes back, by upkeep.
pub async fn i13_what_broke_between_a_cursor_and_its_count_is_counted_once(
    harness: &mut impl Harness,
) {
    const EACH: usize = 12;
    let mut store = harness.store();
    let names: Vec<String> = (0..4 * EACH).map(|n| format!("t{n:03}")).collect();
    let wants = |name: &str| OpenSession { topics: vec![topic("news")], ..open_of(name) };
    let mut generations = Vec::new();
    for name in &names {
        generations.push(open(&*store, wants(name)).await.generation);
    }
    let mut next_id = 0;
    for round in 0..6 {
        let (first, mut offsets) = (next_id, Vec::new());
        for id in first..first + 4 {
            let news = append(&*store, &topic_log("news"), id).await.offset;
            offsets.push((news, append(&*store, &broadcast(), id + 1000).await.offset));
        }
        next_id += 4;
        let (news, all) = offsets[3];
        let saves = |store: &dyn Store, of: std::ops::Range<usize>, generations: &[u64]| {
            let mut saves = Vec::new();
            for n in of {
                let undeliverable =
                    |at| vec![Settled { offset: at, how: Milestone::Undeliverable }];
                for (log, to, given_up) in
                    [(topic_log("news"), news, offsets[1].0), (broadcast(), all, offsets[2].1)]
                {
                    let save = save_of(store, &names[n], &log, generations[n], to);
                    saves.push(CursorSave { settled: undeliverable(given_up), ..save });
                }
            }
            saves
        };
        harness.break_one_in(3);
        let mut left = saves(&*store, 0..names.len(), &generations);
        // Most answers say that nothing is known; whoever is told so asks again, some time.
        for _ in 0..2 {
            let answers = store.save_cursors(left.clone()).await;
            let unknown = |answer: &StoreResult<SaveOutcome>| answer.is_err();
            left =
                left.into_iter().zip(answers).filter(|(_, a)| unknown(a)).map(|(s, _)| s).collect();
        }
        if round % 2 == 1 && harness.reopen().await {
            store = harness.store();
        }
        harness.break_one_in(0);
        // Those that are here write the same again; others come back, leave, or are never seen again.
        let again = saves(&*store, 0..EACH, &generations);
        assert!(store.save_cursors(again).await.iter().all(|a| *a == Ok(SaveOutcome::Saved)));
        for n in EACH..2 * EACH {
            generations[n] = open(&*store, wants(&names[n])).await.generation;
        }
        let saved = saves(&*store, EACH..4 * EACH, &generations);
        assert!(store.save_cursors(saved).await.iter().all(|a| *a == Ok(SaveOutcome::Saved)));
        for _ in 0..3 {
            harness.advance_ms(61_000);
            sweep(&*store).await;
        }
        for id in first..first + 4 {
            for (base, given_up) in [(0, first + 1), (1000, first + 2)] {
                let counts = counts(&*store, base + id).await;
                let readers = names.len() as u64;
                let (lost, kept) = if id == given_up { (readers, 0) } else { (0, readers) };
                let numbers = (counts.acknowledged, counts.undeliverable, counts.pending);
                assert_eq!(numbers, (kept, lost, 0), "message {id} of round {round}: {counts:?}");
                assert_eq!(counts.audience, readers);
            }
        }
    }
}

/// A terminal leaves topics; what was asked for or what follows has an unknown outcome, and whoever is told
/// so asks again, or never does. None is a reader any more, and what it had not read was left.
pub async fn i13_who_left_is_counted_no_more_also_where_answers_are_lost(
    harness: &mut impl Harness,
) {
    const TERMINALS: usize = 24;
    let mut store = harness.store();
    let names: Vec<String> = (0..TERMINALS).map(|n| format!("t{n:03}")).collect();
    for name in &names {
        open(&*store, OpenSession { topics: vec![topic("news")], ..open_of(name) }).await;
    }
    append(&*store, &topic_log("news"), 1).await;
    let leave = |n: usize| Unsubscribe {
        product: product(),
        terminal: terminal(&names[n]),
        topic: topic("news"),
        by: if n.is_multiple_of(2) { SubscribeBy::Backend } else { SubscribeBy::Terminal },
    };
    harness.break_one_in(2);
    for n in 0..TERMINALS / 2 {
        // The answer may come from another process than the first time.
        while store.unsubscribe(vec![leave(n)]).await.remove(0).is_err() {}
        let readers = (TERMINALS - n - 1) as u64;
        let appended = append(&*store, &topic_log("news"), 100 + n as u128).await;
        assert_eq!(appended.audience, readers, "it is told that it is out, so it is");
    }
    // Half of the others are asked once, whatever comes of it, and the process is gone.
    let asked = 3 * TERMINALS / 4;
    for n in TERMINALS / 2..asked {
        let _ = store.unsubscribe(vec![leave(n)]).await;
    }
    harness.break_one_in(0);
    if harness.reopen().await {
        store = harness.store();
    }
    for _ in 0..3 {
        harness.advance_ms(61_000);
        sweep(&*store).await;
    }
    let members = store.members(&product(), &topic("news"), None, 100).await.unwrap();
    let mut joined = 0;
    for name in &names {
        let record = store.terminal(&product(), &terminal(name)).await.unwrap().unwrap();
        let reads = |of: &&Subscription| {
            matches!(of.log, LogName::Topic(_)) && of.state != SubscriptionState::Banned
        };
        let is_in = record.subscriptions.iter().filter(reads).count();
        joined += is_in;
        assert_eq!(members.iter().filter(|of| of.as_str() == name).count(), is_in, "{name}");
    }
    assert!((TERMINALS - asked..=TERMINALS / 2).contains(&joined));
    let appended = append(&*store, &topic_log("news"), 2).await;
    assert_eq!(appended.audience, joined as u64);
    let first = counts(&*store, 1).await;
    let left = (TERMINALS - joined) as u64;
    assert_eq!((first.audience, first.suppressed), (TERMINALS as u64, left), "{first:?}");
    assert_eq!(first.pending, joined as u64);
    // Who joins anew is a reader from there on, once.
    for name in &names {
        let request = subscribe_of(name, "news", SubscribeBy::Backend);
        store.subscribe(vec![request]).await.remove(0).unwrap();
    }
    let appended = append(&*store, &topic_log("news"), 3).await;
    assert_eq!(appended.audience, TERMINALS as u64);
    for n in 0..TERMINALS {
        let outcome = store.unsubscribe(vec![leave(n)]).await.remove(0).unwrap();
        assert_eq!(outcome, UnsubscribeOutcome::Left);
    }
    let third = counts(&*store, 3).await;
    assert_eq!((third.suppressed, third.pending), (TERMINALS as u64, 0), "{third:?}");
}
