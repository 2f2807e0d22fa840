//! Making a store's directory, opening it, and giving it a new lineage.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clarion_protocol::Epoch;
use fjall::{Database, OwnedWriteBatch, PersistMode};

use super::tables::{Keyspaces, open_keyspaces};
use super::{journal, marker};
use crate::engine::codec;
use crate::engine::tables::{Slice, Table};

/// Format of the tables. Another one is not opened.
const FORMAT: u32 = 1;

const FORMAT_KEY: &[u8] = b"\0format";
const EPOCH_KEY: &[u8] = b"\0epoch";
const BOOT_KEY: &[u8] = b"\0boot";
const NONCE_KEY: &[u8] = b"\0nonce-key";

/// Files of one database that are kept open.
const FILES_MAX: usize = 512;

/// Threads that write memtables out and merge files. One: a second would, while the first merges,
/// spin handing the same task on to itself (`fjall` keeps its first worker free for memtables).
const WORKERS: usize = 1;

/// Journals are made smaller than this by writing memtables out.
const JOURNALS_BYTES_MAX: u64 = 256 << 20;

/// Why a store cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory holds no lineage. It is never made silently: it may be the wrong directory, or
    /// a disk that is not mounted (I5).
    #[error(
        "{0} holds no store: if this is a new node, create it with `clarion store init`; \
         otherwise check the path and whether its disk is mounted"
    )]
    NoLineage(PathBuf),
    /// `init` found something.
    #[error("{0} is not empty: `clarion store init` makes a new store in an empty directory only")]
    NotEmpty(PathBuf),
    /// `init` cannot put a directory in its place.
    #[error("{0} is a mount point: a store needs a directory of its own there, such as {0}/data")]
    MountPoint(PathBuf),
    /// Another process has it open.
    #[error("{0} is in use by another process: one node at a time may open a store")]
    Locked(PathBuf),
    /// It was written by another version.
    #[error(
        "{path} has format {found}, this version reads {FORMAT}: use the version that wrote it"
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// What it has.
        found: String,
    },
    /// A file is damaged.
    #[error(
        "{path} is damaged: {what}. Nothing was changed. Restore the directory from a backup, \
         then run `clarion store restored` so that terminals are told of the gap"
    )]
    Corrupt {
        /// The directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An opened directory.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) keyspaces: Keyspaces,
    pub(super) epoch: Epoch,
    pub(super) boot: u64,
    pub(super) nonce_key: [u8; 16],
    pub(super) marker: marker::Marker,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> OpenError + '_ {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

fn corrupt(path: &Path, what: impl ToString) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), what: what.to_string() }
}

fn of_fjall(path: &Path, error: fjall::Error) -> OpenError {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        fjall::Error::Locked => OpenError::Locked(path.to_owned()),
        fjall::Error::InvalidVersion(found) => {
            OpenError::Version { path: path.to_owned(), found: format!("fjall {found:?}") }
        }
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error))
            if !matches!(error.kind(), InvalidData | NotFound | UnexpectedEof) =>
        {
            io(path)(error)
        }
        error => corrupt(path, error),
    }
}

fn random_epoch() -> Epoch {
    Epoch(rand::random_range(1..clarion_protocol::ids::OFFSET_END))
}

/// Makes a new store with a new lineage.
///
/// The directory may exist if it is empty. It is made under another name first, so that a crash
/// half-way leaves none that looks like a store.
///
/// # Errors
/// See [`OpenError`].
pub fn init(path: &Path) -> Result<Epoch, OpenError> {
    let path = &std::path::absolute(path).map_err(io(path))?;
    match std::fs::read_dir(path) {
        Ok(mut files) => {
            if files.next().is_some() {
                return Err(OpenError::NotEmpty(path.clone()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(path)(error)),
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dir(parent, 0o755).map_err(io(parent))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = parent.join(format!(".{name}.init-{:08x}", rand::random::<u32>()));
    make_dir(&draft, 0o700).map_err(io(&draft))?;
    let epoch = random_epoch();
    let made = make(&draft, epoch).and_then(|()| {
        std::fs::rename(&draft, path).map_err(|error| match error.kind() {
            std::io::ErrorKind::ResourceBusy => OpenError::MountPoint(path.clone()),
            _ => io(path)(error),
        })?;
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&draft);
    }
    made.map(|()| epoch)
}

fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn make(path: &Path, epoch: Epoch) -> Result<(), OpenError> {
    let (db, keyspaces) = open_database(path, 1 << 20)?;
    let mut batch = OwnedWriteBatch::with_capacity(db.clone(), 4);
    let meta = &keyspaces[Table::Meta as usize];
    for (key, value) in [
        (FORMAT_KEY, codec::encode(&FORMAT, FORMAT_KEY)),
        (EPOCH_KEY, codec::encode(&epoch.0, EPOCH_KEY)),
        (NONCE_KEY, codec::encode(&rand::random::<[u8; 16]>(), NONCE_KEY)),
        (BOOT_KEY, codec::encode(&0_u64, BOOT_KEY)),
    ] {
        batch.insert(meta, key, value);
    }
    let sync = Some(PersistMode::SyncAll);
    batch.durability(sync).commit().map_err(|error| of_fjall(path, error))?;
    db.persist(PersistMode::SyncAll).map_err(|error| of_fjall(path, error))
}

/// Gives an existing store a new lineage: to be done after every restore from a backup, so that
/// terminals are told of the gap instead of missing what the backup does not hold (I5).
///
/// # Errors
/// See [`OpenError`].
pub fn new_epoch(path: &Path) -> Result<Epoch, OpenError> {
    let opened = open(path, 1 << 20)?;
    let epoch = random_epoch();
    let meta = &opened.keyspaces[Table::Meta as usize];
    let mut batch = OwnedWriteBatch::with_capacity(opened.db.clone(), 1);
    batch.insert(meta, EPOCH_KEY, codec::encode(&epoch.0, EPOCH_KEY));
    let sync = Some(PersistMode::SyncAll);
    batch.durability(sync).commit().map_err(|error| of_fjall(path, error))?;
    Ok(epoch)
}

/// Opens the database. What a damaged file makes it panic about is damage too.
fn open_database(path: &Path, cache_bytes: u64) -> Result<(Database, Keyspaces), OpenError> {
    let opened = std::panic::catch_unwind(|| {
        let db = Database::builder(path)
            .cache_size(cache_bytes)
            .worker_threads(WORKERS)
            .max_cached_files(Some(FILES_MAX))
            // With more than one, worker 0 of fjall 3.1.13 hands every compaction that waits back
            // to its own queue without a pause: a core spins while another worker compacts.
            .worker_threads(1)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .open()?;
        let keyspaces = open_keyspaces(&db)?;
        Ok((db, keyspaces))
    });
    match opened {
        Ok(opened) => opened.map_err(|error| of_fjall(path, error)),
        Err(_) => Err(corrupt(path, "the database gave up on a file")),
    }
}

/// Opens an existing store; everything that recovery found is durable afterwards.
pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Opened, OpenError> {
    if !path.join("version").exists() {
        return Err(match path.join("keyspaces").exists() {
            true => corrupt(path, "the file `version` is missing"),
            false => OpenError::NoLineage(path.to_owned()),
        });
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(io(path))?;
    check_lock(path)?;
    journal::check(path)?;
    let (db, keyspaces) = open_database(path, cache_bytes)?;
    let meta = &keyspaces[Table::Meta as usize];
    let read = |key: &[u8]| meta.get(key).map_err(|error| of_fjall(path, error));
    let damaged = |error| corrupt(path, error);
    let format = read(FORMAT_KEY)?.ok_or_else(|| OpenError::NoLineage(path.to_owned()))?;
    let format: u32 = codec::decode(Table::Meta, FORMAT_KEY, &format).map_err(damaged)?;
    if format != FORMAT {
        return Err(OpenError::Version { path: path.to_owned(), found: format.to_string() });
    }
    let epoch = read(EPOCH_KEY)?.ok_or_else(|| OpenError::NoLineage(path.to_owned()))?;
    let epoch: u64 = codec::decode(Table::Meta, EPOCH_KEY, &epoch).map_err(damaged)?;
    let need = |value: Option<Slice>| value.ok_or_else(|| corrupt(path, "a record is missing"));
    let nonce_key = need(read(NONCE_KEY)?)?;
    let nonce_key = codec::decode(Table::Meta, NONCE_KEY, &nonce_key).map_err(damaged)?;
    let boot = need(read(BOOT_KEY)?)?;
    let boot: u64 = codec::decode(Table::Meta, BOOT_KEY, &boot).map_err(damaged)?;
    let last = read(marker::MARKER_KEY)?;
    let mut marker = marker::Marker::after(marker::last_number(last.as_ref()).map_err(damaged)?);
    // I1: the tail of the journal may be in the page cache only until here.
    db.persist(PersistMode::SyncAll).map_err(|error| of_fjall(path, error))?;
    let boot = boot + 1;
    save_boot(&db, &keyspaces, boot, &mut marker).map_err(|error| of_fjall(path, error))?;
    Ok(Opened { db, keyspaces, epoch: Epoch(epoch), boot, nonce_key, marker })
}

/// Takes the number of this boot, durably before the first generation (I7).
pub(super) fn save_boot(
    db: &Database,
    keyspaces: &Keyspaces,
    boot: u64,
    marker: &mut marker::Marker,
) -> fjall::Result<()> {
    let meta = &keyspaces[Table::Meta as usize];
    let mut batch = OwnedWriteBatch::with_capacity(db.clone(), 2);
    batch.insert(meta, BOOT_KEY, codec::encode(&boot, BOOT_KEY));
    let (key, value) = marker.next();
    batch.insert(meta, key, value);
    batch.durability(Some(PersistMode::SyncAll)).commit()?;
    marker.synced();
    Ok(())
}

/// Looks whether another process has the store open, before any file is looked at.
fn check_lock(path: &Path) -> Result<(), OpenError> {
    let lock = path.join("lock");
    let file = match std::fs::OpenOptions::new().read(true).write(true).open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(corrupt(path, "the file `lock` is missing"));
        }
        Err(error) => return Err(io(&lock)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(io(&lock)(error)),
    }
}
