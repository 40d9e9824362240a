//! The address of another broker.

use serde::{Deserialize, Serialize};
use std::fmt;

/// `mqtt://host[:port]` or `mqtts://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BrokerUrl {
    tls: bool,
    host: Box<str>,
    port: u16,
}

/// Why a text is not the address of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlError {
    /// Neither of the two schemes.
    #[error("a broker's address begins with mqtt:// or, with TLS, mqtts://")]
    Scheme,
    /// A user name or a password in it, which would be shown wherever it is.
    #[error("user and password have keys of their own and no place in the address")]
    Login,
    /// More than host and port.
    #[error("a broker's address is a host and a port, such as mqtt://127.0.0.1:1883")]
    Surplus,
    /// No host, or one with characters that no host name has.
    #[error("it names no host")]
    Host,
    /// Not a port.
    #[error("the port is a number from 1 to 65535")]
    Port,
}

impl BrokerUrl {
    /// Checks a text; without a port it is 1883, with TLS 8883.
    ///
    /// # Errors
    /// The text is not `mqtt://host[:port]` or `mqtts://host[:port]`.
    pub fn parse(raw: &str) -> Result<Self, BrokerUrlError> {
        let (scheme, rest) = raw.split_once("://").ok_or(BrokerUrlError::Scheme)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(BrokerUrlError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(BrokerUrlError::Login);
        }
        if rest.contains(['/', '?', '#']) {
            return Err(BrokerUrlError::Surplus);
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(BrokerUrlError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| BrokerUrlError::Host)?;
                (host, (!port.is_empty()).then(|| port.strip_prefix(':').unwrap_or("")))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(known) {
            return Err(BrokerUrlError::Host);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|p| *p > 0).ok_or(BrokerUrlError::Port)?,
            None if tls => 8883,
            None => 1883,
        };
        Ok(Self { tls, host: host.into(), port })
    }

    /// Whether the connection is by TLS.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// The host, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = BrokerUrlError;
    fn try_from(raw: String) -> Result<Self, BrokerUrlError> {
        Self::parse(&raw)
    }
}

impl From<BrokerUrl> for String {
    fn from(url: BrokerUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (raw, shown) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker.example/", "mqtts://broker.example:8883"),
            ("mqtt://127.0.0.1:2883", "mqtt://127.0.0.1:2883"),
            ("mqtts://[::1]", "mqtts://[::1]:8883"),
            ("mqtt://[::1]:5", "mqtt://[::1]:5"),
        ] {
            assert_eq!(BrokerUrl::parse(raw).unwrap().to_string(), shown, "{raw}");
        }
        for (raw, why) in [
            ("broker:1883", BrokerUrlError::Scheme),
            ("http://broker", BrokerUrlError::Scheme),
            ("mqtt://me:secret@broker", BrokerUrlError::Login),
            ("mqtt://broker/topic", BrokerUrlError::Surplus),
            ("mqtt://", BrokerUrlError::Host),
            ("mqtt://a b", BrokerUrlError::Host),
            ("mqtt://[::1", BrokerUrlError::Host),
            ("mqtt://broker:0", BrokerUrlError::Port),
            ("mqtt://broker:", BrokerUrlError::Port),
            ("mqtt://[::1]5", BrokerUrlError::Port),
        ] {
            assert_eq!(BrokerUrl::parse(raw), Err(why), "{raw}");
        }
    }
}
