//! Checking what a back-end asks. Every error names the field and its bounds.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    Audience, CONTENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PAYLOAD_DEPTH_MAX, PushRequest,
    TARGETS_MAX, TTL_S_DEFAULT, TTL_S_MAX,
};
use crate::codes::Code;
use crate::frame::{DETAIL_BYTES_MAX, shortened, to_json};
use crate::terminal::{CONTENT_TYPE_DEFAULT, PayloadRef};

type Refused = (Code, String);

/// A push whose every field is within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidPush {
    /// Whom it is for: 1 to [`TARGETS_MAX`] targets, none twice.
    pub audience: Audience,
    /// What it carries.
    pub payload: ValidPayload,
    /// Seconds until it expires, at most [`TTL_S_MAX`]; 0: only who is online now.
    pub ttl_s: u64,
    /// The caller's key.
    pub idempotency_key: Option<String>,
}

/// A payload, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidPayload {
    /// The text of one JSON value, as the back-end wrote it.
    Json(Bytes),
    /// Bytes.
    Bytes {
        /// Their content type.
        content_type: Arc<str>,
        /// The bytes.
        data: Bytes,
    },
}

impl ValidPayload {
    /// For [`write_message`](crate::terminal::write_message).
    #[must_use]
    pub fn as_payload_ref(&self) -> PayloadRef<'_> {
        match self {
            Self::Json(text) => PayloadRef::Json(text),
            Self::Bytes { content_type, data } => PayloadRef::Bytes { content_type, data },
        }
    }
}

/// Reads the body of a request.
///
/// # Errors
/// [`Code::BadRequest`] when it is not JSON, [`Code::InvalidField`] when it is not this body; with
/// the place and the reason.
pub fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let code = if error.inner().is_data() { Code::InvalidField } else { Code::BadRequest };
        (code, shortened(error.to_string(), DETAIL_BYTES_MAX))
    })?;
    reader.end().map_err(|error| (Code::BadRequest, error.to_string()))?;
    Ok(value)
}

impl PushRequest {
    /// Checks every field and decodes the payload.
    ///
    /// # Errors
    /// The code and what is wrong, beginning with the name of the field.
    pub fn validate(&self, payload_bytes_max: usize) -> Result<ValidPush, Refused> {
        check_audience(&self.audience)?;
        let payload = self.valid_payload(payload_bytes_max)?;
        let ttl_s = self.ttl.unwrap_or(TTL_S_DEFAULT);
        if ttl_s > TTL_S_MAX {
            return invalid(format!("ttl: is {ttl_s}, at most {TTL_S_MAX} seconds"));
        }
        if let Some(key) = &self.idempotency_key {
            check_idempotency_key(key)?;
        }
        Ok(ValidPush {
            audience: self.audience.clone(),
            payload,
            ttl_s,
            idempotency_key: self.idempotency_key.clone(),
        })
    }

    /// What an idempotency key is bound to: SHA-256 of the fields in their order and the payload
    /// as it was written. The same over HTTP and WebSocket, whatever the space between fields.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(to_json(self)).into()
    }

    fn valid_payload(&self, bytes_max: usize) -> Result<ValidPayload, Refused> {
        match (&self.payload, &self.payload_base64) {
            (Some(json), None) => {
                if self.content_type.is_some() {
                    return invalid("content_type: goes with `payload_base64` only");
                }
                let text = json.get();
                check_size("payload", text.len(), bytes_max)?;
                if depth(text) > PAYLOAD_DEPTH_MAX {
                    return invalid(format!("payload: nests deeper than {PAYLOAD_DEPTH_MAX}"));
                }
                Ok(ValidPayload::Json(Bytes::copy_from_slice(text.as_bytes())))
            }
            (None, Some(text)) => {
                let content_type = self.content_type.as_deref().unwrap_or(CONTENT_TYPE_DEFAULT);
                check_content_type(content_type)?;
                // Before anything is decoded; at most two bytes too many.
                check_size("payload_base64", (text.len() / 4 * 3).saturating_sub(2), bytes_max)?;
                let Ok(data) = STANDARD.decode(text) else {
                    return invalid("payload_base64: is not base64 with padding (RFC 4648, 4)");
                };
                check_size("payload_base64", data.len(), bytes_max)?;
                Ok(ValidPayload::Bytes { content_type: content_type.into(), data: data.into() })
            }
            (None, None) => invalid("payload: is missing; give it or `payload_base64`"),
            (Some(_), Some(_)) => invalid("payload: give it or `payload_base64`, not both"),
        }
    }
}

fn invalid<T>(detail: impl Into<String>) -> Result<T, Refused> {
    Err((Code::InvalidField, detail.into()))
}

fn check_size(field: &str, bytes: usize, bytes_max: usize) -> Result<(), Refused> {
    if bytes > bytes_max {
        return Err((Code::PayloadTooLarge, format!("{field}: exceeds {bytes_max} bytes")));
    }
    Ok(())
}

fn check_audience(audience: &Audience) -> Result<(), Refused> {
    match audience {
        Audience::All | Audience::Topic(_) => Ok(()),
        Audience::Terminals(terminals) => check_targets("audience.terminals", terminals),
        Audience::Users(users) => check_targets("audience.users", users),
    }
}

fn check_targets<T: Eq + Hash + Display>(field: &str, targets: &[T]) -> Result<(), Refused> {
    if targets.is_empty() {
        return invalid(format!("{field}: names none, 1 to {TARGETS_MAX}"));
    }
    if targets.len() > TARGETS_MAX {
        let detail = format!("{field}: names {}, at most {TARGETS_MAX}", targets.len());
        return Err((Code::TooManyTargets, detail));
    }
    let mut seen = HashSet::with_capacity(targets.len());
    match targets.iter().find(|target| !seen.insert(*target)) {
        Some(twice) => invalid(format!("{field}: names {twice} twice")),
        None => Ok(()),
    }
}

fn check_idempotency_key(key: &str) -> Result<(), Refused> {
    let length = 1..=IDEMPOTENCY_KEY_BYTES_MAX;
    if length.contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    invalid(format!(
        "idempotency_key: 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters, no spaces"
    ))
}

/// `type/subtype`, both tokens of RFC 9110, and whatever parameters in printable ASCII.
fn check_content_type(text: &str) -> Result<(), Refused> {
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end_matches(' ');
    let fits = text.len() <= CONTENT_TYPE_BYTES_MAX
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if fits {
        return Ok(());
    }
    invalid(format!(
        "content_type: `type/subtype` and parameters, at most {CONTENT_TYPE_BYTES_MAX} bytes of ASCII"
    ))
}

/// How deep arrays and objects of a JSON text nest.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for b in json.bytes() {
        if quoted {
            (quoted, escaped) = (escaped || b != b'"', !escaped && b == b'\\');
            continue;
        }
        match b {
            b'"' => quoted = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
