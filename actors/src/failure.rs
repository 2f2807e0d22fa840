//! Why a request was not carried out.

use clarion_core::admission::Refusal;
use clarion_protocol::Code;
use clarion_protocol::http::TargetOutcome;
use clarion_storage::StoreError;

/// Why a request was not carried out.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The code.
    pub code: Code,
    /// What is special about it.
    pub detail: Option<String>,
    /// How long to wait before the same request may succeed, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// What became of each target of a push.
    pub targets: Vec<TargetOutcome>,
}

impl Failure {
    /// A failure of which the code says everything.
    #[must_use]
    pub const fn new(code: Code) -> Self {
        Self { code, detail: None, retry_after_ms: None, targets: Vec::new() }
    }

    /// With what is special about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With the time to wait.
    #[must_use]
    pub const fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = code_of(&error);
        // What a store says of itself can name paths: only its kind leaves the node.
        if matches!(error, StoreError::Fatal(_)) {
            tracing::error!(%error, "the store failed");
        }
        Self::new(code)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code).retry_after_ms(refusal.retry_after_ms)
    }
}

/// The code that a store's error is answered with.
pub(crate) const fn code_of(error: &StoreError) -> Code {
    match error {
        StoreError::Unavailable(_) | StoreError::Fatal(_) => Code::StoreUnavailable,
        StoreError::Unknown(_) | StoreError::TooLate => Code::OutcomeUnknown,
        StoreError::LogFull => Code::InboxFull,
        StoreError::Full(_) => Code::StoreFull,
    }
}
