//! Why a request to a node failed, and what is known about its effect.

use std::fmt;
use std::time::Duration;

use clarion_protocol::{Code, Problem};

use crate::backoff::Backoff;
use crate::http::leaves_unknown;

/// Why a push, or another request, failed.
#[derive(Debug, Clone, PartialEq)]
pub struct PushError {
    /// What the node said, if it was the node.
    pub problem: Option<Box<Problem>>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Whether the request may have taken effect all the same. Repeat a push with the same
    /// idempotency key then: it is not stored twice.
    pub outcome_unknown: bool,
    /// Attempts that were made.
    pub attempts: u32,
    what: String,
}

impl PushError {
    /// The code of the problem, unless there is none or a newer node sent it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.problem.as_ref().and_then(|problem| problem.known_code())
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::local(what, false)
    }

    /// The node did answer, so it did act.
    pub(crate) fn unreadable(what: impl Into<String>) -> Self {
        Self::local(what, true)
    }

    fn local(what: impl Into<String>, outcome_unknown: bool) -> Self {
        let what = what.into();
        Self { problem: None, retryable: false, outcome_unknown, attempts: 0, what }
    }

    pub(crate) fn gave_up(last: Attempt, attempts: u32, unknown: bool) -> Self {
        Self {
            problem: last.problem,
            retryable: last.retryable,
            outcome_unknown: unknown,
            attempts,
            what: last.what,
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.attempts > 1 {
            write!(f, " (after {} attempts)", self.attempts)?;
        }
        if self.outcome_unknown {
            f.write_str("; it may have taken effect all the same")?;
        }
        Ok(())
    }
}

impl std::error::Error for PushError {}

/// How one attempt failed.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    what: String,
    problem: Option<Box<Problem>>,
    /// What the application is told.
    retryable: bool,
    /// Whether to try again by ourselves.
    pub(crate) repeat: bool,
    pub(crate) outcome_unknown: bool,
    retry_after: Duration,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Attempt {
    fn again(what: impl Into<String>, outcome_unknown: bool) -> Self {
        Self {
            what: what.into(),
            problem: None,
            retryable: true,
            repeat: true,
            outcome_unknown,
            retry_after: Duration::ZERO,
        }
    }

    pub(crate) fn waiting() -> Self {
        Self::again("no request slot was free in time", false)
    }

    pub(crate) fn ended() -> Self {
        Self { retryable: true, repeat: false, ..Self::again("the push link has ended", true) }
    }

    /// A confirmation that says neither yes nor no.
    pub(crate) fn unreadable() -> Self {
        Self { repeat: false, ..Self::again("the node's confirmation says nothing", true) }
    }

    pub(crate) fn timed_out() -> Self {
        Self::again("the node did not answer in time", true)
    }

    pub(crate) fn invalid(what: String) -> Self {
        Self { retryable: false, repeat: false, ..Self::again(what, false) }
    }

    /// `connecting`: nothing was sent yet.
    pub(crate) fn connection(connecting: bool, what: String) -> Self {
        Self::again(what, !connecting)
    }

    /// An answer that is no problem document: a proxy's, perhaps.
    pub(crate) fn status(status: u16, retry_after_s: Option<u64>) -> Self {
        let retryable = status >= 500 || matches!(status, 408 | 429);
        Self {
            retryable,
            repeat: retryable,
            retry_after: Duration::from_secs(retry_after_s.unwrap_or(0)),
            ..Self::again(format!("the answer is HTTP status {status}"), status >= 500)
        }
    }

    pub(crate) fn refused(problem: Problem, retry_after_s: Option<u64>) -> Self {
        let code = problem.known_code();
        // A nonce counts once; a network that repeats a request may use it up for us. And an inbox
        // does not empty while we wait: that is for the application to know.
        let repeat = (problem.retryable && code != Some(Code::InboxFull))
            || code == Some(Code::NonceReplayed);
        // The other attempt with this key is one of ours, at a node that is gone or slow. It is over in
        // less than a second, which is the least that the node can name.
        let named = match code {
            Some(Code::IdempotencyInProgress) => 0,
            _ => retry_after_s.or(problem.retry_after_s.map(u64::from)).unwrap_or(0),
        };
        let detail = problem.detail.as_deref().unwrap_or(&problem.title);
        Self {
            what: format!("{}: {detail}", problem.code),
            retryable: problem.retryable,
            repeat,
            outcome_unknown: leaves_unknown(&problem),
            retry_after: Duration::from_secs(named),
            problem: Some(Box::new(problem)),
        }
    }

    /// Never before `Retry-After`, and not all at once after it.
    pub(crate) fn delay(&self, backoff: &Backoff, failures: u32) -> Duration {
        self.retry_after + backoff.random_delay(failures)
    }
}
