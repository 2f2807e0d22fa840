//! What load balancers, supervisors and Prometheus ask.

use axum::http::StatusCode;
use clarion_actors::Readiness;
use clarion_protocol::Code;
use serde_json::{Map, Value, json as value};

use super::problem::{Answer, Refusal};
use super::request::{Call, json, text};

/// The content type of the text format.
pub(super) const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /livez`.
pub(super) async fn live(call: Call) -> Answer {
    let alive = call.app.system.alive();
    json(status(alive), &value!({ "alive": alive }))
}

/// `GET /readyz`, with `?door=push` or `?door=terminals` for one door alone.
pub(super) async fn ready(call: Call) -> Answer {
    let (ready, report) = report(&call.app.system.readiness(), call.query.text("door"))?;
    json(status(ready), &report)
}

/// `GET /metrics`.
pub(super) async fn metrics(call: Call) -> Answer {
    Ok(text(StatusCode::OK, METRICS_TYPE, (call.app.metrics)()))
}

const fn status(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn report(readiness: &Readiness, door: Option<&str>) -> Result<(bool, Value), Refusal> {
    let doors = [("push", &readiness.push), ("terminals", &readiness.terminals)];
    if door.is_some_and(|asked| doors.iter().all(|(name, _)| *name != asked)) {
        return Err((Code::InvalidField, "door: push or terminals").into());
    }
    let asked = doors.into_iter().filter(|(name, _)| door.is_none_or(|asked| asked == *name));
    let mut ready = true;
    let mut report = Map::new();
    for (name, state) in asked {
        ready &= state.is_ok();
        let state = match state {
            Ok(()) => value!({ "ready": true }),
            Err(reason) => value!({ "ready": false, "reason": reason }),
        };
        report.insert(name.to_owned(), state);
    }
    Ok((ready, value!({ "ready": ready, "doors": report })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_for_each_door() {
        let readiness = Readiness { push: Err("the store is away".into()), terminals: Ok(()) };
        let (ready, both) = report(&readiness, None).unwrap();
        assert!(!ready);
        assert_eq!(both["doors"]["push"]["reason"], "the store is away");
        assert_eq!(both["doors"]["terminals"]["ready"], true);
        let (ready, one) = report(&readiness, Some("terminals")).unwrap();
        assert!(ready && one["doors"].get("push").is_none());
        assert!(!report(&readiness, Some("push")).unwrap().0);
        let unknown = report(&readiness, Some("window")).unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidField);
    }
}
