//! The files below `live/`.

use super::atomic::{self, Content};
use super::error::StoreError;
use super::meta::{ATTRIBUTE, Meta, seal};
use super::path;
use super::unsynced::{Unsynced, kept_name, kept_path};
use crate::name::Topic;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, linkat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a file is written before it is one.
const TEMPORARY: &str = "live";
/// Where former files are kept, below the root.
pub(super) const KEPT: &str = ".tmp/kept";

/// What a payload has to mean to be served on its topic, or why it does not.
pub type Meaning<'a> = &'a dyn Fn(&Topic, &[u8]) -> Result<(), String>;

/// A retained message as read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Retained {
    /// Its topic.
    pub topic: Topic,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What was kept beside it.
    pub meta: Meta,
}

/// Something that had no place in `live/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Where it was, below the root.
    pub path: PathBuf,
    /// Where it is now, below the root.
    pub to: PathBuf,
    /// Why.
    pub why: String,
}

/// The tree as found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The retained messages, in the order of their paths.
    pub messages: Vec<Retained>,
    /// What was set aside.
    pub aside: Vec<Aside>,
}

/// The store. It has one user at a time who changes it, the disk worker, and
/// one who syncs it meanwhile.
#[derive(Debug)]
pub struct Store {
    pub(super) root: OwnedFd,
    /// Below the root, where foreign things of this run go.
    aside: PathBuf,
    pub(super) unsynced: Mutex<Unsynced>,
    /// The file system can swap two files in one step; found out by trying.
    pub(super) exchanges: AtomicBool,
    pub(super) syncs: AtomicU64,
}

impl Store {
    /// Opens `live/` below `root`, making it if it is missing. `started_at`
    /// names the folder for what has to be set aside.
    ///
    /// # Errors
    /// The folders cannot be made or opened.
    pub fn open(root: &Path, started_at: jiff::Timestamp) -> Result<Self, StoreError> {
        let failed =
            |path: &Path, e: Errno| StoreError::Open { path: path.into(), source: e.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| failed(root, e))?;
        let below = |name: &str| {
            atomic::folder_made(&base, Path::new(name)).map_err(|e| failed(&root.join(name), e))
        };
        below("live")?;
        let kept = below(KEPT)?;
        let names = super::load::entries(&kept).map_err(|e| failed(&root.join(KEPT), e))?;
        let kept = names.iter().map(|(name, _)| kept_path(name.to_bytes()));
        // What is made here is above everything that will be synced later.
        below(".tmp").and_then(|tmp| fsync(&tmp).map_err(|e| failed(&root.join(".tmp"), e)))?;
        fsync(&base).map_err(|e| failed(root, e))?;
        let aside = format!("aside/{}", started_at.strftime("%Y%m%dT%H%M%SZ"));
        Ok(Self {
            root: base,
            aside: aside.into(),
            unsynced: Mutex::new(Unsynced::unknown(kept)),
            exchanges: AtomicBool::new(true),
            syncs: AtomicU64::new(0),
        })
    }

    /// Tries what every write needs, on a scratch file.
    ///
    /// # Errors
    /// The file system is read-only, full, or keeps no extended attributes.
    pub fn probe(&self) -> std::io::Result<()> {
        let content = Content {
            payload: b"meshfs",
            attribute: (ATTRIBUTE, b"{}"),
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        let (scratch, probe) = (self.scratch()?, Path::new("probe"));
        atomic::write(&scratch, probe, &content)?;
        atomic::discard(&scratch, probe)?;
        Ok(())
    }

    /// Replaces the file of a topic. It is seen at once; after a power cut it
    /// may be the former one, until a [`sync`](Self::sync) that began later ends.
    ///
    /// # Errors
    /// The disk refused; the old file is as it was.
    pub fn put(
        &self,
        topic: &Topic,
        payload: &[u8],
        meta: &Meta,
    ) -> Result<Vec<Aside>, StoreError> {
        let path = path_of(topic)?;
        let attribute = sealed(&path, payload, meta)?;
        let content =
            Content { payload, attribute: (ATTRIBUTE, &attribute), modified: meta.received_at };
        self.through(&path, &mut |unsynced, folder| self.swap(unsynced, folder, &path, &content))
    }

    /// Does something in the folder of a path that puts a file there, and once
    /// more after whatever foreign stood in its way was set aside.
    pub(super) fn through(
        &self,
        path: &Path,
        put: &mut dyn FnMut(&mut Unsynced, &OwnedFd) -> std::io::Result<()>,
    ) -> Result<Vec<Aside>, StoreError> {
        let mut attempt = || {
            // Kept to the end: a sync that begins meanwhile would not know whether it has this.
            let mut unsynced = self.unsynced();
            let live = self.live()?;
            let made_in = &mut |above| unsynced.made_in(above);
            let folder = atomic::folder_made_in(&live, parent(path), made_in)?;
            put(&mut unsynced, &folder)
        };
        let failed = |source| StoreError::Write { path: path.into(), source };
        let Err(error) = attempt() else { return Ok(Vec::new()) };
        // Something foreign may stand where a folder or the file should be.
        let aside = self.clear_way(path)?;
        if aside.is_empty() {
            return Err(failed(error));
        }
        attempt().map_err(failed)?;
        Ok(aside)
    }

    /// Puts a file that is not synced in place of one that may be, which is kept.
    fn swap(
        &self,
        unsynced: &mut Unsynced,
        folder: &OwnedFd,
        path: &Path,
        content: &Content<'_>,
    ) -> std::io::Result<()> {
        let name = Path::new(file_name(path));
        let there = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        if there == Some(FileType::Directory) {
            return Err(Errno::ISDIR.into());
        }
        let kept = kept_name(path);
        if there == Some(FileType::RegularFile)
            && !unsynced.keeps(path)
            && let Some(kept) = &kept
        {
            let keeping = atomic::folder_made(&self.root, Path::new(KEPT))?;
            if self.exchanges.load(Relaxed) {
                atomic::write(&keeping, kept, content)?;
                match atomic::exchange((&keeping, kept), (folder, name)) {
                    Ok(()) => {
                        unsynced.keep(path);
                        unsynced.change(path);
                        return Ok(());
                    }
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        self.exchanges.store(false, Relaxed);
                    }
                    Err(error) => {
                        let _ = atomic::discard(&keeping, kept);
                        return Err(error.into());
                    }
                }
            }
            atomic::discard(&keeping, kept)?;
            linkat(folder, name, &keeping, kept, AtFlags::empty())?;
            unsynced.keep(path);
        }
        if there.is_none() && unsynced.is_released(path) {
            // Else a power cut could bring back what was there before the file that was removed.
            let keeping = atomic::folder_made(&self.root, Path::new(KEPT))?;
            self.count(|| fsync(keeping))?;
            unsynced.all_gone();
        }
        let scratch = self.scratch()?;
        let file = atomic::write(&scratch, Path::new(TEMPORARY), content)?;
        if kept.is_none() {
            self.count(|| fsync(&file))?; // a former file could not be kept
        }
        atomic::rename((&scratch, Path::new(TEMPORARY)), (folder, name))?;
        unsynced.change(path);
        Ok(())
    }

    /// How often it has asked the disk to sync so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Counts what asks the disk to sync.
    pub(super) fn count(
        &self,
        sync: impl FnOnce() -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        sync()
    }

    pub(super) fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opened afresh each time: somebody may have removed or replaced it.
    pub(super) fn live(&self) -> rustix::io::Result<OwnedFd> {
        atomic::folder_made(&self.root, Path::new("live"))
    }

    pub(super) fn scratch(&self) -> rustix::io::Result<OwnedFd> {
        atomic::folder_made(&self.root, Path::new(".tmp"))
    }

    /// Removes the file of a topic and the folders that it leaves empty. A
    /// file that is not there is a met goal. Safe from a power cut as for [`put`](Self::put).
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(&self, topic: &Topic) -> Result<(), StoreError> {
        let path = path_of(topic)?;
        self.unlink(&path)?;
        self.unsynced().change(&path);
        Ok(())
    }

    /// The same, and the caller sees to it that it is synced.
    pub(super) fn unlink(&self, path: &Path) -> Result<(), StoreError> {
        let failed = |e: Errno| StoreError::Write { path: path.into(), source: e.into() };
        let live = self.live().map_err(failed)?;
        let folder = match atomic::folder(&live, parent(path)) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        atomic::discard(&folder, Path::new(file_name(path))).map_err(failed)?;
        for empty in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let Ok(above) = atomic::folder(&live, parent(empty)) else { break };
            // Refused when it is not empty, which is where to stop.
            if unlinkat(&above, file_name(empty), AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Sets aside whatever keeps `path` from being a file in folders.
    fn clear_way(&self, path: &Path) -> Result<Vec<Aside>, StoreError> {
        let mut above: Vec<&Path> =
            path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        above.reverse();
        for part in above {
            let folder = self.live().and_then(|live| atomic::folder(live, parent(part)));
            let Ok(folder) = folder else { break };
            let Ok(stat) = statat(&folder, file_name(part), AtFlags::SYMLINK_NOFOLLOW) else {
                break;
            };
            let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
            if is_folder != (part != path) {
                let why = "it stood where the file of a topic belongs".to_owned();
                return Ok(vec![self.set_aside(part, why)?]);
            }
        }
        Ok(Vec::new())
    }

    pub(super) fn set_aside(&self, path: &Path, why: String) -> Result<Aside, StoreError> {
        let failed = |e: Errno| StoreError::SetAside { path: path.into(), source: e.into() };
        let from =
            self.live().and_then(|live| atomic::folder(live, parent(path))).map_err(failed)?;
        self.move_aside((&from, file_name(path)), path, why)
    }

    /// Moves something to where what stood at `path` goes.
    pub(super) fn move_aside(
        &self,
        (from, name): (&OwnedFd, &OsStr),
        path: &Path,
        why: String,
    ) -> Result<Aside, StoreError> {
        let failed = |e: Errno| StoreError::SetAside { path: path.into(), source: e.into() };
        // Two things set aside in one run may have had the same path.
        let mut number = 0;
        loop {
            let part = if number == 0 { "live".into() } else { format!("live.{number}") };
            let to = self.aside.join(part).join(path);
            let folder = atomic::folder_made(&self.root, parent(&to)).map_err(failed)?;
            if statat(&folder, file_name(&to), AtFlags::SYMLINK_NOFOLLOW).is_err() {
                renameat(from, name, &folder, file_name(&to)).map_err(failed)?;
                return Ok(Aside { path: Path::new("live").join(path), to, why });
            }
            number += 1;
        }
    }
}

pub(super) fn path_of(topic: &Topic) -> Result<PathBuf, StoreError> {
    path::of(topic).map_err(|source| StoreError::Path { topic: topic.clone(), source })
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

pub(super) fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// The attribute of a file.
pub(super) fn sealed(path: &Path, payload: &[u8], meta: &Meta) -> Result<Vec<u8>, StoreError> {
    seal(payload, meta).map_err(|e| StoreError::Write { path: path.into(), source: e.into() })
}
