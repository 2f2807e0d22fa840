//! `clarion listen`: a terminal that shows what it receives.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clarion_protocol::{Code, TerminalId, TopicName, TopicPattern};
use clarion_sdk::terminal::{Closed, StartError};
use clarion_sdk::{
    Event, Events, FileCursors, Message, Payload, Terminal, TerminalHandle, TokenSource,
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, ConnectionOptions};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::token::{Subject, make};
use super::values::duration;

const EXAMPLES: &str = "\
Examples:
  clarion listen phone-1
  clarion listen phone-1 --user ada --topic news --topic weather
  clarion --json listen phone-1 --count 1 --timeout 30s | jq .payload
  clarion listen phone-1 --gateways http://127.0.0.1:8080 --gateways http://127.0.0.1:8090
  CLARION_TOKEN=eyJ… clarion listen phone-1 --terminals wss://push.example.com

Messages go to stdout and are acknowledged when they are written; connecting, reconnecting and gaps
are told on stderr. The node remembers where the terminal was: what is pushed while nobody listens
comes at the next time, until its TTL ends.";

/// Tokens that `listen` makes for itself; it makes a new one when a node asks for it.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// `clarion listen`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The terminal to be
    terminal: TerminalId,
    #[command(flatten)]
    subject: Subject,
    /// A topic to join; repeat for more
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// The terminal's token; made here when it is not given
    #[arg(long, value_name = "JWT", env = "CLARION_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Keep cursors and the ids of handled messages in this file, so that nothing is shown twice
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// Ask this HTTP API where to connect, instead of --terminals; repeat for more, asked in turn
    #[arg(long = "gateways", value_name = "URL")]
    gateways: Vec<String>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this long; failed when --count was not reached
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    connection: ConnectionOptions,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let url = connection.terminals_url().to_owned();
    let token = token_source(&arguments, connection);
    let product = arguments.subject.product.as_str();
    let (place, builder) = match arguments.gateways.split_first() {
        None => (url.clone(), Terminal::builder(&url, product, token)),
        Some((first, more)) => {
            let builder = Terminal::discovering(first, product, token);
            let builder = more.iter().fold(builder, |builder, url| builder.gateways_url(url));
            (format!("what {first} names"), builder)
        }
    };
    let mut builder = builder
        .topics(arguments.topics.iter().map(TopicName::as_str))
        .agent(concat!("clarion-listen/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &arguments.cursor_file {
        builder = builder.cursor_store(FileCursors::new(file));
    }
    output.note(&format!("connecting to {place} as {}", arguments.terminal));
    let (handle, mut events) = builder.connect().await.map_err(not_started)?;
    let shown = show(&mut events, arguments.count, deadline, output).await?;
    finish(&handle, &mut events).await;
    match arguments.count {
        Some(count) if shown < count => {
            Err(Failure::new(Exit::Failed, format!("{shown} of {count} messages came in time")))
        }
        _ => Ok(()),
    }
}

fn token_source(arguments: &Arguments, connection: Connection) -> TokenSource {
    if let Some(token) = &arguments.token {
        return TokenSource::from(token.as_str());
    }
    let (terminal, subject) = (arguments.terminal.clone(), arguments.subject.clone());
    let patterns: Vec<TopicPattern> = arguments
        .topics
        .iter()
        .filter_map(|topic| TopicPattern::new(topic.as_str()).ok())
        .collect();
    let all = std::sync::Arc::new((connection, terminal, subject, patterns));
    TokenSource::from_fn(move || {
        let all = all.clone();
        async move {
            let (connection, terminal, subject, patterns) = &*all;
            make(connection, terminal, subject, patterns, TOKEN_TTL).await
        }
    })
}

/// Shows events until it is enough; answers how many messages there were.
async fn show(
    events: &mut Events,
    count: Option<u64>,
    deadline: Option<Instant>,
    output: Output,
) -> Result<u64, Failure> {
    let (mut shown, mut connected) = (0, false);
    while count.is_none_or(|count| shown < count) {
        let event = match deadline {
            Some(deadline) => match timeout_at(deadline, events.next()).await {
                Ok(event) => event,
                Err(_) => break,
            },
            None => events.next().await,
        };
        match event {
            Some(Event::Message(message)) => {
                print(&message, output)?;
                message.ack();
                shown += 1;
            }
            Some(Event::Closed(closed)) => return Err(ended(&closed)),
            Some(event) => {
                connected |= matches!(event, Event::Opened(_));
                tell(&event, output);
            }
            None => break,
        }
    }
    if deadline.is_some() && count.is_none() && !connected {
        return Err(Failure::new(Exit::Unreachable, "no session was opened in time")
            .hint("is the node running, and is --terminals its listener for terminals?"));
    }
    Ok(shown)
}

fn print(message: &Message, output: Output) -> Result<(), Failure> {
    let Message { id, log, offset, redelivered, .. } = message;
    match &message.payload {
        Payload::Json(payload) => output.result(
            &json!({
                "id": id, "log": log, "offset": offset, "redelivered": redelivered,
                "payload": payload,
            }),
            // JSON as it came: what would control the reader's screen is escaped in it.
            || format!("{log}  {}\n", payload.get()),
        ),
        Payload::Bytes { content_type, data } => {
            use base64::Engine;
            let base64 = base64::engine::general_purpose::STANDARD.encode(data);
            output.result(
                &json!({
                    "id": id, "log": log, "offset": offset, "redelivered": redelivered,
                    "payload_base64": base64, "content_type": content_type,
                }),
                || format!("{log}  <{}, {} bytes>\n", content_type.escape_default(), data.len()),
            )
        }
    }
}

fn tell(event: &Event, output: Output) {
    match event {
        Event::Opened(opened) => {
            output.note(&format!("listening, connected to {}", opened.node));
            for (topic, code) in &opened.refused {
                let name = Code::from_number(*code).map_or("unknown", Code::as_str);
                output.note(&format!("topic {topic} was refused: {code} {name}"));
            }
        }
        Event::Gap(gap) => {
            output.note(&format!("gap: messages of {} are gone ({:?})", gap.log, gap.reason));
        }
        Event::Subscribed(topic) => output.note(&format!("in topic {topic} now")),
        Event::Unsubscribed(topic) => output.note(&format!("out of topic {topic} now")),
        Event::CursorsNotSaved(error) => output.note(&format!("cursors were not saved: {error}")),
        Event::Disconnected { why, retry_in } => {
            let seconds = retry_in.as_secs_f64();
            output.note(&format!("link is down: {why}; trying again in {seconds:.1} s"));
        }
        _ => {}
    }
}

/// Ends in good order, so that what was shown is acknowledged.
async fn finish(handle: &TerminalHandle, events: &mut Events) {
    handle.close();
    while let Some(event) = events.next().await {
        if matches!(event, Event::Closed(_)) {
            break;
        }
    }
}

fn ended(closed: &Closed) -> Failure {
    let known = Code::from_number(closed.code);
    let failure = Failure::new(Exit::Refused, format!("the node closed the session: {closed}"))
        .code(&closed.reason);
    match known {
        Some(code) => failure.hint(code.help()),
        None => failure,
    }
}

fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Token(error) => match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => Failure::local("no token", error),
        },
        StartError::Url(error) => Failure::usage(format!("--terminals: {error}"))
            .hint("give a WebSocket URL such as ws://127.0.0.1:8081"),
        StartError::Cursors(error) => Failure::local("the cursor file cannot be used", error).hint(
            "each terminal needs a file of its own; remove it to start from the node's count",
        ),
        other => Failure::local("cannot listen", other),
    }
}
