//! A request as its handler sees it, authenticated and read whole, and how it is answered.

use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts as _, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use clarion_protocol::http::{PAGE_DEFAULT, PAGE_MAX, parse_body};
use clarion_protocol::{Code, IdError, ProductId};
use clarion_storage::ProductRecord;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::app::App;
use super::auth::Proven;
use super::problem::Refusal;
use super::request_id::RequestId;

/// See the module.
pub(super) struct Call {
    pub(super) app: App,
    pub(super) parts: Parts,
    pub(super) params: Params,
    pub(super) query: Query,
    pub(super) body: Bytes,
    pub(super) proven: Proven,
    pub(super) id: RequestId,
}

impl Call {
    /// The product of the path. Only for routes whose table entry says that they belong to one.
    pub(super) fn product(&self) -> Result<&Arc<ProductRecord>, Refusal> {
        self.proven.product.as_ref().ok_or_else(|| Code::Internal.into())
    }

    /// The name of the product in the path, whether or not there is one.
    pub(super) fn product_id(&self) -> Result<ProductId, Refusal> {
        self.params.id("product")
    }

    /// The body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        Ok(parse_body(&self.body)?)
    }
}

/// The parameters of the path, decoded.
pub(super) struct Params(Option<RawPathParams>);

impl Params {
    /// Takes them from a routed request; paths without parameters have none.
    pub(super) async fn of(parts: &mut Parts) -> Result<Self, Refusal> {
        use axum::extract::rejection::RawPathParamsRejection as Rejection;
        match RawPathParams::from_request_parts(parts, &()).await {
            Ok(params) => Ok(Self(Some(params))),
            Err(Rejection::MissingPathParams(_)) => Ok(Self(None)),
            Err(_) => Err((Code::BadRequest, "the path is not UTF-8").into()),
        }
    }

    /// A parameter as an identifier.
    pub(super) fn id<T: FromStr<Err = IdError>>(&self, name: &str) -> Result<T, Refusal> {
        let params = self.0.iter().flat_map(RawPathParams::iter);
        let text = params.into_iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text);
        text.parse().map_err(|error| (Code::InvalidField, format!("{name}: {error}")).into())
    }
}

/// The parameters of the query: only those that the route knows, each once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let wrong = |what: &str| {
                let name: String = name.chars().take(32).collect();
                Err((Code::BadRequest, format!("query parameter {name:?} {what}")).into())
            };
            if !known.contains(&&*name) {
                return wrong("is unknown here");
            }
            if found.iter().any(|(n, _)| *n == name) {
                return wrong("is given twice");
            }
            found.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(found))
    }

    /// The text of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A parameter as an identifier.
    pub(super) fn id<T: FromStr<Err = IdError>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let invalid = |error| (Code::InvalidField, format!("{name}: {error}")).into();
        self.text(name).map(|text| text.parse().map_err(invalid)).transpose()
    }

    /// How many items the page may hold.
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.text("limit") else { return Ok(PAGE_DEFAULT) };
        match text.parse() {
            Ok(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
            _ => Err((Code::InvalidField, format!("limit: a number from 1 to {PAGE_MAX}")).into()),
        }
    }
}

/// An answer in JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Refusal> {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::from(Code::Internal)
    })?;
    Ok(text(status, "application/json", body))
}

/// An answer of a given content type.
pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 204.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use clarion_protocol::TerminalId;

    use super::*;

    const KNOWN: &[&str] = &["after", "limit"];

    #[test]
    fn a_query_holds_known_parameters_once() {
        let query = Query::parse(Some("after=a%3Ab&limit=7"), KNOWN).unwrap();
        assert_eq!(query.id::<TerminalId>("after").unwrap().unwrap().as_str(), "a:b");
        assert_eq!(query.limit().unwrap(), 7);
        assert_eq!(Query::parse(None, &[]).unwrap().limit().unwrap(), PAGE_DEFAULT);
        for bad in ["before=1", "after=1&after=2", "Limit=1"] {
            assert_eq!(Query::parse(Some(bad), KNOWN).unwrap_err().code(), Code::BadRequest);
        }
    }

    #[test]
    fn limits_and_positions_are_checked() {
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=", "limit=x"] {
            let query = Query::parse(Some(bad), KNOWN).unwrap();
            assert_eq!(query.limit().unwrap_err().code(), Code::InvalidField, "{bad}");
        }
        assert_eq!(Query::parse(Some("limit=1000"), KNOWN).unwrap().limit().unwrap(), 1000);
        let query = Query::parse(Some("after=a%20b"), KNOWN).unwrap();
        assert_eq!(query.id::<TerminalId>("after").unwrap_err().code(), Code::InvalidField);
    }
}
