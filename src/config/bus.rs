//! Section `bus`.

use super::BusTls;
use crate::access::Policy;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

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
