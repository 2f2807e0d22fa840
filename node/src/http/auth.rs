//! Who asks. Two credentials: the administrator's bearer token, and OAuth 1.0 signatures of a
//! product's keys. The checks of a signature come in this order, each with its own code: header,
//! key, revocation, timestamp, signature, all before the body is read; then the body's hash; the
//! nonce last, so that only requests that could have been carried out use one up.
//!
//! A product that does not exist is answered like a key that does not: who holds no key learns no
//! names of products.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use clarion_actors::Failure;
use clarion_protocol::oauth::Signed;
use clarion_protocol::{Code, KeyId};
use clarion_storage::{ConsumeNonce, NonceUse, ProductRecord};

use super::app::{AdminToken, Shared};
use super::problem::Refusal;
use super::request::Params;

/// What a back-end is to wait when no more nonces can be remembered: some leave the window then.
const NONCES_FULL_PAUSE_MS: u64 = 5000;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Open,
    /// The administrator.
    Admin,
    /// Who holds a key of the product in the path.
    Product,
    /// Either of them.
    ProductOrAdmin,
}

/// A caller whose claims about the request's head are proven.
pub(super) enum Caller {
    /// Nobody in particular.
    Anyone,
    /// The administrator, and the product of the path where the route belongs to one.
    Admin(Option<Arc<ProductRecord>>),
    /// A back-end. The body and the nonce are still to be checked.
    Signed(SignedCaller),
}

/// See [`Caller::Signed`].
pub(super) struct SignedCaller {
    product: Arc<ProductRecord>,
    key: KeyId,
    signed: Signed,
}

/// Checks everything that can be checked before the body is read.
pub(super) async fn authenticate(
    access: Access,
    app: &Shared,
    parts: &Parts,
    params: &Params,
) -> Result<Caller, Refusal> {
    match (access, bearer(&parts.headers)) {
        (Access::Open, _) => Ok(Caller::Anyone),
        (Access::Admin, token) => {
            admin(&app.admin_token, token)?;
            Ok(Caller::Admin(None))
        }
        (Access::ProductOrAdmin, Some(token)) => {
            admin(&app.admin_token, Some(token))?;
            let product = app.system.product(&params.id("product")?).await?;
            Ok(Caller::Admin(Some(product.ok_or(Code::ProductUnknown)?)))
        }
        (Access::Product, Some(token)) => {
            admin(&app.admin_token, Some(token))?;
            Err((Code::Forbidden, "pushes are signed with a key of the product").into())
        }
        (Access::Product | Access::ProductOrAdmin, None) => {
            backend(app, parts, params).await.map(Caller::Signed)
        }
    }
}

impl Caller {
    /// Checks the rest, with the body.
    pub(super) async fn complete(self, app: &Shared, body: &[u8]) -> Result<Proven, Refusal> {
        match self {
            Self::Anyone => Ok(Proven::default()),
            Self::Admin(product) => Ok(Proven { product, key: None }),
            Self::Signed(caller) => caller.complete(app, body).await,
        }
    }
}

/// What a request may speak of, all checks passed.
#[derive(Default)]
pub(super) struct Proven {
    /// The product of the path, on routes that belong to one.
    pub(super) product: Option<Arc<ProductRecord>>,
    /// The key that signed.
    pub(super) key: Option<KeyId>,
}

impl SignedCaller {
    async fn complete(self, app: &Shared, body: &[u8]) -> Result<Proven, Refusal> {
        let Self { product, key, signed } = self;
        signed.check_body(body, product.allow_sha1_body_hash)?;
        let nonce = ConsumeNonce {
            product: product.product.clone(),
            key: key.clone(),
            nonce: Arc::from(signed.nonce()),
            timestamp_s: signed.timestamp(),
            window_s: app.config.limits.oauth_window_s,
        };
        match app.system.consume_nonce(nonce).await? {
            NonceUse::Fresh => Ok(Proven { product: Some(product), key: Some(key) }),
            NonceUse::Replayed => Err(Code::NonceReplayed.into()),
            NonceUse::Full => {
                let detail = "as many nonces are remembered as `limits.nonces_max` allows";
                let full = Failure::new(Code::Overloaded).detail(detail);
                Err(full.retry_after_ms(NONCES_FULL_PAUSE_MS).into())
            }
        }
    }
}

/// The bearer token of a request, if that is how it authenticates.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim_ascii();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_ascii())
}

fn admin(expected: &AdminToken, given: Option<&str>) -> Result<(), Code> {
    if given.is_some_and(|given| expected.is(given)) {
        Ok(())
    } else {
        Err(Code::AdminTokenInvalid)
    }
}

async fn backend(app: &Shared, parts: &Parts, params: &Params) -> Result<SignedCaller, Refusal> {
    let signed = Signed::parse(oauth_header(&parts.headers)?)?;
    let product = app.system.product(&params.id("product")?).await?.ok_or(Code::KeyUnknown)?;
    let now_s = app.system.time_ms() / 1000;
    let url = url(app.external_url.as_deref(), app.scheme, parts)?;
    let window_s = app.config.limits.oauth_window_s;
    let key = judge(&product, &signed, parts.method.as_str(), &url, now_s, window_s)?;
    Ok(SignedCaller { product, key, signed })
}

/// The one `Authorization` header.
fn oauth_header(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Code::SignatureMissing.into()),
        (Some(_), Some(_)) => Err((Code::SignatureMalformed, "two Authorization headers").into()),
        (Some(value), None) => {
            value.to_str().map_err(|_| (Code::SignatureMalformed, "the header is not ASCII").into())
        }
    }
}

/// The URL that the client signed: path and query exactly as they came, behind the base that
/// clients know the API by.
fn url(external: Option<&str>, scheme: &str, parts: &Parts) -> Result<String, Refusal> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if let Some(base) = external {
        return Ok(format!("{base}{path}"));
    }
    let host = match parts.uri.authority() {
        // RFC 9112, section 3.2.2: the target in absolute form goes before the header.
        Some(authority) => authority.as_str(),
        None => parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .ok_or((Code::BadRequest, "the Host header is missing"))?,
    };
    Ok(format!("{scheme}://{host}{path}"))
}

/// Judges a signature by the product's record. Answers with the key that made it.
fn judge(
    product: &ProductRecord,
    signed: &Signed,
    method: &str,
    url: &str,
    now_s: u64,
    window_s: u64,
) -> Result<KeyId, Refusal> {
    let key = product.api_keys.iter().find(|key| key.key.as_str() == signed.key());
    let key = key.ok_or(Code::KeyUnknown)?;
    if key.revoked_at_ms.is_some() {
        return Err(Code::KeyRevoked.into());
    }
    let off_s = signed.timestamp().abs_diff(now_s);
    if off_s > window_s {
        let side = if signed.timestamp() < now_s { "behind" } else { "ahead of" };
        let detail = format!(
            "oauth_timestamp: is {off_s} s {side} the node's time, at most {window_s} s are accepted"
        );
        return Err((Code::TimestampRefused, detail).into());
    }
    signed.verify(method, url, &key.secret)?;
    Ok(key.key.clone())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};
    use clarion_protocol::ProductId;
    use clarion_protocol::oauth::{SignRequest, sign};

    use super::super::keys::new_api_key;
    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const WINDOW_S: u64 = 300;
    const URL: &str = "http://localhost:8080/v1/products/demo/messages?x=%41";

    fn product() -> ProductRecord {
        let product = ProductId::new("demo").unwrap();
        let keys = [new_api_key(&product, 1), new_api_key(&product, 2)];
        ProductRecord {
            product,
            created_at_ms: 1,
            kinds: vec![],
            allow_sha1_body_hash: false,
            pushes_per_s_max: None,
            isolation_group: clarion_storage::DEFAULT_GROUP.into(),
            api_keys: keys.into(),
            token_keys: vec![],
        }
    }

    fn signed(product: &ProductRecord, key: usize, timestamp: u64) -> Signed {
        let key = &product.api_keys[key];
        let request = SignRequest {
            method: "POST",
            url: URL,
            body: Some(b"{}"),
            key: key.key.as_str(),
            secret: &key.secret,
            nonce: "n",
            timestamp,
        };
        Signed::parse(&sign(&request)).unwrap()
    }

    fn code(product: &ProductRecord, signed: &Signed, method: &str, url: &str) -> Option<Code> {
        judge(product, signed, method, url, NOW_S, WINDOW_S).err().map(|refusal| refusal.code())
    }

    #[test]
    fn both_keys_of_a_product_sign() {
        let product = product();
        for key in 0..2 {
            let signed = signed(&product, key, NOW_S);
            let judged = judge(&product, &signed, "POST", URL, NOW_S, WINDOW_S).unwrap();
            assert_eq!(judged, product.api_keys[key].key);
        }
    }

    #[test]
    fn every_refusal_of_a_signature_has_its_own_code() {
        let mut product = product();
        let good = signed(&product, 0, NOW_S);
        assert_eq!(code(&product, &good, "POST", URL), None);
        assert_eq!(code(&product, &good, "PUT", URL), Some(Code::SignatureInvalid));
        let other = URL.replace("demo", "omed");
        assert_eq!(code(&product, &good, "POST", &other), Some(Code::SignatureInvalid));

        for (timestamp, expected) in [
            (NOW_S - WINDOW_S, None),
            (NOW_S + WINDOW_S, None),
            (NOW_S - WINDOW_S - 1, Some(Code::TimestampRefused)),
            (NOW_S + WINDOW_S + 1, Some(Code::TimestampRefused)),
            (0, Some(Code::TimestampRefused)),
        ] {
            let signed = signed(&product, 0, timestamp);
            assert_eq!(code(&product, &signed, "POST", URL), expected, "{timestamp}");
        }

        product.api_keys[0].revoked_at_ms = Some(3);
        assert_eq!(code(&product, &good, "POST", URL), Some(Code::KeyRevoked));
        product.api_keys.remove(0);
        assert_eq!(code(&product, &good, "POST", URL), Some(Code::KeyUnknown));
    }

    #[test]
    fn a_known_key_with_another_secret_is_refused() {
        let mut product = product();
        let good = signed(&product, 0, NOW_S);
        product.api_keys[0].secret = product.api_keys[1].secret.clone();
        assert_eq!(code(&product, &good, "POST", URL), Some(Code::SignatureInvalid));
    }

    fn parts(target: &str, headers: &[(header::HeaderName, &'static str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(name, HeaderValue::from_static(value));
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_url_is_the_one_that_the_client_used() {
        let came = parts("/v1/a%2Fb?x=%41&y=1+2", &[(header::HOST, "Node.example:8080")]);
        let here = url(None, "http", &came).unwrap();
        assert_eq!(here, "http://Node.example:8080/v1/a%2Fb?x=%41&y=1+2");
        let there = url(Some("https://push.example.com/clarion"), "http", &came).unwrap();
        assert_eq!(there, "https://push.example.com/clarion/v1/a%2Fb?x=%41&y=1+2");
        let absolute = parts("http://real.example/v1", &[(header::HOST, "fake.example")]);
        assert_eq!(url(None, "http", &absolute).unwrap(), "http://real.example/v1");
        let none = url(None, "http", &parts("/v1", &[])).unwrap_err();
        assert_eq!(none.code(), Code::BadRequest);
    }

    #[test]
    fn the_authorization_header_is_read_once() {
        let header = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        let missing = oauth_header(&header(&[])).unwrap_err();
        assert_eq!(missing.code(), Code::SignatureMissing);
        let two = oauth_header(&header(&["OAuth a", "OAuth b"])).unwrap_err();
        assert_eq!(two.code(), Code::SignatureMalformed);
        assert_eq!(bearer(&header(&["bearer  abc "])), Some("abc"));
        assert_eq!(bearer(&header(&["Bearer"])), Some(""));
        assert_eq!(bearer(&header(&["OAuth abc"])), None);
        assert_eq!(bearer(&header(&[])), None);
    }

    #[test]
    fn only_the_admin_token_is_the_admin_token() {
        let token = AdminToken::new("0123456789abcdef");
        assert_eq!(admin(&token, Some("0123456789abcdef")), Ok(()));
        for given in [None, Some(""), Some("0123456789abcdeF")] {
            assert_eq!(admin(&token, given), Err(Code::AdminTokenInvalid));
        }
    }
}
