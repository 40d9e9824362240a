//! Section `irc`.

use super::ConfigError;
use crate::name::{Channel, NetworkName, Nick};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Section `irc`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Irc {
    /// Networks to join; with none the hub runs its own server.
    pub networks: Vec<Network>,
    /// The hub's own server.
    pub embedded: Embedded,
}

/// Section `irc.embedded`: the house server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its name in topics.
    pub network: NetworkName,
    /// Its channel.
    pub channel: Channel,
    /// The bridge's nick on it.
    pub nick: Nick,
}

/// An entry of `irc.networks`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name in topics.
    pub name: NetworkName,
    /// `host:port`.
    pub server: String,
    /// The bridge's nick.
    pub nick: Nick,
    /// The channels to join.
    pub channels: Vec<Channel>,
}

impl Irc {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refused = |value: String, why: &str| {
            Err(ConfigError::Refused { key: "irc.networks", value, why: why.into() })
        };
        for (at, network) in self.networks.iter().enumerate() {
            let port = network.server.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
            if port.is_none_or(|p| p == 0) {
                return refused(network.server.clone(), "server is written host:port");
            }
            if network.channels.is_empty() {
                return refused(network.name.to_string(), "name at least one channel");
            }
            if self.networks[..at].iter().any(|other| other.name == network.name) {
                return refused(network.name.to_string(), "two networks have this name");
            }
        }
        Ok(())
    }
}
