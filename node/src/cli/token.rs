//! `clarion token`: lets a terminal in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use clarion_protocol::http::{TerminalKind, TokenClaims, TokenRequest};
use clarion_protocol::{KeyId, ProductId, TerminalId, TopicPattern, UserId};
use serde_json::json;

use super::connection::{Connection, ConnectionOptions};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::values::{duration, kind};

const EXAMPLES: &str = "\
Examples:
  clarion token phone-1
  clarion token phone-1 --user ada --kind ios --topic 'news.*' --ttl 12h
  TOKEN=$(clarion token phone-1)

The token is signed with the product's token secret where this machine has it (see `clarion product
create --save`), and by the node, with the admin token, where not.";

/// `clarion token`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The terminal it lets in
    terminal: TerminalId,
    #[command(flatten)]
    subject: Subject,
    /// A topic the terminal may join by itself, or a prefix of topics and `*`; repeat for more
    #[arg(long = "topic", value_name = "PATTERN", value_parser = TopicPattern::new)]
    patterns: Vec<TopicPattern>,
    /// How long it is valid: a number with s, m, h or d
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// What a token says of its terminal.
#[derive(Debug, Clone, Args)]
pub(crate) struct Subject {
    /// The product
    #[arg(long, default_value = "demo")]
    pub(crate) product: ProductId,
    /// The user that the terminal belongs to
    #[arg(long)]
    pub(crate) user: Option<UserId>,
    /// What the terminal is: android, ios, pc, web or device
    #[arg(long, default_value = "pc", value_parser = kind)]
    pub(crate) kind: TerminalKind,
}

pub(crate) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let connection = Connection::find(&arguments.connection)?;
    let Arguments { terminal, subject, patterns, ttl, .. } = arguments;
    let token = make(&connection, &terminal, &subject, &patterns, ttl).await?;
    output.result(&json!({"token": token}), || format!("{token}\n"))
}

/// Signs a token here if the secret is at hand, or has the node sign it.
pub(crate) async fn make(
    connection: &Connection,
    terminal: &TerminalId,
    subject: &Subject,
    patterns: &[TopicPattern],
    ttl: Duration,
) -> Result<String, Failure> {
    let topics: Vec<String> = patterns.iter().cloned().map(String::from).collect();
    if let Some(keys) = connection.credentials().product(&subject.product)?
        && let (Some(kid), Some(secret)) = (&keys.token_key, &keys.token_secret)
    {
        let claims = TokenClaims {
            aud: subject.product.to_string(),
            sub: terminal.to_string(),
            user: subject.user.as_ref().map(ToString::to_string),
            kind: subject.kind,
            topics,
            exp: expiry(ttl),
            jti: None,
        };
        return mint(&claims, kid, secret);
    }
    let request = TokenRequest {
        terminal: terminal.clone(),
        user: subject.user.clone(),
        kind: Some(subject.kind),
        topics: patterns.to_vec(),
        ttl_s: Some(ttl.as_secs()),
    };
    connection.node_token(&subject.product, &request).await
}

/// `ttl` from now, Unix seconds.
pub(crate) fn expiry(ttl: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(ttl).as_secs()
}

/// Signs claims with an HS256 secret (base64url).
pub(crate) fn mint(claims: &TokenClaims, kid: &KeyId, secret: &str) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("cannot sign a token with key {kid}: {error}"))
    };
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|error| failed(&error))?;
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some(kid.to_string());
    let key = jsonwebtoken::EncodingKey::from_secret(&secret);
    jsonwebtoken::encode(&header, claims, &key).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_key_and_verifies_with_the_secret() {
        let claims = TokenClaims {
            aud: "demo".to_owned(),
            sub: "phone-1".to_owned(),
            user: None,
            kind: TerminalKind::Ios,
            topics: vec!["news.*".to_owned()],
            exp: expiry(Duration::from_secs(60)),
            jti: None,
        };
        let secret = super::super::credentials::random_secret();
        let kid = KeyId::new("k1").unwrap();
        let token = mint(&claims, &kid, &secret).unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(header.kid.as_deref(), Some("k1"));
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        validation.set_audience(&["demo"]);
        let key = jsonwebtoken::DecodingKey::from_secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
        let read = jsonwebtoken::decode::<TokenClaims>(&token, &key, &validation).unwrap();
        assert_eq!(read.claims, claims);
        assert!(mint(&claims, &kid, "not base64!").is_err());
    }
}
