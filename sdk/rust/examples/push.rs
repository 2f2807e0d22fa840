//! Pushes one message. `URL PRODUCT KEY SECRET AUDIENCE PAYLOAD`, where AUDIENCE is `all`,
//! `topic:X`, `user:X` or a terminal, and PAYLOAD is JSON, or else a text.

use clarion_sdk::{Backend, Push};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, product, key, secret, audience, payload] = arguments.as_slice() else {
        return Err("usage: push URL PRODUCT KEY SECRET AUDIENCE PAYLOAD".into());
    };
    let addressed = match audience.split_once(':') {
        Some(("topic", topic)) => Push::to_topic(topic),
        Some(("user", user)) => Push::to_user(user),
        _ if audience == "all" => Push::to_all(),
        _ => Push::to_terminal(audience),
    };
    let backend = Backend::builder(url, product, key, secret).build()?;
    let push = match serde_json::from_str(payload) {
        Ok(json) => addressed.raw_json(json)?,
        Err(_) => addressed.json(payload)?,
    };
    let accepted = backend.push(push.ttl(3600)).await?;
    println!("{}", accepted.id);
    for target in accepted.targets {
        if let Some(error) = target.error {
            eprintln!("{:?}: {}", target.target, error.code);
        }
    }
    Ok(())
}
