//! I1: a process that is killed again and again has lost nothing that it acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{KeyId, MessageId, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::embedded::{EmbeddedConfig, EmbeddedStore, init};
use clarion_storage::{
    Append, Claim, ClaimOutcome, ConsumeNonce, CursorSave, LogLimits, NonceUse, OpenSession, Read,
    SaveOutcome, Store, SubscriptionState,
};

const CHILD: &str = "CLARION_STORE_CHILD";
const ROUND: &str = "CLARION_STORE_ROUND";
const ROUNDS: u64 = 6;
const ACKNOWLEDGED: usize = 3000;
const CALLERS: u64 = 16;

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn terminal(caller: u64) -> TerminalId {
    TerminalId::new(&format!("t{caller}")).unwrap()
}

fn log(caller: u64) -> Arc<LogKey> {
    match caller % 2 {
        0 => LogKey::terminal(&product(), &terminal(caller)),
        _ => LogKey::topic(&product(), &TopicName::new(&format!("s{caller}")).unwrap()),
    }
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::new(path) }).unwrap()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// One caller of the child: appends, saves cursors, claims keys, and says what was answered.
async fn calls(store: Arc<EmbeddedStore>, caller: u64, round: u64) {
    let opened = store
        .open_session(vec![OpenSession {
            product: product(),
            terminal: terminal(caller),
            user: None,
            kind: TerminalKind::Device,
            topics: vec![TopicName::new(&format!("s{caller}")).unwrap()],
            topics_max: 8,
        }])
        .await
        .remove(0)
        .unwrap();
    say(&format!("generation {caller} {}", opened.generation));
    for n in 0_u64.. {
        let now_ms = store.time_ms();
        let id = (u128::from(round) << 96) | (u128::from(caller) << 64) | u128::from(n);
        let append = Append {
            log: log(caller),
            message: MessageId(id),
            expires_at_ms: now_ms + 86_400_000,
            body: Body::Json(Bytes::from(format!("\"{id}\""))),
            not_after_ms: now_ms + 60_000,
            first_attempt_ms: None,
            limits: LogLimits { entries_max: 1 << 30, bytes_max: 1 << 40, evict: false },
        };
        let offset = store.append(vec![append]).await.remove(0).unwrap().offset;
        say(&format!("entry {caller} {id} {offset}"));
        if n % 8 == 7 && caller % 2 == 1 {
            let save = CursorSave {
                terminal: terminal(caller),
                log: log(caller),
                generation: opened.generation,
                epoch: store.epoch(),
                cursor: offset,
                attempts: 0,
                settled: Vec::new(),
                heartbeat_ms: None,
            };
            assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
            say(&format!("cursor {caller} {offset}"));
        }
        if n % 16 == 15 {
            let nonce = nonce(&format!("{round}-{caller}-{n}"), now_ms / 1000);
            assert_eq!(store.consume_nonces(vec![nonce]).await, Ok(vec![NonceUse::Fresh]));
            let key = format!("{round}-{caller}-{n}");
            assert_eq!(store.claim(vec![claim(&key, now_ms)]).await, [Ok(ClaimOutcome::New)]);
            // The nonce was used before the claim: it is as durable.
            say(&format!("claim {key} {}", now_ms / 1000));
        }
    }
}

fn nonce(nonce: &str, timestamp_s: u64) -> ConsumeNonce {
    let key = KeyId::new("key").unwrap();
    ConsumeNonce { product: product(), key, nonce: nonce.into(), timestamp_s, window_s: 300 }
}

fn claim(key: &str, now_ms: u64) -> Claim {
    Claim {
        product: product(),
        key: key.into(),
        body_hash: [1; 32],
        message: MessageId(1),
        expires_at_ms: now_ms + 86_400_000,
        until_ms: now_ms + 600_000,
        keep_until_ms: now_ms + 86_400_000,
    }
}

/// Not a test of its own: what the child processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let round = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = Arc::new(open(Path::new(&path)));
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        tasks.spawn(calls(Arc::clone(&store), caller, round));
    }
    tasks.join_all().await;
}

#[derive(Default)]
struct Acknowledged {
    entries: BTreeMap<u64, Vec<(u128, Offset)>>,
    cursors: HashMap<u64, Offset>,
    generations: HashMap<u64, u64>,
    claims: Vec<(String, u64)>,
}

impl Acknowledged {
    fn note(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["entry", caller, id, offset] => self
                .entries
                .entry(caller.parse().unwrap())
                .or_default()
                .push((id.parse().unwrap(), Offset(offset.parse().unwrap()))),
            ["cursor", caller, offset] => {
                self.cursors.insert(caller.parse().unwrap(), Offset(offset.parse().unwrap()));
            }
            ["generation", caller, generation] => {
                let generation = generation.parse().unwrap();
                let before = self.generations.insert(caller.parse().unwrap(), generation);
                assert!(before.is_none_or(|before| before < generation), "I7");
            }
            ["claim", key, second] => self.claims.push((key.into(), second.parse().unwrap())),
            _ => return false,
        }
        true
    }

    async fn check(&self, store: &EmbeddedStore) {
        for (caller, acknowledged) in &self.entries {
            let read = Read {
                log: log(*caller),
                after: Offset::ZERO,
                entries_max: u32::MAX,
                bytes_max: u32::MAX,
            };
            let page = store.read(vec![read]).await.remove(0).unwrap();
            let stored: HashMap<Offset, u128> =
                page.entries.iter().map(|entry| (entry.offset, entry.message.0)).collect();
            for (id, offset) in acknowledged {
                assert_eq!(stored.get(offset), Some(id), "lost: {id} at {offset} of {caller}");
            }
            for pair in page.entries.windows(2) {
                assert_eq!(pair[1].predecessor, pair[0].offset);
            }
        }
        for (caller, offset) in &self.cursors {
            let record = store.terminal(&product(), &terminal(*caller)).await.unwrap().unwrap();
            let cursors = record.subscriptions.iter().filter_map(|sub| match sub.state {
                SubscriptionState::Reading { cursor, .. } => Some(cursor),
                SubscriptionState::Banned => None,
            });
            assert!(cursors.max().unwrap() >= *offset, "lost the cursor of {caller}");
        }
        let now_ms = store.time_ms();
        for (key, second) in &self.claims {
            let again = store.claim(vec![claim(key, now_ms)]).await.remove(0).unwrap();
            // Its claimant died with the child: the next one takes it over, with its id.
            let kept = match again {
                ClaimOutcome::TakenOver { message, .. } => message == MessageId(1),
                ClaimOutcome::InProgress { .. } => true,
                ClaimOutcome::New | ClaimOutcome::Done { .. } | ClaimOutcome::Mismatch => false,
            };
            assert!(kept, "lost: {key} {again:?}");
            let used = store.consume_nonces(vec![nonce(key, *second)]).await.unwrap();
            assert_eq!(used, [NonceUse::Replayed], "lost the nonce {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_kill_9_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    init(&path).unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, &path)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut noted = 0;
        for line in lines.by_ref() {
            noted += usize::from(acknowledged.note(&line));
            if noted == ACKNOWLEDGED {
                break;
            }
        }
        assert_eq!(noted, ACKNOWLEDGED, "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        // A line that was cut off by the kill was not said.
        let rest: Vec<String> = lines.collect();
        for line in rest.iter().rev().skip(1) {
            acknowledged.note(line);
        }
        let store = open(&path);
        acknowledged.check(&store).await;
        store.close().await.unwrap();
    }
}
