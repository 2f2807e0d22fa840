//! The secret every node of a cluster shares. Who does not know it is not heard: gossip carries a
//! tag made with it, peer links answer a challenge with it. It is never sent, and no key made from
//! it is used for two purposes.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Fewest characters of a cookie.
pub const COOKIE_CHARS_MIN: usize = 16;
/// Most bytes of a cookie: a longer one is a wrong file.
pub const COOKIE_BYTES_MAX: usize = 4_096;

/// Why a text is no cookie. Never says the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CookieError {
    /// Fewer than [`COOKIE_CHARS_MIN`] characters.
    #[error("the cluster cookie has {0} characters; it needs at least {COOKIE_CHARS_MIN}")]
    Short(usize),
    /// More than [`COOKIE_BYTES_MAX`] bytes.
    #[error("the cluster cookie has {0} bytes; at most {COOKIE_BYTES_MAX} are allowed")]
    Long(usize),
}

/// The shared secret, kept only as a key: 32 bytes made from the text. Comparing takes the same
/// time whatever differs; `Debug` shows nothing.
#[derive(Clone)]
pub struct Cookie([u8; 32]);

impl Cookie {
    /// A cookie from its text; blanks around it (a file's last newline) do not count.
    ///
    /// # Errors
    /// [`CookieError`] if the text is too short to be a secret or too long to be one.
    pub fn new(secret: &str) -> Result<Self, CookieError> {
        let secret = secret.trim();
        let chars = secret.chars().count();
        if chars < COOKIE_CHARS_MIN {
            return Err(CookieError::Short(chars));
        }
        if secret.len() > COOKIE_BYTES_MAX {
            return Err(CookieError::Long(secret.len()));
        }
        Ok(Self(hmac(b"clarion cluster cookie", &[secret.as_bytes()])))
    }

    /// The key for one purpose: another label, an unrelated key. A label is a constant of the code
    /// and may carry what the key is bound to, e.g. the cluster's name.
    #[must_use]
    pub fn key(&self, label: &str) -> [u8; 32] {
        hmac(&self.0, &[label.as_bytes()])
    }
}

impl PartialEq for Cookie {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Cookie {}

impl fmt::Debug for Cookie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Cookie(redacted)")
    }
}

/// HMAC-SHA256 of the parts one after the other. Parts of free length must carry their lengths.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A fresh HMAC-SHA256 under `key`: cloning it is cheaper than making it again.
pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length, so the error cannot happen; an all-zero key would then only
    // make this node unheard.
    Hmac::<Sha256>::new_from_slice(key)
        .unwrap_or_else(|_| <Hmac<Sha256> as hmac::digest::KeyInit>::new(&[0; 64].into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn a_short_text_is_no_cookie() {
        assert_eq!(Cookie::new("0123456789abcde"), Err(CookieError::Short(15)));
        assert_eq!(Cookie::new("  0123456789abcde \n"), Err(CookieError::Short(15)));
        assert!(Cookie::new(SECRET).is_ok());
        let long = "x".repeat(COOKIE_BYTES_MAX + 1);
        assert_eq!(Cookie::new(&long), Err(CookieError::Long(COOKIE_BYTES_MAX + 1)));
    }

    #[test]
    fn blanks_around_the_text_do_not_count() {
        assert_eq!(Cookie::new(SECRET), Cookie::new("0123456789abcdef\n"));
        assert_ne!(Cookie::new(SECRET), Cookie::new("0123456789abcdeg"));
    }

    #[test]
    fn keys_differ_by_label_and_by_secret() {
        let cookie = Cookie::new(SECRET).unwrap();
        assert_eq!(cookie.key("gossip"), cookie.key("gossip"));
        assert_ne!(cookie.key("gossip"), cookie.key("peer"));
        let other = Cookie::new("fedcba9876543210").unwrap();
        assert_ne!(cookie.key("gossip"), other.key("gossip"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", Cookie::new(SECRET).unwrap());
        assert_eq!(shown, "Cookie(redacted)");
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let tag = hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
