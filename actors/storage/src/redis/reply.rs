//! Answers of scripts, taken apart.

use ::redis::Value;

use crate::{StoreError, StoreResult};

/// The parts of an answer, from the first to the last.
pub(super) struct Parts(std::vec::IntoIter<Value>);

fn unexpected(what: &str) -> StoreError {
    metrics::counter!("clarion_redis_errors_total", "kind" => "answer").increment(1);
    StoreError::Fatal(format!("Redis answered something unexpected: {what}"))
}

impl Parts {
    pub(super) fn of(value: Value) -> StoreResult<Self> {
        match value {
            Value::Array(parts) => Ok(Self(parts.into_iter())),
            other => Err(unexpected(&format!("{other:?} in place of a list"))),
        }
    }

    /// As [`Parts::of`]; nothing for nil.
    pub(super) fn maybe(value: Value) -> StoreResult<Option<Self>> {
        match value {
            Value::Nil => Ok(None),
            other => Self::of(other).map(Some),
        }
    }

    fn next(&mut self) -> StoreResult<Value> {
        self.0.next().ok_or_else(|| unexpected("a list that is too short"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    pub(super) fn number(&mut self) -> StoreResult<u64> {
        number(self.next()?)
    }

    pub(super) fn bytes(&mut self) -> StoreResult<Vec<u8>> {
        self.maybe_bytes()?.ok_or_else(|| unexpected("nothing in place of bytes"))
    }

    pub(super) fn maybe_bytes(&mut self) -> StoreResult<Option<Vec<u8>>> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::Nil => Ok(None),
            other => Err(unexpected(&format!("{other:?} in place of bytes"))),
        }
    }

    pub(super) fn text(&mut self) -> StoreResult<String> {
        String::from_utf8(self.bytes()?).map_err(|_| unexpected("bytes that are no text"))
    }

    pub(super) fn list(&mut self) -> StoreResult<Self> {
        Self::of(self.next()?)
    }

    /// All that is left, as text.
    pub(super) fn texts(mut self) -> StoreResult<Vec<String>> {
        let mut texts = Vec::with_capacity(self.0.len());
        while !self.is_empty() {
            texts.push(self.text()?);
        }
        Ok(texts)
    }
}

/// A whole number, or its digits.
pub(super) fn number(value: Value) -> StoreResult<u64> {
    let number = match &value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(digits) => {
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
        }
        _ => None,
    };
    number.ok_or_else(|| unexpected(&format!("{value:?} in place of a number")))
}

/// Arguments of a script.
#[derive(Debug, Default)]
pub(super) struct Args(pub(super) Vec<Vec<u8>>);

impl Args {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn number(mut self, number: impl Into<i128>) -> Self {
        self.push_number(number);
        self
    }

    pub(super) fn push_number(&mut self, number: impl Into<i128>) {
        self.0.push(number.into().to_string().into_bytes());
    }

    pub(super) fn flag(self, flag: bool) -> Self {
        self.number(i128::from(flag))
    }

    pub(super) fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push(bytes.into());
        self
    }

    pub(super) fn kind(self, kind: clarion_core::LogKind) -> Self {
        self.bytes(vec![super::schema::kind_letter(kind) as u8])
    }

    /// A number, or '' for none.
    pub(super) fn maybe(self, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(number),
            None => self.bytes(Vec::new()),
        }
    }
}
