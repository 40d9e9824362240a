//! Who did something, and through which door.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A way into the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// A client of the bus.
    Mqtt,
    /// A request to the HTTP interface.
    Http,
    /// The `meshfs` command.
    Cli,
    /// A command typed in an IRC channel.
    Irc,
    /// A file dropped into `queue/`.
    Queue,
    /// The hub itself.
    Hub,
}

impl Door {
    /// The door of a word, if it is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let all = [Self::Mqtt, Self::Http, Self::Cli, Self::Irc, Self::Queue, Self::Hub];
        all.into_iter().find(|door| door.as_str() == word)
    }

    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
            Self::Cli => "cli",
            Self::Irc => "irc",
            Self::Queue => "queue",
            Self::Hub => "hub",
        }
    }
}

/// Who sent a message, as the door saw it.
///
/// `client` is the MQTT client id, the HTTP peer address, or
/// `network/#channel/nick!user@host` on IRC. `user` is set only when the door
/// authenticated somebody.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct By {
    /// The way in.
    pub door: Door,
    /// What the door knows of the sender.
    pub client: Box<str>,
    /// The authenticated user, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
}

impl By {
    /// The hub itself.
    #[must_use]
    pub fn hub() -> Self {
        Self::new(Door::Hub, "hub")
    }

    /// A sender without an authenticated user.
    pub fn new(door: Door, client: impl Into<Box<str>>) -> Self {
        Self { door, client: client.into(), user: None }
    }
}

/// For logs and people. A client chooses its own id, so control characters and
/// the like are escaped: nobody writes a second line into a log.
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (door, client) = (self.door.as_str(), self.client.escape_debug());
        match &self.user {
            Some(user) => write!(f, "{} ({door}:{client})", user.escape_debug()),
            None => write!(f, "{door}:{client}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_cannot_write_a_line_of_its_own_into_a_log() {
        let by = By::new(Door::Mqtt, "x\n2026-06-16 ERROR \u{1b}[31m");
        assert_eq!(by.to_string(), r"mqtt:x\n2026-06-16 ERROR \u{1b}[31m");
    }
}
