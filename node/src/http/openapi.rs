//! `GET /openapi.json`: the API document (OpenAPI 3.1), made from the table of routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use axum::http::StatusCode;
use bytes::Bytes;
use clarion_protocol::Code;
use serde_json::{Map, Value, json};

use super::auth::Access;
use super::problem::Answer;
use super::request::{Call, text};
use super::routes::{Content, ROUTES, Route, STORE_CODES};
use super::schemas;

/// The document.
pub(super) async fn get(_: Call) -> Answer {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let body = DOCUMENT.get_or_init(|| document().to_string().into()).clone();
    Ok(text(StatusCode::OK, "application/json", body))
}

pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Clarion",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Push to terminals. Errors are RFC 9457 problem documents; \
                `code` names one of the codes at /docs/codes.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {
                "oauth1": {
                    "type": "http",
                    "scheme": "OAuth",
                    "description": "OAuth 1.0 (RFC 5849) without a token: HMAC-SHA256, parameters \
                        in the Authorization header, oauth_body_hash (SHA-256) for a body.",
                },
                "admin": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "parameters": parameters(route),
        "security": security(route.access),
        "responses": responses(route),
    });
    if let Some(schema) = route.body {
        operation["requestBody"] = json!({
            "required": !route.body_optional,
            "content": { "application/json": { "schema": reference(schema) } },
        });
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn operation_id(route: &Route) -> String {
    let path = route.path.trim_start_matches("/v1").replace(['{', '}'], "");
    let words = path.split(['/', '.', '-']).filter(|word| !word.is_empty());
    let method = route.method.as_str().to_lowercase();
    std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn security(access: Access) -> Value {
    match access {
        Access::Open => json!([]),
        Access::Admin => json!([{ "admin": [] }]),
        Access::Product => json!([{ "oauth1": [] }]),
        Access::ProductOrAdmin => json!([{ "oauth1": [] }, { "admin": [] }]),
    }
}

fn parameters(route: &Route) -> Value {
    let in_path =
        route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| {
        let schema = if name == "id" { "MessageId" } else { "Id" };
        json!({ "name": name, "in": "path", "required": true, "schema": reference(schema) })
    });
    let in_query = route.query.iter().map(|name| {
        let schema = match *name {
            "limit" if route.path == "/v1/gateways" => json!({ "type": "integer", "minimum": 1,
                "maximum": clarion_protocol::http::GATEWAYS_MAX,
                "default": clarion_protocol::http::GATEWAYS_DEFAULT }),
            "limit" => json!({ "type": "integer", "minimum": 1,
                "maximum": clarion_protocol::http::PAGE_MAX,
                "default": clarion_protocol::http::PAGE_DEFAULT }),
            "door" => json!({ "enum": ["push", "terminals"] }),
            "unready" => json!({ "enum": ["404", "503"] }),
            _ => reference("Id"),
        };
        json!({ "name": name, "in": "query", "required": route.needs(name), "schema": schema })
    });
    in_path.chain(in_query).collect()
}

/// Every code that the route may answer with.
pub(super) fn codes(route: &Route) -> BTreeSet<u16> {
    let signature = [
        Code::SignatureMissing,
        Code::SignatureMalformed,
        Code::SignatureInvalid,
        Code::SignatureMethodUnsupported,
        Code::BodyHashMissing,
        Code::BodyHashMismatch,
        Code::BodyHashMethodForbidden,
        Code::TimestampRefused,
        Code::NonceReplayed,
        Code::KeyUnknown,
        Code::KeyRevoked,
        Code::Overloaded,
    ];
    let body = [Code::UnsupportedMediaType, Code::InvalidField];
    let mut codes: Vec<Code> = route.codes.to_vec();
    // A request of any kind may be malformed, may bring a body, and may bring it too slowly.
    codes.extend([Code::BadRequest, Code::BodyTooLarge, Code::RequestTimeout, Code::Internal]);
    match route.access {
        Access::Open => {}
        Access::Admin => codes.push(Code::AdminTokenInvalid),
        Access::Product => {
            codes.extend(signature);
            codes.extend([Code::AdminTokenInvalid, Code::Forbidden]);
        }
        Access::ProductOrAdmin => {
            codes.extend(signature);
            codes.extend([Code::AdminTokenInvalid, Code::ProductUnknown]);
        }
    }
    if route.role().is_some() {
        codes.push(Code::NotServedHere);
    }
    if route.body.is_some() {
        codes.extend(body);
    }
    if route.path.contains('{') || !route.query.is_empty() {
        codes.push(Code::InvalidField);
    }
    if route.access != Access::Open {
        codes.extend(STORE_CODES);
        codes.push(route.on_timeout());
    }
    codes.iter().map(|code| code.number()).collect()
}

fn responses(route: &Route) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    let mut problems: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes(route).into_iter().filter_map(Code::from_number) {
        problems.entry(code.http_status()).or_default().push(code);
    }
    for (status, codes) in problems {
        let names: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let problem = json!({ "description": names.join(", "), "content": problem_content() });
        responses.insert(status.to_string(), problem);
    }
    for (status, content) in route.answers {
        let entry = responses.entry(status.to_string());
        let response = entry.or_insert_with(|| json!({ "description": reason(*status) }));
        match content {
            Content::Json(schema) => {
                response["content"]["application/json"] = json!({ "schema": reference(schema) });
            }
            Content::Text(kind) => {
                let essence = kind.split(';').next().unwrap_or(kind);
                response["content"][essence] = json!({ "schema": { "type": "string" } });
            }
            Content::Nothing => {}
        }
    }
    responses.insert(
        "default".to_owned(),
        json!({ "description": "Any other problem.", "content": problem_content() }),
    );
    Value::Object(responses)
}

fn problem_content() -> Value {
    json!({ "application/problem+json": { "schema": reference("Problem") } })
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Answer")
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    #[test]
    fn the_document_and_the_router_know_the_same_routes() {
        let document = document();
        for route in ROUTES {
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert_eq!(operation["summary"], route.summary, "{method} {}", route.path);
        }
        let paths = document["paths"].as_object().unwrap();
        let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, ROUTES.len(), "no route hides another");
    }

    #[test]
    fn every_schema_that_is_named_exists_and_every_one_is_named() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        match (name.as_str(), value) {
                            ("$ref", Value::String(target)) => {
                                let name = target.strip_prefix("#/components/schemas/").unwrap();
                                found.insert(name.to_owned());
                            }
                            _ => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let known: BTreeSet<String> = schemas.keys().cloned().collect();
        assert_eq!(named, known);
    }

    #[test]
    fn operations_are_named_apart_and_reads_do_not_change_anything() {
        let ids: BTreeSet<String> = ROUTES.iter().map(operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len(), "{ids:?}");
        for route in ROUTES {
            let open = route.access == Access::Open;
            assert!(!open || route.method == Method::GET, "{}: nobody asked who", route.path);
            let of_a_product = route.path.contains("{product}");
            let belongs = matches!(route.access, Access::Product | Access::ProductOrAdmin);
            assert!(!belongs || of_a_product, "{}: belongs to no product", route.path);
        }
    }
}
