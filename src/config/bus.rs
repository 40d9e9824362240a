//! Section `bus`.

use super::BusTls;
use super::ConfigError;
use super::bus_limits::BusLimits;
use crate::access::Policy;
use crate::name::BrokerUrl;
use crate::name::Filter;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Section `bus`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// Which broker.
    pub mode: BusMode,
    /// Where the embedded broker listens.
    pub listen: SocketAddr,
    /// The same with TLS, and the certificates of all that listens with TLS.
    pub tls: BusTls,
    /// Largest MQTT packet in bytes.
    pub packet_max_bytes: usize,
    /// Most clients at once.
    pub connections_max: usize,
    /// What one client may do, and all of them together.
    pub limits: BusLimits,
    /// The other broker.
    pub external: External,
    /// Messages to these are acknowledged when they are on disk.
    #[serde(deserialize_with = "filters", serialize_with = "as_text")]
    pub durable: Vec<Filter>,
    /// How long such an acknowledgement waits for the disk.
    #[serde(with = "humantime_serde")]
    pub durable_wait: Duration,
    /// All other retained messages are on disk so long after they came.
    #[serde(with = "humantime_serde")]
    pub sync_within: Duration,
    /// The file of users.
    pub users: PathBuf,
    /// Lets anybody in without a name, from wherever he comes.
    pub allow_anonymous: bool,
    /// What those without a name may do: a role, or `none`.
    pub anonymous_role: String,
}

impl Bus {
    /// Who may come in.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            users: self.users.clone(),
            allow_anonymous: self.allow_anonymous,
            anonymous_role: self.anonymous_role.as_str().into(),
        }
    }
}

/// A list, or one text with commas, which is all that the environment and flags can give.
fn filters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Filter>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Text(String),
        List(Vec<String>),
    }
    let raw = match Raw::deserialize(deserializer)? {
        Raw::Text(text) if text.trim().is_empty() => Vec::new(),
        Raw::Text(text) => text.split(',').map(|filter| filter.trim().to_owned()).collect(),
        Raw::List(list) => list,
    };
    let parsed = raw.iter().map(|filter| {
        Filter::parse(filter).map_err(|why| D::Error::custom(format!("filter {filter:?}: {why}")))
    });
    parsed.collect()
}

fn as_text<S: Serializer>(filters: &[Filter], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(filters.iter().map(Filter::as_str))
}

/// Which broker carries the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum BusMode {
    /// The hub's own.
    Embedded,
    /// Another one, of which the hub is a client.
    External,
}

// Read by hand, because what serde says of an unknown variant through the crate `config`
// does not name the variants that there are.
impl TryFrom<String> for BusMode {
    type Error = String;
    fn try_from(raw: String) -> Result<Self, String> {
        match raw.as_str() {
            "embedded" => Ok(Self::Embedded),
            "external" => Ok(Self::External),
            _ => Err(format!("{raw:?} is not a bus mode: \"embedded\" or \"external\"")),
        }
    }
}

/// Section `bus.external`. An empty text or path means: none.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Where the broker is.
    #[serde(deserialize_with = "url")]
    pub url: Option<BrokerUrl>,
    /// Which version of MQTT it speaks.
    pub version: MqttVersion,
    /// The hub's client id there.
    pub client_id: String,
    /// The hub's user name there.
    pub user: String,
    /// The file that holds the password.
    pub password_file: PathBuf,
    /// The authorities whose certificates are believed; empty: the system's.
    pub ca: PathBuf,
    /// The hub's own certificate.
    pub certificate: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
}

fn url<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<BrokerUrl>, D::Error> {
    let raw = String::deserialize(deserializer)?;
    if raw.is_empty() {
        return Ok(None);
    }
    BrokerUrl::parse(&raw).map(Some).map_err(serde::de::Error::custom)
}

/// The MQTT version to speak with another broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub enum MqttVersion {
    /// 5 where the broker has it, else 3.1.1.
    #[serde(rename = "auto")]
    Auto,
    /// 3.1.1.
    #[serde(rename = "4")]
    V4,
    /// 5.
    #[serde(rename = "5")]
    V5,
}

impl TryFrom<String> for MqttVersion {
    type Error = String;
    fn try_from(raw: String) -> Result<Self, String> {
        match raw.as_str() {
            "auto" => Ok(Self::Auto),
            "4" | "3.1.1" => Ok(Self::V4),
            "5" | "5.0" => Ok(Self::V5),
            _ => Err(format!("{raw:?} is not a version of MQTT: \"auto\", \"4\" or \"5\"")),
        }
    }
}

impl Bus {
    /// The other broker, if that is the one that is used.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerUrl> {
        self.external.url.as_ref().filter(|_| self.mode == BusMode::External)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.mode == BusMode::Embedded {
            return Ok(());
        }
        let refused = |key, value: &dyn std::fmt::Display, why: &str| {
            Err(ConfigError::Refused { key, value: value.to_string(), why: why.into() })
        };
        let External { url, client_id, user, password_file, ca, certificate, key, .. } =
            &self.external;
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        let Some(url) = url else {
            let why =
                "bus.mode = \"external\" needs the broker's address, such as mqtt://127.0.0.1:1883";
            return refused("bus.external.url", &"\"\"", why);
        };
        if client_id.is_empty() || client_id.len() > 128 {
            return refused("bus.external.client_id", client_id, "1 to 128 bytes");
        }
        if set(password_file) && user.is_empty() {
            let why = "a password belongs to a user: set bus.external.user";
            return refused("bus.external.password_file", &password_file.display(), why);
        }
        for (name, path) in [
            ("bus.external.ca", ca),
            ("bus.external.certificate", certificate),
            ("bus.external.key", key),
        ] {
            if set(path) && !url.tls() {
                let why = "is for TLS: write mqtts:// in bus.external.url";
                return refused(name, &path.display(), why);
            }
        }
        if set(certificate) != set(key) {
            let why = "a certificate and its key are set together";
            return refused("bus.external.key", &key.display(), why);
        }
        Ok(())
    }
}
