//! Whose certificates the command line believes: those of `--ca`, else the system's.

use super::{Exit, Failure};
use rumqttc::{TlsConfiguration, Transport};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// For `https://`.
pub(super) fn for_https(ca: Option<&Path>) -> Result<TlsConfig, Failure> {
    let roots: Vec<_> =
        roots(ca)?.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build())
}

/// For `mqtts://`.
pub(super) fn for_mqtts(ca: Option<&Path>) -> Result<Transport, Failure> {
    let mut store = RootCertStore::empty();
    // The system's may hold some that are too old to be read.
    let (_, _) = store.add_parsable_certificates(roots(ca)?);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::fault(format!("TLS is not available: {error}")))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}

/// At least one.
fn roots(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |message: String| Failure { exit: Exit::Config, message };
    let Some(file) = ca else {
        let found = rustls_native_certs::load_native_certs().certs;
        return if found.is_empty() {
            let message = "this system has no CAs; name one with --ca FILE or MESHFS_CA";
            Err(wrong(message.to_owned()))
        } else {
            Ok(found)
        };
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(format!("--ca {}: no certificate in PEM form", file.display()))),
        Err(error) => Err(wrong(format!("--ca {}: {error}", file.display()))),
    }
}
