//! A push, built up.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clarion_protocol::http::{Audience, PushRequest, SDK_KEY_PREFIX};
use clarion_protocol::{IdError, TerminalId, TopicName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::PushError;

/// A message and whom it is for.
///
/// ```
/// # use clarion_sdk::Push;
/// # fn main() -> Result<(), clarion_sdk::PushError> {
/// let push = Push::to_terminal("t1").json(&"hello")?.ttl(3600);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Push(PushRequest);

/// Whom a push is for; what it says comes next.
#[derive(Debug, Clone)]
pub struct Addressed(Result<Audience, (String, IdError)>);

impl Push {
    /// To every terminal of the product.
    #[must_use]
    pub const fn to_all() -> Addressed {
        Addressed(Ok(Audience::All))
    }

    /// To one terminal.
    #[must_use]
    pub fn to_terminal(terminal: &str) -> Addressed {
        Self::to_terminals([terminal])
    }

    /// To up to 100 terminals.
    #[must_use]
    pub fn to_terminals<T: AsRef<str>>(terminals: impl IntoIterator<Item = T>) -> Addressed {
        Addressed(all(terminals, TerminalId::new).map(Audience::Terminals))
    }

    /// To all terminals of one user.
    #[must_use]
    pub fn to_user(user: &str) -> Addressed {
        Self::to_users([user])
    }

    /// To all terminals of up to 100 users.
    #[must_use]
    pub fn to_users<T: AsRef<str>>(users: impl IntoIterator<Item = T>) -> Addressed {
        Addressed(all(users, UserId::new).map(Audience::Users))
    }

    /// To the members of a topic.
    #[must_use]
    pub fn to_topic(topic: &str) -> Addressed {
        Addressed(TopicName::new(topic).map(Audience::Topic).map_err(|e| (topic.to_owned(), e)))
    }

    /// Seconds until it expires; 0: only terminals that are online now. 3 days unless set.
    #[must_use]
    pub const fn ttl(mut self, seconds: u64) -> Self {
        self.0.ttl = Some(seconds);
        self
    }

    /// A key of the application's: the same key and message are stored once within 24 hours,
    /// whoever sends them. Without one a random key makes the SDK's own retries safe.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.0.idempotency_key = Some(key.into());
        self
    }

    /// The request as it is sent, with an idempotency key.
    #[must_use]
    pub fn into_request(mut self) -> PushRequest {
        self.0.idempotency_key.get_or_insert_with(|| {
            let random = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .encode(rand::random::<u128>().to_le_bytes());
            format!("{SDK_KEY_PREFIX}{random}")
        });
        self.0
    }

    /// The body of the request; the same at every attempt.
    pub(super) fn into_body(self) -> Result<Bytes, PushError> {
        serde_json::to_vec(&self.into_request())
            .map(Bytes::from)
            .map_err(|error| PushError::invalid(format!("the push: {error}")))
    }
}

fn all<T, I>(
    texts: impl IntoIterator<Item = T>,
    id: impl Fn(&str) -> Result<I, IdError>,
) -> Result<Vec<I>, (String, IdError)>
where
    T: AsRef<str>,
{
    let one = |text: T| id(text.as_ref()).map_err(|error| (text.as_ref().to_owned(), error));
    texts.into_iter().map(one).collect()
}

impl Addressed {
    /// Says a value, as JSON.
    ///
    /// # Errors
    /// When it cannot be written as JSON, or the audience holds what is not an identifier.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Push, PushError> {
        let text = serde_json::value::to_raw_value(value)
            .map_err(|error| PushError::invalid(format!("the payload: {error}")))?;
        self.raw_json(text)
    }

    /// Says a JSON text, passed on as it is.
    ///
    /// # Errors
    /// When the audience holds what is not an identifier.
    pub fn raw_json(self, text: Box<RawValue>) -> Result<Push, PushError> {
        let mut push = self.push()?;
        push.0.payload = Some(text);
        Ok(push)
    }

    /// Says bytes.
    ///
    /// # Errors
    /// When the audience holds what is not an identifier.
    pub fn bytes(self, content_type: &str, data: &[u8]) -> Result<Push, PushError> {
        let mut push = self.push()?;
        push.0.payload_base64 = Some(STANDARD.encode(data));
        push.0.content_type = Some(content_type.to_owned());
        Ok(push)
    }

    fn push(self) -> Result<Push, PushError> {
        let invalid =
            |(text, error): (String, IdError)| PushError::invalid(format!("{text:?} {error}"));
        Ok(Push(PushRequest {
            audience: self.0.map_err(invalid)?,
            payload: None,
            payload_base64: None,
            content_type: None,
            ttl: None,
            idempotency_key: None,
        }))
    }
}
