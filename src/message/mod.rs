//! Room 2: bytes to meaning, once.
//!
//! [`Message::parse`] is the contract at the door: what it refuses never gets
//! in, and what it accepts no other room has to look at again.

mod announcement;
pub mod contract;
mod event;
mod heartbeat;
mod outcome;
mod verdict;

pub use announcement::{Announcement, reply_topic};
pub use contract::Subject;
pub use event::{Entry, JournalLine, ReplyAddress};
pub use heartbeat::{Heartbeat, Presence, PresenceState};
pub use outcome::{Explained, Outcome, SnapshotRecord, SnapshotRef, State, Timings};
pub use verdict::{Verdict, VerdictRecord};

use crate::name::{Channel, NetworkName, NodeId, ServiceId, SnapshotName};
use heartbeat::{Named, same_node};
use serde::Deserialize;

/// Longest text of one `say` in bytes.
const SAY_MAX_BYTES: usize = 4096;

/// What a message means.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A node is alive.
    Heartbeat(NodeId, Heartbeat),
    /// A node was born or died.
    Presence(NodeId, Presence),
    /// A service is alive, on a node or on none.
    Service(Option<NodeId>, ServiceId, Heartbeat),
    /// A node's evidence.
    Capture(NodeId),
    /// The hub's belief about a node.
    Verdict(NodeId, Box<VerdictRecord>),
    /// Somebody is about to do something risky.
    Announcement(Box<Announcement>),
    /// A state of an announcement.
    Outcome(Box<Outcome>),
    /// A snapshot exists.
    Snapshot(Box<SnapshotRecord>),
    /// Somebody wants something said on IRC.
    Say(NetworkName, Channel, String),
    /// A retained message was cleared.
    Cleared(Subject),
    /// Bytes that the hub carries and does not read.
    Opaque,
}

/// Why a payload breaks the contract of its topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not UTF-8.
    #[error("the payload is not UTF-8")]
    NotUtf8,
    /// Not JSON of the right form.
    #[error("the payload is not the JSON it should be: {0}")]
    Json(String),
    /// A field is wrong.
    #[error("\"{field}\" {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It speaks for somebody else.
    #[error("the topic is of node {topic}, the payload names {payload:?}")]
    OtherNode {
        /// The node in the topic.
        topic: NodeId,
        /// The node in the payload.
        payload: String,
    },
    /// Empty, and not meant to clear.
    #[error("the payload is empty; to clear a retained message set the retain flag")]
    Empty,
    /// In the contract, and not in this release.
    #[error("{0} is not in this release")]
    NotYet(&'static str),
}

impl Malformed {
    fn json(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }

    fn field(field: &'static str, why: &str) -> Self {
        Self::Field { field, why: why.to_owned() }
    }
}

#[derive(Deserialize)]
struct SayBody {
    text: String,
}

impl Message {
    /// Reads a payload by the contract of its topic. `retain` is the packet's
    /// flag: with it an empty payload clears, without it an empty payload is malformed.
    ///
    /// # Errors
    /// The payload breaks the contract; the error says how.
    pub fn parse(subject: &Subject, payload: &[u8], retain: bool) -> Result<Self, Malformed> {
        let clears = payload.is_empty() && subject.kept() == contract::Kept::Always;
        if clears {
            return if retain { Ok(Self::Cleared(subject.clone())) } else { Err(Malformed::Empty) };
        }
        match subject {
            Subject::Heartbeat(node) => {
                let heartbeat: Heartbeat = object(payload)?;
                same_node(heartbeat.node.as_deref(), node)?;
                Ok(Self::Heartbeat(node.clone(), heartbeat))
            }
            Subject::Presence(node) => {
                let presence: Presence = object(payload)?;
                same_node(presence.node.as_deref(), node)?;
                Ok(Self::Presence(node.clone(), presence))
            }
            Subject::NodeService(node, service) => {
                let heartbeat: Heartbeat = object(payload)?;
                same_node(heartbeat.node.as_deref(), node)?;
                Ok(Self::Service(Some(node.clone()), service.clone(), heartbeat))
            }
            Subject::Service(service) => Ok(Self::Service(None, service.clone(), object(payload)?)),
            Subject::Capture(node) => {
                same_node(object::<Named>(payload)?.node.as_deref(), node)?;
                Ok(Self::Capture(node.clone()))
            }
            Subject::Verdict(node) => Ok(Self::Verdict(node.clone(), Box::new(object(payload)?))),
            Subject::Announce => {
                let announcement = Announcement::parse(payload)?;
                if announcement.flush {
                    return Err(Malformed::NotYet("\"flush\": true (capturing every node first)"));
                }
                Ok(Self::Announcement(Box::new(announcement)))
            }
            Subject::Outcome(_) => Ok(Self::Outcome(Box::new(object(payload)?))),
            Subject::Close(_) => Err(Malformed::NotYet("closing the window of an announcement")),
            Subject::Snapshot(name) => record(name, payload),
            Subject::Say(network, channel) => {
                Ok(Self::Say(network.clone(), channel.clone(), say(payload)?))
            }
            Subject::CaptureRequest
            | Subject::Events
            | Subject::Said(..)
            | Subject::Hub
            | Subject::App => Ok(Self::Opaque),
        }
    }
}

/// A JSON object and nothing else: serde would also take an array for a struct.
fn object<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, Malformed> {
    let text = std::str::from_utf8(payload).map_err(|_| Malformed::NotUtf8)?;
    if !text.trim_start().starts_with('{') {
        return Err(Malformed::Json("a JSON object is wanted".into()));
    }
    serde_json::from_str(text).map_err(Malformed::json)
}

fn record(name: &SnapshotName, payload: &[u8]) -> Result<Message, Malformed> {
    let record: SnapshotRecord = object(payload)?;
    if record.snapshot.name != *name {
        return Err(Malformed::field("name", "is not the one in the topic"));
    }
    Ok(Message::Snapshot(Box::new(record)))
}

/// `{"text": "…"}`, or any other text as it is.
fn say(payload: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(payload).map_err(|_| Malformed::NotUtf8)?;
    let text = if text.trim_start().starts_with('{') {
        object::<SayBody>(payload)?.text
    } else {
        text.to_owned()
    };
    if text.trim().is_empty() {
        return Err(Malformed::field("text", "must say something"));
    }
    if text.len() > SAY_MAX_BYTES {
        return Err(Malformed::field("text", "has at most 4,096 bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
