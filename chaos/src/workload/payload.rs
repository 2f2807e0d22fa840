//! What pushes say: their own key, so that a delivery can be told from it alone, and padding.

use sha2::{Digest, Sha256};

/// The content type of payloads that are sent as bytes.
pub(super) const CONTENT_TYPE: &str = "application/x-chaos";

/// The payload of the push with this key, with `padding` bytes that are its own.
pub(super) fn payload(key: &str, padding: usize) -> String {
    let pad: String = hash(key.as_bytes()).chars().cycle().take(padding).collect();
    serde_json::json!({ "key": key, "pad": pad }).to_string()
}

/// The key in a payload; empty if it holds none.
#[must_use]
pub fn key_of(payload: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    value["key"].as_str().unwrap_or_default().to_owned()
}

/// A fingerprint of a payload, as the history has it.
#[must_use]
pub fn hash(payload: &[u8]) -> String {
    let digest = Sha256::digest(payload);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
