//! What happened, and when: the only thing that the checker reads.
//!
//! A record is a line of JSON. `t` is the time of the machine's one monotonic clock, in nanoseconds
//! since the start of the run: it means the same in all processes. What a client does has the time
//! before it did it, what it learned the time after it learned it. So the order of `t` is an order
//! in time: an `accepted` with a lower `t` than an `invoke` was answered before that push was made.
//!
//! Several processes tell what they see, and one writes it down; lines are only nearly in order, and
//! whoever reads them sorts by `t` first, as [`read`] does.

mod clock;
mod event;
mod figures;
mod reader;
mod writer;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use clock::Clock;
pub use event::{About, Client, Ending, Event, Sample};
pub use figures::Figures;
pub use reader::{Contents, read};
pub use writer::History;

/// The version of the format.
pub const FORMAT: u32 = 2;

/// A terminal as `PRODUCT/TERMINAL`, the key of a push, or the name of anything else that comes up
/// often: records share it.
pub type Name = Arc<str>;

/// The process that breaks, mends and waits, in [`Record::by`].
pub const DRIVER: &str = "driver";

/// An event, who saw it, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Nanoseconds since the start of the run.
    pub t: u64,
    /// The process that saw it.
    pub by: Name,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

#[cfg(test)]
mod tests;
