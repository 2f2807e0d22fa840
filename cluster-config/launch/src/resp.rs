//! As much of the Redis protocol as it takes to ask a server how it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::LaunchError;

/// How long a server may take for an answer: one that is stopped gives none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest text that is taken from a server, bytes.
const BULK_BYTES_MAX: usize = 1 << 24;

/// An answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// Text or bytes; what is not UTF-8 is replaced.
    Text(String),
    /// Several.
    Array(Vec<Self>),
}

impl Value {
    /// The text of it; empty when it has none.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Nil | Self::Int(_) | Self::Array(_) => "",
        }
    }

    /// The items of it; none when it has none.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            Self::Nil | Self::Int(_) | Self::Text(_) => &[],
        }
    }

    /// The number in it, also when it is written as text.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            Self::Nil | Self::Array(_) => None,
        }
    }
}

/// A connection without TLS.
#[derive(Debug)]
pub struct Connection(BufStream<TcpStream>);

impl Connection {
    /// Connects; with a password it signs in as the default user.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn open(at: SocketAddr, password: Option<&str>) -> Result<Self, LaunchError> {
        let unreachable = || format!("cannot reach {at}");
        let stream = timeout(ANSWER_TIMEOUT, TcpStream::connect(at))
            .await
            .map_err(LaunchError::of(unreachable()))?
            .map_err(LaunchError::of(unreachable()))?;
        let mut connection = Self(BufStream::new(stream));
        if let Some(password) = password {
            connection.command(&["AUTH", password]).await?;
        }
        Ok(connection)
    }

    /// Sends a command and reads the answer.
    ///
    /// # Errors
    /// When the server answers with an error, or not in time. The connection is of no use then.
    pub async fn command(&mut self, words: &[&str]) -> Result<Value, LaunchError> {
        let name = words.first().copied().unwrap_or_default();
        let exchange = async {
            let mut request = format!("*{}\r\n", words.len());
            for word in words {
                request += &format!("${}\r\n{word}\r\n", word.len());
            }
            self.0.write_all(request.as_bytes()).await.map_err(LaunchError::of(name))?;
            self.0.flush().await.map_err(LaunchError::of(name))?;
            self.read().await
        };
        match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer.map_err(LaunchError::of(name)),
            Err(_) => Err(LaunchError::new(format!("{name}: no answer in time"))),
        }
    }

    async fn read(&mut self) -> Result<Value, LaunchError> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(LaunchError::of("a number"));
        match kind {
            "+" => Ok(Value::Text(rest.to_owned())),
            "-" => Err(LaunchError::new(rest)),
            ":" => Ok(Value::Int(number()?)),
            "$" => match usize::try_from(number()?) {
                Ok(length) if length <= BULK_BYTES_MAX => {
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes).await.map_err(LaunchError::of("a text"))?;
                    bytes.truncate(length);
                    Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
                Ok(_) => Err(LaunchError::new("the text is too long")),
                Err(_) => Ok(Value::Nil),
            },
            "*" => {
                let mut items = Vec::new();
                for _ in 0..number()?.max(0) {
                    items.push(Box::pin(self.read()).await?);
                }
                Ok(Value::Array(items))
            }
            _ => Err(LaunchError::new(format!("this is not Redis: {line:?}"))),
        }
    }

    async fn line(&mut self) -> Result<String, LaunchError> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.map_err(LaunchError::of("a line"))?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(LaunchError::new("the connection ended")),
        }
    }
}
