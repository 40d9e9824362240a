//! Why the store could not do something.

use super::path;
use crate::name::Topic;
use std::path::PathBuf;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A folder of the tree is not there or not usable.
    #[error("could not open {path}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A topic that the door should have refused.
    #[error("{topic}: {source}")]
    Path {
        /// The topic.
        topic: Topic,
        /// The cause.
        source: path::LevelTooLong,
    },
    /// A retained message could not be written or removed.
    #[error("could not write {path}")]
    Write {
        /// The file, below `live/`.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// What was written could not be brought onto the disk for good.
    #[error("could not sync the live store")]
    Sync {
        /// The cause.
        source: std::io::Error,
    },
    /// The tree could not be read back.
    #[error("could not read {path}")]
    Read {
        /// The file or folder, below `live/`.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something foreign could not be moved out of the way.
    #[error("could not set live/{path} aside, below aside/")]
    SetAside {
        /// The file or folder, below `live/`.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl StoreError {
    /// What the system said, if it was the system.
    #[must_use]
    pub const fn cause(&self) -> Option<&std::io::Error> {
        match self {
            Self::Open { source, .. }
            | Self::Write { source, .. }
            | Self::Sync { source }
            | Self::Read { source, .. }
            | Self::SetAside { source, .. } => Some(source),
            Self::Path { .. } => None,
        }
    }
}
