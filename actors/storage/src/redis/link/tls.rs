//! TLS towards Redis, from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::settings::RedisTls;

/// How to speak TLS; the error says which file does not do and why.
pub(super) fn client_config(tls: &RedisTls) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match (&tls.cert_file, &tls.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let found = rustls_pemfile::private_key(&mut read(key)?.as_slice());
            let Ok(Some(private)) = found else {
                return Err(format!("{} holds no private key in PEM", key.display()));
            };
            let chain = certificates(cert)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                format!("{} and {} do not work: {error}", cert.display(), key.display())
            })?
        }
        _ => return Err("redis_tls_cert_file and redis_tls_key_file go together".into()),
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut read(file)?.as_slice()).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(format!("{} holds no certificate in PEM", file.display())),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}
