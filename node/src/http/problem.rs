//! Answers to what was refused: RFC 9457 problem documents, always, whoever refused it.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use clarion_actors::Failure;
use clarion_protocol::{Code, Problem};

use super::request_id::RequestId;

/// What a handler answers with.
pub(super) type Answer = Result<Response, Refusal>;

/// Why a request is not carried out, on its way to becoming a problem document.
#[derive(Debug)]
pub(super) struct Refusal {
    failure: Failure,
    allow: Option<HeaderValue>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, allow: None }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Failure::new(code).into()
    }
}

impl From<(Code, String)> for Refusal {
    fn from((code, detail): (Code, String)) -> Self {
        Failure::new(code).detail(detail).into()
    }
}

impl From<(Code, &str)> for Refusal {
    fn from((code, detail): (Code, &str)) -> Self {
        Failure::new(code).detail(detail).into()
    }
}

impl Refusal {
    /// The path takes only the methods of `allow`.
    pub(super) fn method_not_allowed(allow: HeaderValue) -> Self {
        Self { failure: Failure::new(Code::MethodNotAllowed), allow: Some(allow) }
    }

    /// The code.
    pub(super) const fn code(&self) -> Code {
        self.failure.code
    }

    /// The answer.
    pub(super) fn into_response(self, id: &RequestId) -> Response {
        let code = self.failure.code;
        let problem = problem(self.failure, id.as_str());
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status(code);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = problem.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = challenge(code) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

/// The problem document of a failure.
pub(super) fn problem(failure: Failure, request_id: &str) -> Problem {
    let mut problem = Problem::new(failure.code, failure.detail);
    if let (true, Some(ms)) = (problem.retryable, failure.retry_after_ms) {
        // Whole seconds, never too early and never none.
        let seconds = ms.div_ceil(1000).max(1);
        problem.retry_after_s = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
    }
    problem.request_id = Some(request_id.to_owned());
    problem.targets = failure.targets;
    problem
}

fn status(code: Code) -> StatusCode {
    // Every code of the table has a valid status: a test walks it.
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// How to authenticate, for a 401 (RFC 9110, section 11.6.1; RFC 5849, section 3.5.1).
const fn challenge(code: Code) -> Option<&'static str> {
    match code {
        Code::AdminTokenInvalid => Some(r#"Bearer realm="clarion""#),
        _ if code.http_status() == 401 => Some(r#"OAuth realm="clarion""#),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn id() -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("r1"));
        RequestId::of(&headers)
    }

    #[test]
    fn every_code_becomes_a_problem_with_its_own_status_and_headers() {
        for &code in Code::ALL {
            let response = Refusal::from(code).into_response(&id());
            assert_eq!(response.status().as_u16(), code.http_status(), "{code}");
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{code}");
            assert_eq!(headers.contains_key(header::RETRY_AFTER), code.retryable(), "{code}");
            let unauthorized = code.http_status() == 401;
            assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), unauthorized, "{code}");
        }
        let response = Refusal::from(Code::AdminTokenInvalid).into_response(&id());
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"clarion\"");
    }

    #[test]
    fn the_pause_is_whole_seconds_rounded_up_and_at_least_one() {
        let after = |ms| {
            let failure = Failure { retry_after_ms: ms, ..Failure::new(Code::RateLimited) };
            problem(failure, "r1").retry_after_s
        };
        assert_eq!(after(None), Some(1));
        assert_eq!(after(Some(0)), Some(1));
        assert_eq!(after(Some(1000)), Some(1));
        assert_eq!(after(Some(1001)), Some(2));
        assert_eq!(after(Some(u64::MAX)), Some(u32::MAX));
        let never = Failure { retry_after_ms: Some(5000), ..Failure::new(Code::InvalidField) };
        assert_eq!(problem(never, "r1").retry_after_s, None, "not retryable, whatever was said");
    }

    #[test]
    fn a_problem_names_detail_request_and_documentation() {
        let problem = problem(Failure::new(Code::InvalidField).detail("ttl: too long"), "r1");
        assert_eq!(problem.detail.as_deref(), Some("ttl: too long"));
        assert_eq!(problem.request_id.as_deref(), Some("r1"));
        assert_eq!(problem.doc_url, "/docs/codes#invalid_field");
    }
}
