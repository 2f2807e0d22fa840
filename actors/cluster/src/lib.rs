//! What makes nodes a cluster, below the actors: who is there ([`membership`]) and the links
//! between them ([`peer`]). Knows nothing of logs or pushes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cookie;
pub mod identity;
pub mod membership;
pub mod peer;

pub use cookie::{Cookie, CookieError};
pub use identity::{BootId, NodeIdentity, new_boot};
