//! A certificate authority for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshfs_broker::{ClientCertificate, Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// Signs certificates and keeps all files in a folder of its own.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the test's CA");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let folder = tempfile::tempdir().expect("temp dir");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("CA file");
        Self { folder, issuer }
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `<name>.pem` and `<name>.key`: a certificate with this common name for the loopback
    /// interface, changed to the test's needs.
    pub fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("file");
    }

    /// The files of a server that asks clients for certificates of this CA, or does not.
    pub fn files(&self, client: Option<ClientCertificate>) -> TlsFiles {
        TlsFiles {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: client.map(|_| self.ca()),
            client_certificate: client.unwrap_or_default(),
        }
    }

    /// What a server needs.
    pub fn server(&self, client: Option<ClientCertificate>) -> Tls {
        self.issue("server", |_| {});
        Tls::load(self.files(client)).expect("good files")
    }

    /// What a client needs that trusts this CA, and shows a certificate if it is given a name.
    pub fn client(&self, name: Option<&str>) -> TlsConnector {
        self.client_of(name, tokio_rustls::rustls::ALL_VERSIONS)
    }

    pub fn client_of(
        &self,
        name: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ca())).expect("a CA");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match name {
            None => config.with_no_client_auth(),
            Some(name) => {
                let key = self.path(&format!("{name}.key"));
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                let chain = vec![certificate(&self.path(&format!("{name}.pem")))];
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        Arc::new(config).into()
    }
}

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate")
}
