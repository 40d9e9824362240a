//! How an announcement goes: every state of it, the last being its outcome.

use crate::name::{AnnouncementId, By, SnapshotName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where an announcement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Received and journalled.
    Accepted,
    /// Every node has been asked for evidence.
    Capturing,
    /// All that came before is on disk; the engine is at work.
    Snapshotting,
    /// The snapshot is there.
    Confirmed,
    /// There is no snapshot; `error` says why.
    Failed,
}

impl State {
    /// True for the two states that end an announcement.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Failed)
    }
}

/// A state of an announcement as published on `mesh/announce/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which announcement.
    pub id: AnnouncementId,
    /// Where it stands.
    pub state: State,
    /// What was announced.
    pub reason: String,
    /// What announced it.
    pub source: Option<String>,
    /// Who sent it, as the door saw them.
    pub by: By,
    /// The snapshot; only when confirmed.
    pub snapshot: Option<SnapshotRef>,
    /// When the request was received.
    #[serde(with = "crate::clock::millis")]
    pub requested_at: Timestamp,
    /// When the snapshot was there.
    #[serde(with = "crate::clock::millis::option")]
    pub confirmed_at: Option<Timestamp>,
    /// Where the time went.
    pub timings_ms: Timings,
    /// Who answered the capture request; only with `flush`.
    #[serde(default)]
    pub capture: Option<CaptureSummary>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A snapshot, told apart by more than its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its name below the dataset.
    pub name: SnapshotName,
    /// What took it: `zfs`, `btrfs` or `copy`.
    pub engine: String,
    /// `pool/dataset@name` on ZFS, the path of the copy otherwise.
    pub full: String,
    /// ZFS's own identity of it.
    pub guid: Option<String>,
    /// The transaction group it was made in: the order of snapshots, whatever the clock says.
    pub txg: Option<u64>,
}

/// Milliseconds from one step to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for nodes to answer the capture request.
    pub capture: u64,
    /// Waiting for a running snapshot and for everything received before to be on disk.
    pub persist: u64,
    /// The engine's own time.
    pub snapshot: u64,
    /// From the request to the outcome.
    pub total: u64,
}

/// Who answered a capture request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureSummary {
    /// Nodes whose evidence is in the snapshot.
    pub answered: Vec<String>,
    /// Nodes that were alive and did not answer in time.
    pub missing: Vec<String>,
    /// How long they had.
    pub deadline_ms: u64,
}

/// The retained record of a snapshot at `mesh/snapshots/<name>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: SnapshotRef,
    /// When the engine was asked for it.
    #[serde(with = "crate::clock::millis")]
    pub began_at: Timestamp,
    /// When it was there.
    #[serde(with = "crate::clock::millis")]
    pub taken_at: Timestamp,
    /// The announcements it answers, in the order of arrival.
    pub announcements: Vec<Explained>,
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The announcement.
    pub id: AnnouncementId,
    /// What was announced.
    pub reason: String,
    /// What announced it.
    pub source: Option<String>,
    /// Who sent it.
    pub by: By,
    /// When the request was received.
    #[serde(with = "crate::clock::millis")]
    pub requested_at: Timestamp,
}
