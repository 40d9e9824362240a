//! Room 5: snapshots. A request with its labels comes in, the name and the
//! identity of a snapshot go out, or the reason why there is none.
//!
//! Always true:
//! - A snapshot that is reported exists and began after its request came in.
//! - Every call ends within its time limit, also when the engine hangs.
//! - Order is by the engine's own count, never by a clock.
//! - After [`SnapshotError::TimedOut`] the snapshot may still be born: the kernel
//!   finishes what it began. [`Engine::list`] then shows it, and its labels say
//!   whose it is.

mod choose;
mod command;
mod copy;
mod error;
#[cfg(feature = "fakes")]
mod fake;
mod mounts;
mod zfs;

use crate::name::SnapshotName;
use std::pin::Pin;
use std::time::Duration;

pub use choose::{Choice, Kind, choose};
pub use command::Program;
pub use copy::CopyEngine;
pub use error::SnapshotError;
#[cfg(feature = "fakes")]
pub use fake::FakeEngine;
pub use zfs::ZfsEngine;

/// A future that can be kept in a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The snapshot's name, not used before.
    pub name: SnapshotName,
    /// What is kept with it.
    pub labels: Labels,
    /// Time limit for the whole of it.
    pub deadline: Duration,
}

/// Why a snapshot is there. Kept with it, so that it explains itself without the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// What the announcer is about to do.
    pub reason: String,
    /// The service or person that announced.
    pub source: Option<String>,
    /// The announcement that started it.
    pub id: String,
    /// All announcements that share it.
    pub ids: Vec<String>,
    /// Whether nodes were asked for evidence before.
    pub flush: bool,
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The engine's name.
    pub engine: &'static str,
    /// `tank/meshfs@mesh-…`, or the path of the copy.
    pub full: String,
    /// The engine's identity of it, where it has one.
    pub guid: Option<String>,
    /// The transaction group that made it, where there is one.
    pub txg: Option<u64>,
}

/// A snapshot found by [`Engine::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: SnapshotName,
    /// Where and what it is.
    pub taken: Taken,
    /// Why it is there; `None` if it is not one of ours.
    pub labels: Option<Labels>,
}

/// What the hub needs of an engine, and no more.
pub trait Engine: Send + Sync + 'static {
    /// `zfs`, `btrfs` or `copy`.
    fn name(&self) -> &'static str;

    /// Takes a snapshot. The same request again is met by the snapshot that is there.
    fn take(&self, request: Request) -> BoxFuture<'_, Result<Taken, SnapshotError>>;

    /// What exists, oldest first.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, SnapshotError>>;

    /// Whether a snapshot would work, as far as that can be known without taking
    /// one. Cheap, and touches no file that could hang.
    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>>;
}
