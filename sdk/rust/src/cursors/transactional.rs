//! Cursors that live in the application's own database.

use async_trait::async_trait;

use super::{CursorError, CursorStore, DecodeError, Snapshot};

/// The other half of [`Message::commit_token`](crate::Message::commit_token): the application
/// stores the token in the transaction that stores what the message did, and hands the last one
/// back here when it starts. The message counts as handled exactly if that transaction stands:
/// exactly once, whatever dies when.
///
/// Tokens replace each other, so there must be one transaction at a time: take the token, commit,
/// acknowledge; then take the next. Several messages can share one with
/// [`commit_token`](crate::terminal::commit_token).
#[derive(Debug)]
pub struct TransactionalCursors(Snapshot);

impl TransactionalCursors {
    /// Goes on after the transaction that stored `last_token`; `None` at the very first start.
    ///
    /// # Errors
    /// When the token is damaged. An application that then starts with `None` may see messages
    /// again that it has handled.
    pub fn resume(last_token: Option<&[u8]>) -> Result<Self, DecodeError> {
        last_token.map_or_else(|| Ok(Snapshot::default()), Snapshot::from_bytes).map(Self)
    }
}

#[async_trait]
impl CursorStore for TransactionalCursors {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        Ok(self.0.clone())
    }

    /// Nothing to do: the application committed before it acknowledged.
    async fn save(&self, _snapshot: &Snapshot) -> Result<(), CursorError> {
        Ok(())
    }
}
