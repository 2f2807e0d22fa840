//! What a push waits for: an append on its way, wherever its owner is.

use clarion_protocol::Code;
use clarion_storage::{Appended, StoreError};
use tokio::sync::oneshot;

use crate::failure::code_of;
use crate::intake::Answer;

/// Why an append came to nothing.
#[derive(Debug, Clone)]
pub(crate) enum NotAppended {
    /// The store said so.
    Store(StoreError),
    /// No node that may append could be reached in time, and it was not tried.
    NobodyReached,
}

impl NotAppended {
    /// The code that it is answered with.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Store(error) => code_of(error),
            Self::NobodyReached => Code::OwnerUnreachable,
        }
    }
}

/// An append on its way, to an owner here or elsewhere.
pub(crate) enum Pending {
    Here(Answer),
    There(oneshot::Receiver<Result<Appended, NotAppended>>),
}

impl Pending {
    /// What became of it. `None`: it was dropped before it was tried.
    pub(crate) async fn settled(self) -> Option<Result<Appended, NotAppended>> {
        match self {
            Self::Here(answer) => Some(answer.await.ok()?.map_err(NotAppended::Store)),
            Self::There(answer) => answer.await.ok(),
        }
    }
}
