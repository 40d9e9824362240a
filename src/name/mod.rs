//! Checked names. Whoever holds one need not check it again.

mod dataset;
mod snapshot;

pub use dataset::{Dataset, DatasetError};
pub use snapshot::{SnapshotName, SnapshotNameError};
