//! `clarion dev`: a node to try things with. Everything it needs it makes itself, once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use clarion_actors::system::System;
use clarion_config::{Config, Environment, Mode};
use clarion_protocol::ProductId;
use clarion_protocol::http::{TerminalKind, TokenAlgorithm};
use clarion_storage::{ApiKey, ProductRecord, TokenKey};
use serde_json::json;

use super::connection::{CREDENTIALS_DEFAULT, SERVER_DEFAULT, TERMINALS_DEFAULT};
use super::credentials::{Credentials, ProductKeys, random_secret};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::http::keys;
use crate::run::{self, Node};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  clarion dev
  clarion dev --data /var/tmp/try --http 127.0.0.1:9080 --terminals 127.0.0.1:9081
  clarion --json dev --http 127.0.0.1:0 --terminals 127.0.0.1:0      any free ports, told in JSON

The directory holds the store and, in `dev/`, the credentials that the other commands look for.
Environment variables such as CLARION_LOG__LEVEL=debug change the config.";

const PRODUCT: &str = "demo";
const ADMIN_TOKEN_VARIABLE: &str = "CLARION_ADMIN_TOKEN";

/// `clarion dev`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Directory of the store and the credentials; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "clarion-data")]
    data: PathBuf,
    /// Where the HTTP API listens, loopback only; port 0 for any that is free [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    http: Option<SocketAddr>,
    /// Where terminals connect, loopback only; port 0 for any that is free [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    terminals: Option<SocketAddr>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "not an address such as 127.0.0.1:8080".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("`clarion dev` has made-up keys and listens on loopback only; use `clarion start`"
            .to_owned())
    }
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let config = config(arguments)?;
    telemetry::start_logging(&config.log)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let credentials = Credentials::in_directory(&arguments.data.join("dev"));
    run::runtime()?.block_on(async {
        initialise(&arguments.data, &config).await?;
        // The variable goes before the file in the node: other windows must find the same token.
        match std::env::var(ADMIN_TOKEN_VARIABLE) {
            Ok(token) => credentials.keep_admin_token(&token)?,
            Err(_) if credentials.admin_token()?.is_none() => {
                credentials.keep_admin_token(&random_secret())?;
            }
            Err(_) => {}
        }
        let node = Node::start(config, &Environment::of_process())
            .await
            .map_err(|error| Failure::from(error).in_dev())?;
        demo_product(node.system(), &credentials).await?;
        announce(arguments, &node, &credentials, output)?;
        node.run_until_signal().await?;
        Ok(())
    })
}

fn config(arguments: &Arguments) -> Result<Config, Failure> {
    let environment = Environment::of_process();
    let mut config = Config::from_environment(&environment, Mode::Dev).map_err(|errors| {
        let report = clarion_config::report(&errors);
        Failure::new(Exit::Config, format!("errors in the environment\n{report}"))
    })?;
    config.http.listen = arguments.http.unwrap_or(config.http.listen);
    config.terminals.listen = arguments.terminals.unwrap_or(config.terminals.listen);
    config.store.path = arguments.data.join("store");
    config.auth.admin_token_file = Some(arguments.data.join("dev").join("admin-token"));
    if config.http.listen == config.terminals.listen && config.http.listen.port() != 0 {
        return Err(Failure::usage("--http and --terminals name the same address")
            .hint("give them different ports"));
    }
    Ok(config)
}

/// Makes the store when there is no data directory yet; never later, so that data that went missing
/// shows (I5).
async fn initialise(data: &Path, config: &Config) -> Result<(), Failure> {
    if !data.exists() {
        run::store::init(config, &Environment::of_process()).await?;
    } else if !config.store.path.exists() {
        let shown = data.display();
        return Err(Failure::new(Exit::Failed, format!("{shown} exists but holds no store"))
            .hint(format!("remove {shown} to start afresh, or give --data another directory")));
    }
    Ok(())
}

/// Makes the product once; its keys are kept in a file and put into the store, whichever lacks them.
async fn demo_product(system: &System, credentials: &Credentials) -> Result<(), Failure> {
    let refused = |failure: clarion_actors::Failure| {
        let detail = failure.detail.unwrap_or_else(|| failure.code.title().to_owned());
        Failure::new(Exit::Failed, format!("cannot make the product {PRODUCT}: {detail}"))
    };
    let product = ProductId::new(PRODUCT)
        .map_err(|error| Failure::new(Exit::Failed, format!("the product {PRODUCT} {error}")))?;
    let keys = match credentials.product(&product)? {
        Some(keys) => keys,
        None => {
            let keys = new_keys(&product);
            credentials.keep_product(&keys)?;
            keys
        }
    };
    let now_ms = system.time_ms();
    let (api_key, token_key) = records(&keys, now_ms)?;
    match system.product(&product).await.map_err(refused)? {
        None => {
            let record = ProductRecord {
                product,
                created_at_ms: now_ms,
                kinds: vec![
                    TerminalKind::Android,
                    TerminalKind::Ios,
                    TerminalKind::Pc,
                    TerminalKind::Web,
                    TerminalKind::Device,
                ],
                allow_sha1_body_hash: true,
                pushes_per_s_max: None,
                isolation_group: clarion_storage::DEFAULT_GROUP.into(),
                api_keys: vec![api_key],
                token_keys: vec![token_key],
            };
            system.create_product(record).await.map_err(refused)
        }
        Some(record) if knows(&record, &keys) => Ok(()),
        // The file was lost: new keys take the place of those nobody has any more.
        Some(_) => system
            .change_product(&product, move |record| {
                record.api_keys = vec![api_key];
                record.token_keys = vec![token_key];
                Ok(())
            })
            .await
            .map_err(refused),
    }
}

fn knows(record: &ProductRecord, keys: &ProductKeys) -> bool {
    let api = |key: &ApiKey| key.key == keys.api_key && key.revoked_at_ms.is_none();
    let token =
        |key: &TokenKey| Some(&key.kid) == keys.token_key.as_ref() && key.revoked_at_ms.is_none();
    record.api_keys.iter().any(api) && record.token_keys.iter().any(token)
}

fn new_keys(product: &ProductId) -> ProductKeys {
    let (api, token) = (keys::new_api_key(product, 0), keys::new_token_key(product, 0));
    ProductKeys {
        product: product.clone(),
        api_key: api.key,
        api_secret: api.secret,
        token_key: Some(token.kid),
        token_secret: Some(URL_SAFE_NO_PAD.encode(token.key)),
    }
}

fn records(keys: &ProductKeys, now_ms: u64) -> Result<(ApiKey, TokenKey), Failure> {
    let lost = || {
        Failure::new(Exit::Failed, format!("the file of {} holds no token secret", keys.product))
            .hint("remove it: `clarion dev` makes new keys")
    };
    let secret = keys.token_secret.as_deref().ok_or_else(lost)?;
    let api_key = ApiKey {
        key: keys.api_key.clone(),
        secret: keys.api_secret.clone(),
        created_at_ms: now_ms,
        revoked_at_ms: None,
    };
    let token_key = TokenKey {
        kid: keys.token_key.clone().ok_or_else(lost)?,
        algorithm: TokenAlgorithm::HS256,
        key: URL_SAFE_NO_PAD.decode(secret).map_err(|_| lost())?,
        created_at_ms: now_ms,
        revoked_at_ms: None,
    };
    Ok((api_key, token_key))
}

fn announce(
    arguments: &Arguments,
    node: &Node,
    credentials: &Credentials,
    output: Output,
) -> Result<(), Failure> {
    let (http, terminals) = (node.http_url(), node.terminals_url().unwrap_or_default());
    let directory = credentials.directory();
    let shown = directory.display();
    let clarion = invocation();
    let mut common = String::new();
    if directory != Path::new(CREDENTIALS_DEFAULT) {
        let anywhere = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        common.push_str(&format!(" --credentials {}", anywhere.display()));
    }
    let server = if http == SERVER_DEFAULT { String::new() } else { format!(" --server {http}") };
    let link = if terminals == TERMINALS_DEFAULT {
        String::new()
    } else {
        format!(" --terminals {terminals}")
    };
    output.result(
        &json!({
            "ready": true, "http": http, "terminals": terminals, "credentials": directory,
            "pid": std::process::id(),
        }),
        || {
            format!(
                "Clarion {version} is running; its data is in {data}. Ctrl-C stops it.\n\
                 \n  HTTP API   {http}\n  terminals  {terminals}\n  keys       {shown}: {PRODUCT}.json \
                 (pushes, terminal tokens), admin-token\n\
                 \nTry it from other windows:\n\
                 \n  {clarion} listen phone-1{link}{common}\
                 \n  {clarion} push --terminal phone-1 --text hello{server}{common}\n\
                 \n  {clarion} listen phone-2 --topic news{link}{common}\
                 \n  {clarion} push --topic news --text 'read all about it'{server}{common}\
                 \n  {clarion} push --all --json-payload '{{\"for\":\"everybody\"}}'{server}{common}\
                 \n  {clarion} status{server}{common}\n\n",
                version = env!("CARGO_PKG_VERSION"),
                data = arguments.data.display(),
            )
        },
    )
}

/// How this binary was called, so that the commands shown work where they are pasted.
pub(crate) fn invocation() -> String {
    let path = std::env::args().next().unwrap_or_else(|| "clarion".to_owned());
    let by_cargo = std::env::var_os("CARGO").is_some() && path.contains("target/");
    match (by_cargo, path.contains("target/release/")) {
        (true, true) => "cargo run --release --".to_owned(),
        (true, false) => "cargo run --".to_owned(),
        (false, _) => path,
    }
}

impl Failure {
    /// Names the flags of `clarion dev` instead of config keys.
    fn in_dev(mut self) -> Self {
        for (key, flag) in [("`http.listen`", "--http"), ("`terminals.listen`", "--terminals")] {
            self.message = self.message.replace(key, flag);
            self.hint = self.hint.map(|hint| hint.replace(key, flag));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_cannot_reach_it() {
        assert!(loopback("127.0.0.1:0").is_ok());
        assert!(loopback("[::1]:80").is_ok());
        assert!(loopback("0.0.0.0:80").unwrap_err().contains("loopback"));
        assert!(loopback("localhost").is_err());
    }
}
