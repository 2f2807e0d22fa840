//! What a terminal remembers: its cursor in every log, and the ids it has handled lately. Stores
//! differ in what survives:
//!
//! | store | after a restart of the terminal |
//! | --- | --- |
//! | none | the node's cursors count; messages it had not yet saved as acknowledged come again |
//! | [`MemoryCursors`] | the same, but several connections of one process in turn share it |
//! | [`FileCursors`] | nothing that was acknowledged before the last save comes again: at least once, and once unless the process died between handling and saving |
//! | [`TransactionalCursors`] | exactly once in the application's own data, which holds the cursors too |
//!
//! The order is always: the handler acknowledges, the store saves, the node is told. So whatever
//! the node counts as acknowledged, the store remembers; and nothing is saved that the handler did
//! not acknowledge.

mod codec;
mod file;
mod transactional;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use clarion_protocol::terminal::Cursor;
use clarion_protocol::{LogName, MessageId};

pub use codec::DecodeError;
pub use file::FileCursors;
pub use transactional::TransactionalCursors;

/// Whose memory a [`Snapshot`] is. The cursors of another terminal would hide messages, so they
/// are refused. Taken from the token's claims `sub` and `user`; unknown if it is no JWT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The product.
    pub product: String,
    /// The terminal, if known.
    pub terminal: Option<String>,
    /// The user, if the terminal has one.
    pub user: Option<String>,
}

/// What a terminal remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose memory it is; `None` while nothing was ever saved.
    pub owner: Option<Owner>,
    /// Everything up to there was handled, by log.
    pub cursors: Vec<(LogName, Cursor)>,
    /// Ids that were handled lately, the oldest first.
    pub seen: Vec<MessageId>,
}

/// Why cursors cannot be loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What was stored cannot be read. Starting without it is safe (the node's cursors count), but
    /// is for the application to decide: messages handled before may come again.
    #[error("the stored cursors are damaged: {0}")]
    Damaged(#[from] DecodeError),
    /// They belong to another terminal.
    #[error("the stored cursors belong to {stored}, this is {here}")]
    Foreign {
        /// Whose they are.
        stored: String,
        /// Who asks.
        here: String,
    },
    /// The application's own store failed.
    #[error("{0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps what a terminal remembers. Only one terminal at a time uses a store.
#[async_trait]
pub trait CursorStore: Send + Sync + 'static {
    /// The last snapshot that was saved; an empty one if there is none.
    async fn load(&self) -> Result<Snapshot, CursorError>;

    /// Keeps `snapshot` in place of the one before, atomically: a crash leaves one of the two. The
    /// node is told of acknowledgements only when this returned `Ok`; calls do not overlap.
    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError>;
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.product, self.terminal.as_deref().unwrap_or("?"))
    }
}

impl Owner {
    /// Whether the memory of `self` may serve `other`. Users may differ: only the cursor of the
    /// user's inbox is lost then.
    #[must_use]
    pub(crate) fn is_same_terminal(&self, other: &Self) -> bool {
        let terminals_agree = match (&self.terminal, &other.terminal) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.product == other.product && terminals_agree
    }
}

impl Snapshot {
    /// The snapshot as `owner` may use it.
    pub(crate) fn claimed_by(mut self, owner: &Owner) -> Result<Self, CursorError> {
        if let Some(stored) = &self.owner {
            if !stored.is_same_terminal(owner) {
                return Err(CursorError::Foreign {
                    stored: stored.to_string(),
                    here: owner.to_string(),
                });
            }
            if stored.user != owner.user {
                // Offsets carry time: the former user's cursor would hide the new user's messages.
                self.cursors.retain(|(log, _)| *log != LogName::User);
            }
        }
        Ok(self)
    }
}

/// Keeps cursors in memory.
#[derive(Debug, Default)]
pub struct MemoryCursors(Mutex<Snapshot>);

impl MemoryCursors {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl CursorStore for MemoryCursors {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        Ok(self.snapshot())
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(snapshot);
        Ok(())
    }
}

#[async_trait]
impl<S: CursorStore + ?Sized> CursorStore for std::sync::Arc<S> {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        (**self).load().await
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError> {
        (**self).save(snapshot).await
    }
}
