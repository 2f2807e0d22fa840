//! Who listens at an address, as far as one who may be a node can find out without becoming one: what
//! an operator's check says before (and while) a node runs. Opens one connection, goes through the
//! handshake and closes it; the node there notices nothing but that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::handshake::{self, Agreed, HandshakeError, Local, Refusal};
use super::socket;
use super::tls::Tls;
use super::types::{PeerTls, PeersError};
use crate::{BootId, Cookie, NodeIdentity, new_boot};

/// As whom is asked.
pub struct Asker {
    identity: NodeIdentity,
    cluster: String,
    wire: (u16, u16),
    cookie: Cookie,
    tls: Option<Tls>,
}

/// Who is there, and that both ends can have a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The node.
    pub id: Arc<str>,
    /// Which of its runs.
    pub boot: BootId,
    /// The highest version that both speak.
    pub wire: u16,
}

/// Why there could be no link with whoever is there.
#[derive(Debug, Error)]
pub enum AskError {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// No connection, or not a word, within the time.
    #[error("no answer")]
    Silent,
    /// It is something else, or only one of the two has TLS between nodes.
    #[error("what listens there does not speak as a node{}", if *.tls { " with TLS" } else { " without TLS" })]
    Foreign {
        /// Whether this end has TLS.
        tls: bool,
    },
    /// A node of a cluster of another name.
    #[error("it is a node of a cluster of another name")]
    Cluster,
    /// A node with another cookie.
    #[error("it is a node with another cookie")]
    Cookie,
    /// One end does not take the other's certificate.
    #[error("{0}")]
    Certificate(String),
    /// A node whose release is too far from this one.
    #[error("it is a node of a release that does not speak with this one")]
    Wire,
    /// A node of this cluster's name, of a release that tells nothing more.
    #[error("it is a node of an older release, which does not answer a check")]
    Older,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Asker({} of {})", self.identity.id, self.cluster)
    }
}

impl Asker {
    /// Asks as node `id` of `cluster`, which speaks the versions `wire`.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn new(
        id: &str,
        cluster: &str,
        wire: (u16, u16),
        cookie: Cookie,
        tls: Option<&PeerTls>,
    ) -> Result<Self, PeersError> {
        let tls = tls.map(|files| Tls::load_to_ask(files, id, cluster)).transpose()?;
        let identity = NodeIdentity { id: id.into(), boot: new_boot(), group: "".into() };
        Ok(Self { identity, cluster: cluster.to_owned(), wire, cookie, tls })
    }

    /// Who is at `addr`, within `patience`.
    ///
    /// # Errors
    /// [`AskError`]: there can be no link.
    pub async fn ask(&self, addr: SocketAddr, patience: Duration) -> Result<Asked, AskError> {
        let asking = Box::pin(self.ask_patiently(addr));
        timeout(patience, asking).await.map_err(|_| AskError::Silent)?
    }

    async fn ask_patiently(&self, addr: SocketAddr) -> Result<Asked, AskError> {
        let mut stream = socket::connect(addr).await.map_err(AskError::Connect)?;
        let Some(tls) = &self.tls else { return self.talk(&mut stream, &[]).await };
        let id = &self.identity.id;
        let mut stream = tls.connect(id, stream).await.map_err(|error| in_tls(&error, true))?;
        let binding = Tls::binding(&stream).map_err(|error| in_tls(&error, true))?;
        let names = tls.names(&stream);
        let asked = self.talk(&mut stream, &binding).await?;
        if !names.certify(&asked.id) {
            let (id, cluster) = (&asked.id, &self.cluster);
            let why = format!("its certificate is not for {id}.{cluster}.peer");
            return Err(AskError::Certificate(why));
        }
        Ok(asked)
    }

    async fn talk<S>(&self, stream: &mut S, binding: &[u8]) -> Result<Asked, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let local = Local {
            identity: &self.identity,
            cluster: &self.cluster,
            wire: self.wire,
            cookie: &self.cookie,
            clock_us: &|| 0,
            binding,
        };
        match handshake::ask(stream, &local).await {
            Ok(Agreed { id, boot, wire, .. }) => Ok(Asked { id, boot, wire }),
            Err(error) => Err(self.judged(error)),
        }
    }

    fn judged(&self, error: HandshakeError) -> AskError {
        let tls = self.tls.is_some();
        match error {
            HandshakeError::Io(error) => in_tls(&error, tls),
            HandshakeError::Protocol | HandshakeError::Asked => AskError::Foreign { tls },
            HandshakeError::Refused { refusal, .. } => match refusal {
                Refusal::Cluster => AskError::Cluster,
                Refusal::Cookie => AskError::Cookie,
                Refusal::Wire => AskError::Wire,
                Refusal::Certificate => {
                    let (id, cluster) = (&self.identity.id, &self.cluster);
                    let why = format!("this node's certificate is not for {id}.{cluster}.peer");
                    AskError::Certificate(why)
                }
                Refusal::OtherNode | Refusal::OtherBoot | Refusal::NotWanted => AskError::Older,
            },
        }
    }
}

/// An end of the conversation: somebody's certificate, or somebody who speaks otherwise.
fn in_tls(error: &io::Error, tls: bool) -> AskError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            AskError::Certificate(format!("its certificate is not taken here: {why}"))
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            AskError::Certificate(format!("this node's certificate is not taken there: {alert:?}"))
        }
        _ => AskError::Foreign { tls },
    }
}
