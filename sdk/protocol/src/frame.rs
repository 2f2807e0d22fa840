//! Reading and writing frames. The type `t` decides how the rest is read, and payloads are kept as
//! the text they were written in, which serde's tagged enums cannot do. So `t` is looked at first:
//! where it is the first field, as every usual writer has it, that costs no pass over the text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::codes::Code;

/// Longest detail of an error, in bytes; what a peer wrote is repeated in it.
pub const DETAIL_BYTES_MAX: usize = 256;

/// Longest unknown type repeated in an error, in bytes.
const TYPE_BYTES_MAX: usize = 32;

/// Why a text is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is not JSON, or not a frame of its type.
    #[error("{detail}")]
    Malformed {
        /// Where and why, at most [`DETAIL_BYTES_MAX`] bytes.
        detail: String,
    },
    /// It is a JSON object with a type that this build does not know.
    #[error("unknown type {t:?}")]
    UnknownType {
        /// The type, shortened if it is long.
        t: String,
    },
}

impl FrameError {
    /// The code that a node answers with.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::FrameMalformed
    }

    /// A malformed frame, because of `detail`.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::Malformed { detail: shortened(detail.into(), DETAIL_BYTES_MAX) }
    }
}

/// Reads a frame: `of_type` gets the type and the whole text and says `None` for unknown types.
pub(crate) fn parse<F>(
    text: &str,
    of_type: fn(&str, &str) -> Result<Option<F>, FrameError>,
) -> Result<F, FrameError> {
    if let Some(t) = leading_type(text)
        && let Some(frame) = of_type(t, text)?
    {
        return Ok(frame);
    }
    let Type(t) = body(text)?;
    let unknown =
        || FrameError::UnknownType { t: shortened(t.clone().into_owned(), TYPE_BYTES_MAX) };
    of_type(&t, text)?.ok_or_else(unknown)
}

/// Reads the fields of one type of frame. Fields it does not name, `t` among them, are ignored.
pub(crate) fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FrameError> {
    serde_json::from_str(text).map_err(|error| explained::<T>(text, &error))
}

/// Reads once more, slower, to name the field.
#[cold]
fn explained<'a, T: Deserialize<'a>>(text: &'a str, error: &serde_json::Error) -> FrameError {
    let mut reader = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => FrameError::malformed(error.to_string()),
        Ok(_) => FrameError::malformed(error.to_string()),
    }
}

/// A frame as JSON. Frames hold nothing that JSON cannot: no maps, no floating-point numbers.
pub(crate) fn to_json<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

/// Reads a field that may be absent but whose `null` is a value.
pub(crate) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The text, cut at a character boundary so that it is at most `bytes_max` long.
pub(crate) fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
    text
}

/// The type, if it is the first field and written plainly.
fn leading_type(text: &str) -> Option<&str> {
    let rest = text.trim_ascii_start().strip_prefix('{')?.trim_ascii_start();
    let rest = rest.strip_prefix("\"t\"")?.trim_ascii_start().strip_prefix(':')?;
    let rest = rest.trim_ascii_start().strip_prefix('"')?;
    let end = rest.bytes().position(|b| !(b.is_ascii_lowercase() || b == b'_'))?;
    (rest.as_bytes()[end] == b'"').then(|| &rest[..end])
}

/// The first `t` of an object, wherever it stands.
struct Type<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Type<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Type<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the field `t`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Type<'de>, A::Error> {
                let mut found = None;
                while let Some(Text(key)) = map.next_key()? {
                    if found.is_none() && key == "t" {
                        let Text(t) = map.next_value()?;
                        found = Some(Type(t));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                found.ok_or_else(|| serde::de::Error::missing_field("t"))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A text, borrowed unless it holds escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
