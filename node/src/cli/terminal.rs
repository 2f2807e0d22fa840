//! `clarion terminal`: the terminals of a product.

use clap::{Args, Subcommand};
use clarion_protocol::http::TerminalInfo;
use clarion_protocol::{Offset, ProductId, TerminalId, UserId};

use super::connection::{Connection, ConnectionOptions};
use super::exit::Failure;
use super::output::{Output, Table, time};

const EXAMPLES: &str = "\
Examples:
  clarion terminal list
  clarion terminal list --user ada
  clarion terminal show phone-1
  clarion terminal kick phone-1";

/// `clarion terminal`.
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
    /// List terminals, in the order of their ids
    List {
        /// Only those of this user
        #[arg(long)]
        user: Option<UserId>,
        /// Only those behind this id
        #[arg(long, value_name = "TERMINAL")]
        after: Option<TerminalId>,
        /// At most so many
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
    },
    /// Show a terminal: whether it is online, and its cursors
    Show {
        /// The terminal
        terminal: TerminalId,
    },
    /// Close a terminal's session; it does not reconnect by itself
    Kick {
        /// The terminal
        terminal: TerminalId,
    },
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let backend = connection.backend_of(&arguments.product)?;
    match arguments.action {
        Action::List { user, after, limit } => {
            let user = user.as_ref().map(UserId::as_str);
            let (mut all, mut after) = (Vec::new(), after.map(|after| after.to_string()));
            while all.len() < limit {
                let page = backend.terminals(user, after.as_deref(), None).await?;
                all.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            all.truncate(limit);
            output.result(&all, || listed(&all))
        }
        Action::Show { terminal } => {
            let info = backend.terminal(&terminal).await?;
            output.result(&info, || shown(&info))
        }
        Action::Kick { terminal } => {
            let outcome = backend.kick(&terminal).await?;
            output.result(&outcome, || {
                let what = if outcome.kicked { "is closed" } else { "had no session" };
                format!("{terminal} {what}\n")
            })
        }
    }
}

fn listed(all: &[TerminalInfo]) -> String {
    let mut table = Table::new(["terminal", "user", "online", "last seen"]);
    for info in all {
        table.row([
            info.terminal.to_string(),
            info.user.as_ref().map_or("-".to_owned(), ToString::to_string),
            if info.online { "yes" } else { "no" }.to_owned(),
            time(info.last_seen_ms),
        ]);
    }
    table.to_string()
}

fn shown(info: &TerminalInfo) -> String {
    let mut text = format!(
        "terminal    {}\nuser        {}\nonline      {}\nregistered  {}\nlast seen   \
         {}\ngeneration  {}\n\n",
        info.terminal,
        info.user.as_ref().map_or("-".to_owned(), ToString::to_string),
        if info.online { "yes" } else { "no" },
        time(info.registered_at_ms),
        time(info.last_seen_ms),
        info.generation,
    );
    let mut table = Table::new(["log", "acknowledged up to", "time of that", "epoch"]);
    for cursor in &info.cursors {
        table.row([
            cursor.log.to_string(),
            cursor.offset.to_string(),
            if cursor.offset == Offset::ZERO {
                "-".to_owned()
            } else {
                time(cursor.offset.time_ms())
            },
            cursor.epoch.to_string(),
        ]);
    }
    text.push_str(&table.to_string());
    text
}
