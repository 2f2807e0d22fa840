//! Reading the `Authorization` header (RFC 5849, section 3.5.1). Bounded before anything is kept.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::{HEADER_BYTES_MAX, KEY_BYTES_MAX, METHOD, NONCE_BYTES_MAX, PARAMETERS_MAX};
use crate::codes::Code;

type Refused = (Code, String);

/// The OAuth parameters of a request: complete and well formed, the signature not yet verified.
#[derive(Clone)]
pub struct Signed {
    /// All parameters but `realm` and `oauth_signature`, decoded.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) signature: [u8; 32],
    pub(super) body_hash: Option<BodyHash>,
    key: String,
    nonce: String,
    timestamp: u64,
}

/// A body hash; its length tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyHash {
    Sha256([u8; 32]),
    Sha1([u8; 20]),
}

impl fmt::Debug for Signed {
    /// Without the signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("key", &self.key)
            .field("nonce", &self.nonce)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

impl Signed {
    /// Reads the value of an `Authorization` header.
    ///
    /// # Errors
    /// [`Code::SignatureMissing`] for another scheme, [`Code::SignatureMethodUnsupported`] for
    /// another method, otherwise [`Code::SignatureMalformed`]; with the parameter and the reason.
    pub fn parse(header: &str) -> Result<Self, Refused> {
        let rest = after_scheme(header)?;
        if header.len() > HEADER_BYTES_MAX {
            return malformed(format!("the header is longer than {HEADER_BYTES_MAX} bytes"));
        }
        let mut parameters = parameters(rest)?;
        let method = required(&parameters, "oauth_signature_method")?;
        if method != METHOD {
            let detail = "oauth_signature_method: is not HMAC-SHA256".to_owned();
            return Err((Code::SignatureMethodUnsupported, detail));
        }
        let version = find(&parameters, "oauth_version");
        if version.is_some_and(|version| version != "1.0") {
            return malformed("oauth_version: is not 1.0");
        }
        if find(&parameters, "oauth_token").is_some_and(|token| !token.is_empty()) {
            return malformed("oauth_token: requests are signed without a token");
        }
        let key = bounded(&parameters, "oauth_consumer_key", KEY_BYTES_MAX)?;
        let nonce = bounded(&parameters, "oauth_nonce", NONCE_BYTES_MAX)?;
        let timestamp = seconds(required(&parameters, "oauth_timestamp")?)?;
        let body_hash = find(&parameters, "oauth_body_hash").map(body_hash).transpose()?;
        let signature = signature(required(&parameters, "oauth_signature")?)?;
        parameters.retain(|(name, _)| name != "oauth_signature");
        Ok(Self { parameters, signature, body_hash, key, nonce, timestamp })
    }

    /// `oauth_consumer_key`: 1 to [`KEY_BYTES_MAX`] printable ASCII characters.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `oauth_nonce`: 1 to [`NONCE_BYTES_MAX`] printable ASCII characters.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// `oauth_timestamp`, Unix seconds.
    #[must_use]
    pub const fn timestamp(&self) -> u64 {
        self.timestamp
    }
}

fn malformed<T>(detail: impl Into<String>) -> Result<T, Refused> {
    Err((Code::SignatureMalformed, detail.into()))
}

fn after_scheme(header: &str) -> Result<&str, Refused> {
    let (scheme, rest) = header.trim_ascii().split_once(' ').unwrap_or((header.trim_ascii(), ""));
    if scheme.eq_ignore_ascii_case("OAuth") {
        Ok(rest)
    } else {
        Err((Code::SignatureMissing, "the Authorization header is not of the OAuth scheme".into()))
    }
}

/// `name="value"`, separated by commas and space; names and values percent-encoded. `realm` is
/// passed over.
fn parameters(mut rest: &str) -> Result<Vec<(String, String)>, Refused> {
    let mut found: Vec<(String, String)> = Vec::with_capacity(8);
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(found);
        }
        let Some((name, after)) = rest.split_once('=') else {
            return malformed("the header is not a list of name=\"value\"");
        };
        let name = name.trim_ascii_end();
        let Some(quoted) = after.trim_ascii_start().strip_prefix('"') else {
            return malformed("the header has a value that is not in quotes");
        };
        let Some(end) = quote_end(quoted) else {
            return malformed("the header has a value without its closing quote");
        };
        let value = &quoted[..end];
        rest = quoted[end + 1..].trim_ascii_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => {}
            None => return malformed("the header has no comma between two parameters"),
        }
        if name.eq_ignore_ascii_case("realm") {
            continue;
        }
        let (name, value) = (decoded(name)?, decoded(value)?);
        if found.len() == PARAMETERS_MAX {
            return malformed(format!("the header has more than {PARAMETERS_MAX} parameters"));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return malformed("the header has a parameter twice");
        }
        found.push((name, value));
    }
}

/// Where the quoted text ends; `\` escapes, which only a realm can hold.
fn quote_end(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().position(|b| {
        let end = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        end
    })
}

fn decoded(text: &str) -> Result<String, Refused> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let fits = |at: usize, b: u8| match b {
        b'%' => hex(at + 1) && hex(at + 2),
        _ => b.is_ascii_graphic() && b != b'\\',
    };
    if bytes.iter().enumerate().all(|(at, b)| fits(at, *b)) {
        if !bytes.contains(&b'%') {
            return Ok(text.to_owned());
        }
        if let Ok(decoded) = percent_decode_str(text).decode_utf8() {
            return Ok(decoded.into_owned());
        }
    }
    malformed("the header has a parameter that is not percent-encoded UTF-8")
}

fn find<'a>(parameters: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

fn required<'a>(parameters: &'a [(String, String)], name: &str) -> Result<&'a str, Refused> {
    find(parameters, name).map_or_else(|| malformed(format!("{name}: is missing")), Ok)
}

fn bounded(
    parameters: &[(String, String)],
    name: &str,
    bytes_max: usize,
) -> Result<String, Refused> {
    let value = required(parameters, name)?;
    if (1..=bytes_max).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(value.to_owned())
    } else {
        malformed(format!("{name}: is not 1 to {bytes_max} printable ASCII characters"))
    }
}

fn seconds(text: &str) -> Result<u64, Refused> {
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(seconds) if digits => Ok(seconds),
        _ => malformed("oauth_timestamp: is not a number of Unix seconds"),
    }
}

fn signature(text: &str) -> Result<[u8; 32], Refused> {
    match STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()) {
        Some(signature) => Ok(signature),
        None => malformed("oauth_signature: is not base64 of 32 bytes"),
    }
}

fn body_hash(text: &str) -> Result<BodyHash, Refused> {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if let Ok(hash) = bytes.as_slice().try_into() {
        return Ok(BodyHash::Sha256(hash));
    }
    match bytes.as_slice().try_into() {
        Ok(hash) => Ok(BodyHash::Sha1(hash)),
        Err(_) => malformed("oauth_body_hash: is not base64 of 32 bytes (or 20, SHA-1)"),
    }
}
