//! `clarion status`: how a node is.

use clap::Args;
use serde_json::Value;

use super::connection::{Connection, ConnectionOptions};
use super::exit::Failure;
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion status
  clarion --json status | jq .links";

/// `clarion status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: ConnectionOptions,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let status = connection.admin()?.status().await?;
    output.result(&status, || {
        let mut text = String::new();
        for part in important_first(&status) {
            outline(&mut text, &part, 0);
        }
        text
    })
}

/// What people look for comes first; the figures of single shards are for scripts.
fn important_first(status: &Value) -> Vec<Value> {
    const FIRST: [&str; 8] =
        ["node", "version", "uptime_s", "alive", "draining", "readiness", "links", "store"];
    let mut rest = status.as_object().cloned().unwrap_or_default();
    rest.remove("links_by_shard");
    let take = |name: &&str| Some(serde_json::json!({ *name: rest.remove(*name)? }));
    let mut parts: Vec<Value> = FIRST.iter().filter_map(take).collect();
    parts.push(Value::Object(rest));
    parts
}

/// JSON as an indented outline: a newer node may say more than this build knows.
fn outline(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let width = |keys: &mut dyn Iterator<Item = &String>| {
        keys.map(|key| key.chars().count()).max().unwrap_or(0)
    };
    match value {
        Value::Object(fields) => {
            let width = width(&mut fields.keys());
            for (name, value) in fields {
                let leaf = !matches!(value, Value::Object(_) | Value::Array(_));
                if leaf {
                    text.push_str(&format!("{indent}{name:width$}  {}\n", plain(value)));
                } else {
                    text.push_str(&format!("{indent}{name}\n"));
                    outline(text, value, depth + 1);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if matches!(item, Value::Object(_) | Value::Array(_)) {
                    outline(text, item, depth);
                    text.push('\n');
                } else {
                    text.push_str(&format!("{indent}{}\n", plain(item)));
                }
            }
        }
        other => text.push_str(&format!("{indent}{}\n", plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_default().to_string(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_node_says_is_shown() {
        let shown = |value: serde_json::Value| {
            let mut text = String::new();
            outline(&mut text, &value, 0);
            text
        };
        assert_eq!(shown(serde_json::json!({"node": "n"})), "node  n\n");
        assert_eq!(shown(serde_json::json!({"links": {"open": 3}})), "links\n  open  3\n");
        assert_eq!(shown(serde_json::json!({"doors": ["a", null]})), "doors\n  a\n  -\n");
    }
}
