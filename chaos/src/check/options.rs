//! What a run allows, and what it must be worth.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// How a history is judged. A run that is judged otherwise than by default says so in a file beside
/// its history, which `clarion-check` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Pushes accepted close to a fault may lack some acknowledgements in the server's counts.
    pub counts_may_lack: bool,
    /// All hints between actors are off: the slow head check must find what is new, not hints.
    pub hints_off: bool,
    /// The slow head check runs at its usual pace though hints are on, and may find something.
    pub head_check_may_find: bool,
    /// The run fills logs until they evict: a terminal may be told of a range that is gone.
    pub evicts: bool,
    /// What is accepted reaches terminals that are online within this time, faults apart; pushes
    /// are answered, and the SDK is back on a link, within the same.
    pub within_ms: u64,
    /// A message may be shown this long after it expired: it was on its way.
    pub expiry_slack_ms: u64,
    /// Accepted pushes that must overlap each fault.
    pub overlap_min: u64,
    /// Accepted pushes that must overlap any.
    pub overlap_total_min: u64,
    /// The components to each of which everything must have been done.
    pub rows: Rows,
    /// Of pushes outside all faults so many percent may be refused.
    pub refused_percent_max: u64,
    /// While a product floods, the others' 99th percentiles may be so many times those of before...
    pub band_factor: u64,
    /// ...or this, if that is more.
    pub band_ms_min: u64,
    /// What a process may hold more at the end than when the load was steady, KiB of memory.
    pub rss_slack_kib: u64,
    /// The same of open files and sockets, besides its sessions.
    pub fds_slack: u64,
    /// The same of threads.
    pub threads_slack: u64,
}

/// What a table of components must have: see [`Options::rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// What the run did.
    #[default]
    None,
    /// Every process, and a way of every class.
    EveryClass,
    /// Every process and every way.
    All,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            counts_may_lack: false,
            hints_off: false,
            head_check_may_find: false,
            evicts: false,
            within_ms: 10_000,
            expiry_slack_ms: 3_000,
            overlap_min: 50,
            overlap_total_min: 1_000,
            rows: Rows::None,
            refused_percent_max: 5,
            band_factor: 4,
            band_ms_min: 250,
            rss_slack_kib: 64 * 1024,
            fds_slack: 32,
            threads_slack: 4,
        }
    }
}

impl Options {
    /// The file beside a history that says how it is to be judged.
    pub const FILE: &str = "judge.json";

    /// How a file says that histories are to be judged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let named = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(Failure::of(&named))?;
        serde_json::from_str(&text).map_err(Failure::of(&named))
    }

    /// How this history is to be judged: as the file beside it says, by default if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn beside(history: &Path) -> Result<Self, Failure> {
        let file = history.with_file_name(Self::FILE);
        if file.try_exists().is_ok_and(|exists| !exists) {
            return Ok(Self::default());
        }
        Self::read(&file)
    }

    /// For short runs: any push that overlaps a fault will do.
    #[must_use]
    pub fn short() -> Self {
        Self { overlap_min: 1, overlap_total_min: 1, ..Self::default() }
    }
}
