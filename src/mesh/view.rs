//! What a reader may see: a cheap copy of the mesh as of now.

use crate::message::{Outcome, SnapshotRecord, Verdict};
use crate::name::{AnnouncementId, NodeId, ServiceId, SnapshotName};
use imbl::OrdMap;
use jiff::Timestamp;
use std::sync::Arc;

/// The mesh as readers see it. Copying it costs nothing: the maps are shared.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The hub itself.
    pub hub: HubView,
    /// Every node ever heard of and not cleared.
    pub nodes: OrdMap<NodeId, Arc<NodeView>>,
    /// Services that belong to no node.
    pub services: OrdMap<ServiceId, Arc<ServiceView>>,
    /// The records of the snapshots; names sort by time.
    pub snapshots: OrdMap<SnapshotName, Arc<SnapshotRecord>>,
    /// The latest state of recent announcements.
    pub announcements: OrdMap<AnnouncementId, Arc<Outcome>>,
}

/// The hub as readers see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HubView {
    /// Since when it runs; absent before it has started.
    pub started_at: Option<Timestamp>,
    /// What takes the snapshots.
    pub engine: &'static str,
    /// Why this engine.
    pub engine_why: Arc<str>,
    /// What the disk refuses at the moment.
    pub trouble: Option<Arc<str>>,
}

/// A node as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// What the hub believes.
    pub verdict: Verdict,
    /// Since when.
    pub since: Timestamp,
    /// Because of what.
    pub because: Vec<Box<str>>,
    /// When it was last heard, by the hub's clock.
    pub last_heard: Option<Timestamp>,
    /// The node's own word on how it is.
    pub status: Option<Box<str>>,
    /// Its services.
    pub services: OrdMap<ServiceId, Arc<ServiceView>>,
}

/// A service as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// When it was last heard, by the hub's clock.
    pub last_heard: Timestamp,
    /// Its own word on how it is.
    pub status: Option<Box<str>>,
}
