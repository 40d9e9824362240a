//! The bodies of requests and answers. An outcome and a snapshot's record are
//! the same objects as on the bus.

use crate::mesh::NodeView;
use crate::message::{Outcome, SnapshotRecord, Verdict};
use crate::name::NodeId;
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
