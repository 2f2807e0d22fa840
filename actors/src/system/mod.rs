//! The running node as its doors see it: HTTP and the back-end WebSocket push, ask and administer;
//! the gateway hands over links. Everything behind it is actors.

mod canary;
mod cluster;
mod drain;
mod groups;
mod judge;
mod questions;
mod start;
mod status;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use clarion_config::Config;
use clarion_protocol::http::{Page, PushAccepted, TokenClaims};
use clarion_protocol::{Code, ProductId};
use clarion_storage::{ConsumeNonce, NonceUse, ProductRecord, Store};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::link::Link;
use crate::link::context::LinkContext;
use crate::link::inbox::{Item, LinkEvent, LinkInbox};
use crate::link::io::LinkIo;
use crate::link_shard::LinkShardHandle;
use crate::members::Members;
use crate::products::Products;
use crate::push::{Push, Pushes};
use crate::relay::Relays;
use crate::router::Router;
use crate::supervisor::SupervisorHandle;
use crate::tokens;
use crate::views::page;

use canary::Canary;

pub use cluster::{Where, WhereNode};
pub use status::Readiness;

/// A running node.
#[derive(Clone)]
pub struct System {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    supervisor: SupervisorHandle,
    relays: Arc<Relays>,
    router: Arc<Router>,
    cluster: Arc<Cluster>,
    products: Arc<Products>,
    members: Members,
    pushes: Pushes,
    shards: Vec<Arc<LinkShardHandle>>,
    context: Arc<LinkContext>,
    next_link: AtomicU64,
    links: AtomicUsize,
    draining: watch::Sender<bool>,
    /// Another node, or an operator through it, wants this one to go.
    drain_wanted: watch::Sender<bool>,
    push_ready: Mutex<Result<(), String>>,
    canary: Canary,
    /// Membership and links, when they are this node's own.
    joined: OnceLock<crate::cluster::join::Joined>,
    stopped: AtomicBool,
    started: Instant,
}

impl System {
    /// Accepts a push: durable when it returns `Ok`.
    ///
    /// # Errors
    /// Nothing was accepted, or (`OutcomeUnknown`) it is not known.
    pub async fn push(
        &self,
        product: &Arc<ProductRecord>,
        push: Push,
    ) -> Result<PushAccepted, Failure> {
        if *self.inner.draining.borrow() {
            return Err(Failure::new(Code::Draining).retry_after_ms(1000));
        }
        self.inner.pushes.push(product, push).await
    }

    /// The record of a product, from the node's cache. `Ok(None)`: there is no such product.
    ///
    /// # Errors
    /// The store is away and the product is not cached.
    pub async fn product(
        &self,
        product: &ProductId,
    ) -> Result<Option<Arc<ProductRecord>>, Failure> {
        let known = self.inner.products.get(product).await?;
        Ok(known.map(|known| Arc::clone(&known.record)))
    }

    /// Creates a product.
    ///
    /// # Errors
    /// `ProductExists` if there is one of that name; else the store's.
    pub async fn create_product(&self, record: ProductRecord) -> Result<(), Failure> {
        let product = record.product.clone();
        if product.as_str() == canary::PRODUCT {
            return Err(Failure::new(Code::ProductExists));
        }
        self.inner.products.create(record).await?;
        self.inner.cluster.product_changed(&product);
        Ok(())
    }

    /// Changes a product's record (keys); `change` may refuse. Changes of one product are serial.
    ///
    /// # Errors
    /// `ProductUnknown`, what `change` says, or the store's.
    pub async fn change_product<T: Send>(
        &self,
        product: &ProductId,
        change: impl FnOnce(&mut ProductRecord) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let changed = self.inner.products.change(product, change).await?;
        self.inner.cluster.product_changed(product);
        Ok(changed)
    }

    /// Products in the order of their names.
    ///
    /// # Errors
    /// The store's.
    pub async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> Result<Page<ProductRecord>, Failure> {
        let items = self.inner.store.products(after, limit + 1).await?;
        Ok(page(items, limit, |record| record.product.to_string()))
    }

    /// How many terminals a product has.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminal_count(&self, product: &ProductId) -> Result<u64, Failure> {
        Ok(self.inner.store.terminal_count(product).await?)
    }

    /// Uses a nonce (once).
    ///
    /// # Errors
    /// The store's.
    pub async fn consume_nonce(&self, nonce: ConsumeNonce) -> Result<NonceUse, Failure> {
        let used = self.inner.store.consume_nonces(vec![nonce]).await?;
        used.first().copied().ok_or_else(|| Failure::new(Code::Internal))
    }

    /// Signs a terminal token with the product's newest HS256 key.
    ///
    /// # Errors
    /// The product has no such key.
    pub fn mint_token(
        &self,
        product: &ProductRecord,
        claims: &TokenClaims,
    ) -> Result<String, Failure> {
        tokens::mint(product, claims)
    }

    /// The store's time, Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.inner.store.time_ms()
    }

    /// Takes over an upgraded link from `peer`. The future ends with the link; it is small, the
    /// link itself lives on the heap, and nothing of the handshake is left in it.
    pub fn serve_link<S>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
        peer: IpAddr,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_link_from(socket, None, peer)
    }

    /// [`System::serve_link`] for a link whose first message was read already (see
    /// [`crate::first_message`]).
    pub fn serve_link_from<S>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
        first: Option<Message>,
        peer: IpAddr,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tracing::debug!(%peer, "a link begins");
        let (link, inbox, shard) = self.inner.link(socket);
        self.inner.links.fetch_add(1, Ordering::Relaxed);
        if *self.inner.draining.borrow() {
            inbox.leave(Item::Link(LinkEvent::Close(Code::GoingAway)));
        }
        let inner = Arc::clone(&self.inner);
        async move {
            let mut ends = LinkEnds { inner, shard, inbox, reason: "panicked" };
            ends.reason = link.run(first).await;
        }
    }

    /// Links that are served now.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.inner.links.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn link<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        socket: WebSocketStream<LinkIo<S>>,
    ) -> (Box<Link<S>>, Arc<LinkInbox>, Arc<LinkShardHandle>) {
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let inbox = LinkInbox::new(id, self.config.session.inbox_items_max as u32);
        let shard = Arc::clone(&self.shards[id as usize % self.shards.len()]);
        shard.add(&inbox);
        let context = Arc::clone(&self.context);
        let link = Link::new(socket, Arc::clone(&inbox), Arc::clone(&shard), context);
        (Box::new(link), inbox, shard)
    }
}

/// Takes a link out of the books however it ends.
struct LinkEnds {
    inner: Arc<Inner>,
    shard: Arc<LinkShardHandle>,
    inbox: Arc<LinkInbox>,
    reason: &'static str,
}

impl Drop for LinkEnds {
    fn drop(&mut self) {
        self.inbox.end();
        self.shard.remove(&self.inbox, self.reason);
        self.inner.links.fetch_sub(1, Ordering::Relaxed);
    }
}
