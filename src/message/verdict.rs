//! What the hub believes of a node, as it says so on the bus.

use crate::name::NodeId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The body of `mesh/nodes/<node>/verdict`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// The node.
    pub node: NodeId,
    /// What the hub believes of it.
    pub verdict: Verdict,
    /// Since when.
    #[serde(with = "crate::clock::millis")]
    pub since: Timestamp,
    /// Because of what.
    pub because: Vec<String>,
}

/// What the hub believes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Only a service of it was heard.
    Unknown,
    /// Heard from in time.
    Alive,
    /// Silent for longer than it should be.
    Late,
    /// Silent for so long that it must be looked after, or its will was received.
    Lost,
    /// Said goodbye.
    Left,
}

impl Verdict {
    /// The word used on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
