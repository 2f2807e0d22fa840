//! Autobahn's cases (`kosoku`) against the WebSocket layer of the terminals' listener: the settings
//! and the byte stream of the gateway, only with room for the cases' larger messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;

use clarion_actors::LinkIo;
use clarion_config::TerminalsConfig;
use clarion_node::gateway::socket_config;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

/// The largest message of the cases that run.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

async fn echo(stream: TcpStream) {
    let config = socket_config(&TerminalsConfig::default())
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let accepted = tokio_tungstenite::accept_async_with_config(LinkIo::new(stream), Some(config));
    let Ok(mut socket) = accepted.await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_links_websocket_passes_autobahns_cases() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let report = tempfile::tempdir().unwrap();
    // Left out: 9 (how fast), 12 and 13 (compression, which the protocol does not have).
    let output = Command::new(support::client::python().with_file_name("kosoku"))
        .args(["-p", "4", "-x", "9.*", "-x", "12.*", "-x", "13.*", "-o"])
        .arg(report.path())
        .arg(address.to_string())
        .kill_on_drop(true)
        .output()
        .await
        .expect("kosoku, which `.ci/run python` installs");
    assert!(output.status.success(), "{output:?}");

    let index = std::fs::read_to_string(report.path().join("index.json")).unwrap();
    let agents: BTreeMap<String, BTreeMap<String, serde_json::Value>> =
        serde_json::from_str(&index).unwrap();
    let cases = agents.values().next().unwrap();
    assert!(cases.len() > 200, "only {} cases ran", cases.len());
    let passed = |word: &serde_json::Value| {
        ["OK", "NON-STRICT", "INFORMATIONAL"].contains(&word.as_str().unwrap_or_default())
    };
    let failed: Vec<_> = cases
        .iter()
        .filter(|(_, case)| !passed(&case["behavior"]) || !passed(&case["behaviorClose"]))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
