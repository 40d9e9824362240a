//! The bodies of requests and answers. An outcome and a snapshot's record are
//! the same objects as on the bus.

use crate::mesh::NodeView;
use crate::message::{Outcome, SnapshotRecord, Verdict};
use crate::name::{By, NodeId, Topic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An announcement's state.
pub type Announcement = Outcome;
/// A snapshot's record.
pub type Snapshot = SnapshotRecord;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// What the hub believes of it.
    pub verdict: Verdict,
    /// Since when.
    #[serde(with = "crate::clock::millis")]
    pub since: Timestamp,
    /// Because of what.
    pub because: Vec<String>,
    /// When it was last heard, by the hub's clock.
    #[serde(with = "crate::clock::millis::option")]
    pub last_heard: Option<Timestamp>,
    /// Its own word on how it is.
    pub status: Option<String>,
    /// Its services.
    pub services: BTreeMap<String, Service>,
}

/// A service of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// When it was last heard, by the hub's clock.
    #[serde(with = "crate::clock::millis")]
    pub last_heard: Timestamp,
    /// Its own word on how it is.
    pub status: Option<String>,
}

impl Node {
    /// A node as a body.
    #[must_use]
    pub fn new(id: &NodeId, node: &NodeView) -> Self {
        let services = node.services.iter().map(|(id, service)| {
            let status = service.status.as_deref().map(Into::into);
            (id.to_string(), Service { last_heard: service.last_heard, status })
        });
        Self {
            node: id.to_string(),
            verdict: node.verdict,
            since: node.since,
            because: node.because.iter().map(ToString::to_string).collect(),
            last_heard: node.last_heard,
            status: node.status.as_deref().map(Into::into),
            services: services.collect(),
        }
    }
}

/// A retained message, all but its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMessage {
    /// Its topic.
    pub topic: Topic,
    /// The size of its payload.
    pub bytes: u64,
    /// Who published it.
    pub by: By,
    /// When the hub received it.
    #[serde(with = "crate::clock::millis")]
    pub received_at: Timestamp,
    /// The quality of service it was published with: 0, 1 or 2.
    pub qos: u8,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// When it is to be forgotten.
    pub expires_at: Option<Timestamp>,
}

/// Some of the retained messages that a filter selects, in topic order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePage {
    /// The messages; there may be none though more follow.
    pub messages: Vec<LiveMessage>,
    /// The `after` of the next page; absent on the last one.
    pub next: Option<String>,
}

/// A request to clear retained messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Which.
    pub filter: String,
    /// Only say what would be cleared; so it is unless the request says otherwise.
    #[serde(default = "yes")]
    pub dry_run: bool,
}

const fn yes() -> bool {
    true
}

/// How a purge goes, and in the end how it went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// What was asked for.
    pub filter: String,
    /// Nothing was to be cleared.
    pub dry_run: bool,
    /// How many messages are to be cleared.
    pub selected: u64,
    /// How many bytes their payloads have.
    pub bytes: u64,
    /// How many messages the filter selects that only the hub clears.
    pub kept: u64,
    /// How many are cleared so far.
    pub purged: u64,
    /// How many the bus refused to clear.
    pub refused: u64,
    /// Why it ended early, or the first refusal.
    pub error: Option<String>,
    /// Nothing follows.
    pub ended: bool,
    /// The topics of those to be cleared, the first 1,000, at the end only.
    pub topics: Vec<Topic>,
}

/// What went wrong, by RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDetails {
    /// Always `about:blank`: the status says what sort it is.
    pub r#type: String,
    /// The sort, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong with this request and what to do about it.
    pub detail: String,
}
