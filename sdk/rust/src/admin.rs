//! The client of an administrator: products, keys, tokens, status.

use std::fmt;
use std::sync::Arc;

use clarion_protocol::http::{
    ApiKeyInfo, ClusterStatus, DrainStarted, MintedToken, Page, ProductChange, ProductCreate,
    ProductInfo, TokenKeyCreate, TokenKeyInfo, TokenRequest, Where,
};
use clarion_protocol::{KeyId, ProductId};
use hyper::Method;
use hyper::header::HeaderValue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{BuildError, PushError, RequestTuning, page, to_body};
use crate::http::{Base, Call, Http, Identity};
use crate::transport::{Tcp, http_url};

/// An administrator of a node. Cheap to clone.
#[derive(Clone)]
pub struct Admin(Arc<Inner>);

struct Inner {
    http: Http,
    base: Base,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// An administrator with the node's admin token, at the base URL of its HTTP API.
    ///
    /// # Errors
    /// When URL or token cannot be used.
    pub fn new(url: &str, token: &str) -> Result<Self, BuildError> {
        Self::with(url, token, &Tcp::new()?, RequestTuning::default())
    }

    /// Like [`Admin::new`], with own certificates, bounds and times.
    ///
    /// # Errors
    /// When URL or token cannot be used.
    pub fn with(
        url: &str,
        token: &str,
        tcp: &Tcp,
        tuning: RequestTuning,
    ) -> Result<Self, BuildError> {
        let base = Base::new(&http_url(url)?);
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            BuildError::Request(PushError::invalid("the token holds a control character"))
        })?;
        bearer.set_sensitive(true);
        let http = Http::new(Identity::Bearer(bearer), tcp, tuning);
        Ok(Self(Arc::new(Inner { http, base })))
    }

    /// Creates a product. The answer holds its first key and token key with their secrets, which
    /// are shown this once.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn create_product(&self, product: &ProductCreate) -> Result<ProductInfo, PushError> {
        self.send(Method::POST, "/v1/products", product).await
    }

    /// Products, a page of at most `limit` behind `after`.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn products(
        &self,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Page<ProductInfo>, PushError> {
        let place = page(&self.0.base.place("/v1/products")?, after, limit, None)?;
        self.0
            .http
            .call(Call { method: Method::GET, place: &place, body: None, idempotent: true })
            .await
    }

    /// A product.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn product(&self, product: &ProductId) -> Result<ProductInfo, PushError> {
        self.bare(Method::GET, &format!("/v1/products/{product}")).await
    }

    /// Changes what `change` names.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn change_product(
        &self,
        product: &ProductId,
        change: &ProductChange,
    ) -> Result<ProductInfo, PushError> {
        let place = self.0.base.place(&format!("/v1/products/{product}"))?;
        let body = Some(to_body(change)?);
        // Said twice, it changes nothing more.
        let call = Call { method: Method::PATCH, place: &place, body, idempotent: true };
        self.0.http.call(call).await
    }

    /// Adds a key that signs pushes; its secret is shown this once.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn add_key(&self, product: &ProductId) -> Result<ApiKeyInfo, PushError> {
        self.bare(Method::POST, &format!("/v1/products/{product}/keys")).await
    }

    /// Revokes a key that signs pushes.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn revoke_key(&self, product: &ProductId, key: &KeyId) -> Result<(), PushError> {
        let _: serde_json::Value =
            self.bare(Method::DELETE, &format!("/v1/products/{product}/keys/{key}")).await?;
        Ok(())
    }

    /// Adds a key that signs terminal tokens; a secret is shown this once.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn add_token_key(
        &self,
        product: &ProductId,
        key: &TokenKeyCreate,
    ) -> Result<TokenKeyInfo, PushError> {
        self.send(Method::POST, &format!("/v1/products/{product}/token-keys"), key).await
    }

    /// Revokes a key that signs terminal tokens.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn revoke_token_key(
        &self,
        product: &ProductId,
        kid: &KeyId,
    ) -> Result<(), PushError> {
        let _: serde_json::Value =
            self.bare(Method::DELETE, &format!("/v1/products/{product}/token-keys/{kid}")).await?;
        Ok(())
    }

    /// Makes a terminal's token with the product's newest HS256 key.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn mint_token(
        &self,
        product: &ProductId,
        request: &TokenRequest,
    ) -> Result<MintedToken, PushError> {
        self.send(Method::POST, &format!("/v1/products/{product}/tokens"), request).await
    }

    /// How the node is.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn status(&self) -> Result<serde_json::Value, PushError> {
        self.bare(Method::GET, "/v1/status").await
    }

    /// The nodes of the cluster, as this one sees them.
    ///
    /// # Errors
    /// When the node refuses, or does not answer before the deadline.
    pub async fn cluster(&self) -> Result<ClusterStatus, PushError> {
        self.bare(Method::GET, "/v1/cluster").await
    }

    /// Drains a node of the cluster: its logs get other owners, its terminals go to other nodes.
    ///
    /// # Errors
    /// When there is no such node, or the node does not answer before the deadline.
    pub async fn drain_node(&self, node: &str) -> Result<DrainStarted, PushError> {
        let node: String = url::form_urlencoded::byte_serialize(node.as_bytes()).collect();
        let place = self.0.base.place(&format!("/v1/cluster/nodes/{node}/drain"))?;
        // A node that drains goes on draining.
        let call = Call { method: Method::POST, place: &place, body: None, idempotent: true };
        self.0.http.call(call).await
    }

    /// Which node a log of `product` is on, and why: `what` is `product`, `topic`, `terminal` or
    /// `user`, `name` which of them (nothing for the product itself).
    ///
    /// # Errors
    /// When there is no such product, or the node does not answer before the deadline.
    pub async fn where_is(
        &self,
        product: &ProductId,
        what: &str,
        name: Option<&str>,
    ) -> Result<Where, PushError> {
        let place = self.0.base.place("/v1/where")?;
        let place = match name {
            Some(name) => {
                place.with_query(&[("product", Some(product.as_str())), (what, Some(name))])?
            }
            None => place.with_query(&[("product", Some(product.as_str()))])?,
        };
        let call = Call { method: Method::GET, place: &place, body: None, idempotent: true };
        self.0.http.call(call).await
    }

    async fn bare<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, PushError> {
        let place = self.0.base.place(path)?;
        // A key that was made twice is a key that nobody knows.
        let idempotent = method != Method::POST;
        self.0.http.call(Call { method, place: &place, body: None, idempotent }).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, PushError> {
        let place = self.0.base.place(path)?;
        let body = Some(to_body(body)?);
        self.0.http.call(Call { method, place: &place, body, idempotent: false }).await
    }
}
