//! OAuth 1.0 request signatures (RFC 5849) as Clarion uses them: HMAC-SHA256 with the consumer
//! secret alone (no token), the parameters in the `Authorization` header, and the body bound by
//! `oauth_body_hash`. [`sign`] is the client's side, [`Signed`] the node's.
//!
//! Whether a timestamp is recent, a nonce new and a key known is the node's to judge; here is what
//! can be said from the request and the secret alone.

mod base_string;
mod header;
mod sign;
#[cfg(test)]
mod tests;
mod verify;

pub use base_string::signature_base_string;
pub use header::Signed;
pub use sign::{SignRequest, sign};

/// Longest `Authorization` header that is read, in bytes.
pub const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Most parameters of an `Authorization` header.
pub const PARAMETERS_MAX: usize = 32;
/// Longest `oauth_consumer_key`, in bytes.
pub const KEY_BYTES_MAX: usize = crate::ids::ID_BYTES_MAX;
/// Longest `oauth_nonce`, in bytes of printable ASCII.
pub const NONCE_BYTES_MAX: usize = 128;

/// The one signature method.
const METHOD: &str = "HMAC-SHA256";

type HmacSha256 = hmac::Hmac<sha2::Sha256>;

/// HMAC-SHA256 of a signature base string; the key is `enc(secret)&` (RFC 5849, section 3.4.2).
fn mac(secret: &str, base_string: &str) -> HmacSha256 {
    use hmac::Mac as _;
    let mut key = String::with_capacity(secret.len() + 1);
    base_string::encode_into(&mut key, secret.as_bytes());
    key.push('&');
    let mut mac = match HmacSha256::new_from_slice(key.as_bytes()) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of every length"),
    };
    mac.update(base_string.as_bytes());
    mac
}
