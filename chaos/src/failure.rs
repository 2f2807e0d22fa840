//! Why a run could not be made or finished. What a finished run found is no failure but a list of
//! [violations](crate::check::Violation).

use std::fmt::{self, Display};

/// What could not be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure of which nothing else is known.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Turns an error into a failure to do `what`.
    pub fn of<E: Display>(what: &str) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<clarion_launch::LaunchError> for Failure {
    fn from(error: clarion_launch::LaunchError) -> Self {
        Self(error.to_string())
    }
}
