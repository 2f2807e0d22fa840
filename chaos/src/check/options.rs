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

impl Default for Options {
    fn default() -> Self {
        Self {
            counts_may_lack: false,
            hints_off: false,
            head_check_may_find: false,
            evicts: false,
            within_ms: 10_000,
            expiry_slack_ms: 3_000,
            overlap_min: 1_000,
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

    /// How this history is to be judged: as the file beside it says, by default if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn beside(history: &Path) -> Result<Self, Failure> {
        let file = history.with_file_name(Self::FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(Failure::of(&file.display().to_string()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::of(&file.display().to_string())(error)),
        }
    }

    /// For short runs: any push that overlaps a fault will do.
    #[must_use]
    pub fn short() -> Self {
        Self { overlap_min: 1, ..Self::default() }
    }
}
