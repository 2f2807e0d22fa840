//! `clarion cluster status`.

use std::collections::BTreeSet;

use clarion_protocol::http::{ClusterNode, ClusterStatus};
use serde_json::Value;

use crate::cli::connection::{Connection, ConnectionOptions};
use crate::cli::exit::Failure;
use crate::cli::output::{Output, Table};

pub(super) async fn run(options: ConnectionOptions, output: Output) -> Result<(), Failure> {
    let status = Connection::find(&options)?.admin()?.cluster().await?;
    output.result(&status, || shown(&status))
}

fn shown(status: &ClusterStatus) -> String {
    let mut text = match &status.cluster {
        Some(name) => format!("cluster {name}, as {} sees it\n\n", status.node),
        None => format!("{} is alone: cluster.listen is not set\n\n", status.node),
    };
    text.push_str(&nodes(status));
    for part in [links(status), actors(status), stores(status)] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    text.push_str(&doubles(status));
    for node in status.nodes.iter().filter(|node| node.status.is_none()) {
        text.push_str(&format!("\n{} did not say how it is\n", node.node));
    }
    text
}

fn nodes(status: &ClusterStatus) -> String {
    let mut table = Table::new([
        "node", "version", "roles", "group", "state", "slots", "links", "sessions", "cpu", "api",
    ]);
    for node in &status.nodes {
        table.row([
            node.node.clone(),
            node.version.clone(),
            node.roles.join(","),
            node.isolation_group.to_string(),
            state(node),
            node.slots.to_string(),
            match node.load.links_max {
                0 => "-".to_owned(),
                max => format!("{}/{max}", node.load.links),
            },
            node.load.sessions.to_string(),
            format!("{}%", node.load.cpu_permille / 10),
            node.http_url.clone(),
        ]);
    }
    table.to_string()
}

/// What matters most about a node, in a few words.
fn state(node: &ClusterNode) -> String {
    let broker = node.roles.iter().any(|role| role == "broker");
    let mut words = Vec::new();
    if !node.reachable {
        words.push("unreachable".to_owned());
    }
    if node.draining {
        words.push("draining".to_owned());
    }
    if node.sick {
        words.push("sick".to_owned());
    }
    let why = node.why.replace('_', " ");
    if broker && !node.owns && !words.contains(&why) {
        words.push(why);
    }
    match node.flaps {
        0 => {}
        1 => words.push("came back once".to_owned()),
        times => words.push(format!("came back {times} times")),
    }
    if words.is_empty() { "ok".to_owned() } else { words.join(", ") }
}

/// A field of what a node says of itself; newer and older nodes may say it otherwise.
fn said<'a>(node: &'a ClusterNode, name: &str) -> Option<&'a Value> {
    node.status.as_ref()?.get(name)
}

/// Two nodes of one id, as the nodes tell: the one that came second is to be renamed.
fn doubles(status: &ClusterStatus) -> String {
    let mut told = BTreeSet::new();
    for node in &status.nodes {
        let conflicts = said(node, "cluster").and_then(|cluster| cluster["conflicts"].as_array());
        for conflict in conflicts.into_iter().flatten() {
            let text = |field: &str| conflict[field].as_str().unwrap_or("?").escape_default();
            let [id, kept, other, second] =
                ["id", "kept", "other", "second"].map(|field| text(field).to_string());
            let first = if second == kept { other } else { kept };
            told.insert(format!(
                "\ntwo nodes run as `{id}`: {first} came first, {second} second, which needs an id of \
                 its own\n"
            ));
        }
    }
    told.into_iter().collect()
}

/// Links between nodes: each end tells its own half.
fn links(status: &ClusterStatus) -> String {
    let mut table =
        Table::new(["from", "to", "round trip", "lane", "credit", "queued", "sent", "dropped"]);
    let mut any = false;
    for node in &status.nodes {
        let peers = said(node, "peers").and_then(Value::as_array);
        for peer in peers.into_iter().flatten() {
            any = true;
            let to = peer["node"].as_str().unwrap_or("?");
            let trip_us = peer["rtt_us"].as_u64().unwrap_or(0);
            let lanes = peer["lanes"].as_array();
            for (at, figures) in lanes.into_iter().flatten().enumerate() {
                let figure = |name: &str| figures[name].to_string();
                let first = |text: String| if at == 0 { text } else { String::new() };
                table.row([
                    first(node.node.clone()),
                    first(to.to_owned()),
                    first(match trip_us {
                        0 => "-".to_owned(),
                        us => format!("{}.{:03} ms", us / 1000, us % 1000),
                    }),
                    figures["lane"].as_str().unwrap_or("?").to_owned(),
                    figure("credit_bytes"),
                    figure("queued_bytes"),
                    figure("sent"),
                    figure("dropped"),
                ]);
            }
        }
    }
    if any { table.to_string() } else { String::new() }
}

fn actors(status: &ClusterStatus) -> String {
    let mut table = Table::new(["node", "actors", "live", "started", "crashed"]);
    let mut any = false;
    for node in &status.nodes {
        let kinds = said(node, "actors").and_then(Value::as_object);
        for (at, (kind, figures)) in kinds.into_iter().flatten().enumerate() {
            any = true;
            table.row([
                if at == 0 { node.node.clone() } else { String::new() },
                kind.clone(),
                figures["live"].to_string(),
                figures["started"].to_string(),
                figures["crashed"].to_string(),
            ]);
        }
    }
    if any { table.to_string() } else { String::new() }
}

fn stores(status: &ClusterStatus) -> String {
    let mut table = Table::new(["node", "store", "epoch", "queued"]);
    let mut any = false;
    for node in &status.nodes {
        let Some(store) = said(node, "store") else { continue };
        any = true;
        let state = match (store["writable"].as_bool(), store["refuses_because"].as_str()) {
            (Some(true), _) => "writable".to_owned(),
            (_, Some(reason)) => reason.escape_default().to_string(),
            (_, None) => "?".to_owned(),
        };
        table.row([
            node.node.clone(),
            state,
            store["epoch"].to_string(),
            store["queued"].to_string(),
        ]);
    }
    if any { table.to_string() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::http::Load;
    use serde_json::json;

    use super::*;

    fn node(id: &str) -> ClusterNode {
        ClusterNode {
            node: id.to_owned(),
            boot: "0".to_owned(),
            version: "0.1.0".to_owned(),
            roles: vec!["push".to_owned(), "broker".to_owned()],
            isolation_group: clarion_protocol::IsolationGroup::default(),
            address: None,
            http_url: format!("http://{id}"),
            terminals_url: None,
            reachable: true,
            owns: true,
            why: "fit".to_owned(),
            draining: false,
            sick: false,
            quarantined_until_ms: None,
            flaps: 0,
            slots: 1365,
            load: Load { links: 2, links_max: 10, sessions: 3, cpu_permille: 257 },
            status: None,
        }
    }

    #[test]
    fn nodes_are_rows_and_what_ails_them_is_said() {
        let ill = ClusterNode {
            reachable: false,
            owns: false,
            why: "quarantined".to_owned(),
            flaps: 2,
            ..node("b")
        };
        let leaving = ClusterNode {
            draining: true,
            owns: false,
            why: "draining".to_owned(),
            load: Load::default(),
            ..node("c")
        };
        let status = ClusterStatus {
            node: "a".to_owned(),
            cluster: Some("clarion".to_owned()),
            nodes: vec![node("a"), ill, leaving],
        };
        insta::assert_snapshot!(shown(&status));
    }

    #[test]
    fn what_a_node_says_of_itself_becomes_tables() {
        let lanes = ["control", "unicast"].map(|lane| {
            json!({"lane": lane, "credit_bytes": 4_194_304, "queued_bytes": 0, "sent": 7, "dropped": 1})
        });
        let says = json!({
            "peers": [{"node": "b", "rtt_us": 1234, "lanes": lanes}],
            "actors": {"relay": {"live": 6, "started": 7, "crashed": 1}},
            "store": {"writable": false, "refuses_because": "no replica", "epoch": 5, "queued": 0},
            "cluster": {"conflicts": [{"id": "b", "kept": "x:1", "other": "y:2", "second": "x:1"}]},
        });
        let status = ClusterStatus {
            node: "a".to_owned(),
            cluster: None,
            nodes: vec![ClusterNode { status: Some(says), ..node("a") }],
        };
        insta::assert_snapshot!(shown(&status));
    }

    #[test]
    fn a_node_that_says_it_otherwise_is_still_shown() {
        for says in [json!(null), json!([]), json!({"peers": {}, "actors": [], "store": 7})] {
            let nodes = vec![ClusterNode { status: Some(says), ..node("a") }];
            let status = ClusterStatus { node: "a".to_owned(), cluster: None, nodes };
            assert!(shown(&status).contains("http://a"));
        }
    }
}
