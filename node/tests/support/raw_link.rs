//! A terminal's end of a link, byte by byte, for what no WebSocket library would send.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A connection whose upgrade was accepted.
pub struct RawLink {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// How a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a close frame.
    Code(u16),
    /// Without.
    Lost,
}

/// The request that opens a link.
pub fn upgrade(host: &str, path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n"
    )
}

/// A masked frame. `first` holds FIN, reserved bits and the opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend_from_slice(payload); // the mask is zero
    bytes
}

/// The head of a masked frame that claims this length.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

impl RawLink {
    /// Sends an upgrade request and reads its answer. `None`: it was refused.
    pub async fn upgrade(mut stream: TcpStream, request: &str) -> Option<Self> {
        stream.write_all(format!("{request}\r\n").as_bytes()).await.ok()?;
        let mut link = Self { stream, read: Vec::new() };
        loop {
            if let Some(end) = link.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let accepted = link.read.starts_with(b"HTTP/1.1 101");
                link.read.drain(..end + 4);
                return accepted.then_some(link);
            }
            link.more().await?;
        }
    }

    /// A terminal's link.
    pub async fn connect(to: std::net::SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(to).await.ok()?;
        Self::upgrade(stream, &upgrade(&to.to_string(), "/v1/link", "clarion.v1.json")).await
    }

    async fn more(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        let count =
            timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("an answer").ok()?;
        self.read.extend_from_slice(&chunk[..count]);
        (count > 0).then_some(())
    }

    /// The next frame: opcode and payload.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, head, length)) = head(&self.read)
                && self.read.len() >= head + length
            {
                let payload = self.read[head..head + length].to_vec();
                self.read.drain(..head + length);
                return Some((opcode, payload));
            }
            self.more().await?;
        }
    }

    /// The next frame of the protocol.
    pub async fn json(&mut self) -> Option<Value> {
        loop {
            match self.frame().await? {
                (TEXT, payload) => return serde_json::from_slice(&payload).ok(),
                (CLOSE, _) => return None,
                _ => {}
            }
        }
    }

    /// The next frame of a type.
    pub async fn next(&mut self, kind: &str) -> Option<Value> {
        loop {
            let frame = self.json().await?;
            if frame["t"] == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the end.
    pub async fn end(&mut self) -> End {
        while let Some((opcode, payload)) = self.frame().await {
            if opcode == CLOSE {
                let code =
                    payload.get(..2).map_or(1005, |two| u16::from_be_bytes([two[0], two[1]]));
                return End::Code(code);
            }
        }
        End::Lost
    }

    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(PATIENCE, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    pub async fn send_json(&mut self, value: &Value) -> bool {
        self.send(&frame(0x80 | TEXT, value.to_string().as_bytes())).await
    }

    /// Opens session 1; the answer.
    pub async fn open(&mut self, product: &str, token: &str, topics: &[&str]) -> Option<Value> {
        let open =
            json!({ "t": "open", "s": 1, "product": product, "token": token, "topics": topics });
        self.send_json(&open).await;
        self.json().await
    }
}

/// Opcode, length of the head and of the payload, once the head is there.
fn head(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (opcode, short) = (bytes.first()? & 0x0F, bytes.get(1)? & 0x7F);
    Some(match short {
        126 => (opcode, 4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (opcode, 10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (opcode, 2, usize::from(short)),
    })
}
