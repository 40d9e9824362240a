//! A certificate authority for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// Signs certificates and writes them, in PEM form, into a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Writes `ca.pem` and the server's `server.pem` and `server.key`.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the test's CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        let authority = Self { folder: folder.to_owned(), issuer };
        authority.issue("server", |_| {});
        authority
    }

    /// Writes `<name>.pem` and `<name>.key`, good for the loopback interface.
    pub(crate) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        // OpenSSL, which is what Python and Node have, insists on it.
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A hub's environment: both TLS ports, with a client CA.
    pub(crate) fn environment(&self, client_certificate: &str) -> Vec<(&'static str, String)> {
        vec![
            ("MESHFS__BUS__TLS__LISTEN", "127.0.0.1:0".to_owned()),
            ("MESHFS__HTTP__TLS__LISTEN", "127.0.0.1:0".to_owned()),
            ("MESHFS__BUS__TLS__CERTIFICATE", self.path("server.pem")),
            ("MESHFS__BUS__TLS__KEY", self.path("server.key")),
            ("MESHFS__BUS__TLS__CLIENT_CA", self.path("ca.pem")),
            ("MESHFS__BUS__TLS__CLIENT_CERTIFICATE", client_certificate.to_owned()),
        ]
    }
}
