//! Appends, opens and cursor saves per second through the trait, with CPU per operation of the
//! whole process. `cargo bench -p clarion-storage --bench append -- [DIRECTORY]`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::embedded::{EmbeddedConfig, EmbeddedStore, init};
use clarion_storage::{Append, CursorSave, LogLimits, OpenSession, Read, Store};

/// As the node has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOGS: usize = 100_000;
const PAYLOAD_BYTES: usize = 216;

fn cpu() -> Duration {
    // Fields 14 and 15 of /proc/self/stat: user and system time in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

struct Phase {
    name: String,
    wall: Instant,
    cpu: Duration,
}

impl Phase {
    fn start(name: impl Into<String>) -> Self {
        Self { name: name.into(), wall: Instant::now(), cpu: cpu() }
    }

    fn end(self, operations: u64) {
        let wall = self.wall.elapsed().as_secs_f64();
        let used = (cpu() - self.cpu).as_secs_f64();
        println!(
            "{:<44} {:>9.0} /s   {:>6.2} us CPU each",
            self.name,
            operations as f64 / wall,
            used * 1e6 / operations as f64
        );
    }
}

fn append_of(log: &Arc<LogKey>, id: u128, now_ms: u64) -> Append {
    Append {
        log: Arc::clone(log),
        message: MessageId::from_parts(now_ms, id),
        expires_at_ms: now_ms + 3 * 86_400_000,
        body: Body::Json(Bytes::from_static(&[b'1'; PAYLOAD_BYTES])),
        not_after_ms: now_ms + 60_000,
        first_attempt_ms: None,
        limits: LogLimits { entries_max: 100_000, bytes_max: 1 << 30, evict: false },
    }
}

async fn first_appends(store: &Arc<EmbeddedStore>, logs: &[Arc<LogKey>]) {
    let phase = Phase::start("first append to an inbox, 64 per call");
    for (n, chunk) in logs.chunks(64).enumerate() {
        let now_ms = store.time_ms();
        let batch = chunk.iter().map(|log| append_of(log, n as u128, now_ms));
        assert!(store.append(batch.collect()).await.iter().all(Result::is_ok));
    }
    phase.end(logs.len() as u64);
}

async fn appends(
    store: &Arc<EmbeddedStore>,
    logs: &Arc<Vec<Arc<LogKey>>>,
    callers: u64,
    each: usize,
) {
    let phase = Phase::start(format!("append, {callers} callers, {each} per call"));
    let stop = Instant::now() + Duration::from_secs(5);
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (store, logs, done) = (Arc::clone(store), Arc::clone(logs), Arc::clone(&done));
        #[allow(clippy::disallowed_methods)]
        tasks.spawn(async move {
            let mut random = caller * 0x9e37_79b9_7f4a_7c15 + 1;
            while Instant::now() < stop {
                let now_ms = store.time_ms();
                let batch = (0..each).map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    append_of(&logs[random as usize % LOGS], u128::from(random), now_ms)
                });
                let answers = store.append(batch.collect()).await;
                assert!(answers.iter().all(Result::is_ok), "{answers:?}");
                done.fetch_add(each as u64, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    phase.end(done.load(Ordering::Relaxed));
}

async fn sessions(store: &Arc<EmbeddedStore>, product: &ProductId) {
    let terminals: Vec<TerminalId> =
        (0..15_000).map(|n| TerminalId::new(&format!("terminal-{n:08}")).unwrap()).collect();
    let topic = TopicName::new("news").unwrap();
    let open = |terminal: &TerminalId| OpenSession {
        product: product.clone(),
        terminal: terminal.clone(),
        user: None,
        kind: TerminalKind::Device,
        topics: vec![topic.clone()],
        topics_max: 64,
    };
    let mut generations = Vec::new();
    for what in ["new", "known"] {
        let phase = Phase::start(format!("open sessions of {what} terminals, 64 per call"));
        generations.clear();
        for chunk in terminals.chunks(64) {
            for opened in store.open_session(chunk.iter().map(open).collect()).await {
                generations.push(opened.unwrap().generation);
            }
        }
        phase.end(terminals.len() as u64);
    }
    let log = LogKey::topic(product, &topic);
    let now_ms = store.time_ms();
    let mut head = Offset::ZERO;
    let limits = LogLimits { entries_max: 10_000, bytes_max: 16 << 20, evict: true };
    for id in 0..20 {
        let append = Append { limits, ..append_of(&log, id, now_ms) };
        head = store.append(vec![append]).await.remove(0).unwrap().offset;
    }
    let phase = Phase::start("15000 terminals save a cursor over 20 entries");
    let saves = terminals.iter().zip(&generations).map(|(terminal, generation)| CursorSave {
        terminal: terminal.clone(),
        log: Arc::clone(&log),
        generation: *generation,
        epoch: store.epoch(),
        cursor: head,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    });
    let answers = store.save_cursors(saves.collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    phase.end(15_000);
}

async fn inboxes(store: &Arc<EmbeddedStore>, logs: &Arc<Vec<Arc<LogKey>>>) {
    let phase = Phase::start("read inboxes, 64 per call");
    let mut entries = 0;
    for chunk in logs.chunks(64) {
        let reads = chunk.iter().map(|log| Read {
            log: Arc::clone(log),
            after: Offset::ZERO,
            entries_max: 64,
            bytes_max: 65_536,
        });
        for page in store.read(reads.collect()).await {
            entries += page.unwrap().entries.len();
        }
    }
    phase.end(logs.len() as u64);
    println!("  ({entries} entries)");
}

fn main() {
    let directory = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let temporary = tempfile::tempdir_in(directory.unwrap_or_else(|| ".".into())).unwrap();
    let path = temporary.path().join("data");
    init(&path).unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::new(&path) };
    let store = Arc::new(EmbeddedStore::open(config).unwrap());
    let product = ProductId::new("bench").unwrap();
    let logs: Vec<Arc<LogKey>> = (0..LOGS)
        .map(|n| LogKey::terminal(&product, &TerminalId::new(&format!("inbox-{n:08}")).unwrap()))
        .collect();
    let logs = Arc::new(logs);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        first_appends(&store, &logs).await;
        for (callers, each) in [(1, 1), (64, 1), (512, 1), (8, 64)] {
            appends(&store, &logs, callers, each).await;
        }
        inboxes(&store, &logs).await;
        sessions(&store, &product).await;
        let used = store.health().used_bytes.unwrap_or(0);
        println!("  ({} MiB on disk)", used >> 20);
        store.close().await.unwrap();
    });
}
