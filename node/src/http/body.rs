//! Reading the body of a request: bounded in bytes and time, without a copy when it came whole.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use clarion_protocol::Code;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::problem::Refusal;

/// Whether a body, if there is one, says that it is JSON.
pub(super) fn check_content_type(headers: &HeaderMap, body: &Body) -> Result<(), Refusal> {
    if body.is_end_stream() || is_json(headers) {
        return Ok(());
    }
    Err(Code::UnsupportedMediaType.into())
}

/// `application/json`, with whatever parameters.
fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The whole body, at most `bytes_max` long, within `time`.
pub(super) async fn read(body: Body, bytes_max: usize, time: Duration) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let lower = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if lower > bytes_max {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(time, collect(body, bytes_max)).await {
        Ok(read) => read,
        Err(_) => Err(Code::RequestTimeout.into()),
    }
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| (Code::BadRequest, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + more.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.freeze())
}

fn too_large(bytes_max: usize) -> Refusal {
    (Code::BodyTooLarge, format!("the body exceeds {bytes_max} bytes")).into()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chunks(parts: &[&'static str]) -> Body {
        let parts: Vec<Result<&'static str, Infallible>> = parts.iter().map(|p| Ok(*p)).collect();
        Body::from_stream(stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit() {
        assert_eq!(read(Body::empty(), 0, SECOND).await.unwrap(), "");
        assert_eq!(read(Body::from("1234"), 4, SECOND).await.unwrap(), "1234");
        assert_eq!(read(chunks(&["12", "3", "4"]), 4, SECOND).await.unwrap(), "1234");
        for body in [Body::from("12345"), chunks(&["12", "345"]), chunks(&["12345"])] {
            assert_eq!(read(body, 4, SECOND).await.unwrap_err().code(), Code::BodyTooLarge);
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_a_time_out() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let short = Duration::from_millis(1);
        assert_eq!(read(body, 4, short).await.unwrap_err().code(), Code::RequestTimeout);
    }

    #[test]
    fn only_json_is_taken() {
        let check = |kind: Option<&'static str>, body: Body| {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            check_content_type(&headers, &body).map_err(|refusal| refusal.code())
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(check(Some(kind), Body::from("{}")), Ok(()));
        }
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            assert_eq!(check(kind, Body::from("{}")), Err(Code::UnsupportedMediaType));
            assert_eq!(check(kind, Body::empty()), Ok(()));
        }
    }
}
