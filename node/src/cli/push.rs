//! `clarion push`: pushes a message.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clarion_protocol::http::{PushAccepted, Target};
use clarion_protocol::{ProductId, TerminalId, TopicName, UserId};
use clarion_sdk::Push;
use clarion_sdk::backend::Addressed;
use serde_json::value::RawValue;

use super::connection::{Connection, ConnectionOptions};
use super::exit::Failure;
use super::output::{Output, time};
use super::values::duration;

const EXAMPLES: &str = "\
Examples:
  clarion push --terminal phone-1 --text hello
  clarion push --user ada --user bob --json-payload '{\"unread\": 3}' --ttl 12h
  clarion push --topic news --file picture.png --content-type image/png
  clarion push --all --text 'down at six' --key maintenance-17

The command ends with 0 when the message is stored durably for at least one target; targets that
failed are told on stderr. With --key the same command may be repeated: it is stored once.";

/// `clarion push`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The product that pushes
    #[arg(long, default_value = "demo")]
    product: ProductId,
    #[command(flatten)]
    audience: Audience,
    #[command(flatten)]
    payload: Payload,
    /// The content type of the file
    #[arg(
        long,
        requires = "file",
        default_value = "application/octet-stream",
        value_name = "TYPE"
    )]
    content_type: String,
    /// How long it may wait for terminals that are away: a number with s, m, h or d; 0s reaches
    /// only those online now. 3 days if it is not given
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// Idempotency key: the same key and message are stored once within 24 hours
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// Whom it is for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Audience {
    /// A terminal; repeat for up to 100
    #[arg(long = "terminal", value_name = "TERMINAL")]
    terminals: Vec<TerminalId>,
    /// A user, for all terminals of theirs; repeat for up to 100
    #[arg(long = "user", value_name = "USER")]
    users: Vec<UserId>,
    /// The members of a topic
    #[arg(long)]
    topic: Option<TopicName>,
    /// Every terminal of the product
    #[arg(long)]
    all: bool,
}

/// What it says.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Payload {
    /// Say a text (a JSON string)
    #[arg(long)]
    text: Option<String>,
    /// Say any JSON
    #[arg(long, value_name = "JSON")]
    json_payload: Option<String>,
    /// Say the bytes of a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let mut push =
        arguments.payload.said_to(arguments.audience.addressed(), &arguments.content_type)?;
    if let Some(ttl) = arguments.ttl {
        push = push.ttl(ttl.as_secs());
    }
    if let Some(key) = arguments.key {
        push = push.idempotency_key(key);
    }
    let accepted = connection.backend_of(&arguments.product)?.push(push).await?;
    for target in &accepted.targets {
        if let Some(error) = &target.error {
            let again = if error.retryable { " (may succeed later)" } else { "" };
            let detail = error.detail.as_deref().unwrap_or(error.code.title());
            let name = name(&target.target);
            output.note(&format!("not for {name}: {}: {detail}{again}", error.code));
        }
    }
    output.result(&accepted, || shown(&accepted))
}

fn shown(accepted: &PushAccepted) -> String {
    let stored = accepted.targets.iter().filter(|target| target.error.is_none()).count();
    let again = if accepted.replayed { ", as the first time" } else { "" };
    let targets = accepted.targets.len();
    // Without a position it was not stored: ttl 0.
    if accepted.targets.iter().all(|target| target.position.is_none()) {
        return format!(
            "{}  sent to who is online of {stored} of {targets} targets{again}\n",
            accepted.id
        );
    }
    let until = time(accepted.expires_at_ms);
    format!("{}  accepted for {stored} of {targets} targets until {until}{again}\n", accepted.id)
}

/// A target as people read it.
pub(crate) fn name(target: &Target) -> String {
    match target {
        Target::All => "all".to_owned(),
        Target::Terminal(terminal) => format!("terminal {terminal}"),
        Target::User(user) => format!("user {user}"),
        Target::Topic(topic) => format!("topic {topic}"),
    }
}

impl Audience {
    fn addressed(&self) -> Addressed {
        match &self.topic {
            Some(topic) => Push::to_topic(topic.as_str()),
            None if self.all => Push::to_all(),
            None if self.users.is_empty() => {
                Push::to_terminals(self.terminals.iter().map(TerminalId::as_str))
            }
            None => Push::to_users(self.users.iter().map(UserId::as_str)),
        }
    }
}

impl Payload {
    fn said_to(self, to: Addressed, content_type: &str) -> Result<Push, Failure> {
        if let Some(text) = self.text {
            return Ok(to.json(&text)?);
        }
        if let Some(json) = self.json_payload {
            let payload = RawValue::from_string(json).map_err(|error| {
                Failure::usage(format!("--json-payload is not JSON: {error}")).hint(
                    "quote it for the shell: --json-payload '{\"a\": 1}'; --text takes any text",
                )
            })?;
            return Ok(to.raw_json(payload)?);
        }
        let file = self.file.unwrap_or_default();
        let data = std::fs::read(&file)
            .map_err(|error| Failure::local(format!("cannot read {}", file.display()), error))?;
        Ok(to.bytes(content_type, &data)?)
    }
}
