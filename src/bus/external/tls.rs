//! What the hub believes and shows when it speaks TLS with another broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{path} cannot be read as PEM")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{0} holds no certificate that can be used")]
    Empty(PathBuf),
    /// The system has no authorities to believe.
    #[error("this system has no certificates of authorities; name a file in bus.external.ca")]
    NoRoots,
    /// The certificate and the key do not fit.
    #[error("{certificate} and its key {key} cannot be used")]
    Own {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The library has a fault of its own.
    #[error("TLS is not available")]
    Library {
        /// The cause.
        source: rustls::Error,
    },
}

/// A client's configuration from PEM files: the authorities to believe (none:
/// the system's), and a certificate with its key.
///
/// # Errors
/// A file cannot be read or used.
pub fn client_config(
    ca: Option<&Path>,
    own: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let (added, _) = roots.add_parsable_certificates(certificates(path)?);
            if added == 0 {
                return Err(ClientTlsError::Empty(path.to_owned()));
            }
        }
        None => {
            let (added, _) =
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err(ClientTlsError::NoRoots);
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| ClientTlsError::Library { source })?
        .with_root_certificates(roots);
    let Some((certificate, key)) = own else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let chain = certificates(certificate)?;
    if chain.is_empty() {
        return Err(ClientTlsError::Empty(certificate.to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| ClientTlsError::File { path: key.to_owned(), source })?;
    let config = builder.with_client_auth_cert(chain, secret).map_err(|source| {
        ClientTlsError::Own { certificate: certificate.to_owned(), key: key.to_owned(), source }
    })?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let failed = |source| ClientTlsError::File { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}
