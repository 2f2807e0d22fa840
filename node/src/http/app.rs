//! What every request needs, shared by all of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clarion_actors::System;
use clarion_config::Config;
use clarion_protocol::ProductId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::asking::Asking;
use super::kept::Keeper;
use super::measures::Measures;
use crate::neighbours::Neighbours;

/// Renders what `GET /metrics` answers with.
pub type MetricsRender = Arc<dyn Fn() -> String + Send + Sync>;

/// The administrator's token. Only its SHA-256 is kept: it can be compared and not shown.
#[derive(Clone)]
pub struct AdminToken([u8; 32]);

impl AdminToken {
    /// Keeps what is needed to compare with `token`.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether `given` is the token. Both sides are hashed first, so that the time taken tells
    /// neither length nor content.
    pub(super) fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        self.0.ct_eq(&given).into()
    }
}

impl From<&clarion_config::AdminToken> for AdminToken {
    fn from(token: &clarion_config::AdminToken) -> Self {
        Self::new(token.expose())
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// How far the listener is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everything is served.
    Serving,
    /// The node drains: push connections are told to go.
    Draining,
    /// Nothing more is accepted; what is in flight is finished.
    Stopping,
}

/// Waits until the listener is as far as `phase`.
pub(super) async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    // An error says that the listener is gone: as far as it gets.
    let _ = phases.wait_for(|now| *now >= phase).await;
}

/// Cheap to clone.
pub(super) type App = Arc<Shared>;

/// See the module.
pub(super) struct Shared {
    pub(super) system: System,
    pub(super) config: Arc<Config>,
    pub(super) admin_token: AdminToken,
    pub(super) metrics: MetricsRender,
    pub(super) measures: Measures,
    /// `https` or `http`, as this listener speaks it.
    pub(super) scheme: &'static str,
    /// `http.external_url` without a slash at its end.
    pub(super) external_url: Option<String>,
    pub(super) request_timeout: Duration,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) push_links: PushLinks,
    pub(super) keeper: Keeper,
    /// The other nodes.
    pub(super) neighbours: Neighbours,
    /// Who asked for access points how often.
    pub(super) asking: Asking,
    pub(super) started: Instant,
}

/// The push connections of each product: at most `limits.push_connections_max`.
#[derive(Clone, Default)]
pub(super) struct PushLinks {
    counts: Arc<Mutex<HashMap<ProductId, usize>>>,
}

impl PushLinks {
    /// Takes a place for a connection of `product`, unless `max` are taken.
    pub(super) fn enter(&self, product: &ProductId, max: usize) -> Option<PushLinkPlace> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(product.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(counts);
        metrics::gauge!("clarion_push_links").increment(1.0);
        Some(PushLinkPlace { product: product.clone(), links: self.clone() })
    }
}

/// The place of one push connection; given back when dropped.
pub(super) struct PushLinkPlace {
    product: ProductId,
    links: PushLinks,
}

impl Drop for PushLinkPlace {
    fn drop(&mut self) {
        let mut counts = self.links.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.product) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.product);
            }
        }
        drop(counts);
        metrics::gauge!("clarion_push_links").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_token_is_compared_and_never_shown() {
        let token = AdminToken::new("correct horse battery");
        assert!(token.is("correct horse battery"));
        assert!(!token.is("correct horse batterz"));
        assert!(!token.is(""));
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
    }

    #[test]
    fn push_connections_are_counted_per_product_and_given_back() {
        let (links, a, b) =
            (PushLinks::default(), ProductId::new("a").unwrap(), ProductId::new("b").unwrap());
        let first = links.enter(&a, 2).unwrap();
        let _second = links.enter(&a, 2).unwrap();
        assert!(links.enter(&a, 2).is_none(), "the third of two");
        assert!(links.enter(&b, 2).is_some(), "another product has its own places");
        drop(first);
        assert!(links.enter(&a, 2).is_some(), "a place was given back");
        assert_eq!(
            links.counts.lock().unwrap().len(),
            1,
            "products without a connection cost nothing"
        );
    }
}
