//! The client's side.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac as _;
use sha2::{Digest as _, Sha256};

use super::base_string::{encode_into, signature_base_string};
use super::{METHOD, mac};

/// A request to be signed.
#[derive(Clone, Copy)]
pub struct SignRequest<'a> {
    /// Its HTTP method.
    pub method: &'a str,
    /// Its whole URL, as the node is reached by it, with query. No parameter of the query may
    /// begin with `oauth_`.
    pub url: &'a str,
    /// Its body, exactly the bytes that are sent; a `GET` has none.
    pub body: Option<&'a [u8]>,
    /// `oauth_consumer_key`.
    pub key: &'a str,
    /// Its secret.
    pub secret: &'a str,
    /// `oauth_nonce`: never the same twice for a key; 16 random bytes in hexadecimal will do.
    pub nonce: &'a str,
    /// `oauth_timestamp`: Unix seconds, now.
    pub timestamp: u64,
}

/// The value of the `Authorization` header that signs a request.
#[must_use]
pub fn sign(request: &SignRequest<'_>) -> String {
    let timestamp = request.timestamp.to_string();
    let body_hash = request.body.map(|body| STANDARD.encode(Sha256::digest(body)));
    let mut parameters = vec![
        ("oauth_consumer_key", request.key),
        ("oauth_nonce", request.nonce),
        ("oauth_signature_method", METHOD),
        ("oauth_timestamp", &timestamp),
        ("oauth_version", "1.0"),
    ];
    if let Some(hash) = &body_hash {
        parameters.push(("oauth_body_hash", hash));
    }
    let base = signature_base_string(request.method, request.url, parameters.iter().copied());
    let signature = STANDARD.encode(mac(request.secret, &base).finalize().into_bytes());
    parameters.push(("oauth_signature", &signature));

    let mut header = String::with_capacity(384);
    for (at, (name, value)) in parameters.into_iter().enumerate() {
        header.push_str(if at == 0 { "OAuth " } else { ", " });
        header.push_str(name);
        header.push_str("=\"");
        encode_into(&mut header, value.as_bytes());
        header.push('"');
    }
    header
}
