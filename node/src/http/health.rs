//! What load balancers, supervisors and Prometheus ask.

use axum::http::StatusCode;
use clarion_actors::Readiness;
use clarion_config::Role;
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

/// `GET /readyz`, with `?door=push` or `?door=terminals` for one door alone. With `unready=404` a
/// door that is not ready answers 404 instead of 503: proxies that tell "takes nothing new" from
/// "gone" by that (HAProxy's `disable-on-404`) then keep the links that stand.
pub(super) async fn ready(call: Call) -> Answer {
    let roles = &call.app.config.node.roles;
    let (ready, report) = report(&call.app.system.readiness(), roles, call.query.text("door"))?;
    let unready = match call.query.text("unready") {
        None | Some("503") => StatusCode::SERVICE_UNAVAILABLE,
        Some("404") => StatusCode::NOT_FOUND,
        Some(_) => return Err((Code::InvalidField, "unready: 404 or 503").into()),
    };
    json(if ready { StatusCode::OK } else { unready }, &report)
}

/// `GET /metrics`.
pub(super) async fn metrics(call: Call) -> Answer {
    Ok(text(StatusCode::OK, METRICS_TYPE, (call.app.metrics)()))
}

const fn status(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The doors that the node has; one that it lacks is not ready when it is asked for by name.
fn report(
    readiness: &Readiness,
    roles: &[Role],
    door: Option<&str>,
) -> Result<(bool, Value), Refusal> {
    let missing = Err("this node does not have that role".to_owned());
    let state = |role: Role, state| if roles.contains(&role) { state } else { &missing };
    let doors = [
        ("push", state(Role::Push, &readiness.push)),
        ("terminals", state(Role::Gateway, &readiness.terminals)),
    ];
    let has = |name: &str| match name {
        "push" => roles.contains(&Role::Push),
        _ => roles.contains(&Role::Gateway),
    };
    if door.is_some_and(|asked| doors.iter().all(|(name, _)| *name != asked)) {
        return Err((Code::InvalidField, "door: push or terminals").into());
    }
    let asked = doors.into_iter().filter(|(name, _)| match door {
        Some(asked) => asked == *name,
        None => has(name),
    });
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
        let (ready, both) = report(&readiness, &Role::ALL, None).unwrap();
        assert!(!ready);
        assert_eq!(both["doors"]["push"]["reason"], "the store is away");
        assert_eq!(both["doors"]["terminals"]["ready"], true);
        let (ready, one) = report(&readiness, &Role::ALL, Some("terminals")).unwrap();
        assert!(ready && one["doors"].get("push").is_none());
        assert!(!report(&readiness, &Role::ALL, Some("push")).unwrap().0);
        let (ready, gateway) = report(&readiness, &[Role::Gateway], None).unwrap();
        assert!(ready && gateway["doors"].get("push").is_none(), "no door that is not there");
        let (ready, gateway) = report(&readiness, &[Role::Broker], Some("terminals")).unwrap();
        assert!(!ready && gateway["doors"]["terminals"]["reason"].is_string());
        let unknown = report(&readiness, &Role::ALL, Some("window")).unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidField);
    }
}
