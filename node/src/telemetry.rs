//! What a node says about itself: log lines on stderr, and the metrics behind `GET /metrics`.
//! Neither holds secrets or payloads. Log lines carry the request id that the answer carries.

mod logging;
mod process;
mod recorder;

pub use logging::{LoggingError, start_logging};
pub use process::ProcessUsage;
pub use recorder::{Metrics, MetricsError};
