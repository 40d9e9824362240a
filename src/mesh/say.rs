//! What IRC is told.

use crate::name::{Channel, NetworkName};

/// A line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// Where.
    pub to: SayTo,
    /// Of what sort; a digest counts by sort.
    pub kind: SayKind,
    /// The text, one line, not yet cleaned or split.
    pub text: Box<str>,
}

/// Which channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SayTo {
    /// Every configured channel of every network.
    Everywhere,
    /// One channel.
    Channel(NetworkName, Channel),
}

/// Why something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SayKind {
    /// A snapshot was taken for an announcement.
    Confirmed,
    /// An announcement failed.
    Failed,
    /// The hub changed its mind about a node.
    Verdict,
    /// The hub speaks of itself.
    Hub,
    /// Somebody on the bus asked for it.
    Relay,
}

impl Say {
    /// A line for every channel.
    pub fn everywhere(kind: SayKind, text: impl Into<Box<str>>) -> Self {
        Self { to: SayTo::Everywhere, kind, text: text.into() }
    }
}
