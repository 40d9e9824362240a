//! Sections `bus.tls` and `http.tls`.

use super::{Config, ConfigError};
use serde::{Deserialize, Deserializer, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Section `bus.tls`; `http.tls` uses its certificates too.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BusTls {
    /// Where MQTT over TLS listens, if it does.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// The server's certificate with its chain.
    #[serde(deserialize_with = "path")]
    pub certificate: Option<PathBuf>,
    /// The key of the certificate.
    #[serde(deserialize_with = "path")]
    pub key: Option<PathBuf>,
    /// The CA of client certificates; without it none is asked for.
    #[serde(deserialize_with = "path")]
    pub client_ca: Option<PathBuf>,
    /// Must a client show one?
    pub client_certificate: ClientCertificate,
}

/// Section `http.tls`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTls {
    /// Where HTTPS listens, if it does.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
}

/// Must a client show a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum ClientCertificate {
    /// It may.
    Optional,
    /// It must.
    Required,
}

// Read by hand, because what serde says of an unknown variant through the crate `config`
// does not name the variants that there are.
impl TryFrom<String> for ClientCertificate {
    type Error = String;
    fn try_from(raw: String) -> Result<Self, String> {
        match raw.as_str() {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err(format!("{raw:?} is neither \"optional\" nor \"required\"")),
        }
    }
}

/// Nothing for "", so that the defaults can show the key.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let raw = String::deserialize(deserializer)?;
    if raw.is_empty() {
        return Ok(None);
    }
    let wrong = |e| serde::de::Error::custom(format!("{raw:?}: {e}"));
    raw.parse().map(Some).map_err(wrong)
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let raw = PathBuf::deserialize(deserializer)?;
    Ok((!raw.as_os_str().is_empty()).then_some(raw))
}

impl Config {
    /// Does anything listen with TLS?
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.bus.tls.listen.is_some() || self.http.tls.listen.is_some()
    }

    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let refused = |key, value: &str, why: &str| {
            Err(ConfigError::Refused { key, value: value.into(), why: why.into() })
        };
        let tls = &self.bus.tls;
        if tls.client_certificate == ClientCertificate::Required && tls.client_ca.is_none() {
            let why = "name the CA that the certificates come from in bus.tls.client_ca";
            return refused("bus.tls.client_certificate", "required", why);
        }
        if !self.uses_tls() {
            return Ok(());
        }
        let wanted = "name a file in PEM form, because something listens with TLS";
        for (key, file) in [("bus.tls.certificate", &tls.certificate), ("bus.tls.key", &tls.key)] {
            if file.is_none() {
                return refused(key, "\"\"", wanted);
            }
        }
        Ok(())
    }
}
