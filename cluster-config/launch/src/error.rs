//! Why something could not be started, reached or stopped.

use std::fmt::Display;

/// What could not be done, and why; with the end of the log of the process it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaunchError(String);

impl LaunchError {
    /// An error of which nothing else is known.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Turns an error into a failure to do `what`.
    pub fn of<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }

    /// Adds what else is known.
    #[must_use]
    pub fn with(self, more: impl Display) -> Self {
        Self(format!("{}\n{more}", self.0))
    }
}
