//! The semantics of the store over ordered tables: what every method of [`crate::Store`] does to
//! them. Back ends that are ordered key-value stores share it; each brings its tables, its threads
//! and its durability. One group of operations at a time: [`Engine::begin`], the operations in
//! their order, [`Engine::end`], then the writes are taken and made durable as one.

mod append;
pub(crate) mod claims;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod counts;
pub(crate) mod cursors;
pub(crate) mod entries;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod nonces;
pub(crate) mod query;
mod remove;
pub(crate) mod sessions;
pub(crate) mod tables;
pub(crate) mod terminals;
mod topics;
pub(crate) mod upkeep;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{Epoch, Offset};

use self::claims::Claimed;
use self::clock::Clock;
use self::counts::LogCounts;
use self::logs::LogCache;
use self::nonces::Nonces;
use self::sessions::{Delivered, Generations};
use self::tables::{Table, Txn, View};
use self::terminals::TerminalSlot;
use self::upkeep::Sweep;
use crate::{StoreError, StoreResult};

/// What callers, readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) generations: Generations,
    pub(crate) delivered: Delivered,
    pub(crate) nonces: Nonces,
}

/// First writes to terminals: log, entry, terminals.
pub(crate) type Deliveries = Vec<(Arc<LogKey>, Offset, u32)>;

impl Shared {
    /// Notes deliveries to terminal inboxes in memory and leaves the others to the writer.
    pub(crate) fn note_delivered(&self, mut counts: Deliveries) -> Deliveries {
        let mut log = Vec::new();
        counts.retain(|(key, offset, _)| {
            if key.kind == LogKind::Terminal {
                keys::log(&mut log, key);
                self.delivered.add(&log, *offset);
            }
            key.kind != LogKind::Terminal
        });
        counts
    }
}

/// Bounds of an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineLimits {
    /// Logs whose state is held in memory, at least.
    pub(crate) logs_cached: usize,
    /// Milliseconds that a terminal is kept after its record was last written.
    pub(crate) terminal_retention_ms: u64,
}

/// The single writer's state.
pub(crate) struct Engine<B> {
    pub(crate) txn: Txn<B>,
    pub(crate) shared: Arc<Shared>,
    epoch: Epoch,
    limits: EngineLimits,
    /// Time of the group.
    now_ms: u64,
    /// Whether the group must be durable before it is answered.
    sync: bool,
    /// Whether the disk is below its watermark.
    full: bool,
    logs: LogCache,
    counts: HashMap<Box<[u8]>, LogCounts>,
    terminals: HashMap<Box<[u8]>, TerminalSlot>,
    claimed: Claimed,
    /// Inboxes of users that the group may have emptied.
    trims: BTreeSet<Box<[u8]>>,
    sweep: Sweep,
    nonce_groups: u64,
    scratch: Vec<u8>,
    entry_buffer: Vec<u8>,
}

impl<B: View> Engine<B> {
    pub(crate) fn new(base: B, shared: Arc<Shared>, epoch: Epoch, limits: EngineLimits) -> Self {
        let boot = shared.generations.boot();
        Self {
            txn: Txn::new(base),
            shared,
            epoch,
            limits,
            now_ms: 0,
            sync: false,
            full: false,
            logs: LogCache::new(limits.logs_cached * 2),
            counts: HashMap::new(),
            terminals: HashMap::new(),
            claimed: Claimed::default(),
            trims: BTreeSet::new(),
            sweep: Sweep::default(),
            nonce_groups: boot << 40,
            scratch: Vec::new(),
            entry_buffer: Vec::new(),
        }
    }

    /// Begins a group.
    pub(crate) fn begin(&mut self, full: bool) {
        self.now_ms = self.shared.clock.now_ms();
        self.full = full;
        self.sync = false;
        self.logs.trim();
    }

    /// Ends a group: everything that changed is among the writes. True if they must be durable
    /// before anything is answered.
    pub(crate) fn end(&mut self) -> bool {
        if let Err(error) = self.trim_users() {
            tracing::warn!(%error, "an inbox of a user keeps what everybody has passed");
        }
        self.flush_counts();
        self.flush_terminals();
        self.flush_logs();
        self.save_nonces();
        self.sync
    }

    /// Forgets everything in memory: the group's writes did not reach the tables.
    pub(crate) fn abandon(&mut self) {
        self.logs.clear();
        self.counts.clear();
        self.terminals.clear();
        self.trims.clear();
        let _ = self.txn.take();
    }

    /// Adds deliveries of entries with many readers; needs no sync.
    pub(crate) fn add_delivered(&mut self, counts: &Deliveries) -> StoreResult<()> {
        let mut prefix = Vec::new();
        for (log, offset, terminals) in counts {
            keys::log(&mut prefix, log);
            self.count_delivered(&prefix, *offset, *terminals)?;
        }
        Ok(())
    }

    /// Writes the record of a terminal again, so that its retention slides; needs no sync.
    pub(crate) fn touch(&mut self, terminal: &[u8]) -> StoreResult<()> {
        self.terminal_to_change(terminal).map(|_| ())
    }

    fn full_error(&self) -> StoreError {
        StoreError::Full("the disk is below its free-space watermark".into())
    }

    /// Nonces since the last group, one record per minute: key minute, number; value the hashes.
    fn save_nonces(&mut self) {
        if !self.shared.nonces.has_unsaved() {
            return;
        }
        for (minute, hashes) in self.shared.nonces.take_unsaved() {
            self.nonce_groups += 1;
            let mut key = minute.to_be_bytes().to_vec();
            key.extend_from_slice(&self.nonce_groups.to_be_bytes());
            self.txn.put(Table::Nonces, key, hashes);
        }
    }
}

/// Fills the nonces from the tables.
pub(crate) fn load_nonces(view: &impl View, nonces: &Nonces) -> StoreResult<()> {
    for item in view.scan(Table::Nonces, tables::prefixed(&[])) {
        let (key, value) = item?;
        let minute = key.get(..8).and_then(|minute| minute.try_into().ok());
        let Some(minute) = minute.map(u64::from_be_bytes) else {
            return Err(codec::damaged(Table::Nonces, &key, "its key is too short"));
        };
        let (hashes, rest) = value.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(codec::damaged(Table::Nonces, &key, "it is cut off"));
        }
        for hash in hashes {
            nonces.load(minute, u64::from_le_bytes(*hash));
        }
    }
    Ok(())
}
