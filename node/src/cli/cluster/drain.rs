//! `clarion cluster drain`.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::cli::connection::{Connection, ConnectionOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// The pause between two looks at the cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(
    node: String,
    wait: bool,
    connection: ConnectionOptions,
    output: Output,
) -> Result<(), Failure> {
    let admin = Connection::find(&connection)?.admin()?;
    // Which start of it drains: one that comes back under its name meanwhile is another.
    let boot = admin.cluster().await?.nodes.into_iter().find(|n| n.node == node).map(|n| n.boot);
    let began = admin.drain_node(&node).await?;
    if !wait {
        return output.result(&began, || {
            let how = if began.started { "drains" } else { "drains already" };
            format!("{node} {how}\n")
        });
    }
    output.note(&format!("{node} drains; waiting until it has left"));
    loop {
        match admin.cluster().await {
            Ok(cluster) => {
                let there = cluster.nodes.iter().find(|n| n.node == node);
                if there.is_none_or(|there| boot.as_ref().is_some_and(|b| *b != there.boot)) {
                    return output.result(&json!({"node": node, "left": true}), || {
                        format!("{node} has left\n")
                    });
                }
            }
            // The node that is asked may be the one that goes.
            Err(error) => {
                let failure = Failure::from(error);
                if failure.exit != Exit::Unreachable {
                    return Err(failure);
                }
                return output.result(&json!({"node": node, "left": null}), || {
                    format!("{} does not answer any more: {}\n", node, failure.message)
                });
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}
