//! What is wrong with a config, where, and how to mend it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A place in the config file; line and column count from 1, the column in characters.
    File {
        /// The file as it was named.
        file: PathBuf,
        /// Line, or none when the file as a whole is meant.
        line: Option<u32>,
        /// Column, or none when the line or file as a whole is meant.
        column: Option<u32>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// Nobody set it: the default.
    Default,
}

impl Origin {
    /// The line in the file, if it is a place in a file.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        match self {
            Self::File { line, .. } => *line,
            Self::Environment { .. } | Self::Default => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => {
                write!(f, "{}", file.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                    if let Some(column) = column {
                        write!(f, ":{column}")?;
                    }
                }
                Ok(())
            }
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// One mistake in a config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{origin}: {}{reason}; {mend}", Prefix(key))]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// Which key, as `section.key`; empty when no key is meant.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// The errors as text for people: two lines each, the second with the mend.
#[must_use]
pub fn report(errors: &[ConfigError]) -> String {
    let mut text = String::new();
    for ConfigError { origin, key, reason, mend } in errors {
        text.push_str(&format!("{origin}: {}{reason}\n    mend: {mend}\n", Prefix(key)));
    }
    text
}
