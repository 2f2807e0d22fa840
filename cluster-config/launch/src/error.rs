//! Why something could not be started, reached or stopped.

use std::fmt::Display;

/// What could not be done, and why; with the end of the log of the process it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct LaunchError {
    what: String,
    cause: Cause,
}

/// What a caller may give advice about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Another process listens on a port that is asked for.
    PortTaken,
    /// Another cluster runs in the directory.
    DirectoryInUse,
    /// Anything else; the words say it.
    Other,
}

impl LaunchError {
    /// An error of which nothing else is known.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: Cause::Other }
    }

    /// Turns an error into a failure to do `what`.
    pub fn of<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::new(format!("{what}: {error}"))
    }

    /// Adds what else is known.
    #[must_use]
    pub fn with(self, more: impl Display) -> Self {
        Self { what: format!("{}\n{more}", self.what), ..self }
    }

    /// The same error, with its cause.
    #[must_use]
    pub(crate) fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// What it is about.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }
}
