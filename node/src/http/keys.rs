//! Keys of products: how they are made and how many there may be. A product has two live keys of
//! each sort at most, so that one can replace the other without a pause, and remembers a few
//! revoked ones, so that they are told apart from unknown ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clarion_actors::{Failure, is_ed25519_public_key};
use clarion_protocol::http::TokenAlgorithm;
use clarion_protocol::{Code, KeyId, ProductId};
use clarion_storage::{ApiKey, TokenKey};
use rand::Rng as _;

/// Keys of one sort that may be live.
const LIVE_MAX: usize = 2;
/// Keys of one sort that are kept, revoked ones included.
const KEPT_MAX: usize = 8;
/// Bytes of a product's name that its keys begin with.
const PREFIX_BYTES_MAX: usize = 40;
/// Longest PEM of a public key, in bytes.
const PEM_BYTES_MAX: usize = 1024;

/// A new key that signs pushes, with 32 random bytes for a secret.
#[must_use]
pub fn new_api_key(product: &ProductId, time_ms: u64) -> ApiKey {
    let secret = URL_SAFE_NO_PAD.encode(random::<32>());
    ApiKey { key: key_id(product, 'k'), secret, created_at_ms: time_ms, revoked_at_ms: None }
}

/// A new key that signs terminal tokens: HS256 with 32 random bytes.
#[must_use]
pub fn new_token_key(product: &ProductId, time_ms: u64) -> TokenKey {
    TokenKey {
        kid: key_id(product, 't'),
        algorithm: TokenAlgorithm::HS256,
        key: random::<32>().into(),
        created_at_ms: time_ms,
        revoked_at_ms: None,
    }
}

/// A key that checks terminal tokens which the product's back-end signs itself.
pub(super) fn public_token_key(
    product: &ProductId,
    pem: &str,
    time_ms: u64,
) -> Result<TokenKey, Failure> {
    let fits = pem.len() <= PEM_BYTES_MAX && is_ed25519_public_key(pem);
    if !fits {
        let detail = "token_public_key_pem: is not an Ed25519 public key (SPKI, PEM)";
        return Err(Failure::new(Code::InvalidField).detail(detail));
    }
    Ok(TokenKey {
        kid: key_id(product, 't'),
        algorithm: TokenAlgorithm::EdDSA,
        key: pem.as_bytes().to_vec(),
        created_at_ms: time_ms,
        revoked_at_ms: None,
    })
}

/// What the two sorts of keys have in common.
pub(super) trait Key {
    /// Its name.
    fn id(&self) -> &KeyId;
    /// When it was revoked.
    fn revoked_at_ms(&mut self) -> &mut Option<u64>;
    /// Whether it may be used.
    fn live(&self) -> bool;
}

impl Key for ApiKey {
    fn id(&self) -> &KeyId {
        &self.key
    }
    fn revoked_at_ms(&mut self) -> &mut Option<u64> {
        &mut self.revoked_at_ms
    }
    fn live(&self) -> bool {
        self.revoked_at_ms.is_none()
    }
}

impl Key for TokenKey {
    fn id(&self) -> &KeyId {
        &self.kid
    }
    fn revoked_at_ms(&mut self) -> &mut Option<u64> {
        &mut self.revoked_at_ms
    }
    fn live(&self) -> bool {
        self.revoked_at_ms.is_none()
    }
}

/// Adds a key, unless two are live. The oldest revoked one is forgotten when there are too many.
pub(super) fn add<K: Key>(keys: &mut Vec<K>, key: K) -> Result<(), Failure> {
    if keys.iter().filter(|key| key.live()).count() >= LIVE_MAX {
        return Err(Failure::new(Code::TooManyKeys));
    }
    if keys.len() >= KEPT_MAX
        && let Some(oldest) = keys.iter().position(|key| !key.live())
    {
        keys.remove(oldest);
    }
    keys.push(key);
    Ok(())
}

/// Revokes a key. Revoking it again changes nothing.
pub(super) fn revoke<K: Key>(keys: &mut [K], id: &KeyId, time_ms: u64) -> Result<(), Failure> {
    let Some(key) = keys.iter_mut().find(|key| key.id() == id) else {
        return Err(Failure::new(Code::NotFound).detail(format!("the product has no key {id}")));
    };
    key.revoked_at_ms().get_or_insert(time_ms);
    Ok(())
}

/// `PRODUCT-kRANDOM`: never the same twice, so that what is said of a key stays true of it.
fn key_id(product: &ProductId, sort: char) -> KeyId {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let name = product.as_str();
    let mut id = String::with_capacity(PREFIX_BYTES_MAX + 14);
    // Identifiers are ASCII: every byte is a boundary.
    id.push_str(&name[..name.len().min(PREFIX_BYTES_MAX)]);
    id.push('-');
    id.push(sort);
    id.extend(random::<12>().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
    match KeyId::new(&id) {
        Ok(id) => id,
        Err(_) => unreachable!("at most 54 characters of the alphabet of identifiers"),
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill(&mut bytes[..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    fn product(name: &str) -> ProductId {
        ProductId::new(name).unwrap()
    }

    #[test]
    fn keys_are_named_after_their_product_and_never_alike() {
        let long = "p".repeat(64);
        for name in ["demo", &long] {
            let (a, b) = (new_api_key(&product(name), 7), new_api_key(&product(name), 7));
            assert!(a.key.as_str().starts_with(&name[..name.len().min(40)]));
            assert_ne!(a.key, b.key);
            assert_ne!(a.secret, b.secret);
            assert_eq!(URL_SAFE_NO_PAD.decode(&a.secret).unwrap().len(), 32);
            assert_eq!((a.created_at_ms, a.revoked_at_ms), (7, None));
        }
        assert_eq!(new_token_key(&product("demo"), 7).key.len(), 32);
    }

    #[test]
    fn two_keys_are_live_and_eight_are_kept() {
        let product = product("demo");
        let mut keys = Vec::new();
        for time in 0..20 {
            let key = new_api_key(&product, time);
            let id = key.key.clone();
            add(&mut keys, key).unwrap();
            if time > 0 {
                let refused = add(&mut keys, new_api_key(&product, time)).unwrap_err();
                assert_eq!(refused.code, Code::TooManyKeys);
                revoke(&mut keys, &id, time).unwrap();
            }
        }
        assert_eq!(keys.len(), KEPT_MAX);
        assert!(keys[0].live(), "a live key is never forgotten");
        assert_eq!(keys[7].created_at_ms, 19, "the oldest revoked go first");
    }

    #[test]
    fn revoking_twice_keeps_the_first_time_and_unknown_keys_are_told() {
        let mut keys = vec![new_token_key(&product("demo"), 1)];
        let id = keys[0].kid.clone();
        revoke(&mut keys, &id, 5).unwrap();
        revoke(&mut keys, &id, 9).unwrap();
        assert_eq!(keys[0].revoked_at_ms, Some(5));
        let unknown = revoke(&mut keys, &KeyId::new("other").unwrap(), 9).unwrap_err();
        assert_eq!(unknown.code, Code::NotFound);
    }

    #[test]
    fn only_public_ed25519_keys_are_taken() {
        let key = public_token_key(&product("demo"), PUBLIC, 3).unwrap();
        assert_eq!((key.algorithm, key.key.as_slice()), (TokenAlgorithm::EdDSA, PUBLIC.as_bytes()));
        let long = format!("{PUBLIC}{}", "\n".repeat(PEM_BYTES_MAX));
        for bad in ["", "PEM", PRIVATE, &long] {
            let refused = public_token_key(&product("demo"), bad, 3).unwrap_err();
            assert_eq!(refused.code, Code::InvalidField, "{bad}");
        }
    }
}
