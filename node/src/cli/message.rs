//! `clarion message`: what became of a message.

use clap::Args;
use clarion_protocol::http::{Counts, MessageState};
use clarion_protocol::{MessageId, ProductId};

use super::connection::{Connection, ConnectionOptions};
use super::exit::Failure;
use super::output::{Output, Table, time};
use super::push::name;

const EXAMPLES: &str = "\
Examples:
  clarion message 01KA8X6SJ0E5M9R2V7C3T1N4QF
  clarion --json message 01KA8X6SJ0E5M9R2V7C3T1N4QF | jq .counts

The audience is counted when the push is accepted. Every other number is counted where it happens;
acknowledged + expired + undeliverable + suppressed + evicted + pending make up the audience.";

/// `clarion message`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The id that the push was answered with
    id: MessageId,
    /// The product that pushed it
    #[arg(long, default_value = "demo")]
    product: ProductId,
    #[command(flatten)]
    connection: ConnectionOptions,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let state = connection.backend_of(&arguments.product)?.message(arguments.id).await?;
    output.result(&state, || shown(&state))
}

fn shown(state: &MessageState) -> String {
    let mut table = Table::new([
        "target",
        "audience",
        "delivered",
        "acknowledged",
        "expired",
        "undeliverable",
        "suppressed",
        "evicted",
        "pending",
    ]);
    let mut row = |name: String, counts: &Counts| {
        table.row([
            name,
            counts.audience.to_string(),
            counts.delivered.to_string(),
            counts.acknowledged.to_string(),
            counts.expired.to_string(),
            counts.undeliverable.to_string(),
            counts.suppressed.to_string(),
            counts.evicted.to_string(),
            counts.pending.to_string(),
        ]);
    };
    for target in &state.targets {
        row(name(&target.target), &target.counts);
    }
    if state.targets.len() != 1 {
        row("together".to_owned(), &state.counts);
    }
    format!(
        "message {}\naccepted {}, expires {}\n\n{table}",
        state.id,
        time(state.accepted_at_ms),
        time(state.expires_at_ms)
    )
}
