//! How long pushes and deliveries stood still, and how long they may: for the checker that judges it
//! and for the report that shows it.

mod expects;
mod judge;
mod machine;
mod measure;
mod spread;

pub use expects::{Bound, Expects};
pub use judge::{Judged, Limit, TooLong, judge};
pub use machine::{BUSY_PERCENT, Machine};
pub use measure::{Kind, Measured, Quiet, Wait, Window, measure, ms};
pub use spread::Spread;
