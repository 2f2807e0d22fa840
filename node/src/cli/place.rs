//! `clarion where`: which node something is on, and why.

use clap::{Args, Subcommand};
use clarion_protocol::http::Where;
use clarion_protocol::{ProductId, TerminalId, TopicName, UserId};

use super::connection::{Connection, ConnectionOptions};
use super::exit::Failure;
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  clarion where terminal phone-1
  clarion where topic news --product shop
  clarion where product shop

Every log (the inbox of a terminal or user, a topic, the broadcast of a product) falls into one of 4096
slots; each slot of an isolation group belongs to one of its nodes. The node listed first serves; when
it cannot, the next does.";

/// `clarion where`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The product of the terminal, user or topic
    #[arg(long, global = true, default_value = "demo")]
    product: ProductId,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The broadcast log of a product
    Product {
        /// The product
        name: ProductId,
    },
    /// A topic
    Topic {
        /// The topic
        name: TopicName,
    },
    /// The inbox of a terminal
    Terminal {
        /// The terminal
        name: TerminalId,
    },
    /// The inbox of a user
    User {
        /// The user
        name: UserId,
    },
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let admin = Connection::find(&arguments.connection)?.admin()?;
    let product = &arguments.product;
    let place = match &arguments.what {
        What::Product { name } => admin.where_is(name, "product", None).await?,
        What::Topic { name } => admin.where_is(product, "topic", Some(name.as_str())).await?,
        What::Terminal { name } => admin.where_is(product, "terminal", Some(name.as_str())).await?,
        What::User { name } => admin.where_is(product, "user", Some(name.as_str())).await?,
    };
    output.result(&place, || shown(&place))
}

fn shown(place: &Where) -> String {
    let owner = place.owner.as_deref().unwrap_or("nobody");
    let order: Vec<String> = place
        .order
        .iter()
        .map(|node| {
            let mark = if node.reachable { "" } else { " (unreachable)" };
            format!("{}{mark}", node.node)
        })
        .collect();
    let listed = |names: &[String]| {
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    };
    format!(
        "log     {}\nowner   {owner}\nwhy     {}\nslot    {} of 4096, isolation group {}\n\
         order   {}\nreaders {}\n",
        place.log,
        place.why,
        place.slot,
        place.isolation_group,
        listed(&order),
        listed(&place.readers),
    )
}

#[cfg(test)]
mod tests {
    use clarion_protocol::http::WhereNode;

    use super::*;

    #[test]
    fn owner_and_reason_come_first() {
        let node = |node: &str, reachable| WhereNode { node: node.to_owned(), reachable };
        let place = Where {
            log: "demo/terminal/phone-1".to_owned(),
            isolation_group: clarion_protocol::IsolationGroup::default(),
            slot: 7,
            owner: Some("b".to_owned()),
            why: "a cannot be reached; the next in placement order serves".to_owned(),
            order: vec![node("a", false), node("b", true)],
            readers: vec!["b".to_owned()],
        };
        insta::assert_snapshot!(shown(&place));
        let nobody = Where { owner: None, order: vec![], readers: vec![], ..place };
        assert!(shown(&nobody).contains("owner   nobody\n"));
    }
}
