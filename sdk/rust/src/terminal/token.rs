//! Where tokens come from, and what can be read off them.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use crate::cursors::Owner;

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Where the terminal's token (JWT) comes from.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Fixed(Arc<str>),
    Asked(Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Fixed(_) => "TokenSource(fixed, redacted)",
            Source::Asked(_) => "TokenSource(asked)",
        })
    }
}

impl From<&str> for TokenSource {
    fn from(token: &str) -> Self {
        Self(Source::Fixed(Arc::from(token)))
    }
}

impl From<String> for TokenSource {
    fn from(token: String) -> Self {
        Self(Source::Fixed(Arc::from(token)))
    }
}

impl TokenSource {
    /// Asks `ask`, usually the product's back-end: at first, and again whenever a node says that
    /// the token is used up (codes 4100-4199). If it fails, it is asked again with back-off.
    pub fn from_fn<F, R, E>(ask: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Source::Asked(Arc::new(move || {
            let asked = ask();
            Box::pin(async move { asked.await.map_err(Into::into) })
        })))
    }

    /// Whether it can give another token than before.
    pub(super) const fn is_renewable(&self) -> bool {
        matches!(self.0, Source::Asked(_))
    }

    pub(super) async fn token(&self) -> Result<String, BoxError> {
        match &self.0 {
            Source::Fixed(token) => Ok(token.as_ref().to_owned()),
            Source::Asked(ask) => ask().await,
        }
    }
}

/// Whose token it is, as far as it says. The signature is the node's to check.
pub(super) fn owner(product: &str, token: &str) -> Owner {
    #[derive(Deserialize)]
    struct Claims {
        sub: Option<String>,
        user: Option<String>,
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    let (terminal, user) = claims.map_or((None, None), |claims| (claims.sub, claims.user));
    Owner { product: product.to_owned(), terminal, user }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_owner() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"aud":"demo","sub":"t1","user":"u1"}"#);
        let owner = owner("demo", &format!("x.{claims}.y"));
        assert_eq!(owner.terminal.as_deref(), Some("t1"));
        assert_eq!(owner.user.as_deref(), Some("u1"));
    }

    #[test]
    fn an_opaque_token_names_nobody_and_is_never_shown() {
        assert_eq!(owner("demo", "opaque").terminal, None);
        assert!(!format!("{:?}", TokenSource::from("opaque")).contains("opaque"));
    }
}
