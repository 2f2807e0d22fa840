//! Pushes one message. `URL PRODUCT KEY SECRET AUDIENCE TEXT`, where AUDIENCE is `all`, `topic:X`,
//! `user:X` or a terminal.

use clarion_sdk::{Backend, Push};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, product, key, secret, audience, text] = arguments.as_slice() else {
        return Err("usage: push URL PRODUCT KEY SECRET AUDIENCE TEXT".into());
    };
    let addressed = match audience.split_once(':') {
        Some(("topic", topic)) => Push::to_topic(topic),
        Some(("user", user)) => Push::to_user(user),
        _ if audience == "all" => Push::to_all(),
        _ => Push::to_terminal(audience),
    };
    let backend = Backend::builder(url, product, key, secret).build()?;
    let accepted = backend.push(addressed.json(text)?.ttl(3600)).await?;
    println!("{}", accepted.id);
    for target in accepted.targets {
        if let Some(error) = target.error {
            eprintln!("{:?}: {}", target.target, error.code);
        }
    }
    Ok(())
}
