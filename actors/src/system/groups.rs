//! A product that is given to another isolation group takes its live sessions along: they are closed
//! here, and their terminals connect to gateways of that group.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clarion_protocol::ProductId;

use super::Inner;
use crate::link::inbox::{Item, LinkEvent};

/// How often the products with live sessions are looked at besides when one is known to have changed.
/// Their records are read from the store when they are no longer fresh, so a change that this node was
/// not told of is found too.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Links that are told at once, and the pause between: their terminals are not to come to the other
/// group in one moment.
const LINKS_AT_ONCE: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at the products with live sessions, for as long as the node runs.
pub(super) async fn follow_groups(inner: Weak<Inner>) {
    loop {
        let Some(products) = inner.upgrade().map(|inner| Arc::clone(&inner.products)) else {
            return;
        };
        let _ = tokio::time::timeout(LOOK_EVERY, products.changed()).await;
        drop(products);
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        inner.close_moved().await;
    }
}

impl Inner {
    async fn close_moved(&self) {
        let mut moved = false;
        for product in self.context.products_in_use() {
            moved |= self.has_moved(&product).await;
        }
        if !moved {
            return;
        }
        for shard in &self.shards {
            for links in shard.links_now().chunks(LINKS_AT_ONCE) {
                // Each link knows its sessions, and looks which of them are meant.
                links.iter().for_each(|link| link.leave(Item::Link(LinkEvent::ProductMoved)));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn has_moved(&self, product: &ProductId) -> bool {
        // While the store is away what was known last counts.
        let _ = self.products.get(product).await;
        let moved = self.context.is_elsewhere(product);
        if moved {
            tracing::info!(%product, "another isolation group serves it: its sessions are closed");
        }
        moved
    }
}
