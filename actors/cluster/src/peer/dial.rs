//! From an address, or from an accepted socket, to a stream whose other end has proved who it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handshake::{self, Agreed, HandshakeError, Refusal};
use super::shared::Shared;
use super::socket::{self, Wire};
use super::tls::Tls;
use super::types::Target;

/// Longest time to a TCP connection: a host that does not answer is tried again soon enough.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A stream that has passed the handshake.
pub(super) struct Established {
    pub(super) wire: Wire,
    pub(super) agreed: Agreed,
    pub(super) dialled: bool,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("timed out")]
    TimedOut,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
}

impl DialError {
    /// Whether it shows that this run of the node is over.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Connect(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Self::Handshake(HandshakeError::Refused { refusal, .. }) => {
                matches!(refusal, Refusal::OtherBoot | Refusal::OtherNode)
            }
            _ => false,
        }
    }

    /// Whether the other end wanted no link, only to know who is here.
    pub(super) const fn is_answered(&self) -> bool {
        matches!(self, Self::Handshake(HandshakeError::Asked))
    }

    /// Whether it is of the kind that passes by itself, while views of the cluster settle.
    pub(super) fn is_usual(&self) -> bool {
        match self {
            Self::Connect(_) | Self::TimedOut => true,
            // Somebody looked whether anybody listens.
            Self::Tls(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            Self::Handshake(HandshakeError::Io(_) | HandshakeError::Asked) => true,
            Self::Handshake(HandshakeError::Refused { refusal, .. }) => {
                matches!(refusal, Refusal::NotWanted | Refusal::OtherBoot)
            }
            _ => false,
        }
    }
}

/// Dials a node.
pub(super) async fn dial(shared: Arc<Shared>, target: Target) -> Result<Established, DialError> {
    let limit = shared.handshake_timeout();
    let connected = timeout(limit.min(CONNECT_MAX), socket::connect(target.addr)).await;
    let stream = connected.map_err(|_| DialError::TimedOut)?.map_err(DialError::Connect)?;
    socket::tune(&stream, shared.unsent_max()).map_err(DialError::Connect)?;
    let talk = Box::pin(talk_as_dialler(&shared, &target, stream));
    timeout(limit, talk).await.map_err(|_| DialError::TimedOut)?
}

async fn talk_as_dialler(
    shared: &Shared,
    target: &Target,
    mut stream: TcpStream,
) -> Result<Established, DialError> {
    let clock = || shared.now_us();
    let want = (&*target.id, target.boot);
    let (wire, agreed) = if let Some(tls) = &shared.tls {
        let mut stream = tls.connect(&target.id, stream).await.map_err(DialError::Tls)?;
        let binding = Tls::binding(&stream).map_err(DialError::Tls)?;
        let agreed = handshake::dial(&mut stream, &shared.local(&clock, &binding), want).await?;
        (Wire::Tls(Box::new(stream)), agreed)
    } else {
        let agreed = handshake::dial(&mut stream, &shared.local(&clock, &[]), want).await?;
        (Wire::Plain(stream), agreed)
    };
    established(wire, agreed, true)
}

/// Talks to whoever has dialled this node; the caller may end it at any time.
pub(super) async fn answer(
    shared: &Shared,
    mut stream: TcpStream,
) -> Result<Established, DialError> {
    socket::tune(&stream, shared.unsent_max()).map_err(DialError::Connect)?;
    let clock = || shared.now_us();
    let wanted = |id: &str, boot| !shared.dials(id) && shared.link(id, boot).is_some();
    let (wire, agreed) = if let Some(tls) = &shared.tls {
        let mut stream = tls.accept(stream).await.map_err(DialError::Tls)?;
        let binding = Tls::binding(&stream).map_err(DialError::Tls)?;
        // The stream is lent to the handshake, so what its certificate is for is asked of the
        // certificate itself.
        let names = tls.names(&stream);
        let certified = |id: &str| names.certify(id);
        let local = shared.local(&clock, &binding);
        let agreed = handshake::accept(&mut stream, &local, certified, wanted).await?;
        (Wire::Tls(Box::new(stream)), agreed)
    } else {
        let local = shared.local(&clock, &[]);
        let agreed = handshake::accept(&mut stream, &local, |_| true, wanted).await?;
        (Wire::Plain(stream), agreed)
    };
    established(wire, agreed, false)
}

fn established(wire: Wire, agreed: Agreed, dialled: bool) -> Result<Established, DialError> {
    let stream = match &wire {
        Wire::Plain(stream) => stream,
        Wire::Tls(stream) => stream.get_ref().0,
    };
    socket::reset_on_close(stream).map_err(DialError::Connect)?;
    Ok(Established { wire, agreed, dialled })
}

/// Whether nobody listens at `addr`: a connection is refused. The other end sees one that says
/// nothing.
pub async fn is_deaf(addr: SocketAddr) -> bool {
    let tried = timeout(Duration::from_millis(300), socket::connect(addr)).await;
    matches!(tried, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}
