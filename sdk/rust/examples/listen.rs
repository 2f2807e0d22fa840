//! Shows what arrives. `URL PRODUCT TOKEN [TOPIC…]`
//!
//! With the cursor file `listen.cursors` beside it, a restart goes on where this one ended.

use clarion_sdk::{Event, FileCursors, Payload, Terminal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, product, token, topics @ ..] = arguments.as_slice() else {
        return Err("usage: listen URL PRODUCT TOKEN [TOPIC…]".into());
    };
    let terminal = Terminal::builder(url, product, token.as_str())
        .topics(topics)
        .cursor_store(FileCursors::new("listen.cursors"))
        .agent("listen-example");
    let (_handle, mut events) = terminal.connect().await?;
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => {
                match &message.payload {
                    Payload::Json(text) => println!("{}: {text}", message.log),
                    Payload::Bytes { content_type, data } => {
                        println!("{}: {} bytes of {content_type}", message.log, data.len());
                    }
                }
                message.ack();
            }
            Event::Closed(closed) => eprintln!("closed: {closed}"),
            other => eprintln!("{other:?}"),
        }
    }
    Ok(())
}
