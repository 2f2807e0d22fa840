//! Requests to a node, byte by byte, and the signatures of a product's back-end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clarion_protocol::oauth::{SignRequest, sign};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A product's keys.
#[derive(Debug, Clone)]
pub struct Key {
    pub product: String,
    pub key: String,
    pub secret: String,
    pub kid: String,
    pub token_secret: String,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Key {
    /// Of a product that was just made.
    pub fn of(made: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            product: text(&made["product"]),
            key: text(&made["api_keys"][0]["key"]),
            secret: text(&made["api_keys"][0]["secret"]),
            kid: text(&made["token_keys"][0]["kid"]),
            token_secret: text(&made["token_keys"][0]["secret"]),
        }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/products/{}{rest}", self.product)
    }

    /// The `Authorization` header of a request.
    pub fn sign(&self, method: &str, url: &str, body: Option<&str>) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let nonce = format!("{}-{n}", std::process::id());
        let timestamp = now_s();
        let (key, secret) = (&*self.key, &*self.secret);
        let body = body.map(str::as_bytes);
        sign(&SignRequest { method, url, body, key, secret, nonce: &nonce, timestamp })
    }
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One request on a connection of its own.
pub async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Reply {
    try_send(to, method, path, headers, body).await.expect("an answer")
}

/// The same; `None` when the connection breaks.
pub async fn try_send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Option<Reply> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        let length = body.len();
        text += &format!("content-type: application/json\r\ncontent-length: {length}\r\n");
    }
    text += "\r\n";
    text += body.unwrap_or_default();
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.expect("an answer in time").ok()?;
    (!answer.is_empty()).then(|| Reply::parse(&answer))
}

impl Reply {
    pub fn parse(answer: &[u8]) -> Self {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Self { status, headers: lines.map(header).collect(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}
