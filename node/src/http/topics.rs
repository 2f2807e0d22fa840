//! Members of topics.

use axum::http::StatusCode;
use clarion_protocol::Code;
use clarion_protocol::http::{Page, TARGETS_MAX, TopicMembers};

use super::problem::{Answer, Refusal};
use super::request::{Call, json};

/// `GET …/topics/{topic}/members`.
pub(super) async fn list(call: Call) -> Answer {
    let (product, topic) = (&call.product()?.product, call.params.id("topic")?);
    let (after, limit) = (call.query.id("after")?, call.query.limit()?);
    json(StatusCode::OK, &call.app.system.members(product, &topic, after, limit).await?)
}

/// `PUT …/topics/{topic}/members`.
pub(super) async fn put(call: Call) -> Answer {
    let (product, topic) = (&call.product()?.product, call.params.id("topic")?);
    let members = checked(call.json()?)?;
    let items = call.app.system.put_members(product, &topic, members.terminals).await;
    json(StatusCode::OK, &Page { items, next: None })
}

/// `DELETE …/topics/{topic}/members`.
pub(super) async fn remove(call: Call) -> Answer {
    let (product, topic) = (&call.product()?.product, call.params.id("topic")?);
    let members = checked(call.json()?)?;
    let items = call.app.system.remove_members(product, &topic, members.terminals).await;
    json(StatusCode::OK, &Page { items, next: None })
}

fn checked(members: TopicMembers) -> Result<TopicMembers, Refusal> {
    match members.terminals.len() {
        0 => Err((Code::InvalidField, format!("terminals: names none, 1 to {TARGETS_MAX}")).into()),
        1..=TARGETS_MAX => Ok(members),
        n => {
            Err((Code::TooManyTargets, format!("terminals: names {n}, at most {TARGETS_MAX}"))
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::TerminalId;

    use super::*;

    #[test]
    fn one_to_a_hundred_terminals_are_named() {
        let check = |n| {
            let terminals = vec![TerminalId::new("t").unwrap(); n];
            checked(TopicMembers { terminals }).map(|_| ()).map_err(|refusal| refusal.code())
        };
        assert_eq!(check(0), Err(Code::InvalidField));
        assert_eq!(check(1), Ok(()));
        assert_eq!(check(100), Ok(()));
        assert_eq!(check(101), Err(Code::TooManyTargets));
    }
}
