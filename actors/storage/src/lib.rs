//! Where Clarion keeps what it promised: one trait whose methods state their guarantees, the back
//! ends that keep them, and one conformance suite that every back end passes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
mod engine;
pub mod gathered;
pub mod memory;
mod record;
pub mod redis;
mod seldom;
mod store;
mod task;

pub use clarion_core::{Page, Settled};
pub use record::{
    ApiKey, DEFAULT_GROUP, MessageRecord, MessageTarget, ProductRecord, Subscription,
    SubscriptionState, TerminalRecord, TokenKey,
};
pub use seldom::Seldom;
pub use store::{
    Append, Appended, Claim, ClaimOutcome, ConsumeNonce, CursorSave, Finish, LogLimits, NonceUse,
    OpenSession, OpenedLog, OpenedSession, Read, SaveOutcome, Store, StoreError, StoreHealth,
    StoreResult, Subscribe, SubscribeBy, SubscribeOutcome, Unsubscribe, UnsubscribeOutcome, Upkeep,
};
