//! TLS 1.2 and 1.3: certificate, key and client CA from files that can be read anew.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
        server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    },
    server::TlsStream,
};

use crate::certificate::{Validity, client_name, validity};

/// Largest file read.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// Must a client show a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// It may; one that does not verify ends the connection all the same.
    #[default]
    Optional,
    /// It must.
    Required,
}

/// Where certificates and keys are, all in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by the chain that leads to its CA.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
    /// Certificates of the CAs that client certificates must come from; without it none is asked
    /// for.
    pub client_ca: Option<PathBuf>,
    /// Must a client show one? Counts only with `client_ca`.
    pub client_certificate: ClientCertificate,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {wanted} in PEM form", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What was found.
        source: pem::Error,
    },
    /// The certificates of the client CA file are not usable.
    #[error("{} cannot verify clients", file.display())]
    ClientCa {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another key's certificate.
    #[error("the key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Certificate and key are well formed, but no server can use them.
    #[error("{} cannot be used", certificate.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Certificates in use; cheap to clone, and all clones see what [`Tls::reload`] read.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    validity: Option<Validity>,
}

/// A connection after the TLS handshake.
#[derive(Debug)]
pub struct Secured<T> {
    /// The connection.
    pub stream: TlsStream<T>,
    /// The name in the client's verified certificate: the common name of its subject, else its
    /// first DNS name.
    pub client: Option<Box<str>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used; the error names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(Loaded::read(&files)?));
        Ok(Self(Arc::new(Inner { files, current })))
    }

    /// Reads the files anew, for the connections to come; those that are there stay as they are.
    ///
    /// # Errors
    /// When the files cannot be used; what was read before then stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Arc::new(Loaded::read(&self.0.files)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// Where the certificates are.
    pub fn files(&self) -> &TlsFiles {
        &self.0.files
    }

    /// When the server's certificate is valid, as far as that can be read.
    pub fn validity(&self) -> Option<Validity> {
        self.current().validity
    }

    /// The server's side of the handshake. The caller limits the time it may take.
    ///
    /// # Errors
    /// When the client does not manage it, or its certificate does not verify.
    pub async fn accept<T>(&self, stream: T) -> io::Result<Secured<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.current().config.clone()).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let client = shown.and_then(|chain| client_name(chain.first()?));
        Ok(Secured { stream, client })
    }

    fn current(&self) -> Arc<Loaded> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|source| {
            TlsError::Pem { file: files.key.clone(), wanted: "private key", source }
        })?;
        let validity = chain.first().and_then(|first| validity(first));
        let unusable = |source| match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                key: files.key.clone(),
                certificate: files.certificate.clone(),
            },
            source => TlsError::Unusable { certificate: files.certificate.clone(), source },
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                builder.with_client_cert_verifier(verifier(ca, files.client_certificate, provider)?)
            }
        };
        let config = Arc::new(builder.with_single_cert(chain, key).map_err(unusable)?);
        Ok(Self { config, validity })
    }
}

fn verifier(
    file: &Path,
    client_certificate: ClientCertificate,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |source| TlsError::ClientCa { file: file.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(error.into()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if client_certificate == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error: VerifierBuilderError| unusable(error.into()))
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { file: file.to_owned(), wanted: "certificate", source };
    let bytes = read(file)?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let open = File::open(file).and_then(|open| open.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
    match open {
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::Read { file: file.to_owned(), source }),
    }
}
