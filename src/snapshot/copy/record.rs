//! What a copy keeps about itself: its labels and its place in order, in a file
//! beside the tree it holds.

use super::super::{Labels, SnapshotError};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

/// The file, at the top of the copy.
pub(super) const FILE: &str = ".meshfs-snapshot.json";

/// More than any labels need; a larger file is not ours.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Place in order: greater than that of every copy made before.
    sequence: u64,
    id: String,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default)]
    flush: bool,
    #[serde(default)]
    ids: Vec<String>,
}

/// Writes the record of a copy that is being made.
pub(super) fn write(copy: &Path, sequence: u64, labels: &Labels) -> Result<(), SnapshotError> {
    let path = copy.join(FILE);
    let Labels { reason, source, id, ids, flush } = labels.clone();
    let record = Record { sequence, id, reason, source, flush, ids };
    serde_json::to_vec_pretty(&record)
        .map_err(std::io::Error::from)
        .and_then(|mut text| {
            text.push(b'\n');
            std::fs::write(&path, text)
        })
        .map_err(|error| SnapshotError::io("write", path, error))
}

/// Reads the record of a copy.
pub(super) fn read(copy: &Path) -> std::io::Result<(u64, Labels)> {
    // Whoever may write to the root could have put a pipe or a link there.
    let flags = rustix::fs::OFlags::RDONLY
        | rustix::fs::OFlags::NOFOLLOW
        | rustix::fs::OFlags::NONBLOCK
        | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(copy.join(FILE), flags, rustix::fs::Mode::empty())?;
    let mut text = Vec::new();
    std::fs::File::from(file).take(FILE_MAX_BYTES).read_to_end(&mut text)?;
    let Record { sequence, id, reason, source, flush, ids } = serde_json::from_slice(&text)?;
    Ok((sequence, Labels { reason, source, id, ids, flush }))
}
