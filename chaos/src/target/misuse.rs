//! What is refused before anything is touched. Codes stay; scripts may look for them.

use std::fmt::{self, Display};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misuse {
    /// The file cannot be read or says what is not understood, or files have no place.
    File(String),
    /// It was not said that this cluster is meant, or another one was.
    NotConfirmed {
        /// The cluster of the file.
        name: String,
        /// What was said.
        said: Option<String>,
    },
    /// There is no token of the administrator.
    NoToken(String),
    /// A door is missing, or none.
    Door(String),
    /// The load is more than the limits allow.
    TooMuchLoad(String),
    /// A component is no component, or there twice.
    Component(String),
    /// A fault cannot be made or, worse, not mended.
    Fault(String),
    /// A limit is none.
    Limit(String),
    /// Everything is skipped.
    NothingToBreak,
    /// What answers is another cluster.
    OtherCluster {
        /// The cluster of the file.
        name: String,
        /// The one that answers.
        answers: String,
    },
    /// The cluster is not whole before anything was done to it.
    NotWhole(String),
}

impl Misuse {
    /// Its code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "T01",
            Self::NotConfirmed { .. } => "T02",
            Self::NoToken(_) => "T03",
            Self::Door(_) => "T04",
            Self::TooMuchLoad(_) => "T05",
            Self::Component(_) => "T06",
            Self::Fault(_) => "T07",
            Self::Limit(_) => "T08",
            Self::NothingToBreak => "T09",
            Self::OtherCluster { .. } => "T10",
            Self::NotWhole(_) => "T11",
        }
    }
}

impl Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code())?;
        match self {
            Self::File(what)
            | Self::NoToken(what)
            | Self::Door(what)
            | Self::TooMuchLoad(what)
            | Self::Component(what)
            | Self::Fault(what)
            | Self::Limit(what) => f.write_str(what),
            Self::NotConfirmed { name, said: None } => {
                write!(f, "this breaks things in {name:?}: say `--confirm {name}` if that is meant")
            }
            Self::NotConfirmed { name, said: Some(said) } => {
                write!(f, "the file is for {name:?}, `--confirm` names {said:?}")
            }
            Self::NothingToBreak => {
                f.write_str("every fault is skipped: `--dry-run` shows why each of them is")
            }
            Self::OtherCluster { name, answers } => {
                write!(f, "the file is for {name:?}, but {answers:?} answers at its doors")
            }
            Self::NotWhole(what) => {
                write!(f, "the cluster is not whole, so nothing is done to it: {what}")
            }
        }
    }
}

impl std::error::Error for Misuse {}
