//! What the disk refuses at the moment, for everybody who has to know: the door,
//! which lets nothing in that could not be kept, `mesh/hub` and `/readyz`.

use crate::live::StoreError;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A write that takes longer hangs, for all that anybody can tell.
const HANG: Duration = Duration::from_secs(10);
/// The same for a sync, which may have to write what others have left to write.
const SYNC_HANG: Duration = Duration::from_secs(15);

/// Something that the disk refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What and why, on one line.
    pub why: Arc<str>,
    /// What a person can do about it.
    pub way_out: &'static str,
    /// There is no room.
    pub full: bool,
    /// It is not one file: nothing can be written.
    pub everywhere: bool,
}

impl Trouble {
    /// What an error means. `everywhere`: nothing else could be written either.
    pub(super) fn new(
        why: impl Into<Arc<str>>,
        cause: Option<&std::io::Error>,
        everywhere: bool,
    ) -> Self {
        let kind = cause.map(std::io::Error::kind);
        let full = matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
        let way_out = match kind {
            Some(ErrorKind::StorageFull) => "free space on the file system of the tree",
            Some(ErrorKind::QuotaExceeded) => "raise the quota of the tree or remove something",
            Some(ErrorKind::ReadOnlyFilesystem) => {
                "find out why its file system is read-only, then remount it read-write"
            }
            Some(ErrorKind::PermissionDenied) => {
                "give the user that runs the hub write permission in the tree"
            }
            _ => "look at the hub's log and at the system's",
        };
        Self { why: why.into(), way_out, full, everywhere }
    }

    pub(super) fn of(error: &StoreError, everywhere: bool) -> Self {
        Self::new(super::files::chain(error), error.cause(), everywhere)
    }

    fn hangs(what: &str, everywhere: bool) -> Self {
        Self::new(what, None, everywhere)
    }
}

/// What is known about the disk at the moment, and what it has done so far.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    files: Mutex<Option<Trouble>>,
    journal: Mutex<Option<Trouble>>,
    /// Since when the writer, and the syncer, are at something.
    writing: Mutex<Option<Instant>>,
    syncing: Mutex<Option<Instant>>,
    written: AtomicU64,
    file_syncs: AtomicU64,
    journal_syncs: AtomicU64,
}

impl Health {
    /// What keeps retained messages from their files.
    #[must_use]
    pub fn files(&self) -> Option<Trouble> {
        let since =
            |clock: &Mutex<Option<Instant>>| lock(clock).map_or(Duration::ZERO, |t| t.elapsed());
        if since(&self.0.writing) > HANG {
            return Some(Trouble::hangs("the live store: a write does not end", true));
        }
        let trouble = lock(&self.0.files).clone();
        trouble.or_else(|| {
            let hangs = since(&self.0.syncing) > SYNC_HANG;
            hangs.then(|| Trouble::hangs("the live store: a sync does not end", false))
        })
    }

    /// What keeps announcements from the journal.
    #[must_use]
    pub fn journal(&self) -> Option<Trouble> {
        lock(&self.0.journal).clone()
    }

    /// Files written or removed so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.load(Relaxed)
    }

    /// How often the disk was asked to sync so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.file_syncs.load(Relaxed) + self.0.journal_syncs.load(Relaxed)
    }

    /// Gives what was known before.
    pub(super) fn set_files(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        std::mem::replace(&mut *lock(&self.0.files), trouble)
    }

    pub(super) fn set_journal(&self, trouble: Option<Trouble>) {
        *lock(&self.0.journal) = trouble;
    }

    pub(super) fn writing(&self, is: bool) {
        *lock(&self.0.writing) = is.then(Instant::now);
    }

    pub(super) fn syncing(&self, is: bool) {
        *lock(&self.0.syncing) = is.then(Instant::now);
    }

    pub(super) fn wrote(&self, files: usize) {
        self.0.written.fetch_add(files as u64, Relaxed);
    }

    pub(super) fn synced_files(&self, times_so_far: u64) {
        self.0.file_syncs.store(times_so_far, Relaxed);
    }

    pub(super) fn synced_journal(&self) {
        self.0.journal_syncs.fetch_add(1, Relaxed);
    }
}

fn lock<T>(known: &Mutex<T>) -> MutexGuard<'_, T> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
