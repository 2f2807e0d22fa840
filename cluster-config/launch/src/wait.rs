//! Waiting for a condition.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::LaunchError;

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until `look` is content (`Ok`), and gives its answer.
///
/// # Errors
/// When it is not content before the deadline: what was waited for, and its last complaint.
pub async fn until<T>(
    what: impl Display,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, LaunchError>,
) -> Result<T, LaunchError> {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= end => {
                return Err(LaunchError::new(format!(
                    "{what}: not within {} s: {error}",
                    deadline.as_secs_f64()
                )));
            }
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}
