//! `GET /v1/status`: what the node is doing, for people and scripts.

use axum::http::StatusCode;
use serde_json::{Value, json as value};

use super::problem::Answer;
use super::request::{Call, json};

/// What the system says of itself, and what this build is.
pub(super) async fn get(call: Call) -> Answer {
    let mut status = value!({
        "node": call.app.config.node.id,
        "version": env!("CARGO_PKG_VERSION"),
        "features": features(),
        "uptime_s": call.app.started.elapsed().as_secs(),
        "time_ms": call.app.system.time_ms(),
    });
    if let (Value::Object(status), Value::Object(system)) =
        (&mut status, call.app.system.status().await)
    {
        status.extend(system);
    }
    json(StatusCode::OK, &status)
}

/// What this build has that others have not.
fn features() -> Vec<&'static str> {
    if cfg!(feature = "fault-hooks") { vec!["fault-hooks"] } else { Vec::new() }
}
