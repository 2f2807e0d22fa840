use std::sync::atomic::{AtomicUsize, Ordering};

use clarion_protocol::terminal::Cursor;
use clarion_protocol::{Epoch, LogName, MessageId, Offset};

use super::*;
use crate::cursors::DecodeError;

/// Dies at a step: nothing after it happens, and what it was writing is there in part.
struct DyingDisk {
    step: AtomicUsize,
    dies_at: usize,
    written_bytes: usize,
}

impl DyingDisk {
    fn alive(&self) -> io::Result<()> {
        if self.step.fetch_add(1, Ordering::SeqCst) >= self.dies_at {
            return Err(io::Error::other("killed"));
        }
        Ok(())
    }
}

impl Disk for DyingDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.alive().inspect_err(|_| {
            std::fs::write(path, &bytes[..self.written_bytes.min(bytes.len())]).unwrap();
        })?;
        RealDisk.write_synced(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?;
        RealDisk.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.alive()?;
        RealDisk.sync_directory(path)
    }
}

fn snapshot(offset: u64) -> Snapshot {
    Snapshot {
        owner: None,
        cursors: vec![(LogName::Terminal, Cursor(Epoch(7), Offset(offset)))],
        seen: (0..offset).map(|n| MessageId(u128::from(n))).collect(),
    }
}

#[tokio::test]
async fn a_missing_file_is_an_empty_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileCursors::new(directory.path().join("cursors"));
    assert_eq!(store.load().await.unwrap(), Snapshot::default());
}

#[tokio::test]
async fn what_was_saved_is_loaded_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    FileCursors::new(&path).save(&snapshot(3)).await.unwrap();
    FileCursors::new(&path).save(&snapshot(2)).await.unwrap();
    assert_eq!(FileCursors::new(&path).load().await.unwrap(), snapshot(2));
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_content() {
    for dies_at in 0..=3 {
        for written_bytes in [0, 1, 20, usize::MAX] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("cursors");
            FileCursors::new(&path).save(&snapshot(3)).await.unwrap();

            let disk = Arc::new(DyingDisk { step: AtomicUsize::new(0), dies_at, written_bytes });
            let dying = FileCursors { path: path.clone(), disk };
            let outcome = dying.save(&snapshot(9)).await;
            assert_eq!(outcome.is_ok(), dies_at == 3, "a failed step is told");

            let found = FileCursors::new(&path).load().await.unwrap();
            let expected = if dies_at < 2 { snapshot(3) } else { snapshot(9) };
            assert_eq!(found, expected, "died at step {dies_at}");
            FileCursors::new(&path).save(&snapshot(10)).await.unwrap();
            assert_eq!(FileCursors::new(&path).load().await.unwrap(), snapshot(10));
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    let store = FileCursors::new(&path);
    store.save(&snapshot(5)).await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(store.load().await, Err(CursorError::Damaged(DecodeError::Checksum))));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(store.load().await, Err(CursorError::Damaged(DecodeError::Foreign))));
}
