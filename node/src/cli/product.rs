//! `clarion product`: products and their keys.

use clap::{Args, Subcommand};
use clarion_protocol::http::{ApiKeyInfo, ProductChange, ProductCreate, ProductInfo, TerminalKind};
use clarion_protocol::{IsolationGroup, KeyId, ProductId};
use serde_json::json;

use super::connection::{Connection, ConnectionOptions};
use super::credentials::ProductKeys;
use super::exit::{Exit, Failure};
use super::output::{Output, Table, time};
use super::values::kind;

const EXAMPLES: &str = "\
Examples:
  clarion product create shop --save               keep its keys for later commands
  clarion --json product create shop > shop.json   secrets are shown this once
  clarion product list
  clarion product set shop --isolation-group gold  served by the nodes of that group from now on
  clarion product add-key shop --save && clarion product revoke-key shop shop-kabc

All of these need the node's admin token.";

const SET: &str = "\
Examples:
  clarion product set shop --isolation-group gold
  clarion product set shop --isolation-group default

Nodes say which group they are of with node.isolation_group; `clarion cluster status` lists them.
While no node of the group is there, pushes are refused as retryable. Sessions on nodes of other
groups are closed with `wrong_group` (4009) within seconds: their terminals connect to nodes of the
new one. A node that was not told of the change, its links being cut, finds it within 31 seconds.";

/// `clarion product`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a product and its first keys
    Create(Create),
    /// List the products
    List,
    /// Show a product and its keys, without secrets
    Show {
        /// The product
        product: ProductId,
    },
    /// Change a product
    #[command(after_help = SET)]
    Set {
        /// The product
        product: ProductId,
        /// The group of nodes that serves it from now on
        #[arg(long, value_name = "GROUP")]
        isolation_group: IsolationGroup,
    },
    /// Add a key that signs pushes; a product has two live ones at most
    AddKey {
        /// The product
        product: ProductId,
        /// Keep it in the credentials in place of the one kept there
        #[arg(long)]
        save: bool,
    },
    /// Revoke a key that signs pushes
    RevokeKey {
        /// The product
        product: ProductId,
        /// The key
        key: KeyId,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Its name: 1 to 64 of A-Z a-z 0-9 . _ : @ ~ -
    product: ProductId,
    /// A kind of terminal that it accepts: android, ios, pc, web or device; repeat for more, all
    /// if none is given
    #[arg(long = "kind", value_parser = kind)]
    kinds: Vec<TerminalKind>,
    /// Pushes a second and mode; unlimited if it is not given
    #[arg(long, value_name = "N")]
    pushes_per_s_max: Option<u32>,
    /// The group of nodes that serves it
    #[arg(long, value_name = "GROUP")]
    isolation_group: Option<IsolationGroup>,
    /// Refuse SHA-1 body hashes, which some OAuth libraries make
    #[arg(long)]
    no_sha1: bool,
    /// File with an Ed25519 public key (PEM) that signs terminal tokens; a secret is made if it is
    /// not given
    #[arg(long, value_name = "FILE")]
    token_public_key: Option<std::path::PathBuf>,
    /// Keep the keys in the credentials, for `clarion push`, `token` and `listen`
    #[arg(long)]
    save: bool,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    match arguments.action {
        Action::Create(create) => self::create(&connection, create, output).await,
        Action::List => list(&connection, output).await,
        Action::Show { product } => {
            let info = connection.admin()?.product(&product).await?;
            output.result(&info, || shown(&info))
        }
        Action::Set { product, isolation_group } => {
            let change = ProductChange { isolation_group: Some(isolation_group) };
            let info = connection.admin()?.change_product(&product, &change).await?;
            output.result(&info, || shown(&info))
        }
        Action::AddKey { product, save } => add_key(&connection, &product, save, output).await,
        Action::RevokeKey { product, key } => {
            connection.admin()?.revoke_key(&product, &key).await?;
            output.result(&json!({"revoked": key}), || format!("{key} is revoked\n"))
        }
    }
}

async fn create(connection: &Connection, create: Create, output: Output) -> Result<(), Failure> {
    let token_public_key_pem = create
        .token_public_key
        .map(|file| {
            std::fs::read_to_string(&file)
                .map_err(|error| Failure::local(format!("cannot read {}", file.display()), error))
        })
        .transpose()?;
    let request = ProductCreate {
        product: create.product,
        kinds: (!create.kinds.is_empty()).then_some(create.kinds),
        allow_sha1_body_hash: create.no_sha1.then_some(false),
        pushes_per_s_max: create.pushes_per_s_max,
        isolation_group: create.isolation_group,
        token_public_key_pem,
    };
    let info = connection.admin()?.create_product(&request).await?;
    let kept = if create.save {
        Some(connection.credentials().keep_product(&keys_of(&info)?)?)
    } else {
        None
    };
    output.result(&info, || {
        let mut text = format!("product {} is created\n", info.product);
        match &kept {
            Some(file) => text.push_str(&format!("  its keys are in {}\n", file.display())),
            None => text.push_str(&secrets(&info)),
        }
        text
    })
}

/// The secrets of a new product, which nobody can ask for again.
fn secrets(info: &ProductInfo) -> String {
    let mut text = "  keep these, they are not shown again:\n".to_owned();
    for key in &info.api_keys {
        let secret = key.secret.as_deref().unwrap_or("");
        text.push_str(&format!("  push key      {}\n  push secret   {secret}\n", key.key));
    }
    for key in &info.token_keys {
        text.push_str(&format!("  token key     {}\n", key.kid));
        if let Some(secret) = &key.secret {
            text.push_str(&format!("  token secret  {secret}\n"));
        }
    }
    text
}

/// The keys that the answer to a creation holds.
pub(crate) fn keys_of(info: &ProductInfo) -> Result<ProductKeys, Failure> {
    let missing = || Failure::new(Exit::Failed, "the node told no key of the new product");
    let api = info.api_keys.first().ok_or_else(missing)?;
    let token = info.token_keys.first();
    Ok(ProductKeys {
        product: info.product.clone(),
        api_key: api.key.clone(),
        api_secret: api.secret.clone().ok_or_else(missing)?,
        token_key: token.map(|key| key.kid.clone()),
        token_secret: token.and_then(|key| key.secret.clone()),
    })
}

async fn list(connection: &Connection, output: Output) -> Result<(), Failure> {
    let admin = connection.admin()?;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = admin.products(after.as_deref(), None).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    output.result(&all, || {
        let mut table = Table::new(["product", "group", "terminals", "keys", "created"]);
        for info in &all {
            let live = info.api_keys.iter().filter(|key| key.revoked_at_ms.is_none()).count();
            table.row([
                info.product.to_string(),
                info.isolation_group.to_string(),
                info.terminals.to_string(),
                live.to_string(),
                time(info.created_at_ms),
            ]);
        }
        table.to_string()
    })
}

async fn add_key(
    connection: &Connection,
    product: &ProductId,
    save: bool,
    output: Output,
) -> Result<(), Failure> {
    // Looked at first: a key that was made and cannot be kept is a secret lost.
    let kept = if save { connection.credentials().product(product)? } else { None };
    let key: ApiKeyInfo = connection.admin()?.add_key(product).await?;
    let secret = key.secret.clone().unwrap_or_default();
    if save {
        let (token_key, token_secret) =
            kept.map_or((None, None), |kept| (kept.token_key, kept.token_secret));
        let keys = ProductKeys {
            product: product.clone(),
            api_key: key.key.clone(),
            api_secret: secret.clone(),
            token_key,
            token_secret,
        };
        connection.credentials().keep_product(&keys)?;
    }
    output.result(&key, || {
        let secret = if save { "(in the credentials)" } else { &secret };
        format!("push key     {}\npush secret  {secret}\n", key.key)
    })
}

fn shown(info: &ProductInfo) -> String {
    let kinds: Vec<String> = info
        .kinds
        .iter()
        .filter_map(|kind| Some(serde_json::to_value(kind).ok()?.as_str()?.to_owned()))
        .collect();
    let rate = info.pushes_per_s_max.map_or("unlimited".to_owned(), |rate| rate.to_string());
    let state = |revoked: Option<u64>| {
        revoked.map_or("live".to_owned(), |at| format!("revoked {}", time(at)))
    };
    let mut text = format!(
        "product     {}\ncreated     {}\nterminals   {}\nkinds       {}\npushes/s    {rate} in each \
         mode\nSHA-1       {}\ngroup       {}\n",
        info.product,
        time(info.created_at_ms),
        info.terminals,
        kinds.join(", "),
        if info.allow_sha1_body_hash { "accepted" } else { "refused" },
        info.isolation_group,
    );
    for key in &info.api_keys {
        text.push_str(&format!("push key    {}  {}\n", key.key, state(key.revoked_at_ms)));
    }
    for key in &info.token_keys {
        let state = state(key.revoked_at_ms);
        text.push_str(&format!("token key   {}  {:?}  {state}\n", key.kid, key.algorithm));
    }
    text
}
