//! A chat room: who runs this reads a topic as a terminal and writes to it as the back-end, line
//! by line. `LINK_URL API_URL PRODUCT TOKEN KEY SECRET ROOM NAME`
//!
//! In earnest the key stays on a server: a terminal that holds it can push to everybody.

use clarion_sdk::{Backend, Event, Push, Terminal};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [link_url, api_url, product, token, key, secret, room, name] = arguments.as_slice() else {
        return Err("usage: chat LINK_URL API_URL PRODUCT TOKEN KEY SECRET ROOM NAME".into());
    };
    let backend = Backend::builder(api_url, product, key, secret).build()?.connect()?;
    let terminal = Terminal::builder(link_url, product, token.as_str()).topics([room]);
    let (handle, mut events) = terminal.connect().await?;
    let mut lines = typed();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(text) => {
                    let said = Push::to_topic(room).json(&json!({ "from": name, "text": text }))?;
                    backend.send(said).await?;
                }
                None => handle.close(),
            },
            event = events.next() => match event {
                Some(Event::Message(message)) => {
                    let said: Value = message.json()?;
                    println!("{}: {}", said["from"], said["text"]);
                    message.ack();
                }
                Some(Event::Closed(_)) | None => return Ok(()),
                Some(_) => {}
            },
        }
    }
}

/// Lines from the keyboard, read on a thread of its own because that cannot be interrupted.
fn typed() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
