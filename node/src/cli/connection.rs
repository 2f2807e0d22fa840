//! Which node a command talks to, and with which credentials.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clarion_protocol::ProductId;
use clarion_protocol::http::TokenRequest;
use clarion_sdk::backend::{BuildError, RequestTuning};
use clarion_sdk::transport::Tcp;
use clarion_sdk::{Admin, Backend, PushError};

use super::credentials::{Credentials, ProductKeys};
use super::exit::{Exit, Failure};

/// Where clients look for a node's API unless told otherwise.
pub(crate) const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";
/// Where terminals connect unless told otherwise.
pub(crate) const TERMINALS_DEFAULT: &str = "ws://127.0.0.1:8081";
/// Where clients look for credentials unless told otherwise.
pub(crate) const CREDENTIALS_DEFAULT: &str = "clarion-data/dev";

/// How long a command tries to reach a node or to be let in.
const DEADLINE: Duration = Duration::from_secs(5);

/// Options of every command that talks to a node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionOptions {
    /// The node's HTTP API
    #[arg(
        long, global = true, value_name = "URL", env = "CLARION_SERVER",
        default_value = SERVER_DEFAULT, hide_env_values = true
    )]
    server: String,
    /// Where terminals connect
    #[arg(
        id = "terminals_url", long = "terminals", global = true, value_name = "URL",
        env = "CLARION_TERMINALS",
        default_value = TERMINALS_DEFAULT, hide_env_values = true
    )]
    terminals: String,
    /// Directory with the credentials that `clarion dev` and `clarion product create --save` keep
    #[arg(
        long, global = true, value_name = "DIR", env = "CLARION_CREDENTIALS",
        default_value = CREDENTIALS_DEFAULT, hide_env_values = true
    )]
    credentials: PathBuf,
    /// File with the admin token; without it CLARION_ADMIN_TOKEN counts, then the credentials
    #[arg(long, global = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// A node, and what is needed to speak to it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    server: String,
    terminals: String,
    credentials: Credentials,
    admin_token: Option<AdminToken>,
}

/// Not shown by `Debug`.
#[derive(Clone)]
struct AdminToken(String);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl Connection {
    /// What the options, the environment and the credentials say.
    pub(crate) fn find(options: &ConnectionOptions) -> Result<Self, Failure> {
        let admin_token = match &options.admin_token_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
                Failure::local(
                    format!("cannot read {} (--admin-token-file)", file.display()),
                    error,
                )
            })?),
            None => std::env::var("CLARION_ADMIN_TOKEN").ok(),
        };
        Ok(Self {
            server: options.server.clone(),
            terminals: options.terminals.clone(),
            credentials: Credentials::in_directory(&options.credentials),
            admin_token: admin_token.map(|token| AdminToken(token.trim().to_owned())),
        })
    }

    /// A node whose addresses and admin token are known.
    pub(crate) fn to(server: &str, terminals: &str, admin_token: String) -> Self {
        Self {
            server: server.to_owned(),
            terminals: terminals.to_owned(),
            credentials: Credentials::in_directory(std::path::Path::new(CREDENTIALS_DEFAULT)),
            admin_token: Some(AdminToken(admin_token)),
        }
    }

    /// Where credentials are kept.
    pub(crate) const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Where terminals connect.
    pub(crate) fn terminals_url(&self) -> &str {
        &self.terminals
    }

    /// An administrator of the node.
    pub(crate) fn admin(&self) -> Result<Admin, Failure> {
        let token = match &self.admin_token {
            Some(AdminToken(token)) => token.clone(),
            None => self.credentials.admin_token()?.ok_or_else(|| {
                Failure::usage("this needs the admin token of the node").hint(format!(
                    "set CLARION_ADMIN_TOKEN, give --admin-token-file, or --credentials \
                     DIR/credentials with the DIR of `clarion cluster up`, or run where `clarion \
                     dev` keeps {}",
                    self.credentials.admin_token_file().display()
                ))
            })?,
        };
        let tcp = Tcp::new().map_err(|error| Failure::local("TLS", error))?;
        let tuning = tuned(RequestTuning::default());
        Admin::with(&self.server, &token, &tcp, tuning).map_err(not_built)
    }

    /// A back-end of the product, with its key from the environment or the credentials.
    pub(crate) fn backend_of(&self, product: &ProductId) -> Result<Backend, Failure> {
        let (key, secret) =
            match (std::env::var("CLARION_API_KEY"), std::env::var("CLARION_API_SECRET")) {
                (Ok(key), Ok(secret)) => (key, secret),
                _ => {
                    let keys = self.credentials.product(product)?.ok_or_else(|| {
                        Failure::usage(format!("this needs a key of the product {product}")).hint(
                            format!(
                                "set CLARION_API_KEY and CLARION_API_SECRET, give --credentials \
                                 DIR/credentials with the DIR of `clarion cluster up`, or have {} \
                                 (see `clarion product create --save`)",
                                self.credentials.product_file(product).display()
                            ),
                        )
                    })?;
                    (keys.api_key.to_string(), keys.api_secret)
                }
            };
        Backend::builder(&self.server, product.as_str(), &key, &secret)
            .tuning(|tuning| *tuning = tuned(tuning.clone()))
            .build()
            .map_err(not_built)
    }

    /// A back-end with the given keys.
    pub(crate) fn backend_with(
        &self,
        keys: &ProductKeys,
        in_flight_max: usize,
    ) -> Result<Backend, Failure> {
        Backend::builder(
            &self.server,
            keys.product.as_str(),
            keys.api_key.as_str(),
            &keys.api_secret,
        )
        .tuning(|tuning| tuning.in_flight_max = in_flight_max)
        .build()
        .map_err(not_built)
    }

    /// A token that the node signs.
    pub(crate) async fn node_token(
        &self,
        product: &ProductId,
        request: &TokenRequest,
    ) -> Result<String, Failure> {
        Ok(self.admin()?.mint_token(product, request).await?.token)
    }
}

/// A person waits: the node is given up sooner than a back-end would.
fn tuned(mut tuning: RequestTuning) -> RequestTuning {
    tuning.deadline = DEADLINE;
    tuning
}

fn not_built(error: BuildError) -> Failure {
    match error {
        BuildError::Url(error) => Failure::usage(format!("--server: {error}"))
            .hint("give the URL of the node's HTTP API, such as http://127.0.0.1:8080"),
        other => Failure::new(Exit::Failed, other.to_string()),
    }
}

impl From<PushError> for Failure {
    /// What the node said, in its own words; else what became of the connection.
    fn from(error: PushError) -> Self {
        let exit = if error.retryable { Exit::Unreachable } else { Exit::Refused };
        let Some(problem) = &error.problem else {
            let failure = Self::new(exit, error.to_string());
            return if error.retryable {
                failure.hint("is the node running, and is --server its HTTP API?")
            } else {
                failure
            };
        };
        let mut failure = Self::new(exit, error.to_string());
        failure.code = Some(problem.code.clone());
        failure.request_id.clone_from(&problem.request_id);
        failure.hint = error.code().map(|code| code.help().to_owned());
        failure
    }
}
