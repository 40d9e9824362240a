//! Section `bus`.

use super::BusTls;
use crate::access::Policy;
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
}

// Read by hand, because what serde says of an unknown variant through the crate `config`
// does not name the variants that there are.
impl TryFrom<String> for BusMode {
    type Error = String;
    fn try_from(raw: String) -> Result<Self, String> {
        match raw.as_str() {
            "embedded" => Ok(Self::Embedded),
            _ => Err(format!("{raw:?} is not a bus mode of this release: \"embedded\"")),
        }
    }
}
