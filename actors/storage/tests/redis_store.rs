//! What only the Redis store has: encodings, bytes, times to live, lineage, confirmation by replicas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod redis_support;

use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName, UserId};
use clarion_storage::conformance::Harness;
use clarion_storage::redis::{RedisSettings, RedisStore, Step, init, restored};
use clarion_storage::{
    Append, Claim, CursorSave, LogLimits, OpenSession, Read, SaveOutcome, Store, StoreError,
};
use redis_support::Alone;

const DAY_MS: u64 = 86_400_000;

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn terminal(name: &str) -> TerminalId {
    TerminalId::new(name).unwrap()
}

fn inbox(name: &str) -> Arc<LogKey> {
    LogKey::terminal(&product(), &terminal(name))
}

fn open_of(name: &str) -> OpenSession {
    OpenSession {
        product: product(),
        terminal: terminal(name),
        user: None,
        kind: TerminalKind::Android,
        topics: Vec::new(),
        topics_max: 8,
    }
}

fn append_of(store: &dyn Store, log: &Arc<LogKey>, id: u128, payload_bytes: usize) -> Append {
    let now_ms = store.time_ms();
    Append {
        log: Arc::clone(log),
        message: MessageId(id),
        expires_at_ms: now_ms + DAY_MS,
        body: Body::Json(Bytes::from(vec![b'1'; payload_bytes])),
        not_after_ms: now_ms + 60_000,
        first_attempt_ms: None,
        limits: LogLimits { entries_max: 256, bytes_max: 1 << 20, evict: false },
    }
}

async fn append(store: &dyn Store, log: &Arc<LogKey>, id: u128, payload_bytes: usize) -> Offset {
    let append = append_of(store, log, id, payload_bytes);
    store.append(vec![append]).await.remove(0).unwrap().offset
}

async fn ids(store: &dyn Store, log: &Arc<LogKey>) -> Vec<u128> {
    let read =
        Read { log: Arc::clone(log), after: Offset::ZERO, entries_max: 1000, bytes_max: 1 << 30 };
    let page = store.read(vec![read]).await.remove(0).unwrap();
    page.entries.iter().map(|entry| entry.message.0).collect()
}

impl Alone {
    async fn text(&self, words: &[&str]) -> String {
        let answer = self.redis.server.command(words).await.unwrap();
        format!("{answer:?}")
    }

    async fn number(&self, words: &[&str]) -> i64 {
        let text = self.text(words).await;
        let digits = text.trim_matches(|c: char| !c.is_ascii_digit() && c != '-');
        digits.parse().unwrap_or_else(|_| panic!("{words:?}: {text}"))
    }
}

/// A server with other settings turns a hash of small fields into a hash table; then the order of
/// fields is gone, and everything works as before.
#[tokio::test]
async fn an_inbox_that_redis_turned_into_a_hash_table_works_on() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let key = "clarion:{demo/t/a}";
    let opened = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    let mut offsets = Vec::new();
    for id in 0..20 {
        offsets.push(append(&*store, &inbox("a"), id, 50).await);
    }
    assert!(alone.text(&["OBJECT", "ENCODING", key]).await.contains("listpack"));
    alone.text(&["CONFIG", "SET", "hash-max-listpack-entries", "8"]).await;
    for id in 20..40 {
        offsets.push(append(&*store, &inbox("a"), id, 50).await);
    }
    assert!(alone.text(&["OBJECT", "ENCODING", key]).await.contains("hashtable"));
    assert_eq!(ids(&*store, &inbox("a")).await, (0..40).collect::<Vec<u128>>());
    let save = CursorSave {
        terminal: terminal("a"),
        log: inbox("a"),
        generation: opened.generation,
        epoch: store.epoch(),
        cursor: offsets[29],
        attempts: 2,
        settled: Vec::new(),
        heartbeat_ms: Some(60_000),
    };
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    assert_eq!(ids(&*store, &inbox("a")).await, (30..40).collect::<Vec<u128>>());
    let again = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    assert_eq!((again.logs[0].cursor, again.logs[0].head), (offsets[29], offsets[39]));
    let retry = Append { first_attempt_ms: Some(0), ..append_of(&*store, &inbox("a"), 3, 50) };
    let found = store.append(vec![retry]).await.remove(0).unwrap();
    assert!(found.duplicate && found.offset == offsets[3]);
}

/// Five million of them are to fit: a known terminal with its cursors and one message of 200 B.
#[tokio::test]
async fn an_inbox_with_one_message_takes_at_most_450_bytes() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let (known, stranger) = ("terminal-00000001", "terminal-00000002");
    store.open_session(vec![open_of(known)]).await.remove(0).unwrap();
    for (id, name) in [known, stranger].into_iter().enumerate() {
        append(&*store, &inbox(name), id as u128, 200).await;
        let key = format!("clarion:{{demo/t/{name}}}");
        assert!(alone.text(&["OBJECT", "ENCODING", &key]).await.contains("listpack"));
        // What MEMORY USAGE leaves out: the entry of the key among those that expire.
        let bytes = alone.number(&["MEMORY", "USAGE", &key]).await + 40;
        println!("{name}: {bytes} B");
        assert!(bytes <= 450, "{name}: {bytes} B");
    }
}

/// Payloads over 1 KiB are beside the hash, which stays small, and go with their entries.
#[tokio::test]
async fn a_long_payload_is_beside_its_inbox() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let opened = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    let offset = append(&*store, &inbox("a"), 1, 100_000).await;
    let aside = format!("clarion:{{demo/t/a}}:{offset}");
    assert!(alone.number(&["PTTL", &aside]).await > 0);
    assert!(alone.text(&["OBJECT", "ENCODING", "clarion:{demo/t/a}"]).await.contains("listpack"));
    assert_eq!(ids(&*store, &inbox("a")).await, [1]);
    let save = CursorSave {
        terminal: terminal("a"),
        log: inbox("a"),
        generation: opened.generation,
        epoch: store.epoch(),
        cursor: offset,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    assert_eq!(alone.number(&["EXISTS", &aside]).await, 0);
    assert!(ids(&*store, &inbox("a")).await.is_empty());
}

/// Nothing lives for ever but products and indexes; what holds cursors lives for the retention of
/// terminals, whatever its entries' TTL.
#[tokio::test]
async fn every_record_has_its_time_to_live() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let topics = vec![TopicName::new("news").unwrap()];
    let open = OpenSession { topics, ..open_of("a") };
    store.open_session(vec![open]).await.remove(0).unwrap();
    let news = LogKey::topic(&product(), &TopicName::new("news").unwrap());
    for (id, log) in [inbox("a"), inbox("stranger"), news].iter().enumerate() {
        let ttl = Append {
            expires_at_ms: store.time_ms() + 1000,
            ..append_of(&*store, log, id as u128, 10)
        };
        store.append(vec![ttl]).await.remove(0).unwrap();
    }
    let now_ms = store.time_ms();
    let claim = Claim {
        product: product(),
        key: "k".into(),
        body_hash: [7; 32],
        message: MessageId(1),
        expires_at_ms: now_ms + DAY_MS,
        until_ms: now_ms + 5000,
        keep_until_ms: now_ms + 900_000,
    };
    store.claim(vec![claim]).await.remove(0).unwrap();
    let days = |ms: i64| ms as f64 / DAY_MS as f64;
    let mut seen = Vec::new();
    let keys = alone.text(&["KEYS", "*"]).await;
    for key in keys.split('"').filter(|key| key.starts_with("clarion:")) {
        let lives = days(alone.number(&["PTTL", key]).await);
        let expected = match key {
            // Indexes and the products: no end.
            _ if key.contains("/T/") || key.contains("/I/") || key.contains("/S/") => lives < 0.0,
            _ if key.contains("{products}") || key.ends_with(":lineage") => lives < 0.0,
            _ if key.ends_with(":fence") => true,
            _ if key.contains("/c/") => lives > 0.0 && lives < 0.02,
            _ if key.contains("/m/") || key.ends_with(":c") || key.ends_with(":o") => {
                lives > 0.99 && lives < 1.01
            }
            // Entries of a topic go with it, by upkeep or as it evicts.
            _ if key.ends_with(":e") => true,
            _ => lives > 96.9 && lives < 97.1,
        };
        assert!(expected, "{key} lives {lives} days");
        seen.push(key.to_owned());
    }
    let has = |end: &str| seen.iter().any(|key| key.ends_with(end));
    for end in ["{demo/t/a}", "{demo/t/a}:c", "{demo/t/stranger}", "{demo/s/news}:m", "news}:e"] {
        assert!(has(end), "{end} is not among {seen:?}");
    }
}

/// I5: a lineage is made by `init` only; without it, or with another one on a shard, nothing starts,
/// and the error names the command that mends it.
#[tokio::test]
async fn i5_a_lineage_that_is_missing_or_another_is_told() {
    let alone = Alone::tuned().await;
    let settings = alone.fixture.settings.clone();
    let fresh = RedisSettings { prefix: "fresh".into(), ..settings.clone() };
    let Err(StoreError::Fatal(why)) = RedisStore::open(fresh.clone()).await else { panic!() };
    assert!(why.contains("clarion store init"), "{why}");
    assert_eq!(alone.text(&["KEYS", "fresh:*:lineage"]).await, alone.text(&["KEYS", "none"]).await);
    let epoch = init(&fresh).await.unwrap();
    assert!(matches!(init(&fresh).await, Err(StoreError::Fatal(_))));
    let store = RedisStore::open(fresh.clone()).await.unwrap();
    assert_eq!(store.epoch(), epoch);
    store.close().await.unwrap();
    // Part of it was lost, as with a shard that came back empty.
    let keys = alone.text(&["KEYS", "fresh:*:lineage"]).await;
    let lost = keys.split('"').find(|key| key.starts_with("fresh:")).unwrap();
    alone.text(&["DEL", lost]).await;
    let Err(StoreError::Fatal(why)) = RedisStore::open(fresh.clone()).await else { panic!() };
    assert!(why.contains("clarion store restored"), "{why}");
    let newer = restored(&fresh).await.unwrap();
    assert_ne!(newer, epoch);
    assert_eq!(RedisStore::open(fresh).await.unwrap().epoch(), newer);
    assert_ne!(alone.fixture.store.epoch(), newer);
}

/// I5: after a restore a cursor is of another epoch: told, and replaced even by a lower one.
#[tokio::test]
async fn i5_cursors_of_the_former_lineage_are_told_as_such() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let opened = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    append(&*store, &inbox("a"), 1, 10).await;
    let former = store.epoch();
    store.close().await.unwrap();
    let epoch = restored(&alone.fixture.settings).await.unwrap();
    let store = RedisStore::open(alone.fixture.settings.clone()).await.unwrap();
    let again = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    assert!(again.generation > opened.generation);
    assert_eq!((again.logs[0].epoch, again.logs[0].cursor_epoch), (epoch, former));
    let save = CursorSave {
        terminal: terminal("a"),
        log: inbox("a"),
        generation: again.generation,
        epoch,
        cursor: again.logs[0].cursor,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    let third = store.open_session(vec![open_of("a")]).await.remove(0).unwrap();
    assert_eq!(third.logs[0].cursor_epoch, epoch);
}

/// I1: an entry that replicas have not confirmed is on the master; no reader is given it.
#[tokio::test]
async fn i1_what_replicas_did_not_confirm_is_not_read() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    append(&*store, &inbox("a"), 1, 10).await;
    // A node that asks for a replica, of which there is none.
    let strict = RedisSettings {
        replicas_min: 1,
        timeout: std::time::Duration::from_millis(300),
        ..alone.fixture.settings.clone()
    };
    let strict = RedisStore::open(strict).await.unwrap();
    let read = || Read { log: inbox("a"), after: Offset::ZERO, entries_max: 10, bytes_max: 1000 };
    let page = strict.read(vec![read()]).await.remove(0);
    assert!(matches!(page, Err(StoreError::Unavailable(_))), "{page:?}");
    // An attempt that is that old is over: what is there now was confirmed, or is found by its retry.
    strict.advance_ms(60_001);
    assert_eq!(strict.read(vec![read()]).await.remove(0).unwrap().entries.len(), 1);
    // What was never written needs no confirmation.
    let empty = Read { log: inbox("b"), ..read() };
    assert!(strict.read(vec![empty]).await.remove(0).unwrap().entries.is_empty());
}

/// Records of messages go while others are added, wherever they are: they do not pile up in a log
/// that upkeep does not come to.
#[tokio::test]
async fn places_of_messages_do_not_pile_up() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let limits = LogLimits { entries_max: 100, bytes_max: 1 << 20, evict: true };
    let news = LogKey::topic(&product(), &TopicName::new("news").unwrap());
    for round in 0..40_u128 {
        let appends = (0..50).map(|n| {
            let id = (round << 64) | n;
            let expires_at_ms = store.time_ms() + 1000;
            Append { limits, expires_at_ms, ..append_of(&*store, &news, id, 10) }
        });
        let appends: Vec<Append> = appends.collect();
        for chunk in appends.chunks(25) {
            assert!(store.append(chunk.to_vec()).await.iter().all(Result::is_ok));
        }
        alone.advance_ms(DAY_MS);
    }
    let places = alone.number(&["HLEN", "clarion:{demo/s/news}:c"]).await;
    let order = alone.number(&["ZCARD", "clarion:{demo/s/news}:o"]).await;
    println!("{places} places of 2000 messages");
    assert_eq!(places, order);
    assert!(places < 400, "{places}");
}

/// The payload of an entry that no upkeep came to is gone a day after the entry expired: that is an
/// expired entry, not damage that stops a node.
#[tokio::test]
async fn an_expired_entry_whose_long_payload_went_first_is_passed() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let short = Append {
        expires_at_ms: store.time_ms() + 1000,
        ..append_of(&*store, &inbox("a"), 1, 5000)
    };
    let offset = store.append(vec![short]).await.remove(0).unwrap().offset;
    append(&*store, &inbox("a"), 2, 10).await;
    let read = || Read { log: inbox("a"), after: Offset::ZERO, entries_max: 9, bytes_max: 1 << 20 };
    alone.text(&["DEL", &format!("clarion:{{demo/t/a}}:{offset}")]).await;
    let early = store.read(vec![read()]).await.remove(0);
    assert!(matches!(early, Err(StoreError::Fatal(_))), "{early:?}");
    alone.advance_ms(2000);
    let page = store.read(vec![read()]).await.remove(0).unwrap();
    assert_eq!(page.entries.len(), 2);
    assert_eq!(page.entries[0].body, Body::Tombstone);
    assert_eq!(page.entries[1].message, MessageId(2));
}

/// I3: the log of a terminal that never came, and that is pushed to for months, outlives its entries.
#[tokio::test]
async fn an_inbox_lives_at_least_as_long_as_its_newest_entry() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let news = LogKey::topic(&product(), &TopicName::new("news").unwrap());
    for (log, key) in [(inbox("a"), "clarion:{demo/t/a}"), (news, "clarion:{demo/s/news}")] {
        append(&*store, &log, 1, 10).await;
        // As it is when the log is 97 days old.
        alone.text(&["PEXPIRE", key, "1000"]).await;
        append(&*store, &log, 2, 10).await;
        assert!(alone.number(&["PTTL", key]).await > DAY_MS as i64, "{key}");
    }
}

/// Indexes that missed a log (the node died right after making it) have it again a day later, when
/// its readers are seen; else upkeep would not keep the log alive.
#[tokio::test]
async fn i3_indexes_are_repaired_when_a_reader_is_seen() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let open = || OpenSession {
        user: Some(UserId::new("u").unwrap()),
        topics: vec![TopicName::new("news").unwrap()],
        ..open_of("a")
    };
    let opened = store.open_session(vec![open()]).await.remove(0).unwrap();
    let indexes = alone.text(&["KEYS", "clarion:{demo/[SU]/[0-9]*}"]).await;
    let indexes: Vec<&str> = indexes.split('"').filter(|key| key.starts_with("clarion")).collect();
    assert_eq!(indexes.len(), 2);
    for index in &indexes {
        alone.text(&["DEL", index]).await;
    }
    alone.text(&["PEXPIRE", "clarion:{demo/b/}", "5000"]).await;
    // And the terminal is not among the readers of its user's inbox, which could lose entries.
    let user = LogKey::user(&product(), &UserId::new("u").unwrap());
    let first = append(&*store, &user, 1, 10).await;
    let save = CursorSave {
        terminal: terminal("a"),
        log: Arc::clone(&user),
        generation: opened.generation,
        epoch: store.epoch(),
        cursor: first,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    let readers = "clarion:{demo/u/u}:m";
    alone.text(&["HSET", readers, "keeper", "0"]).await;
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    append(&*store, &user, 2, 10).await;
    alone.text(&["HDEL", readers, "a"]).await;
    alone.advance_ms(DAY_MS + 1);
    store.open_session(vec![open()]).await.remove(0).unwrap();
    assert_eq!(alone.number(&["HGET", readers, "a"]).await as u64, first.0, "from where it was");
    for index in &indexes {
        assert_eq!(alone.number(&["EXISTS", index]).await, 1, "{index}");
    }
    assert!(alone.number(&["PTTL", "clarion:{demo/b/}"]).await > DAY_MS as i64);
}

/// I6: a reader of a user's inbox whose record does not know of it (the answer to its new binding was
/// lost, or the node died on the way) would keep all entries there until the inbox is full.
#[tokio::test]
async fn i6_upkeep_takes_out_readers_of_a_users_inbox_that_are_none() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    let open = OpenSession { user: Some(UserId::new("u").unwrap()), ..open_of("a") };
    let opened = store.open_session(vec![open]).await.remove(0).unwrap();
    store.open_session(vec![open_of("b")]).await.remove(0).unwrap();
    // As after a crash between joining and binding (b), and of a terminal that was erased (c).
    let readers = "clarion:{demo/u/u}:m";
    alone.text(&["HSET", readers, "b", "0", "c", "0"]).await;
    let user = LogKey::user(&product(), &UserId::new("u").unwrap());
    let offset = append(&*store, &user, 1, 10).await;
    let save = CursorSave {
        terminal: terminal("a"),
        log: Arc::clone(&user),
        generation: opened.generation,
        epoch: store.epoch(),
        cursor: offset,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    assert_eq!(ids(&*store, &user).await, [1]);
    let round = || async { while !store.upkeep(10_000).await.unwrap().complete {} };
    // Whoever is just binding is not taken out by rounds that follow each other quickly.
    for _ in 0..4 {
        round().await;
    }
    assert_eq!(alone.number(&["HLEN", readers]).await, 3);
    for _ in 0..2 {
        alone.advance_ms(60_001);
        round().await;
    }
    assert_eq!(alone.number(&["HLEN", readers]).await, 1);
    assert!(ids(&*store, &user).await.is_empty());
}

/// I2, I11: after a fail-over to a server whose clock is behind, time in a log does not go back: an attempt
/// that was over when its retry was appended stays over. A log whose last append was made by a clock that
/// was far off is not held up by it.
#[tokio::test]
async fn i2_a_clock_that_is_set_back_revives_no_attempt() {
    let alone = Alone::tuned().await;
    let (ahead, behind) =
        (alone.store(), RedisStore::open(alone.fixture.settings.clone()).await.unwrap());
    alone.advance_ms(3000);
    let first = append_of(&*ahead, &inbox("a"), 1, 10);
    let late =
        Append { not_after_ms: ahead.time_ms() - 500, ..append_of(&*ahead, &inbox("a"), 2, 10) };
    let retry = Append { first_attempt_ms: Some(0), ..append_of(&*ahead, &inbox("a"), 2, 10) };
    for append in [first, retry] {
        ahead.append(vec![append]).await.remove(0).unwrap();
    }
    assert!(behind.time_ms() < late.not_after_ms, "by its clock there is time left");
    let other = Append { message: MessageId(3), ..late.clone() };
    assert_eq!(behind.append(vec![other]).await, [Err(StoreError::TooLate)]);
    let elsewhere = Append { log: inbox("b"), ..late };
    assert!(behind.append(vec![elsewhere]).await[0].is_ok());
    assert_eq!(ids(&*ahead, &inbox("a")).await, [1, 2]);
    // An hour ahead: nothing is too late because of it, and offsets rise all the same.
    alone.advance_ms(3_600_000);
    let wrong = append(&*ahead, &inbox("c"), 1, 10).await;
    assert!(append(&behind, &inbox("c"), 2, 10).await > wrong);
}

/// Where a message is could not be noted when it was appended: upkeep makes up for it.
#[tokio::test]
async fn a_message_that_could_not_be_noted_is_found_later() {
    let alone = Alone::tuned().await;
    let store = alone.store();
    alone.fixture.store.breaks().next(Step::Note, false);
    append(&*store, &inbox("a"), 1, 10).await;
    assert_eq!(store.message(&product(), MessageId(1)).await.unwrap(), None);
    store.upkeep(10).await.unwrap();
    let found = store.message(&product(), MessageId(1)).await.unwrap().unwrap();
    assert_eq!(found.targets[0].counts.pending, 1);
}
