//! The copy engine: a second tree in `<root>/.snapshots/<name>/`, for every file
//! system that has no snapshots of its own.
//!
//! Blocks are shared where the file system can (reflink). Elsewhere files that are
//! only ever replaced (`live/`, `archive/`) are hard links and all others copies.
//! So nobody may change a file of `live/` or `archive/` in place, neither its
//! content nor its times, mode or extended attributes: it would change in the
//! snapshots too. And a snapshot is only as read-only as its files are.
//!
//! A snapshot appears under its name when it is complete and on disk; until then
//! it is `.incomplete-<name>`, which the next take removes if it was left behind.

mod file;
mod listing;
mod record;
mod walk;

use super::{BoxFuture, Engine, Found, Request, SnapshotError, Taken};
use crate::name::SnapshotName;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};
use walk::Stop;

/// The directory of all copies, below the root.
const SNAPSHOTS: &str = ".snapshots";

/// In front of the name of a copy that is being made.
const INCOMPLETE: &str = ".incomplete-";

/// So many calls that never came back are enough; each holds a thread.
const STUCK_MAX: usize = 8;

/// Limit of a look at the copies there are.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Copies of one tree.
#[derive(Debug, Clone)]
pub struct CopyEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// The copies that are being made, so that none is taken for one left behind.
    under_way: Mutex<HashSet<SnapshotName>>,
    /// The place in order of the last copy; 0 before it is known.
    last: AtomicU64,
    /// The calls that have not ended.
    working: AtomicUsize,
}

impl CopyEngine {
    /// An engine for the tree at `root`, which must be there.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let (under_way, last, working) = Default::default();
        Self(Arc::new(Inner { root: root.into(), under_way, last, working }))
    }

    /// Does blocking work within a limit. Work that does not end is told to stop and
    /// left to itself: it may wait for a device that does not answer.
    async fn within<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl FnOnce(&Inner, &Stop) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let inner = Working::begin(&self.0, what)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let stop = Stop { cancelled: cancelled.clone(), at: Instant::now() + limit };
        let cancel = CancelOnDrop(cancelled);
        let working = tokio::task::spawn_blocking(move || work(&inner.0, &stop));
        let outcome = tokio::time::timeout(limit, working).await;
        drop(cancel);
        let timed_out = || SnapshotError::TimedOut { what: what.to_owned(), limit };
        match outcome {
            Ok(Ok(Err(SnapshotError::Io { source, .. }))) if walk::is_stop(&source) => {
                Err(timed_out())
            }
            Ok(Ok(result)) => result,
            Ok(Err(ended)) => {
                Err(SnapshotError::io("copy", &self.0.root, std::io::Error::other(ended)))
            }
            Err(_) => Err(timed_out()),
        }
    }
}

/// A call, counted until it ends.
struct Working(Arc<Inner>);

impl Working {
    fn begin(inner: &Arc<Inner>, what: &'static str) -> Result<Self, SnapshotError> {
        let count = inner.working.fetch_add(1, Relaxed);
        let begun = Self(inner.clone());
        if count >= STUCK_MAX { Err(SnapshotError::Stuck { what, count }) } else { Ok(begun) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Relaxed);
    }
}

/// Tells blocking work that nobody waits for it any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Engine for CopyEngine {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn take(&self, request: Request) -> BoxFuture<'_, Result<Taken, SnapshotError>> {
        let limit = request.deadline;
        Box::pin(
            self.within("copy of the tree", limit, move |inner, stop| inner.take(&request, stop)),
        )
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, SnapshotError>> {
        Box::pin(self.within("list of copies", ASK_LIMIT, |inner, _| {
            Ok(inner.records()?.into_iter().map(|(_, found)| found).collect())
        }))
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>> {
        Box::pin(self.within("file system of the tree", ASK_LIMIT, |inner, _| inner.check()))
    }
}

impl Inner {
    fn snapshots(&self) -> PathBuf {
        self.root.join(SNAPSHOTS)
    }

    fn taken(&self, name: &SnapshotName) -> Taken {
        let full = self.snapshots().join(name.as_str()).display().to_string();
        Taken { engine: "copy", full, guid: None, txg: None }
    }

    fn take(&self, request: &Request, stop: &Stop) -> Result<Taken, SnapshotError> {
        let snapshots = self.make_snapshots()?;
        let done = snapshots.join(request.name.as_str());
        if done.symlink_metadata().is_ok() {
            return self.recognise(request, &done);
        }
        let _mark = self.mark(&request.name)?;
        self.remove_left_behind(&snapshots);
        let sequence = self.next_sequence()?;
        let incomplete = snapshots.join(format!("{INCOMPLETE}{}", request.name));
        let started = Instant::now();
        let made = self.make(request, sequence, &incomplete, &done, stop);
        match &made {
            Ok(count) => {
                let elapsed_ms = started.elapsed().as_millis();
                info!(snapshot = %request.name, linked = count.linked, cloned = count.cloned,
                    copied = count.copied, skipped = count.skipped, elapsed_ms, "tree copied");
            }
            Err(_) => remove(&incomplete),
        }
        made.map(|_| self.taken(&request.name))
    }

    fn make(
        &self,
        request: &Request,
        sequence: u64,
        incomplete: &Path,
        done: &Path,
        stop: &Stop,
    ) -> Result<walk::Count, SnapshotError> {
        let snapshots = self.snapshots();
        std::fs::create_dir(incomplete)
            .map_err(|error| SnapshotError::io("make", incomplete, error))?;
        record::write(incomplete, sequence, &request.labels)?;
        let count = walk::copy_tree(&self.root, incomplete, stop)?;
        sync_with(incomplete, |directory| Ok(rustix::fs::syncfs(directory)?))?;
        stop.ask().map_err(|error| SnapshotError::io("copy", &self.root, error))?;
        std::fs::rename(incomplete, done)
            .map_err(|error| SnapshotError::io("rename", incomplete, error))?;
        // Complete already; without this sync a power cut may bring back its temporary name.
        sync_with(&snapshots, File::sync_all)?;
        Ok(count)
    }

    /// A copy of this name is there: a met goal if the same request made it.
    fn recognise(&self, request: &Request, done: &Path) -> Result<Taken, SnapshotError> {
        match record::read(done) {
            Ok((_, labels)) if labels.id == request.labels.id => Ok(self.taken(&request.name)),
            _ => Err(SnapshotError::AlreadyExists { full: done.display().to_string() }),
        }
    }

    /// Marks a name as being copied, until the mark is dropped.
    fn mark(&self, name: &SnapshotName) -> Result<Mark<'_>, SnapshotError> {
        if self.under_way().insert(name.clone()) {
            return Ok(Mark(self, name.clone()));
        }
        let full = self.snapshots().join(name.as_str()).display().to_string();
        Err(SnapshotError::AlreadyExists { full })
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<SnapshotName>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what a crash left behind. What cannot be removed is in nobody's way.
    fn remove_left_behind(&self, snapshots: &Path) {
        for entry in std::fs::read_dir(snapshots).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_prefix(INCOMPLETE))
            else {
                continue;
            };
            let Ok(name) = SnapshotName::parse(name) else { continue };
            if !self.under_way().contains(&name) {
                warn!(snapshot = %name, "incomplete copy left behind, removed");
                remove(&entry.path());
            }
        }
    }

    /// The next place in order: one more than any copy has.
    fn next_sequence(&self) -> Result<u64, SnapshotError> {
        if self.last.load(Relaxed) == 0 {
            let last = self.records()?.last().map_or(0, |(sequence, _)| *sequence);
            self.last.fetch_max(last, Relaxed);
        }
        Ok(self.last.fetch_add(1, Relaxed).saturating_add(1))
    }

    fn make_snapshots(&self) -> Result<PathBuf, SnapshotError> {
        let path = self.snapshots();
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(SnapshotError::io("make", path, error))
            }
            _ if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) => {
                let error = std::io::Error::from(std::io::ErrorKind::NotADirectory);
                Err(SnapshotError::io("use", path, error))
            }
            _ => Ok(path),
        }
    }

    /// Every copy with its place in order, oldest first.
    fn records(&self) -> Result<Vec<(u64, Found)>, SnapshotError> {
        let path = self.snapshots();
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| SnapshotError::io("list", &path, error))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| SnapshotError::io("list", &path, error))?;
            let name = entry.file_name();
            let Some(Ok(name)) = name.to_str().map(SnapshotName::parse) else { continue };
            match record::read(&entry.path()) {
                Ok((sequence, labels)) => {
                    let taken = self.taken(&name);
                    all.push((sequence, Found { name, taken, labels: Some(labels) }));
                }
                Err(error) => {
                    debug!(snapshot = %name, %error, "directory passed over, not a copy of ours");
                }
            }
        }
        all.sort_by(|(left, a), (right, b)| left.cmp(right).then_with(|| a.name.cmp(&b.name)));
        Ok(all)
    }

    fn check(&self) -> Result<(), SnapshotError> {
        let space = rustix::fs::statvfs(&self.root)
            .map_err(|error| SnapshotError::io("examine", &self.root, error))?;
        let what = self.root.display().to_string();
        if space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            let way_out = "its file system is read-only: mount it writable".to_owned();
            return Err(SnapshotError::PermissionDenied { what, way_out });
        }
        // Some file systems count no inodes at all.
        if space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0) {
            return Err(SnapshotError::OutOfSpace { what });
        }
        let snapshots = self.snapshots();
        let place = if snapshots.exists() { snapshots } else { self.root.clone() };
        rustix::fs::access(&place, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|error| SnapshotError::io("write to", &place, error))
    }
}

/// A name that is being copied.
struct Mark<'a>(&'a Inner, SnapshotName);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.under_way().remove(&self.1);
    }
}

fn sync_with(
    path: &Path,
    sync: impl FnOnce(&File) -> std::io::Result<()>,
) -> Result<(), SnapshotError> {
    let synced = File::open(path).and_then(|directory| sync(&directory));
    synced.map_err(|error| SnapshotError::io("sync", path, error))
}

/// Removes a tree of ours. It does not follow symlinks; what stays is removed at the next take.
fn remove(incomplete: &Path) {
    match std::fs::remove_dir_all(incomplete) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %incomplete.display(), %error, "incomplete copy not removed");
        }
        _ => {}
    }
}
