//! One connection that one task owns: rounds of commands out, the same number of replies in, nothing
//! retried. Whoever stops waiting for a round drops the connection: it is reset, not closed, so that
//! what the kernel still holds is not delivered later.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use bytes::BytesMut;
use futures_util::FutureExt as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::call::Request;
use super::resp::{self, Decoder, Reply};
use super::settings::RedisLogin;

/// Buffers above this are given back after a round.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

const READ_BYTES_MIN: usize = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] resp::Malformed),
    #[error("no answer in time")]
    TimedOut,
    #[error("the server refuses: {0}")]
    Refused(String),
}

/// How to reach servers of one sort.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) login: RedisLogin,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    /// A server that is silent this long is given up, by us and by the kernel.
    pub(super) timeout: Duration,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open connection.
pub(super) struct Connection {
    socket: Box<dyn Socket>,
    input: BytesMut,
    output: BytesMut,
    decoder: Decoder,
    expected: usize,
    /// Something of the round was, or may have been, handed to the socket.
    begun: bool,
    /// One write may be several of the system: it can fail with some of it sent.
    is_tls: bool,
    /// Scripts that this server knows since we connected.
    pub(super) scripts: HashSet<&'static str>,
}

impl Dialer {
    /// Connects and logs in.
    pub(super) async fn dial(&self, address: &str) -> Result<Connection, LinkError> {
        let dial = Box::pin(self.dial_unbounded(address));
        tokio::time::timeout(self.timeout, dial).await.map_err(|_| LinkError::TimedOut)?
    }

    async fn dial_unbounded(&self, address: &str) -> Result<Connection, LinkError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(self.timeout))?;
        // Closing resets: bytes that the kernel could not deliver yet must not arrive later (I2).
        socket.set_linger(Some(Duration::ZERO))?;
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(10));
        socket.set_tcp_keepalive(&keepalive)?;
        let socket: Box<dyn Socket> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?)
            }
        };
        let mut connection = Connection {
            socket,
            input: BytesMut::new(),
            output: BytesMut::new(),
            decoder: Decoder::default(),
            expected: 0,
            begun: false,
            is_tls: self.tls.is_some(),
            scripts: HashSet::new(),
        };
        if let Some(password) = &self.login.password {
            let user = self.login.username.as_deref().unwrap_or("default");
            connection.push(&[b"AUTH", user.as_bytes(), password.bytes()]);
            connection.one().await?;
        }
        Ok(connection)
    }
}

impl Connection {
    /// Puts a command into the round to come.
    pub(super) fn push(&mut self, words: &[&[u8]]) {
        resp::command(&mut self.output, words.iter().copied());
        self.expected += 1;
    }

    /// Puts a request into the round to come; its script must be known to the server.
    pub(super) fn push_request(&mut self, request: &Request, read_only: bool) {
        if !matches!(request, Request::Nothing) {
            request.encode(&mut self.output, read_only);
            self.expected += 1;
        }
    }

    /// Sends the round and takes its replies. Not to be dropped half-way unless the connection is
    /// dropped with it.
    pub(super) async fn round(&mut self) -> Result<Vec<Reply>, LinkError> {
        self.begun = self.is_tls;
        while !self.output.is_empty() {
            if self.socket.write_buf(&mut self.output).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            self.begun = true;
        }
        self.socket.flush().await?;
        let count = std::mem::take(&mut self.expected);
        let mut replies = Vec::with_capacity(count);
        while replies.len() < count {
            while let Some(reply) = self.decoder.next(&mut self.input)? {
                replies.push(reply);
            }
            if replies.len() == count {
                break;
            }
            self.input.reserve(READ_BYTES_MIN);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_KEPT {
                *buffer = BytesMut::new();
            }
        }
        Ok(replies)
    }

    /// Whether the server may have heard of the round that failed.
    pub(super) const fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the server has closed it, or said something that nobody asked for: nothing is to be sent.
    pub(super) fn is_dead(&mut self) -> bool {
        self.input.reserve(READ_BYTES_MIN);
        self.socket.read_buf(&mut self.input).now_or_never().is_some()
    }

    /// Sends what was pushed last, alone, and takes its answer; a refusal is an error.
    pub(super) async fn one(&mut self) -> Result<Value, LinkError> {
        match self.round().await?.pop() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(LinkError::Refused(error.0)),
            None => Err(LinkError::Refused("nothing".into())),
        }
    }

    /// One command within `timeout`.
    pub(super) async fn ask(
        &mut self,
        words: &[&[u8]],
        timeout: Duration,
    ) -> Result<Value, LinkError> {
        self.push(words);
        tokio::time::timeout(timeout, self.one()).await.map_err(|_| LinkError::TimedOut)?
    }
}
