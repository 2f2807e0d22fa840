//! As much of HTTP as it takes to ask a node how it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::LaunchError;

/// How long a node may take for an answer: one that is stopped gives none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A request without a body, on a connection of its own; with a token, as its owner.
///
/// # Errors
/// When there is no answer in time.
pub async fn request(
    method: &str,
    at: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> Result<Answer, LaunchError> {
    let what = || format!("{method} http://{at}{path}");
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: 0\r\n"
        );
        if let Some(token) = token {
            text += &format!("authorization: Bearer {token}\r\n");
        }
        stream.write_all((text + "\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(LaunchError::of(what()))?
        .map_err(LaunchError::of(what()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| LaunchError::new(format!("{}: no HTTP", what())))?;
    Ok(Answer { status, body: body.to_owned() })
}
