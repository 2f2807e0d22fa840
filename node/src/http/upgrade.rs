//! The WebSocket handshake on a routed request (RFC 6455, section 4.2). What runs behind it runs
//! in the connection's own task, so that draining and the bound on connections cover it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use clarion_protocol::Code;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::problem::Refusal;

/// The socket behind an upgrade.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a request leaves what is to run once its connection is no longer HTTP. One for each
/// connection.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Task>>>);

impl Slot {
    fn leave(&self, task: Task) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// What was left.
    pub(super) fn take(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A handshake that can be answered.
pub(super) struct Handshake {
    accept: HeaderValue,
    subprotocol: &'static str,
    upgrade: OnUpgrade,
    slot: Slot,
}

impl Handshake {
    /// Checks the request.
    pub(super) fn check(parts: &mut Parts, subprotocol: &'static str) -> Result<Self, Refusal> {
        let refuse = |why: &str| Err((Code::BadRequest, why).into());
        let headers = &parts.headers;
        if parts.method != Method::GET
            || !has_token(headers, header::CONNECTION, "upgrade")
            || !has_token(headers, header::UPGRADE, "websocket")
        {
            return refuse("this path takes WebSocket upgrades only");
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return refuse("Sec-WebSocket-Version: is not 13");
        }
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
            return refuse("Sec-WebSocket-Key: is missing");
        };
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| Code::Internal)?;
        if !offered(headers).any(|offer| offer == subprotocol) {
            return Err((Code::SubprotocolMissing, format!("offer {subprotocol}")).into());
        }
        let slot = parts.extensions.get::<Slot>().cloned();
        match (parts.extensions.remove::<OnUpgrade>(), slot) {
            (Some(upgrade), Some(slot)) => Ok(Self { accept, subprotocol, upgrade, slot }),
            _ => refuse("this connection cannot be upgraded"),
        }
    }

    /// Answers 101; `serve` then gets the socket.
    pub(super) fn accept<F>(
        self,
        config: WebSocketConfig,
        serve: impl FnOnce(Socket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, subprotocol, upgrade, slot } = self;
        slot.leave(Box::pin(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let io = TokioIo::new(upgraded);
                    let socket =
                        WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                    serve(socket).await;
                }
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        }));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        response
    }
}

/// Whether a comma-separated header names `token`, in whatever case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    parts_of(headers, name).any(|part| part.eq_ignore_ascii_case(token))
}

/// The sub-protocols that the client offers; their case counts.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    parts_of(headers, header::SEC_WEBSOCKET_PROTOCOL)
}

fn parts_of(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "other, clarion.push.v1.json"),
    ];

    fn check(method: &str, headers: &[(&str, &str)]) -> Code {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let checked = Handshake::check(&mut parts, "clarion.push.v1.json");
        checked.err().expect("no connection to upgrade").code()
    }

    #[test]
    fn each_missing_part_of_a_handshake_is_refused() {
        for missing in 0..GOOD.len() {
            let mut headers = GOOD.to_vec();
            let (name, _) = headers.remove(missing);
            let protocol = name == "sec-websocket-protocol";
            let expected = if protocol { Code::SubprotocolMissing } else { Code::BadRequest };
            assert_eq!(check("GET", &headers), expected, "{name}");
        }
        assert_eq!(check("POST", &GOOD), Code::BadRequest);
        assert_eq!(check("GET", &GOOD), Code::BadRequest, "there is no connection behind it");
    }
}
