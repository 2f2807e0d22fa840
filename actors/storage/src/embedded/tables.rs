//! The tables as `fjall` keyspaces.

use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};

use crate::engine::tables::{Range, Row, Rows, Slice, Table, View};
use crate::{StoreError, StoreResult};

/// Keyspaces in the order of [`Table::ALL`].
pub(super) type Keyspaces = Arc<[Keyspace]>;

pub(super) fn open_keyspaces(db: &Database) -> fjall::Result<Keyspaces> {
    Table::ALL
        .iter()
        .map(|table| {
            db.keyspace(table.name(), || {
                let options = KeyspaceCreateOptions::default();
                options.max_memtable_size(memtable_bytes(*table))
            })
        })
        .collect()
}

/// What is written in memory before it becomes a file: the tables of the hot path more, the others
/// little: they are written in full again and again, and all together stay below 48 MiB.
const fn memtable_bytes(table: Table) -> u64 {
    const MIB: u64 = 1 << 20;
    match table {
        Table::Entries => 16 * MIB,
        Table::Messages => 8 * MIB,
        Table::Counts | Table::Terminals => 4 * MIB,
        Table::Meta
        | Table::Logs
        | Table::Users
        | Table::Members
        | Table::Claims
        | Table::Nonces
        | Table::Products => 2 * MIB,
    }
}

/// Tells of a read that failed. A checksum that does not match is told as damage.
fn failed(table: Table, error: &fjall::Error) -> StoreError {
    metrics::counter!("clarion_store_errors_total", "kind" => "read").increment(1);
    let damaged = !matches!(error, fjall::Error::Io(_));
    if damaged {
        metrics::counter!("clarion_store_corrupt_records_total", "table" => table.name())
            .increment(1);
    }
    tracing::error!(table = table.name(), ?error, damaged, "a read failed");
    StoreError::Fatal(format!("table {} cannot be read: {error}", table.name()))
}

fn rows(table: Table, iter: impl Iterator<Item = fjall::Guard> + 'static) -> Rows<'static> {
    Box::new(iter.map(move |guard| guard.into_inner().map_err(|error| failed(table, &error))))
}

fn last_row(table: Table, guard: Option<fjall::Guard>) -> StoreResult<Option<Row>> {
    guard.map(fjall::Guard::into_inner).transpose().map_err(|error| failed(table, &error))
}

/// The newest state, for the writer: nobody else writes.
#[derive(Clone)]
pub(super) struct Newest(pub(super) Keyspaces);

impl View for Newest {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Slice>> {
        self.0[table as usize].get(key).map_err(|error| failed(table, &error))
    }

    fn scan(&self, table: Table, range: Range) -> Rows<'_> {
        rows(table, self.0[table as usize].range(range))
    }

    fn last(&self, table: Table, range: Range) -> StoreResult<Option<Row>> {
        last_row(table, self.0[table as usize].range(range).next_back())
    }
}

/// The state at one moment, for readers. Only durable entries are in it: a batch becomes visible
/// after its sync (I1).
pub(super) struct AtOnce<'a> {
    pub(super) keyspaces: &'a [Keyspace],
    pub(super) snapshot: Snapshot,
}

impl View for AtOnce<'_> {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Slice>> {
        self.snapshot
            .get(&self.keyspaces[table as usize], key)
            .map_err(|error| failed(table, &error))
    }

    fn scan(&self, table: Table, range: Range) -> Rows<'_> {
        rows(table, self.snapshot.range(&self.keyspaces[table as usize], range))
    }

    fn last(&self, table: Table, range: Range) -> StoreResult<Option<Row>> {
        let mut iter = self.snapshot.range(&self.keyspaces[table as usize], range);
        last_row(table, iter.next_back())
    }
}
