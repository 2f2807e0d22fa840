//! The node's side.

use hmac::Mac as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::base_string::{query_pairs, signature_base_string, split_query};
use super::header::{BodyHash, Signed};
use super::mac;
use crate::codes::Code;

impl Signed {
    /// Whether `secret` made this signature for this request. `url` is the whole URL as the client
    /// names it, with its query; behind a proxy that is the external one. The time taken tells
    /// nothing of how much of a signature was right.
    ///
    /// # Errors
    /// [`Code::SignatureInvalid`]; [`Code::SignatureMalformed`] when the query holds OAuth
    /// parameters, which have their place in the header (RFC 5849, section 3.1: each once).
    pub fn verify(&self, method: &str, url: &str, secret: &str) -> Result<(), Code> {
        let (_, query) = split_query(url);
        if query_pairs(query).any(|(name, _)| name.starts_with(b"oauth_")) {
            return Err(Code::SignatureMalformed);
        }
        let parameters = self.parameters.iter().map(|(name, value)| (&**name, &**value));
        let expected = mac(secret, &signature_base_string(method, url, parameters)).finalize();
        same(&expected.into_bytes(), &self.signature, Code::SignatureInvalid)
    }

    /// Whether `body` is the one that was signed. An empty body needs no hash, but one that is
    /// there must fit.
    ///
    /// # Errors
    /// [`Code::BodyHashMissing`], [`Code::BodyHashMismatch`], or [`Code::BodyHashMethodForbidden`]
    /// for SHA-1 unless `allow_sha1`.
    pub fn check_body(&self, body: &[u8], allow_sha1: bool) -> Result<(), Code> {
        match self.body_hash {
            None if body.is_empty() => Ok(()),
            None => Err(Code::BodyHashMissing),
            Some(BodyHash::Sha256(hash)) => {
                same(&Sha256::digest(body), &hash, Code::BodyHashMismatch)
            }
            Some(BodyHash::Sha1(_)) if !allow_sha1 => Err(Code::BodyHashMethodForbidden),
            Some(BodyHash::Sha1(hash)) => same(&Sha1::digest(body), &hash, Code::BodyHashMismatch),
        }
    }
}

fn same(expected: &[u8], given: &[u8], otherwise: Code) -> Result<(), Code> {
    if bool::from(expected.ct_eq(given)) { Ok(()) } else { Err(otherwise) }
}
