//! What a network's connection is given: where to go, who to be, and how patient to be.

use std::fmt;
use std::time::Duration;

use super::Pace;
use crate::config;
use crate::name::{Channel, NetworkName, Nick};

/// A network to be on.
#[derive(Clone)]
pub struct Link {
    /// Its name in topics.
    pub name: NetworkName,
    /// `host:port`.
    pub server: String,
    /// The nick we want.
    pub nick: Nick,
    /// The channels we want to be in.
    pub channels: Vec<Channel>,
    /// Server password.
    pub password: Option<Box<str>>,
    /// The hub's own server: everybody on it may announce, and it replays nothing.
    pub house: bool,
    /// How fast we may speak.
    pub pace: Pace,
}

impl Link {
    /// The hub's own server, which minds a faster pace less than people mind waiting.
    #[must_use]
    pub fn to_house(embedded: &config::Embedded, address: std::net::SocketAddr) -> Self {
        Self {
            name: embedded.network.clone(),
            server: address.to_string(),
            nick: embedded.nick.clone(),
            channels: vec![embedded.channel.clone()],
            password: None,
            house: true,
            pace: Pace { burst: 8, every: Duration::from_millis(500), ..Pace::default() },
        }
    }
}

impl From<&config::Network> for Link {
    fn from(network: &config::Network) -> Self {
        Self {
            name: network.name.clone(),
            server: network.server.clone(),
            nick: network.nick.clone(),
            channels: network.channels.clone(),
            password: None,
            house: false,
            pace: Pace::default(),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.name)
            .field("server", &self.server)
            .field("nick", &self.nick)
            .field("channels", &self.channels)
            .field("password", &self.password.as_ref().map(|_| "set"))
            .field("house", &self.house)
            .finish_non_exhaustive()
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For the TCP connection.
    pub connect: Duration,
    /// From there to the welcome.
    pub registration: Duration,
    /// From the welcome to the end of what servers say at the start.
    pub motd: Duration,
    /// Silence after which the server is asked with PING.
    pub ping_idle: Duration,
    /// Time it has to answer, or to read what we write.
    pub ping_answer: Duration,
    /// First pause before connecting again.
    pub reconnect_min: Duration,
    /// Longest such pause.
    pub reconnect_max: Duration,
    /// Time connected, or in a channel, after which pauses start small again.
    pub healthy: Duration,
    /// First pause before joining again.
    pub rejoin_min: Duration,
    /// Longest such pause.
    pub rejoin_max: Duration,
    /// Time a server has to answer a JOIN.
    pub join_answer: Duration,
    /// Time after a join in which commands may be history, where messages carry no time.
    pub quarantine: Duration,
    /// How long to be silent where the server does not pass on what we say.
    pub muted: Duration,
    /// Between two tries to get the nick we want.
    pub regain: Duration,
    /// Between two answers to CTCP.
    pub ctcp: Duration,
    /// Time a server has to close after QUIT.
    pub farewell: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            connect: s(10),
            registration: s(30),
            motd: s(5),
            ping_idle: s(60),
            ping_answer: s(30),
            reconnect_min: s(1),
            reconnect_max: s(300),
            healthy: s(60),
            rejoin_min: s(5),
            rejoin_max: s(300),
            join_answer: s(30),
            quarantine: s(3),
            muted: s(300),
            regain: s(60),
            ctcp: s(3),
            farewell: s(2),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No TCP connection.
    #[error("could not connect to {server}")]
    Connect {
        /// The server.
        server: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stream broke.
    #[error("the connection broke")]
    Broken {
        /// What the system said.
        source: std::io::Error,
    },
    /// The server closed it without a word.
    #[error("the server closed the connection")]
    Closed,
    /// No welcome in time.
    #[error("the server did not welcome us in time")]
    Registration,
    /// No answer to PING, or it stopped reading.
    #[error("the server fell silent")]
    Silent,
    /// The server sent ERROR.
    #[error("the server ended the connection: {0}")]
    Server(String),
    /// Wrong password, or banned.
    #[error("the server does not let us in: {0}")]
    Refused(String),
    /// Neither the nick nor any like it is free.
    #[error("no nick like {0} is free")]
    Nick(String),
}

impl ConnectionError {
    /// Whether only a person can mend it, so that trying soon is pointless.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            // A network that is down, slow or restarting comes back by itself.
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Closed
            | Self::Registration
            | Self::Silent
            | Self::Server(_)
            | Self::Nick(_) => false,
        }
    }
}

#[cfg(test)]
impl PartialEq for ConnectionError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}
