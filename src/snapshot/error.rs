//! Why there is no snapshot: what failed, and the way out where there is one.

use crate::name::{Dataset, SnapshotName};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a snapshot was not taken, or not listed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The dataset is not there.
    #[error(
        "dataset {dataset} does not exist; make it (`zfs create {dataset}`) or correct snapshot.dataset"
    )]
    NoSuchDataset {
        /// The dataset asked for.
        dataset: Dataset,
    },
    /// Something else has this name. Our own snapshot of the same request is no error.
    #[error("snapshot {full} already exists and belongs to another announcement")]
    AlreadyExists {
        /// Dataset and tag, or the path of the copy.
        full: String,
    },
    /// The user the hub runs as may not.
    #[error("permission denied to snapshot {what}; {way_out}")]
    PermissionDenied {
        /// The dataset or directory.
        what: String,
        /// What an administrator can do about it.
        way_out: String,
    },
    /// The pool, the quota or the file system is full.
    #[error("no space left for a snapshot of {what}; remove files or destroy snapshots")]
    OutOfSpace {
        /// The dataset or directory.
        what: String,
    },
    /// A device of the pool does not answer; files on it would hang.
    #[error("pool {pool} is suspended: look at `zpool status {pool}`, then `zpool clear {pool}`")]
    PoolSuspended {
        /// The pool.
        pool: String,
    },
    /// The time limit passed. The snapshot may still be born a moment later.
    #[error("{what} did not answer within {}", humantime::format_duration(*.limit))]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// Earlier calls never came back. One more would only be one more.
    #[error("{count} earlier calls of {what} still hang: look whether its device answers")]
    Stuck {
        /// The program, or the work.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The program is not on the search path.
    #[error("{program} is not installed, or not in PATH; on Debian: apt install zfsutils-linux")]
    NotInstalled {
        /// The program's name.
        program: &'static str,
    },
    /// The program is there, the kernel's part is not.
    #[error("the kernel has no zfs: load it (`modprobe zfs`), or use another engine")]
    NoModule,
    /// The program could not be started.
    #[error("could not start {program}")]
    Spawn {
        /// The program's name.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The program said something we know nothing about.
    #[error("{verb} ended with {status}: {stderr}")]
    Failed {
        /// Program and verb.
        verb: &'static str,
        /// Its exit status.
        status: ExitStatus,
        /// What it said, its first lines.
        stderr: String,
    },
    /// The program's output is not what it should be.
    #[error("{verb} answered with a line that makes no sense: {line:?}")]
    Answer {
        /// Program and verb.
        verb: &'static str,
        /// The first such line.
        line: String,
    },
    /// A snapshot of the dataset would not hold the tree.
    #[error("a snapshot of dataset {dataset} would not hold {root}: {reason}")]
    NotCovered {
        /// The dataset.
        dataset: Dataset,
        /// The tree's root, or the part of it that is left out.
        root: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The chosen engine cannot work where the tree is.
    #[error("engine {engine} cannot be used for {root}: {reason}")]
    Unsuitable {
        /// The engine.
        engine: &'static str,
        /// The tree's root.
        root: PathBuf,
        /// Why not, and what to write instead.
        reason: String,
    },
    /// A file or directory could not be read or made.
    #[error("could not {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl SnapshotError {
    /// Whether the same request may succeed later although nobody changed anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            // Somebody must create, allow, install, load, move or configure something first.
            Self::NoSuchDataset { .. }
            | Self::PermissionDenied { .. }
            | Self::NotInstalled { .. }
            | Self::NoModule
            | Self::NotCovered { .. }
            | Self::Unsuitable { .. } => false,
            // The name stays taken; another name is another request.
            Self::AlreadyExists { .. } => false,
            // Space and devices come back while the hub runs.
            Self::OutOfSpace { .. } | Self::PoolSuspended { .. } => true,
            // A busy machine answers a moment later, and starts programs again.
            Self::TimedOut { .. } | Self::Stuck { .. } | Self::Spawn { .. } => true,
            // Unknown: repeating what was not understood could do harm.
            Self::Failed { .. } | Self::Answer { .. } => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::Interrupted
                    | std::io::ErrorKind::ResourceBusy
                    | std::io::ErrorKind::QuotaExceeded
                    | std::io::ErrorKind::StorageFull
            ),
        }
    }

    /// Names a fault of the file system; the known kinds get their own variant.
    pub(super) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        use std::io::ErrorKind;
        let (path, source) = (path.into(), source.into());
        let what = path.display().to_string();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::OutOfSpace { what },
            ErrorKind::PermissionDenied => {
                let uid = rustix::process::geteuid().as_raw();
                let way_out = format!("could not {verb} it: give user {uid} the right to");
                Self::PermissionDenied { what, way_out }
            }
            _ => Self::Io { verb, path, source },
        }
    }
}

/// A snapshot as `zfs` and people write it.
pub(super) fn full_name(dataset: &Dataset, name: &SnapshotName) -> String {
    format!("{dataset}@{name}")
}
