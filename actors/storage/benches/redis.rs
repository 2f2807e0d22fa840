//! Bytes and rates of the Redis store, on a server that it starts: what an inbox and a push cost in
//! Redis, and appends to empty and to filled inboxes. `cargo bench -p clarion-storage --bench redis`.
//! Time of scripts is the server's own (`INFO commandstats`), so it does not depend on this process.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_launch::{Redis, RedisOptions};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{KeyId, MessageId, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::redis::{RedisMode, RedisSettings, RedisStore, init};
use clarion_storage::{
    Append, Claim, ConsumeNonce, CursorSave, LogLimits, OpenSession, Read, Store,
};

const INBOXES: usize = 20_000;
const WAITING: usize = 256;
const CROWDED: usize = 200;
const PAYLOAD_BYTES: usize = 200;
const BATCH: usize = 200;
const ROOMY: LogLimits = LogLimits { entries_max: 100_000, bytes_max: 1 << 30, evict: false };

struct Bench {
    store: Arc<RedisStore>,
    redis: Redis,
    next_id: u128,
}

impl Bench {
    async fn info(&self, section: &str, field: &str) -> f64 {
        let info = self.redis.server.info(section).await.unwrap();
        let line = info.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        let value = line.split(&[':', '=', ','][..]).nth(if section == "memory" { 1 } else { 4 });
        value.unwrap_or("0").trim().parse().unwrap_or(0.0)
    }

    async fn used(&self) -> f64 {
        self.info("memory", "used_memory:").await
    }

    /// Runs `work` and prints how many bytes each of `count` things took.
    async fn bytes<F: Future<Output = ()>>(&mut self, what: &str, count: usize, work: F) {
        let before = self.used().await;
        work.await;
        println!("{what:<58} {:>7.0} B each", (self.used().await - before) / count as f64);
    }

    fn append_of(&mut self, log: &Arc<LogKey>) -> Append {
        self.next_id += 1;
        let now_ms = self.store.time_ms();
        let id = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 48;
        Append {
            log: Arc::clone(log),
            message: MessageId::from_parts(now_ms, id),
            expires_at_ms: now_ms + 86_400_000,
            body: Body::Json(Bytes::from_static(&[b'1'; PAYLOAD_BYTES])),
            not_after_ms: now_ms + 60_000,
            first_attempt_ms: None,
            limits: ROOMY,
        }
    }

    /// Appends to each of the logs so many times; prints rate and the server's time.
    async fn appends(&mut self, what: &str, logs: &[Arc<LogKey>], times: usize) {
        self.redis.server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
        let begun = Instant::now();
        for _ in 0..times {
            for part in logs.chunks(BATCH) {
                let appends: Vec<_> = part.iter().map(|log| self.append_of(log)).collect();
                assert!(self.store.append(appends).await.iter().all(Result::is_ok));
            }
        }
        self.tell(what, logs.len() * times, begun).await;
    }

    async fn tell(&self, what: &str, count: usize, begun: Instant) {
        let took = begun.elapsed().as_secs_f64();
        let stats = self.redis.server.info("commandstats").await.unwrap();
        let used_us: f64 = ["cmdstat_evalsha:", "cmdstat_evalsha_ro:"]
            .iter()
            .filter_map(|name| stats.lines().find(|line| line.starts_with(name)))
            .filter_map(|line| line.split("usec=").nth(1)?.split(',').next()?.parse::<f64>().ok())
            .sum();
        println!(
            "{what:<58} {:>7.0} /s, {:>6.1} us of the server each",
            count as f64 / took,
            used_us / count as f64
        );
    }

    async fn memory(&self, key: &str) -> String {
        let usage = self.redis.server.command(&["MEMORY", "USAGE", key]).await.unwrap();
        let encoding = self.redis.server.command(&["OBJECT", "ENCODING", key]).await.unwrap();
        format!("{usage:?} {encoding:?}")
    }
}

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn names(prefix: &str, count: usize) -> Vec<TerminalId> {
    (0..count).map(|n| TerminalId::new(&format!("{prefix}-{n:08}")).unwrap()).collect()
}

fn inboxes(names: &[TerminalId]) -> Vec<Arc<LogKey>> {
    names.iter().map(|name| LogKey::terminal(&product(), name)).collect()
}

fn open_of(terminal: &TerminalId, topics: &[TopicName]) -> OpenSession {
    OpenSession {
        product: product(),
        terminal: terminal.clone(),
        user: None,
        kind: TerminalKind::Android,
        topics: topics.to_vec(),
        topics_max: 64,
    }
}

async fn open_all(store: &RedisStore, names: &[TerminalId], topics: &[TopicName]) {
    for part in names.chunks(BATCH) {
        let opens = part.iter().map(|name| open_of(name, topics)).collect();
        for opened in store.open_session(opens).await {
            opened.unwrap();
        }
    }
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let options = RedisOptions::default()
        .setting("hash-max-listpack-value", "4096")
        .setting("hash-max-listpack-entries", "512");
    let redis = Redis::standalone_with(dir.path(), &options).await.unwrap();
    let settings = RedisSettings {
        replicas_min: 0,
        check: false,
        ..RedisSettings::new(RedisMode::Standalone, [redis.addr().to_string()])
    };
    init(&settings).await.unwrap();
    let store = Arc::new(RedisStore::open(settings).await.unwrap());
    let mut bench = Bench { store: Arc::clone(&store), redis, next_id: 0 };
    bytes(&mut bench, &store).await;
    rates(&mut bench, &store).await;
}

async fn bytes(bench: &mut Bench, store: &Arc<RedisStore>) {
    let terminals = names("terminal", INBOXES);
    let logs = inboxes(&terminals);
    let work = open_all(store, &terminals, &[]);
    bench.bytes("a terminal: record, index, no message", INBOXES, work).await;
    let before = bench.used().await;
    let mut messages = Vec::new();
    for part in logs.chunks(BATCH) {
        let appends: Vec<_> = part.iter().map(|log| bench.append_of(log)).collect();
        messages.extend(appends.iter().map(|append| append.message));
        assert!(store.append(appends).await.iter().all(Result::is_ok));
    }
    let each = (bench.used().await - before) / INBOXES as f64;
    println!("{:<58} {each:>7.0} B each", "a push of 200 B: entry, place, note");
    let tag = format!("demo/t/{}", terminals[7]);
    for (what, key) in [
        ("MEMORY USAGE of the inbox with record and message", format!("clarion:{{{tag}}}")),
        ("MEMORY USAGE of the places of its messages", format!("clarion:{{{tag}}}:c")),
        ("MEMORY USAGE of the note", format!("clarion:{{demo/m/{}}}", messages[7])),
    ] {
        println!("{what:<58} {}", bench.memory(&key).await);
    }
    let strangers = inboxes(&names("stranger", INBOXES));
    let before = bench.used().await;
    for part in strangers.chunks(BATCH) {
        let appends: Vec<_> = part.iter().map(|log| bench.append_of(log)).collect();
        assert!(store.append(appends).await.iter().all(Result::is_ok));
    }
    let each = (bench.used().await - before) / INBOXES as f64;
    println!("{:<58} {each:>7.0} B each", "a push of 200 B to an unknown terminal, index included");
    let now_ms = store.time_ms();
    let claims = (0..INBOXES).map(|n| Claim {
        product: product(),
        key: format!("01J9Z6{n:020}").into(),
        body_hash: [7; 32],
        message: MessageId(n as u128),
        expires_at_ms: now_ms + 86_400_000,
        until_ms: now_ms + 5000,
        keep_until_ms: now_ms + 900_000,
    });
    let claims: Vec<Claim> = claims.collect();
    let work = async {
        for part in claims.chunks(BATCH) {
            assert!(store.claim(part.to_vec()).await.iter().all(Result::is_ok));
        }
    };
    bench.bytes("an idempotency key without outcome", INBOXES, work).await;
    let nonces = (0..INBOXES).map(|n| ConsumeNonce {
        product: product(),
        key: KeyId::new("key").unwrap(),
        nonce: n.to_string().into(),
        timestamp_s: now_ms / 1000,
        window_s: 300,
    });
    let nonces: Vec<ConsumeNonce> = nonces.collect();
    for part in nonces.chunks(BATCH) {
        store.consume_nonces(part.to_vec()).await.unwrap();
    }
    let mut used = 0;
    for share in 0..16 {
        let key = format!("clarion:{{demo/n/{share}}}:{}", now_ms / 60_000);
        let usage = ["MEMORY", "USAGE", &key, "SAMPLES", "0"];
        let usage = format!("{:?}", bench.redis.server.command(&usage).await.unwrap());
        let digits = usage.trim_matches(|c: char| !c.is_ascii_digit());
        used += digits.parse::<usize>().unwrap_or(0);
    }
    println!("{:<58} {:>7} B each", "a nonce, 1250 to a set", used / INBOXES);
    let members = names("member", INBOXES);
    open_all(store, &members, &[]).await;
    let topics = [TopicName::new("news").unwrap()];
    let work = open_all(store, &members, &topics);
    bench.bytes("a membership: in the record and in the topic", INBOXES, work).await;
    let before = bench.used().await;
    let topic = LogKey::topic(&product(), &topics[0]);
    bench.appends("append to one topic, 200 a call", &vec![topic; 2000], 1).await;
    let each = (bench.used().await - before) / 2000.0;
    println!("{:<58} {each:>7.0} B each", "a push of 200 B to a topic: entry, counts, order, note");
}

async fn rates(bench: &mut Bench, store: &Arc<RedisStore>) {
    let empty = names("empty", CROWDED * 20);
    open_all(store, &empty, &[]).await;
    bench.appends("append to an empty inbox, 200 a call", &inboxes(&empty), 1).await;
    let filled = names("filled", CROWDED);
    open_all(store, &filled, &[]).await;
    let logs = inboxes(&filled);
    bench.appends("append to inboxes with 0 to 255 waiting, 200 a call", &logs, WAITING).await;
    bench.appends("append to an inbox with 256 to 275 waiting, 200 a call", &logs, 20).await;
    let key = format!("clarion:{{demo/t/{}}}", filled[3]);
    println!("{:<58} {}", "MEMORY USAGE of an inbox with 276 messages", bench.memory(&key).await);

    bench.redis.server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let begun = Instant::now();
    let mut heads = Vec::new();
    for part in logs.chunks(BATCH) {
        let reads = part.iter().map(|log| Read {
            log: Arc::clone(log),
            after: Offset::ZERO,
            entries_max: 64,
            bytes_max: 1 << 20,
        });
        heads.extend(store.read(reads.collect()).await.into_iter().map(|page| page.unwrap()));
    }
    bench.tell("read 64 of 276 entries", CROWDED, begun).await;

    bench.redis.server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let begun = Instant::now();
    for part in empty.chunks(BATCH) {
        let opens = part.iter().map(|name| open_of(name, &[])).collect();
        for opened in store.open_session(opens).await {
            opened.unwrap();
        }
    }
    bench.tell("open a session of a known terminal, 200 a call", empty.len(), begun).await;
    let opened = store.open_session(filled.iter().map(|name| open_of(name, &[])).collect()).await;

    bench.redis.server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let begun = Instant::now();
    let saves =
        opened.into_iter().zip(&filled).zip(&heads).map(|((opened, name), page)| CursorSave {
            terminal: name.clone(),
            log: LogKey::terminal(&product(), name),
            generation: opened.unwrap().generation,
            epoch: store.epoch(),
            cursor: page.entries[0].offset,
            attempts: 0,
            settled: Vec::new(),
            heartbeat_ms: None,
        });
    assert!(store.save_cursors(saves.collect()).await.iter().all(Result::is_ok));
    bench.tell("save a cursor that passes 1 of 276", CROWDED, begun).await;
}
