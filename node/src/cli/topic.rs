//! `clarion topic`: the members of a topic.

use clap::{Args, Subcommand};
use clarion_protocol::http::{MemberOutcome, TARGETS_MAX};
use clarion_protocol::{ProductId, TerminalId, TopicName};

use super::connection::{Connection, ConnectionOptions};
use super::exit::{Exit, Failure};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion topic add news phone-1 phone-2
  clarion topic members news
  clarion topic remove news phone-2        it cannot join again by itself";

/// `clarion topic`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// The product
    #[arg(long, global = true, default_value = "demo")]
    product: ProductId,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the members, in the order of their ids
    Members {
        /// The topic
        topic: TopicName,
        /// Only those behind this id
        #[arg(long, value_name = "TERMINAL")]
        after: Option<TerminalId>,
        /// At most so many
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
    },
    /// Put terminals into the topic, known or not
    Add(Change),
    /// Take terminals out of the topic; they cannot join again by themselves
    Remove(Change),
}

#[derive(Debug, Args)]
struct Change {
    /// The topic
    topic: TopicName,
    /// The terminals
    #[arg(required = true)]
    terminals: Vec<TerminalId>,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let backend = connection.backend_of(&arguments.product)?;
    match arguments.action {
        Action::Members { topic, after, limit } => {
            let (mut all, mut after) = (Vec::new(), after.map(|after| after.to_string()));
            while all.len() < limit {
                let page = backend.topic_members(&topic, after.as_deref(), None).await?;
                all.extend(page.items.into_iter().map(|member| member.terminal));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            all.truncate(limit);
            output.result(&all, || all.iter().map(|terminal| format!("{terminal}\n")).collect())
        }
        Action::Add(Change { topic, terminals }) => {
            let mut outcomes = Vec::new();
            for some in terminals.chunks(TARGETS_MAX) {
                outcomes.extend(backend.put_members(&topic, some.to_vec()).await?);
            }
            changed(&outcomes, output)
        }
        Action::Remove(Change { topic, terminals }) => {
            let mut outcomes = Vec::new();
            for some in terminals.chunks(TARGETS_MAX) {
                outcomes.extend(backend.remove_members(&topic, some.to_vec()).await?);
            }
            changed(&outcomes, output)
        }
    }
}

fn changed(outcomes: &[MemberOutcome], output: Output) -> Result<(), Failure> {
    output.result(&outcomes, || {
        let line = |outcome: &MemberOutcome| {
            let state = if outcome.member { "in" } else { "out" };
            let error =
                outcome.error.as_ref().map_or(String::new(), |error| format!("  ({})", error.code));
            format!("{}  {state}{error}\n", outcome.terminal)
        };
        outcomes.iter().map(line).collect()
    })?;
    let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).collect();
    match errors.first() {
        None => Ok(()),
        Some(error) => {
            let exit = if errors.iter().all(|error| error.retryable) {
                Exit::Unreachable
            } else {
                Exit::Refused
            };
            let message = format!("{} of {} terminals failed", errors.len(), outcomes.len());
            Err(Failure::new(exit, message).code(error.code.as_str()).hint(error.code.help()))
        }
    }
}
