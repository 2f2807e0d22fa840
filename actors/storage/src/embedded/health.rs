//! How the store is, for whoever asks without waiting.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{StoreError, StoreResult};

/// Measures free bytes on the data disk.
pub type FreeSpaceProbe = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// Asks the file system.
pub(super) fn free_bytes_of(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Shared by the writer, who sets it, and everybody.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<StoreResult<()>>,
    pub(super) free_bytes: AtomicU64,
    pub(super) used_bytes: AtomicU64,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(Ok(())),
            free_bytes: AtomicU64::new(u64::MAX),
            used_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> StoreResult<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A fatal state stays.
    pub(super) fn set(&self, state: StoreResult<()>) {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*now, Err(StoreError::Fatal(_))) {
            *now = state;
        }
    }
}

/// The free-space watermark, with hysteresis: an eighth more must be free before it is lifted.
#[derive(Debug)]
pub(super) struct Watermark {
    min_bytes: u64,
    pub(super) full: bool,
}

impl Watermark {
    pub(super) const fn new(min_bytes: u64) -> Self {
        Self { min_bytes, full: false }
    }

    /// True if it changed.
    pub(super) fn measure(&mut self, free_bytes: u64) -> bool {
        let bound = if self.full { self.min_bytes + self.min_bytes / 8 } else { self.min_bytes };
        let full = free_bytes < bound;
        std::mem::replace(&mut self.full, full) != full
    }
}

/// What is told to the operator when the watermark is reached or left.
pub(super) fn tell_watermark(health: &Health, full: bool) {
    let free_bytes = health.free_bytes.load(Ordering::Relaxed);
    if full {
        tracing::error!(free_bytes, "the data disk is below its watermark: pushes are refused");
        let what = format!("{free_bytes} bytes are free on the data disk");
        health.set(Err(StoreError::Full(what)));
    } else {
        tracing::info!(free_bytes, "the data disk is above its watermark again");
        health.set(Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_lifted_an_eighth_higher() {
        let mut watermark = Watermark::new(800);
        assert!(!watermark.measure(800));
        assert!(watermark.measure(799));
        assert!(!watermark.measure(899));
        assert!(watermark.full);
        assert!(watermark.measure(900));
        assert!(!watermark.full);
    }

    #[test]
    fn a_fatal_state_stays() {
        let health = Health::new();
        health.set(Err(StoreError::Fatal("poisoned".into())));
        health.set(Ok(()));
        assert!(health.state().is_err());
    }
}
