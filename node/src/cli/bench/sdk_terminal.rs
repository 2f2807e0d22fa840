//! A bench terminal that is the SDK's.

use std::sync::Arc;

use clarion_protocol::TopicName;
use clarion_sdk::terminal::Events;
use clarion_sdk::transport::Tcp;
use clarion_sdk::{Event, Payload, Terminal, TerminalHandle};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::Uri;

use super::load::Terminals;
use super::raw::{CONNECT_TIMEOUT, source};
use super::tally::Tally;

/// A session that is open.
pub(super) struct Live {
    handle: TerminalHandle,
    events: Events,
}

/// Connects terminal number `index` and waits until its session is open.
pub(super) async fn connect(
    terminals: &Terminals,
    index: u32,
    token: String,
) -> Result<Live, String> {
    let node = terminals.node(index);
    let uri: Uri = node.parse().map_err(|_| format!("{node} is no URL"))?;
    let local = source(uri.port_u16().unwrap_or(80), index);
    let connector = Tcp::new().map_err(|error| error.to_string())?.from_address(local);
    let (handle, mut events) = Terminal::builder(node, terminals.product.as_str(), token)
        .topics(terminals.topics.iter().map(TopicName::as_str))
        .agent("clarion-bench")
        .ids_remembered(64)
        .shared_connector(Arc::new(connector))
        .tuning(|tuning| tuning.read_buffer_bytes = 1024)
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let mut last = "no session in time".to_owned();
    let opened = timeout(CONNECT_TIMEOUT, async {
        loop {
            match events.next().await {
                Some(Event::Opened(_)) => return Ok(()),
                Some(Event::Closed(closed)) => return Err(closed.to_string()),
                // It tries again by itself, as a terminal that a busy node has refused.
                Some(Event::Disconnected { why, .. }) => last = why.to_string(),
                Some(_) => {}
                None => return Err("it ended before it was open".to_owned()),
            }
        }
    });
    match opened.await {
        Ok(opened) => opened.map(|()| Live { handle, events }),
        Err(_) => Err(last),
    }
}

/// Receives until `stop` changes or the terminal ends; what comes goes into `tally`.
pub(super) async fn receive(
    live: Live,
    tally: &Tally,
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let Live { handle, mut events } = live;
    let mut stopping = false;
    let mut duplicates = 0;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.changed(), if !stopping => {
                stopping = true;
                handle.close();
                continue;
            }
        };
        match event {
            Some(Event::Message(message)) => {
                if let Payload::Json(json) = &message.payload {
                    tally.payload(json.get());
                }
                tally.received(1);
                message.ack();
                let seen = handle.duplicates();
                for _ in duplicates..seen {
                    tally.duplicate();
                }
                duplicates = seen;
            }
            Some(Event::Gap(_)) => tally.gap(),
            Some(Event::Disconnected { why, .. }) => tally.broken(why.to_string()),
            Some(Event::Closed(_)) | None if stopping => return Ok(()),
            Some(Event::Closed(closed)) => return Err(closed.to_string()),
            None => return Err("it ended".to_owned()),
            Some(_) => {}
        }
    }
}
