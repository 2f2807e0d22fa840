//! Terminals of a product: listed, shown, and their sessions closed.

use axum::http::StatusCode;
use clarion_protocol::http::KickOutcome;
use clarion_protocol::{Code, TerminalId};

use super::problem::Answer;
use super::request::{Call, json};

/// `GET …/terminals`.
pub(super) async fn list(call: Call) -> Answer {
    let product = &call.product()?.product;
    let (user, after) = (call.query.id("user")?, call.query.id("after")?);
    let limit = call.query.limit()?;
    json(StatusCode::OK, &call.app.system.terminals(product, user, after, limit).await?)
}

/// `GET …/terminals/{terminal}`.
pub(super) async fn get(call: Call) -> Answer {
    let product = &call.product()?.product;
    let terminal: TerminalId = call.params.id("terminal")?;
    let info = call.app.system.terminal(product, &terminal).await?.ok_or(Code::TerminalUnknown)?;
    json(StatusCode::OK, &info)
}

/// `POST …/terminals/{terminal}/kick`.
pub(super) async fn kick(call: Call) -> Answer {
    let product = &call.product()?.product;
    let terminal: TerminalId = call.params.id("terminal")?;
    let kicked = call.app.system.kick(product, &terminal).await?;
    if !kicked && call.app.system.terminal(product, &terminal).await?.is_none() {
        return Err(Code::TerminalUnknown.into());
    }
    json(StatusCode::OK, &KickOutcome { kicked })
}
