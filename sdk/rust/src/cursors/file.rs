//! Cursors in one file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{CursorError, CursorStore, Snapshot};

/// Keeps cursors in a file, which is replaced as a whole: a temporary file beside it is written and
/// synced, renamed over it, and the directory is synced. A crash at any step leaves the old or the
/// new content, never a mixture. Versioned and checksummed; a damaged file is an error of
/// [`load`](CursorStore::load), not an empty start.
pub struct FileCursors {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl std::fmt::Debug for FileCursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCursors").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileCursors {
    /// Cursors in the file at `path`, which need not exist yet. Its directory must.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), disk: Arc::new(RealDisk) }
    }
}

#[async_trait]
impl CursorStore for FileCursors {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        let path = self.path.clone();
        let disk = Arc::clone(&self.disk);
        let read = blocking("read the cursor file", move || match disk.read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        match read.await? {
            Some(bytes) => Ok(Snapshot::from_bytes(&bytes)?),
            None => Ok(Snapshot::default()),
        }
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError> {
        let path = self.path.clone();
        let disk = Arc::clone(&self.disk);
        let bytes = snapshot.to_bytes();
        blocking("write the cursor file", move || replace(&*disk, &path, &bytes)).await
    }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CursorError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| CursorError::Io { what, source })
}

fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    disk.write_synced(&temporary, bytes)?;
    disk.rename(&temporary, path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    disk.sync_directory(directory)
}

/// The steps on the disk, so that tests can fail each of them.
trait Disk: Send + Sync {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
