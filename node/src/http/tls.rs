//! TLS of a listener, from PEM files. Shared by both listeners of a node.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file holds nothing of what it should.
    #[error("{file} holds no {what} in PEM")]
    Empty {
        /// The file.
        file: PathBuf,
        /// Certificate or private key.
        what: &'static str,
    },
    /// Certificate and key do not work together.
    #[error("certificate {cert} and key {key} do not work: {error}")]
    Unusable {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// Only one of the two files is named.
    #[error("tls_cert_file and tls_key_file go together")]
    Half,
}

/// TLS 1.2 and 1.3 with the certificate chain and key of these files; none without files.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(
    cert: Option<&Path>,
    key: Option<&Path>,
    protocols: &[&str],
) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return Ok(None),
        _ => return Err(TlsError::Half),
    };
    let unusable = |error| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), error };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(unusable)?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Some(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut read(file)?.as_slice()).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::Empty { file: file.to_owned(), what: "certificate" }),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    match rustls_pemfile::private_key(&mut read(file)?.as_slice()) {
        Ok(Some(key)) => Ok(key),
        _ => Err(TlsError::Empty { file: file.to_owned(), what: "private key" }),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| TlsError::Read { file: file.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_do_are_told_apart() {
        assert!(server_config(None, None, &[]).unwrap().is_none());
        let directory = tempfile::tempdir().unwrap();
        let (empty, absent) = (directory.path().join("empty.pem"), directory.path().join("absent"));
        std::fs::write(&empty, "nothing").unwrap();
        let error = |cert: Option<&Path>, key: Option<&Path>| server_config(cert, key, &[]);
        assert!(matches!(error(Some(&empty), None), Err(TlsError::Half)));
        assert!(matches!(error(Some(&absent), Some(&empty)), Err(TlsError::Read { .. })));
        let none = error(Some(&empty), Some(&empty)).unwrap_err();
        assert!(none.to_string().ends_with("empty.pem holds no certificate in PEM"), "{none}");
    }
}
