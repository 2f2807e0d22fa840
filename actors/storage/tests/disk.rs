//! A disk that fills up: told by the watermark in time, told by the system when it is too late, and
//! nothing acknowledged is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId};
use clarion_storage::embedded::{EmbeddedConfig, EmbeddedStore, OpenError, init};
use clarion_storage::{
    Append, Appended, Claim, CursorSave, LogLimits, OpenSession, OpenedSession, Read, SaveOutcome,
    Store, StoreError, StoreResult,
};

const CHILD: &str = "CLARION_STORE_DISK";

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn inbox() -> Arc<LogKey> {
    LogKey::terminal(&product(), &TerminalId::new("t").unwrap())
}

async fn append(store: &EmbeddedStore, id: u128, bytes: usize) -> StoreResult<Appended> {
    let now_ms = store.time_ms();
    let append = Append {
        log: inbox(),
        message: MessageId(id),
        expires_at_ms: now_ms + 86_400_000,
        body: Body::Json(Bytes::from(vec![b'1'; bytes])),
        not_after_ms: now_ms + 60_000,
        first_attempt_ms: None,
        limits: LogLimits { entries_max: 1 << 30, bytes_max: 1 << 40, evict: false },
    };
    store.append(vec![append]).await.remove(0)
}

async fn read(store: &EmbeddedStore) -> Vec<u128> {
    let read =
        Read { log: inbox(), after: Offset::ZERO, entries_max: u32::MAX, bytes_max: u32::MAX };
    let page = store.read(vec![read]).await.remove(0).unwrap();
    page.entries.iter().map(|entry| entry.message.0).collect()
}

async fn open_session(store: &EmbeddedStore, name: &str) -> StoreResult<OpenedSession> {
    let open = OpenSession {
        product: product(),
        terminal: TerminalId::new(name).unwrap(),
        user: None,
        kind: TerminalKind::Web,
        topics: Vec::new(),
        topics_max: 1,
    };
    store.open_session(vec![open]).await.remove(0)
}

#[tokio::test]
async fn below_the_watermark_pushes_are_refused_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    init(&path).unwrap();
    let free = Arc::new(AtomicU64::new(1 << 30));
    let probe = {
        let free = Arc::clone(&free);
        Arc::new(move |_: &Path| Ok(free.load(Ordering::Acquire)))
    };
    let config = EmbeddedConfig { free_bytes_min: 1 << 20, ..EmbeddedConfig::new(&path) };
    let store = EmbeddedStore::open_with_probe(config, probe).unwrap();
    let opened = open_session(&store, "t").await.unwrap();
    let head = append(&store, 1, 10).await.unwrap().offset;
    free.store((1 << 20) - 1, Ordering::Release);
    while store.health().writable.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(store.health().writable, Err(StoreError::Full(_))));
    assert_eq!(store.health().free_bytes, Some((1 << 20) - 1));
    assert!(matches!(append(&store, 2, 10).await, Err(StoreError::Full(_))));
    assert!(matches!(open_session(&store, "new").await, Err(StoreError::Full(_))));
    let now_ms = store.time_ms();
    let claim = Claim {
        product: product(),
        key: "k".into(),
        body_hash: [0; 32],
        message: MessageId(9),
        expires_at_ms: now_ms + 1000,
        until_ms: now_ms + 1000,
        keep_until_ms: now_ms + 1000,
    };
    assert!(matches!(store.claim(vec![claim]).await[0], Err(StoreError::Full(_))));
    // Known terminals come back, read and acknowledge: that is what frees space.
    let opened = OpenedSession { ..open_session(&store, "t").await.unwrap_or(opened) };
    assert_eq!(read(&store).await, [1]);
    let save = CursorSave {
        terminal: TerminalId::new("t").unwrap(),
        log: inbox(),
        generation: opened.generation,
        epoch: store.epoch(),
        cursor: head,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    // A little more is not enough; the watermark does not flap.
    free.store((1 << 20) + 1, Ordering::Release);
    while store.health().free_bytes != Some((1 << 20) + 1) {
        tokio::task::yield_now().await;
    }
    assert!(matches!(append(&store, 2, 10).await, Err(StoreError::Full(_))));
    free.store(1 << 30, Ordering::Release);
    while store.health().writable.is_err() {
        tokio::task::yield_now().await;
    }
    append(&store, 2, 10).await.unwrap();
    assert_eq!(read(&store).await, [2]);
    store.close().await.unwrap();
}

/// Not a test of its own: runs on a file system of 48 MiB, where mounting is allowed.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    assert!(matches!(init(Path::new(&dir)), Err(OpenError::MountPoint(_))));
    let path = Path::new(&dir).join("data");
    init(&path).unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::new(&path) };
    let store = EmbeddedStore::open(config.clone()).unwrap();
    let mut acknowledged = Vec::new();
    let error = loop {
        let id = acknowledged.len() as u128;
        match append(&store, id, 100_000).await {
            Ok(_) => acknowledged.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Unknown(_) | StoreError::Fatal(_)), "{error:?}");
    assert!(acknowledged.len() > 50);
    // It says so, to whoever asks and to whoever goes on.
    let refused = append(&store, 1 << 64, 10).await;
    assert!(matches!(refused, Err(StoreError::Fatal(_))), "{refused:?}");
    assert!(matches!(store.health().writable, Err(StoreError::Fatal(_))));
    assert!(matches!(store.close().await, Err(StoreError::Fatal(_))));
    drop(store);
    let remounted = Command::new("mount").args(["-o", "remount,size=512m", &dir]).status().unwrap();
    assert!(remounted.success());
    let store = EmbeddedStore::open(config).unwrap();
    let stored = read(&store).await;
    assert!(stored.starts_with(&acknowledged), "{} of {}", stored.len(), acknowledged.len());
    // The one whose outcome was unknown may be there too.
    assert!(stored.len() <= acknowledged.len() + 1);
    append(&store, 1 << 65, 10).await.unwrap();
    store.close().await.unwrap();
    println!("disk full: {} acknowledged, all there", acknowledged.len());
}

/// Mounts a small file system in a name space of its own (needs root or user name spaces).
#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=48m none {0} && exec \"$0\" --exact child --nocapture",
        dir.path().display()
    );
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let child = command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    let err = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{out}\n{err}");
    assert!(out.contains("all there"), "{out}\n{err}");
}
