//! Identifiers and positions. Everything a peer can send is validated here, once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest product, terminal, user, topic or key identifier, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Offsets stay below this so that every JSON reader can hold one exactly (RFC 8259, section 6).
pub const OFFSET_END: u64 = 1 << 53;

/// Milliseconds between the Unix epoch and 2025-01-01T00:00:00Z, where offsets start to count.
pub const OFFSET_TIME_ORIGIN_MS: u64 = 1_735_689_600_000;

/// Offsets that one millisecond of store time spans.
pub const OFFSETS_PER_MS: u64 = 4096;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than [`ID_BYTES_MAX`].
    #[error("is longer than {ID_BYTES_MAX} bytes")]
    TooLong,
    /// The text holds a byte outside `A-Z a-z 0-9 . _ : @ ~ -`.
    #[error("holds a character outside A-Z a-z 0-9 . _ : @ ~ -")]
    Alphabet,
    /// The number is not below [`OFFSET_END`].
    #[error("is not below 2^53")]
    TooBig,
    /// The text is not of the expected form.
    #[error("is not of the form {0}")]
    Form(&'static str),
}

fn check_id(text: &str) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        1..=ID_BYTES_MAX => {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:@~-".contains(&b);
            if text.bytes().all(fits) { Ok(()) } else { Err(IdError::Alphabet) }
        }
        _ => Err(IdError::TooLong),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to [`ID_BYTES_MAX`] bytes of `A-Z a-z 0-9 . _ : @ ~ -`; cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates `text`.
            ///
            /// # Errors
            /// See [`IdError`].
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_id(text).map(|()| Self(Arc::from(text)))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A tenant: an app with its own keys, quota, terminals and logs.
    ProductId
);
text_id!(
    /// One device or browser of a product.
    TerminalId
);
text_id!(
    /// A person or account of a product, with any number of terminals.
    UserId
);
text_id!(
    /// A multicast log of a product.
    TopicName
);
text_id!(
    /// A key of a product: the OAuth consumer key, or the `kid` of a token key.
    KeyId
);

text_id!(
    /// A group of nodes and the products that only they serve.
    IsolationGroup
);

impl IsolationGroup {
    /// The group of nodes and products that name no other.
    pub const DEFAULT: &'static str = "default";
}

impl Default for IsolationGroup {
    fn default() -> Self {
        Self(Arc::from(Self::DEFAULT))
    }
}

/// A topic name, or a prefix of one followed by `*`, as the `topics` claim of a token lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern(String);

impl TopicPattern {
    /// Validates `text`: a [`TopicName`], a prefix of one followed by `*`, or `*` alone.
    ///
    /// # Errors
    /// See [`IdError`].
    pub fn new(text: &str) -> Result<Self, IdError> {
        match text.strip_suffix('*') {
            Some("") => {}
            Some(prefix) => check_id(prefix)?,
            None => check_id(text)?,
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether `topic` is one that the pattern allows.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => topic.as_str().starts_with(prefix),
            None => topic.as_str() == self.0,
        }
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.0
    }
}

/// The identity of an accepted push: a ULID, so it sorts by the time it was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u128);

impl MessageId {
    /// An id for `time_ms` (Unix milliseconds) with 80 bits of `entropy`.
    #[must_use]
    pub fn from_parts(time_ms: u64, entropy: u128) -> Self {
        Self(ulid::Ulid::from_parts(time_ms, entropy).0)
    }

    /// The Unix milliseconds at which the id was given.
    #[must_use]
    pub fn time_ms(self) -> u64 {
        ulid::Ulid(self.0).timestamp_ms()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; ulid::ULID_LEN];
        f.write_str(ulid::Ulid(self.0).array_to_str(&mut text))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        ulid::Ulid::from_string(text)
            .map(|id| Self(id.0))
            .map_err(|_| IdError::Form("ULID (26 characters of Crockford's base 32)"))
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; ulid::ULID_LEN];
        serializer.serialize_str(ulid::Ulid(self.0).array_to_str(&mut text))
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A position in a log: strictly increasing, below 2^53, 0 before the first entry. It carries the
/// store's time of the append (I2). One that is not below 2^53 is refused on every wire.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Offset(pub u64);

impl Offset {
    /// Before every entry.
    pub const ZERO: Self = Self(0);

    /// The first offset that an append at `time_ms` (Unix milliseconds of the store) can get.
    #[must_use]
    pub fn at_time_ms(time_ms: u64) -> Self {
        let since = time_ms.saturating_sub(OFFSET_TIME_ORIGIN_MS);
        Self(since.saturating_mul(OFFSETS_PER_MS).min(OFFSET_END - 1))
    }

    /// The offset of an append at `time_ms` to a log whose last offset is `self`.
    #[must_use]
    pub fn next(self, time_ms: u64) -> Self {
        Self(Self::at_time_ms(time_ms).0.max(self.0 + 1))
    }

    /// The store's time of the append, in Unix milliseconds.
    #[must_use]
    pub fn time_ms(self) -> u64 {
        OFFSET_TIME_ORIGIN_MS + self.0 / OFFSETS_PER_MS
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The lineage of a store: random, non-zero and below 2^53. A cursor of another epoch speaks of a
/// history that is gone (I5).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

macro_rules! exact_number {
    ($name:ident) => {
        impl TryFrom<u64> for $name {
            type Error = IdError;
            fn try_from(number: u64) -> Result<Self, IdError> {
                if number < OFFSET_END { Ok(Self(number)) } else { Err(IdError::TooBig) }
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    };
}

exact_number!(Offset);
exact_number!(Epoch);

/// One of a terminal's logs as the terminal names it: `terminal`, `user`, `broadcast` or
/// `topic:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LogName {
    /// The terminal's own inbox.
    Terminal,
    /// The inbox of the terminal's user.
    User,
    /// A topic.
    Topic(TopicName),
    /// The product's broadcast log.
    Broadcast,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminal => f.write_str("terminal"),
            Self::User => f.write_str("user"),
            Self::Topic(topic) => write!(f, "topic:{topic}"),
            Self::Broadcast => f.write_str("broadcast"),
        }
    }
}

impl FromStr for LogName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "terminal" => Ok(Self::Terminal),
            "user" => Ok(Self::User),
            "broadcast" => Ok(Self::Broadcast),
            _ => match text.strip_prefix("topic:") {
                Some(topic) => TopicName::new(topic).map(Self::Topic),
                None => Err(IdError::Form("terminal, user, broadcast or topic:NAME")),
            },
        }
    }
}

impl TryFrom<String> for LogName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<LogName> for String {
    fn from(name: LogName) -> Self {
        name.to_string()
    }
}
