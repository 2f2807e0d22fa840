//! Pushes: the one way in for HTTP and for push connections, and what became of them.

use std::sync::Arc;

use axum::http::StatusCode;
use clarion_actors::push::Turn;
use clarion_actors::{Failure, Push};
use clarion_core::Body;
use clarion_protocol::http::{PushAccepted, PushRequest, ValidPayload};
use clarion_protocol::{Code, MessageId};
use clarion_storage::ProductRecord;

use super::app::Shared;
use super::measures::Mode;
use super::problem::Answer;
use super::request::{Call, json};

/// `POST …/messages`.
pub(super) async fn post(call: Call) -> Answer {
    let request: PushRequest = call.json()?;
    if let Some(header) = call.parts.headers.get("idempotency-key") {
        // OAuth signs no headers: the key in the body counts, the header may only repeat it.
        let key = request.idempotency_key.as_deref();
        if key.map(str::as_bytes) != Some(header.as_bytes()) {
            return Err(Code::IdempotencyHeaderMismatch.into());
        }
    }
    let accepted = carry(&call.app, call.product()?, &request, None).await?;
    json(StatusCode::ACCEPTED, &accepted)
}

/// `GET …/messages/{id}`.
pub(super) async fn get(call: Call) -> Answer {
    let id: MessageId = call.params.id("id")?;
    let product = &call.product()?.product;
    let state = call.app.system.message(product, id).await?.ok_or(Code::MessageUnknown)?;
    json(StatusCode::OK, &state)
}

/// Checks a push and hands it on. `turn` is its place among others of its connection (I8).
pub(super) async fn carry(
    app: &Shared,
    product: &Arc<ProductRecord>,
    request: &PushRequest,
    turn: Option<Turn>,
) -> Result<PushAccepted, Failure> {
    let mode = Mode::from(&request.audience);
    let outcome = match checked(request, app.config.limits.payload_bytes_max) {
        Ok(push) => app.system.push(product, Push { turn, ..push }).await,
        Err(failure) => Err(failure),
    };
    app.measures.pushed(mode, &outcome);
    outcome
}

fn checked(request: &PushRequest, payload_bytes_max: usize) -> Result<Push, Failure> {
    let valid = request
        .validate(payload_bytes_max)
        .map_err(|(code, why)| Failure::new(code).detail(why))?;
    Ok(Push {
        audience: valid.audience,
        body: match valid.payload {
            ValidPayload::Json(text) => Body::Json(text),
            ValidPayload::Bytes { content_type, data } => Body::Bytes { content_type, data },
        },
        ttl_s: valid.ttl_s,
        idempotency: valid.idempotency_key.map(|key| (Arc::from(key), request.fingerprint())),
        turn: None,
    })
}

#[cfg(test)]
mod tests {
    use clarion_protocol::http::{Audience, parse_body};

    use super::*;

    fn check(body: &str) -> Result<Push, Code> {
        let request: PushRequest = parse_body(body.as_bytes()).unwrap();
        checked(&request, 16).map_err(|failure| failure.code)
    }

    #[test]
    fn a_push_keeps_its_payload_as_it_was_written() {
        let push = check(r#"{"audience":"all","payload":{"b":1,  "a":2}}"#).unwrap();
        assert_eq!(push.audience, Audience::All);
        assert_eq!(push.body, Body::Json(r#"{"b":1,  "a":2}"#.into()));
        assert!(push.idempotency.is_none());
        let bytes = r#"{"audience":"all","payload_base64":"AAE=","content_type":"image/png"}"#;
        let expected = Body::Bytes { content_type: "image/png".into(), data: vec![0, 1].into() };
        assert_eq!(check(bytes).unwrap().body, expected);
    }

    #[test]
    fn an_idempotency_key_is_bound_to_what_is_pushed() {
        let key = |ttl: u64, space: &str| {
            let body = format!(
                r#"{{"audience":"all","payload":1,"ttl":{ttl},{space}"idempotency_key":"k"}}"#
            );
            check(&body).unwrap().idempotency.unwrap()
        };
        assert_eq!(key(60, ""), key(60, "  "), "however it is spaced");
        assert_ne!(key(60, ""), key(61, ""));
        assert_eq!(&*key(60, "").0, "k");
    }

    #[test]
    fn what_is_out_of_bounds_has_its_code() {
        let large = r#"{"audience":"all","payload":"01234567890123456789"}"#;
        assert_eq!(check(large).unwrap_err(), Code::PayloadTooLarge);
        let nobody = r#"{"audience":{"terminals":[]},"payload":1}"#;
        assert_eq!(check(nobody).unwrap_err(), Code::InvalidField);
    }
}
