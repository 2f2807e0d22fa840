//! What a message carries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::Message;
use crate::frame::FrameError;

/// The content type of payload bytes that name none.
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// The payload of a message.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a, D = Vec<u8>> {
    /// JSON, as the back-end wrote it.
    Json(&'a RawValue),
    /// Bytes.
    Bytes {
        /// Their content type.
        content_type: &'a str,
        /// The bytes.
        data: D,
    },
}

impl Message {
    /// The payload, decoded.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when `b` is not base64, or not exactly one of `d` and `b` is there.
    pub fn payload(&self) -> Result<Payload<'_>, FrameError> {
        match (&self.d, &self.b) {
            (Some(json), None) => Ok(Payload::Json(json)),
            (None, Some(text)) => {
                let data = STANDARD
                    .decode(text)
                    .map_err(|error| FrameError::malformed(format!("b: {error}")))?;
                let content_type = self.ct.as_deref().unwrap_or(CONTENT_TYPE_DEFAULT);
                Ok(Payload::Bytes { content_type, data })
            }
            _ => Err(FrameError::malformed("a message has exactly one of `d` and `b`")),
        }
    }
}

impl PartialEq for Message {
    /// Payloads are equal when their texts are.
    fn eq(&self, other: &Self) -> bool {
        fn json(message: &Message) -> Option<&str> {
            message.d.as_deref().map(RawValue::get)
        }
        self.o == other.o
            && self.id == other.id
            && self.b == other.b
            && self.ct == other.ct
            && json(self) == json(other)
    }
}
