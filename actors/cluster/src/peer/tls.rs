//! Mutual TLS between nodes: who signs is fixed (`tls_ca_file`), and a certificate speaks for one
//! node: it has to be valid for the DNS name `<node id>.<cluster>.peer`. Both ends check it: the
//! dialler in the TLS handshake, the acceptor against the id that the peer then claims. An operator
//! who wants one certificate for all nodes signs `*.<cluster>.peer`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::types::{PeerTls, PeersError};

/// Bytes that both ends export from a TLS session for the proofs of the handshake inside it.
const BINDING_BYTES: usize = 32;
const BINDING_LABEL: &[u8] = b"EXPORTER-clarion-peer";

/// Both roles of this node.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    cluster: Arc<str>,
}

/// A verified certificate and the cluster whose nodes it may name.
pub(super) struct CertifiedNames {
    certificate: Option<CertificateDer<'static>>,
    cluster: Arc<str>,
}

impl CertifiedNames {
    /// Whether it is for node `id`.
    pub(super) fn certify(&self, id: &str) -> bool {
        let Some(certificate) = &self.certificate else { return false };
        let Ok(name) = name_of(id, &self.cluster) else { return false };
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }
}

fn name_of(id: &str, cluster: &str) -> Result<ServerName<'static>, PeersError> {
    let name = format!("{id}.{cluster}.peer");
    ServerName::try_from(name.clone())
        .map_err(|_| PeersError::Name(format!("`{name}` is no DNS name, which TLS needs")))
}

impl Tls {
    /// Reads the files and checks that the node's own name can be in a certificate.
    pub(super) fn load(files: &PeerTls, id: &str, cluster: &str) -> Result<Self, PeersError> {
        name_of(id, cluster)?;
        let roots = Arc::new(roots(&files.ca_file)?);
        let chain = certificates(&files.cert_file)?;
        let key = key(&files.key_file)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let bad = |error: &dyn std::fmt::Display| PeersError::Tls(error.to_string());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| bad(&error))?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| bad(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad(&error))?;
        // A resumed session would skip the certificates of a node that has changed them.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
            cluster: Arc::from(cluster),
        })
    }

    /// For one that does not know yet whom it reaches: the peer's certificate has to be signed by
    /// the authority and valid now; whom it is for is asked of it later ([`Tls::names`]).
    pub(super) fn load_to_ask(
        files: &PeerTls,
        id: &str,
        cluster: &str,
    ) -> Result<Self, PeersError> {
        let this = Self::load(files, id, cluster)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let bad = |error: &dyn std::fmt::Display| PeersError::Tls(error.to_string());
        let authority = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots(&files.ca_file)?),
            Arc::clone(&provider),
        );
        let authority = authority.build().map_err(|error| bad(&error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyNode(authority)))
            .with_client_auth_cert(certificates(&files.cert_file)?, key(&files.key_file)?)
            .map_err(|error| bad(&error))?;
        Ok(Self { connector: Arc::new(client).into(), ..this })
    }

    /// TLS as the dialler of node `id`.
    pub(super) async fn connect(
        &self,
        id: &str,
        stream: TcpStream,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = name_of(id, &self.cluster).map_err(std::io::Error::other)?;
        let stream = self.connector.connect(name, stream).await?;
        Ok(stream.into())
    }

    /// TLS as the acceptor; who it is turns out later ([`Tls::names`]).
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.acceptor.accept(stream).await?;
        Ok(stream.into())
    }

    /// For whom the peer's certificate is, which the TLS handshake has verified.
    pub(super) fn names(&self, stream: &TlsStream<TcpStream>) -> CertifiedNames {
        let certificates = stream.get_ref().1.peer_certificates();
        CertifiedNames {
            certificate: certificates.and_then(<[_]>::first).cloned(),
            cluster: Arc::clone(&self.cluster),
        }
    }

    /// What only the two ends of this TLS session know.
    pub(super) fn binding(stream: &TlsStream<TcpStream>) -> std::io::Result<Vec<u8>> {
        let out = vec![0; BINDING_BYTES];
        let exported = match stream {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(out, BINDING_LABEL, None)
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(out, BINDING_LABEL, None)
            }
        };
        exported.map_err(std::io::Error::other)
    }
}

/// Lets in whom the authority has signed, whatever its name: see [`Tls::load_to_ask`].
#[derive(Debug)]
struct AnyNode(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match judged {
            // The name is judged last: everything else is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn read(file: &Path) -> Result<Vec<u8>, PeersError> {
    std::fs::read(file).map_err(|error| PeersError::Tls(format!("{}: {error}", file.display())))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PeersError> {
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &pem[..]).collect();
    let certificates =
        certificates.map_err(|error| PeersError::Tls(format!("{}: {error}", file.display())))?;
    if certificates.is_empty() {
        return Err(PeersError::Tls(format!("{}: holds no certificate", file.display())));
    }
    Ok(certificates)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, PeersError> {
    let pem = read(file)?;
    rustls_pemfile::private_key(&mut &pem[..])
        .map_err(|error| PeersError::Tls(format!("{}: {error}", file.display())))?
        .ok_or_else(|| PeersError::Tls(format!("{}: holds no private key", file.display())))
}

fn roots(file: &Path) -> Result<RootCertStore, PeersError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| PeersError::Tls(format!("{}: {error}", file.display())))?;
    }
    Ok(roots)
}
