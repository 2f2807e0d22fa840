//! The readers: threads that answer reads from a snapshot, so that the writer never waits for one
//! and no async thread waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use fjall::Database;

use super::queue::{Queue, Taken};
use super::tables::{AtOnce, Keyspaces};
use crate::engine::Shared;
use crate::engine::query::Query;
use clarion_protocol::Epoch;

/// Reads taken at a time: they share a snapshot.
const TAKE_MAX: usize = 64;

/// A read, with its answer inside.
pub(super) type Job = Box<dyn FnOnce(&Query<'_, AtOnce<'_>>) + Send>;

pub(super) struct Reader {
    pub(super) db: Database,
    pub(super) keyspaces: Keyspaces,
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: Epoch,
    pub(super) queue: Arc<Queue<Job>>,
}

impl Reader {
    /// Runs until the queue is closed and drained.
    pub(super) fn run(self) {
        let mut jobs = Vec::new();
        loop {
            let taken = self.queue.take(TAKE_MAX, Duration::from_secs(3600), &mut jobs);
            if taken == Taken::Closed {
                return;
            }
            if jobs.is_empty() {
                continue;
            }
            let view = AtOnce { keyspaces: &self.keyspaces, snapshot: self.db.snapshot() };
            let query = Query { view: &view, shared: &self.shared, epoch: self.epoch };
            for job in jobs.drain(..) {
                job(&query);
            }
        }
    }
}
