//! I13: what is counted, and that it adds up. The random workload is checked number by number
//! against a model that knows every terminal of every message by name.

use std::collections::BTreeMap;

use clarion_core::LogKind;
use clarion_protocol::milestone::Milestone;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::model::{
    Gone, Model, ModelEntry, ModelTerminal, TERMINALS, TIGHT, TOPICS, USERS, name_of,
};
use super::*;
use crate::{Settled, Unsubscribe};

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

struct Workload<'a, H> {
    harness: &'a mut H,
    store: Arc<dyn Store>,
    model: Model,
    rng: StdRng,
    next_id: u128,
    /// Steps break now and then.
    breaks: bool,
}

impl<H: Harness> Workload<'_, H> {
    fn pick(&mut self, below: usize) -> usize {
        (self.rng.next_u64() % below as u64) as usize
    }

    fn a_log(&mut self) -> Arc<LogKey> {
        match self.pick(4) {
            0 => inbox(&name_of(self.pick(TERMINALS))),
            1 => user_log(&format!("u{}", self.pick(USERS))),
            2 => topic_log(&format!("s{}", self.pick(TOPICS))),
            _ => broadcast(),
        }
    }

    async fn open(&mut self) {
        let n = self.pick(TERMINALS);
        let user_number = self.pick(USERS + 1);
        let new_user = (user_number < USERS).then_some(user_number);
        let topics: Vec<usize> =
            (0..TOPICS).filter(|_| self.rng.next_u32().is_multiple_of(2)).collect();
        let wants = OpenSession {
            user: new_user.map(|u| user(&format!("u{u}"))),
            topics: topics.iter().map(|s| topic(&format!("s{s}"))).collect(),
            ..open_of(&name_of(n))
        };
        let mut tries = 0;
        let opened = loop {
            match self.store.open_session(vec![wants.clone()]).await.remove(0) {
                Ok(opened) => break opened,
                Err(error) => assert!(self.breaks && tries < 50, "{error}"),
            }
            tries += 1;
        };
        assert!(opened.generation > self.model.terminals[n].generation);
        self.register(n);
        self.model.terminals[n].generation = opened.generation;
        let old_user = self.model.terminals[n].user;
        if old_user != new_user {
            if let Some(old) = old_user {
                let log = user_log(&format!("u{old}"));
                self.model.leave(n, &log);
                self.model.terminals[n].user = None;
                self.model.trim(&log);
            }
            self.model.terminals[n].user = new_user;
            if let Some(new) = new_user {
                self.model.start(n, &user_log(&format!("u{new}")));
            }
        }
        for s in topics {
            let state = &mut self.model.terminals[n];
            if !state.banned.contains(&s) && state.topics.insert(s) {
                self.model.start(n, &topic_log(&format!("s{s}")));
            }
        }
        for log in opened.logs {
            assert_eq!(log.head, self.model.head(&log.log), "head of {}", log.log);
        }
    }

    fn register(&mut self, n: usize) {
        if !self.model.terminals[n].known {
            self.model.terminals[n].known = true;
            let own = inbox(&name_of(n));
            for entry in self.model.logs.entry(Arc::clone(&own)).or_default() {
                if entry.states.is_empty() {
                    let gone = entry.gone == Gone::Expired;
                    entry.states.push((n, gone.then_some(Milestone::Expired)));
                }
            }
            self.model.start(n, &own);
            self.model.start(n, &broadcast());
        }
    }

    async fn append(&mut self) {
        let log = self.a_log();
        self.next_id += 1;
        let ttl_ms = [30_000, 200_000, DAY_MS][self.pick(3)];
        let expires_at_ms = self.model.now_ms + ttl_ms;
        let evict = log.kind.is_wide();
        let limits = LogLimits { entries_max: TIGHT, bytes_max: 1 << 20, evict };
        let append =
            Append { limits, expires_at_ms, ..append_of(&*self.store, &log, self.next_id) };
        let answer = append_one(&*self.store, append).await;
        if self.model.live(&log) >= TIGHT as usize {
            if evict {
                self.evict(&log);
            } else {
                self.model.expire(&log, 0);
            }
        }
        if self.model.live(&log) >= TIGHT as usize {
            assert_eq!(answer, Err(StoreError::LogFull));
            return;
        }
        let appended = answer.unwrap();
        let readers = self.model.readers(&log);
        let audience = if log.kind == LogKind::Terminal { 1 } else { readers.len() };
        assert_eq!(appended.audience, audience as u64);
        assert_eq!(appended.predecessor, self.model.head(&log));
        let entry = ModelEntry {
            id: self.next_id,
            offset: appended.offset,
            expires_at_ms,
            gone: Gone::No,
            states: readers.into_iter().map(|reader| (reader, None)).collect(),
        };
        self.model.logs.entry(log).or_default().push(entry);
    }

    fn evict(&mut self, log: &Arc<LogKey>) {
        let now_ms = self.model.now_ms;
        let entries = self.model.logs.entry(Arc::clone(log)).or_default();
        let oldest = entries.iter_mut().find(|entry| entry.gone == Gone::No).unwrap();
        oldest.gone = if oldest.expires_at_ms <= now_ms { Gone::Expired } else { Gone::Evicted };
    }

    /// A terminal reads one of its logs and settles a part of it.
    async fn acknowledge(&mut self) {
        let all: Vec<(usize, Arc<LogKey>)> = self.model.positions.keys().cloned().collect();
        if all.is_empty() {
            return;
        }
        let (n, log) = all[self.pick(all.len())].clone();
        if self.model.terminals[n].generation == 0 {
            return;
        }
        let position = self.model.positions[&(n, Arc::clone(&log))];
        let page = read(&*self.store, &log, position).await;
        let live = self.model.logs.entry(Arc::clone(&log)).or_default();
        let live: Vec<_> =
            live.iter().filter(|e| e.gone == Gone::No && e.offset > position).collect();
        let read: Vec<Offset> = page.entries.iter().map(|entry| entry.offset).collect();
        assert_eq!(read, live.iter().map(|entry| entry.offset).collect::<Vec<_>>(), "{log}");
        assert_eq!(page.head, self.model.head(&log));
        let mut settled = Vec::new();
        let missed = page.evicted_to > position;
        if missed {
            settled.push(Settled { offset: page.evicted_to, how: Milestone::Evicted });
        }
        let mut cursor = if missed { page.evicted_to } else { position };
        let count = self.pick(page.entries.len() + 1);
        for entry in &page.entries[..count] {
            cursor = entry.offset;
            match self.pick(5) {
                0 => settled.push(Settled { offset: cursor, how: Milestone::Undeliverable }),
                1 => settled.push(Settled { offset: cursor, how: Milestone::Expired }),
                _ => {}
            }
        }
        let generation = self.model.terminals[n].generation;
        let ack = CursorSave {
            settled: settled.clone(),
            ..save_of(&*self.store, &name_of(n), &log, generation, cursor)
        };
        // What broke is unknown; then the session says it again. Of an inbox at last so that it is counted:
        // it may hold what was not counted, and then it is full earlier than the model's.
        let mut tries = 0;
        loop {
            match self.store.save_cursors(vec![ack.clone()]).await.remove(0) {
                Ok(outcome) if tries > 0 || !self.breaks || log.kind != LogKind::User => {
                    break assert_eq!(outcome, SaveOutcome::Saved);
                }
                Ok(_) => {
                    self.harness.break_one_in(0);
                }
                Err(error) => assert!(self.breaks && tries < 50, "{error}"),
            }
            tries += 1;
        }
        let gap_to = if missed { page.evicted_to } else { Offset::ZERO };
        self.model.settle(n, &log, cursor, |entry| {
            let exception = settled.iter().find(|s| s.offset == entry.offset);
            match exception.filter(|settled| settled.how != Milestone::Evicted) {
                Some(settled) => settled.how,
                None if entry.gone == Gone::Expired => Milestone::Expired,
                None if entry.gone == Gone::Evicted && entry.offset <= gap_to => Milestone::Evicted,
                None => Milestone::Acknowledged,
            }
        });
        self.model.positions.insert((n, Arc::clone(&log)), cursor.max(position));
        self.model.trim(&log);
    }

    async fn leave(&mut self) {
        let (n, s) = (self.pick(TERMINALS), self.pick(TOPICS));
        let by = if self.pick(2) == 0 { SubscribeBy::Backend } else { SubscribeBy::Terminal };
        let request = Unsubscribe {
            product: product(),
            terminal: terminal(&name_of(n)),
            topic: topic(&format!("s{s}")),
            by,
        };
        let mut tries = 0;
        while let Err(error) = self.store.unsubscribe(vec![request.clone()]).await.remove(0) {
            tries += 1;
            assert!(self.breaks && tries < 50, "{error}");
        }
        if by == SubscribeBy::Backend {
            self.register(n);
            self.model.terminals[n].banned.insert(s);
        }
        if self.model.terminals[n].topics.remove(&s) {
            self.model.leave(n, &topic_log(&format!("s{s}")));
        }
    }

    async fn join(&mut self) {
        let (n, s) = (self.pick(TERMINALS), self.pick(TOPICS));
        let request = subscribe_of(&name_of(n), &format!("s{s}"), SubscribeBy::Backend);
        self.store.subscribe(vec![request]).await.remove(0).unwrap();
        self.register(n);
        self.model.terminals[n].banned.remove(&s);
        if self.model.terminals[n].topics.insert(s) {
            self.model.start(n, &topic_log(&format!("s{s}")));
        }
    }

    async fn upkeep(&mut self) {
        sweep(&*self.store).await;
        let logs: Vec<Arc<LogKey>> = self.model.logs.keys().cloned().collect();
        for log in logs {
            self.model.expire(&log, 60_000);
        }
    }

    /// Upkeep has gone round often enough to find what broke.
    async fn heal(&mut self) {
        self.harness.break_one_in(0);
        for _ in 0..3 {
            self.harness.advance_ms(61_000);
            self.model.now_ms = self.store.time_ms();
            self.upkeep().await;
        }
    }

    async fn check(&self) {
        for (log, entries) in &self.model.logs {
            for entry in entries {
                let mut counts = counts(&*self.store, entry.id).await;
                assert!(counts.delivered >= counts.acknowledged);
                assert!(counts.delivered <= counts.audience);
                counts.delivered = 0;
                let expected = self.model.counts(log, entry);
                assert_eq!(counts, expected, "message {} in {log}: {entry:?}", entry.id);
                let sum = counts.acknowledged
                    + counts.expired
                    + counts.undeliverable
                    + counts.suppressed
                    + counts.evicted
                    + counts.pending;
                assert_eq!(sum, counts.audience);
            }
        }
    }
}

/// A few hundred random operations, several times, and every number of every message compared.
pub async fn i13_conservation_under_a_random_workload(harness: &mut impl Harness) {
    conservation(harness, false).await;
}

/// The same while steps between cursors and counts break, and the process dies now and then.
/// Not one of the suite's tests yet: leaving is not exact where a step breaks, and one run in five
/// meets that.
pub async fn i13_conservation_where_steps_break(harness: &mut impl Harness) {
    conservation(harness, true).await;
}

async fn conservation(harness: &mut impl Harness, breaks: bool) {
    // The seed of a failure is in its output; give it here to see it again.
    let seed: u64 = match std::env::var("CLARION_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("CLARION_SEED={seed}");
    let store = harness.store();
    let model = Model {
        logs: BTreeMap::new(),
        positions: BTreeMap::new(),
        terminals: (0..TERMINALS).map(|_| ModelTerminal::default()).collect(),
        now_ms: 0,
    };
    let rng = StdRng::seed_from_u64(seed);
    let mut run = Workload { harness, store, model, rng, next_id: 0, breaks };
    for step in 0..1500 {
        run.model.now_ms = run.store.time_ms();
        let what = run.pick(20);
        if breaks {
            // Leaving is not exact where a step of it breaks, and who opens as another user leaves.
            run.harness.break_one_in(if matches!(what, 0 | 1 | 15) { 0 } else { 6 });
        }
        match what {
            0 | 1 => run.open().await,
            2..=8 => run.append().await,
            9..=14 => run.acknowledge().await,
            15 => run.leave().await,
            16 => run.join().await,
            17 => run.harness.advance_ms(20_000),
            18 => run.upkeep().await,
            _ => {
                if step % 10 == 0 && run.harness.reopen().await {
                    run.store = run.harness.store();
                }
            }
        }
        if step % 50 == 49 {
            if breaks {
                run.heal().await;
            }
            run.model.now_ms = run.store.time_ms();
            run.check().await;
        }
    }
    run.heal().await;
    run.check().await;
}
