//! Damaged, missing, foreign and busy directories: each is told, with what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Body, LogKey};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName};
use clarion_storage::embedded::{EmbeddedConfig, EmbeddedStore, OpenError, init, new_epoch};
use clarion_storage::{
    Append, CursorSave, LogLimits, OpenSession, Read, SaveOutcome, Store, StoreError,
};
use tempfile::TempDir;

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn log() -> Arc<LogKey> {
    LogKey::topic(&product(), &TopicName::new("news").unwrap())
}

fn new_dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    init(&path).unwrap();
    (dir, path)
}

fn open(path: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::new(path) })
}

fn body(id: u128, bytes: usize) -> Bytes {
    Bytes::from(id.to_le_bytes().into_iter().cycle().take(bytes).collect::<Vec<u8>>())
}

async fn fill(store: &EmbeddedStore, ids: std::ops::Range<u128>, bytes: usize) {
    for id in ids {
        let now_ms = store.time_ms();
        let append = Append {
            log: log(),
            message: MessageId(id),
            expires_at_ms: now_ms + 86_400_000,
            body: Body::Json(body(id, bytes)),
            not_after_ms: now_ms + 60_000,
            first_attempt_ms: None,
            limits: LogLimits { entries_max: 1 << 30, bytes_max: 1 << 40, evict: false },
        };
        store.append(vec![append]).await.remove(0).unwrap();
    }
}

/// What is there: every entry as it was written, or the error that says why not.
async fn read_all(store: &EmbeddedStore, bytes: usize) -> Result<Vec<u128>, StoreError> {
    let read = Read { log: log(), after: Offset::ZERO, entries_max: u32::MAX, bytes_max: u32::MAX };
    let page = store.read(vec![read]).await.remove(0)?;
    for entry in &page.entries {
        assert_eq!(entry.body, Body::Json(body(entry.message.0, bytes)), "a wrong payload");
    }
    Ok(page.entries.iter().map(|entry| entry.message.0).collect())
}

/// Flips one bit of a file while it lives.
struct Flipped {
    path: PathBuf,
    at: u64,
    was: u8,
}

impl Flipped {
    fn new(path: &Path, at: u64, bit: u8) -> Self {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
        Self { path: path.to_owned(), at, was: byte[0] }
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        if let Ok(file) = std::fs::File::options().write(true).open(&self.path) {
            file.write_all_at(&[self.was], self.at).unwrap();
        }
    }
}

fn files(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn journal(path: &Path) -> PathBuf {
    let journals = files(path, &|file| file.extension().is_some_and(|end| end == "jnl"));
    assert_eq!(journals.len(), 1);
    journals.into_iter().next().unwrap()
}

/// Bytes of a journal up to the last that is not zero.
fn used(journal: &Path) -> usize {
    std::fs::read(journal).unwrap().iter().rposition(|&byte| byte != 0).unwrap() + 1
}

#[tokio::test]
async fn a_flipped_bit_in_a_journal_is_told_and_loses_nothing_silently() {
    let (dir, path) = new_dir();
    let store = open(&path).unwrap();
    fill(&store, 0..40, 100).await;
    store.close().await.unwrap();
    let whole = read_all(&open(&path).unwrap(), 100).await.unwrap();
    assert_eq!(whole.len(), 40);
    let used = used(&journal(&path));
    let (mut told, mut harmless) = (0, 0);
    for sample in 0..160 {
        let copy = dir.path().join(format!("copy-{sample}"));
        copy_dir(&path, &copy);
        let at = (used * sample / 160) as u64;
        let flipped = Flipped::new(&journal(&copy), at, (sample % 8) as u8);
        match open(&copy) {
            Ok(store) => {
                let read = read_all(&store, 100).await.unwrap();
                assert_eq!(read, whole, "lost silently by a flip at {at} of {used}");
                store.close().await.unwrap();
                harmless += 1;
            }
            Err(OpenError::Corrupt { .. }) => told += 1,
            Err(error) => panic!("at {at}: {error}"),
        }
        drop(flipped);
        std::fs::remove_dir_all(&copy).unwrap();
    }
    // Only what was written after the last entry is harmless.
    assert!(told > 120, "{told} told, {harmless} harmless");
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_what_was_acknowledged_before_is_there() {
    let (dir, path) = new_dir();
    let store = open(&path).unwrap();
    fill(&store, 0..10, 100).await;
    let used_before = used(&journal(&path));
    fill(&store, 10..11, 5000).await;
    let used_after = used(&journal(&path));
    assert!(used_after > used_before + 5000);
    // As after a crash in the sync of the last group: a part of it reached the disk.
    for sample in 0..30 {
        let copy = dir.path().join(format!("copy-{sample}"));
        copy_dir(&path, &copy);
        let file = std::fs::File::options().write(true).open(journal(&copy)).unwrap();
        let cut = used_before + 1 + (used_after - used_before - 2) * sample / 30;
        let zeros = if sample % 2 == 0 { 4096.min(used_after - cut) } else { used_after - cut };
        file.write_all_at(&vec![0; zeros], cut as u64).unwrap();
        let store = open(&copy).unwrap();
        let read: Vec<u128> = {
            let read =
                Read { log: log(), after: Offset::ZERO, entries_max: 10, bytes_max: u32::MAX };
            let page = store.read(vec![read]).await.remove(0).unwrap();
            page.entries.iter().map(|entry| entry.message.0).collect()
        };
        assert_eq!(read, (0..10).collect::<Vec<u128>>(), "cut at {cut}");
        fill(&store, 20..21, 100).await;
        store.close().await.unwrap();
        std::fs::remove_dir_all(&copy).unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_file_is_told() {
    const BYTES: usize = 500_000;
    let (_dir, path) = new_dir();
    let store = open(&path).unwrap();
    // More than fits a memtable, so that there are table files.
    fill(&store, 0..160, BYTES).await;
    store.close().await.unwrap();
    let is_table = |file: &Path| file.parent().is_some_and(|dir| dir.ends_with("tables"));
    let mut tables = files(&path, &is_table);
    tables.retain(|file| file.metadata().unwrap().len() > 1_000_000);
    assert!(!tables.is_empty(), "no table was written");
    let whole: Vec<u128> = (0..160).collect();
    let mut told = 0;
    for sample in 0..24_u64 {
        let Some(table) = tables.iter().filter(|file| file.exists()).nth(sample as usize % 2)
        else {
            continue;
        };
        let len = table.metadata().unwrap().len();
        // Within blocks, and in the index and the footer at the end.
        let at = if sample < 16 { len * sample / 16 } else { len - 1 - (sample - 16) * 60 };
        let flipped = Flipped::new(table, at, (sample % 8) as u8);
        match open(&path) {
            Ok(store) => {
                match read_all(&store, BYTES).await {
                    Ok(read) => assert_eq!(read, whole, "lost silently by a flip at {at}"),
                    Err(StoreError::Fatal(_)) => told += 1,
                    Err(error) => panic!("{error}"),
                }
                let _ = store.close().await;
            }
            Err(OpenError::Corrupt { .. }) => told += 1,
            Err(error) => panic!("{error}"),
        }
        drop(flipped);
    }
    assert!(told >= 12, "{told} of 24 told");
}

#[tokio::test]
async fn a_directory_that_is_no_store_or_in_use_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    for make in [false, true] {
        if make {
            std::fs::create_dir(&path).unwrap();
        }
        let error = open(&path).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::NoLineage(_)), "{error}");
        assert!(error.to_string().contains("clarion store init"));
        assert!(matches!(new_epoch(&path), Err(OpenError::NoLineage(_))));
    }
    let epoch = init(&path).unwrap();
    assert!(epoch.0 > 0 && epoch.0 < 1 << 53);
    assert!(matches!(init(&path), Err(OpenError::NotEmpty(_))));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let store = open(&path).unwrap();
    assert_eq!(store.epoch(), epoch);
    assert!(matches!(open(&path), Err(OpenError::Locked(_))));
    assert!(matches!(new_epoch(&path), Err(OpenError::Locked(_))));
    store.close().await.unwrap();
    // A lineage is never made silently, whatever is missing.
    std::fs::remove_file(path.join("version")).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Corrupt { .. })));
}

/// I5: after a restore the lineage is another; stored cursors keep the old one, so that every
/// session is told of the gap; counts are not counted twice (I13).
#[tokio::test]
async fn i5_a_restored_store_has_a_new_lineage() {
    let (_dir, path) = new_dir();
    let store = open(&path).unwrap();
    let old = store.epoch();
    let wants = OpenSession {
        product: product(),
        terminal: TerminalId::new("t").unwrap(),
        user: None,
        kind: TerminalKind::Web,
        topics: vec![TopicName::new("news").unwrap()],
        topics_max: 8,
    };
    let opened = store.open_session(vec![wants.clone()]).await.remove(0).unwrap();
    fill(&store, 0..3, 10).await;
    let head = {
        let read = Read { log: log(), after: Offset::ZERO, entries_max: 9, bytes_max: 999 };
        store.read(vec![read]).await.remove(0).unwrap().head
    };
    let save = CursorSave {
        terminal: wants.terminal.clone(),
        log: log(),
        generation: opened.generation,
        epoch: old,
        cursor: head,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    };
    assert_eq!(store.save_cursors(vec![save.clone()]).await, [Ok(SaveOutcome::Saved)]);
    store.close().await.unwrap();
    let new = new_epoch(&path).unwrap();
    assert_ne!(new, old);
    let store = open(&path).unwrap();
    assert_eq!(store.epoch(), new);
    let again = store.open_session(vec![wants]).await.remove(0).unwrap();
    assert!(again.generation > opened.generation);
    let news = &again.logs[2];
    assert_eq!((news.epoch, news.cursor_epoch, news.cursor), (new, old, head));
    // The session starts over at the oldest entry and acknowledges one by one.
    fill(&store, 3..4, 10).await;
    let read = Read { log: log(), after: Offset::ZERO, entries_max: 9, bytes_max: 999 };
    let page = store.read(vec![read]).await.remove(0).unwrap();
    for entry in &page.entries {
        let cursor = entry.offset;
        let generation = again.generation;
        let old_epoch = CursorSave { generation, cursor, ..save.clone() };
        assert_eq!(store.save_cursors(vec![old_epoch]).await, [Ok(SaveOutcome::AboveHead)]);
        let save = CursorSave { generation, cursor, epoch: new, ..save.clone() };
        assert_eq!(store.save_cursors(vec![save]).await, [Ok(SaveOutcome::Saved)]);
    }
    for id in 0..4 {
        let message = store.message(&product(), MessageId(id)).await.unwrap().unwrap();
        let counts = message.targets[0].counts;
        assert_eq!((counts.audience, counts.acknowledged, counts.pending), (1, 1, 0), "{id}");
    }
    store.close().await.unwrap();
}
