//! How a byte stream to a node is made: TCP, or TLS over it. Replace it by an own [`Connector`] to
//! go through a proxy or a tunnel.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use clarion_protocol::terminal::LINK_PATH;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// A byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A byte stream of any kind.
pub type BoxedStream = Box<dyn ByteStream>;

/// Makes byte streams to nodes.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A stream to the host and port of `url`, encrypted if its scheme is `wss` or `https`.
    async fn connect(&self, url: &Url) -> io::Result<BoxedStream>;
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("root certificate: {0}")]
pub struct CertificateError(String);

/// The connector that is used unless another is given: TCP without Nagle's delay, and TLS
/// (`rustls`) that trusts the public certificate authorities and what is added here.
#[derive(Clone)]
pub struct Tcp {
    tls: Arc<ClientConfig>,
    local: Option<IpAddr>,
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Tcp {
    /// Trusts the public certificate authorities.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new() -> Result<Self, CertificateError> {
        Self::trusting(&[])
    }

    /// Trusts the certificates of a PEM file besides the public authorities.
    ///
    /// # Errors
    /// When `pem` holds no usable certificate.
    pub fn with_root_certificates(pem: &[u8]) -> Result<Self, CertificateError> {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError(error.to_string()))?;
        if certificates.is_empty() {
            return Err(CertificateError("the PEM text holds none".to_owned()));
        }
        Self::trusting(&certificates)
    }

    fn trusting(own: &[CertificateDer<'static>]) -> Result<Self, CertificateError> {
        Ok(Self { tls: Arc::new(tls_config(own)?), local: None })
    }

    /// Connects from this address. One address has some 28,000 ports towards one node: whoever
    /// simulates more terminals than that spreads them over several.
    #[must_use]
    pub const fn from_address(mut self, local: IpAddr) -> Self {
        self.local = Some(local);
        self
    }

    pub(crate) fn tls_config(&self) -> ClientConfig {
        (*self.tls).clone()
    }

    async fn tcp(&self, host: Host<&str>, port: u16) -> io::Result<TcpStream> {
        let stream = match (host, self.local) {
            (Host::Domain(name), None) => TcpStream::connect((name, port)).await?,
            (Host::Ipv4(ip), None) => TcpStream::connect((ip, port)).await?,
            (Host::Ipv6(ip), None) => TcpStream::connect((ip, port)).await?,
            (Host::Ipv4(ip), Some(local)) => bound(local, (ip, port).into()).await?,
            (Host::Ipv6(ip), Some(local)) => bound(local, (ip, port).into()).await?,
            (Host::Domain(name), Some(local)) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "no address of that family");
                let mut found = None;
                for address in tokio::net::lookup_host((name, port)).await? {
                    if address.is_ipv4() != local.is_ipv4() {
                        continue;
                    }
                    match bound(local, address).await {
                        Ok(stream) => {
                            found = Some(stream);
                            break;
                        }
                        Err(error) => last = error,
                    }
                }
                found.ok_or(last)?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

async fn bound(local: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(to).await
}

fn tls_config(own: &[CertificateDer<'static>]) -> Result<ClientConfig, CertificateError> {
    let wrong = |error: rustls::Error| CertificateError(error.to_string());
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in own {
        roots.add(certificate.clone()).map_err(wrong)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[async_trait]
impl Connector for Tcp {
    async fn connect(&self, url: &Url) -> io::Result<BoxedStream> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let host = url.host().ok_or_else(|| invalid("the URL has no host"))?;
        let secure = matches!(url.scheme(), "wss" | "https");
        let port = url.port().unwrap_or(if secure { 443 } else { 80 });
        let name = host.to_string();
        let stream = self.tcp(host, port).await?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(bare).map_err(|_| invalid("not a server name"))?;
        let tls = TlsConnector::from(self.tls.clone()).connect(server, stream).await?;
        Ok(Box::new(tls))
    }
}

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is not a URL.
    #[error("not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    /// Its scheme is not one of those that are spoken there.
    #[error("the scheme must be {0}")]
    Scheme(&'static str),
}

/// A WebSocket URL; `http` and `https` are taken for `ws` and `wss`.
pub(crate) fn websocket_url(text: &str) -> Result<Url, UrlError> {
    with_scheme(text, ("ws", "wss"), "ws, wss, http or https")
}

/// Where a node's links are opened: a URL without a path stands for the one of the protocol.
pub(crate) fn link_url(text: &str) -> Result<Url, UrlError> {
    let mut url = websocket_url(text)?;
    if url.path() == "/" {
        url.set_path(LINK_PATH);
    }
    Ok(url)
}

/// An HTTP URL; `ws` and `wss` are taken for `http` and `https`.
pub(crate) fn http_url(text: &str) -> Result<Url, UrlError> {
    with_scheme(text, ("http", "https"), "http or https")
}

fn with_scheme(
    text: &str,
    (plain, secure): (&str, &str),
    allowed: &'static str,
) -> Result<Url, UrlError> {
    let url = Url::parse(text)?;
    let scheme = match url.scheme() {
        "http" | "ws" => plain,
        "https" | "wss" => secure,
        _ => return Err(UrlError::Scheme(allowed)),
    };
    // `Url::set_scheme` refuses nothing among these four, but its answer has to be looked at.
    let mut changed = url.clone();
    changed.set_scheme(scheme).map_err(|()| UrlError::Scheme(allowed))?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_either_family_are_taken() {
        assert_eq!(websocket_url("https://a.example/x").unwrap().as_str(), "wss://a.example/x");
        assert_eq!(http_url("ws://127.0.0.1:1/").unwrap().as_str(), "http://127.0.0.1:1/");
        assert_eq!(http_url("ftp://a/"), Err(UrlError::Scheme("http or https")));
        assert!(matches!(websocket_url("nonsense"), Err(UrlError::Malformed(_))));
    }

    #[test]
    fn a_link_url_without_a_path_gets_the_one_of_the_protocol() {
        assert_eq!(link_url("ws://a.example").unwrap().as_str(), "ws://a.example/v1/link");
        assert_eq!(link_url("ws://a.example/via/proxy").unwrap().path(), "/via/proxy");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        assert!(Tcp::with_root_certificates(b"").is_err());
        assert!(Tcp::with_root_certificates(b"-----BEGIN CERTIFICATE-----\nAA\n").is_err());
    }
}
