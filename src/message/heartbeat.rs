//! Heartbeats, births and deaths.

use super::Malformed;
use crate::name::NodeId;
use serde::Deserialize;

/// What the hub itself reads from a heartbeat; the payload is kept as it came.
///
/// Two shapes are in use: the one of shell scripts, where every value is a
/// string (`"uptime": "3490.81"`), and the typed one of `meshfs node`
/// (`"uptime_s": 3490.81`). Unknown fields are never an error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Heartbeat {
    /// The sender's name, which must be the one in the topic.
    pub node: Option<String>,
    /// The sender's own word on how it is, such as `ALIVE`.
    pub status: Option<String>,
    /// When the sender made it, RFC 3339.
    pub timestamp: Option<jiff::Timestamp>,
    /// How often the sender intends to send, in milliseconds.
    pub interval_ms: Option<u64>,
    /// Which boot of the sender this is.
    pub boot_id: Option<String>,
}

/// A birth or a death.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Presence {
    /// The sender's name, which must be the one in the topic.
    pub node: Option<String>,
    /// Born or gone.
    pub state: PresenceState,
    /// Which boot this is about, so that a late will does not kill a reborn node.
    pub boot_id: Option<String>,
}

/// The two states of a presence message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// A birth.
    Online,
    /// A death; by the will or by the node's own word.
    Offline,
}

/// The one field of every node's message that the contract looks at.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) node: Option<String>,
}

/// A message may leave its node out, but may not name another than its topic.
pub(super) fn same_node(named: Option<&str>, node: &NodeId) -> Result<(), Malformed> {
    match named {
        Some(other) if other != node.as_str() => Err(Malformed::OtherNode {
            topic: node.clone(),
            payload: other.chars().take(128).collect(),
        }),
        _ => Ok(()),
    }
}
