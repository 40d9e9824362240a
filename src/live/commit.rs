//! What makes changes safe from a power cut: the group commit of those that
//! somebody waits for, and the sync of all others.
//!
//! The data of a file is synced before the file gets its name, and its folder
//! after, so at no moment could a power cut leave a name without its data. Many
//! changes at once share their syncs: up to [`EACH_MAX`] files or folders are
//! synced one by one, which spares what others have written on the same file
//! system; more of them by one `syncfs`, which is much faster then.

use super::atomic::{self, Content};
use super::error::StoreError;
use super::meta::{ATTRIBUTE, Meta};
use super::store::{Aside, KEPT, Store, file_name, parent, path_of, sealed};
use super::unsynced::{Changed, kept_name};
use crate::name::Topic;
use rustix::fs::{Mode, OFlags, ResolveFlags, fsync, openat2, syncfs};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// So many files or folders are synced one by one, more by one sync of the file system. Measured on
/// ext4, in ms: one file 5 against 17, 64 files 274 against 36.
const EACH_MAX: usize = 8;

/// A change that is to be on disk when [`Store::commit`] returns.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The topic.
    pub topic: &'a Topic,
    /// Its new payload and what is kept beside it; `None`: its file goes.
    pub content: Option<(&'a [u8], &'a Meta)>,
}

/// A change that is written under another name, or is a removal.
struct Staged {
    path: PathBuf,
    /// The other name; none for a removal.
    temporary: Option<PathBuf>,
    /// Open as long as it is to be synced by itself.
    file: Option<File>,
}

type Put = Result<Vec<Aside>, StoreError>;

impl Store {
    /// Makes changes and returns when they are on disk, each with its own result.
    pub fn commit(&self, changes: &[Change<'_>]) -> Vec<Put> {
        let each = changes.len() <= EACH_MAX;
        let staged: Vec<Result<Staged, StoreError>> =
            changes.iter().enumerate().map(|(n, change)| self.stage(n, change, each)).collect();
        let written = self.sync_staged(&staged);
        let mut touched = BTreeSet::new();
        let mut done: Vec<Put> = staged
            .into_iter()
            .map(|staged| {
                let staged = staged?;
                let placed = match written {
                    Ok(()) => self.place(&staged),
                    Err(error) => Err(failed(error)),
                };
                match &placed {
                    Ok(_) => drop(touched.insert(parent(&staged.path).to_owned())),
                    Err(_) => self.unstage(&staged),
                }
                placed
            })
            .collect();
        if let Err(error) = self.sync_folders_of(touched) {
            for done in done.iter_mut().filter(|done| done.is_ok()) {
                *done = Err(failed(error));
            }
        }
        done
    }

    fn stage(&self, n: usize, change: &Change<'_>, each: bool) -> Result<Staged, StoreError> {
        let path = path_of(change.topic)?;
        let Some((payload, meta)) = change.content else {
            return Ok(Staged { path, temporary: None, file: None });
        };
        let attribute = sealed(&path, payload, meta)?;
        let content =
            Content { payload, attribute: (ATTRIBUTE, &attribute), modified: meta.received_at };
        let temporary = PathBuf::from(format!("commit.{n}"));
        let scratch = self.scratch().map_err(std::io::Error::from);
        match scratch.and_then(|scratch| atomic::write(scratch, &temporary, &content)) {
            Ok(file) => Ok(Staged { path, temporary: Some(temporary), file: each.then_some(file) }),
            Err(source) => Err(StoreError::Write { path, source }),
        }
    }

    /// Brings the data of a group onto the disk.
    fn sync_staged(&self, staged: &[Result<Staged, StoreError>]) -> rustix::io::Result<()> {
        let mut together = false;
        for staged in staged.iter().flatten() {
            match &staged.file {
                Some(file) => self.count(|| fsync(file))?,
                None => together |= staged.temporary.is_some(),
            }
        }
        if together { self.count(|| syncfs(&self.root)) } else { Ok(()) }
    }

    fn place(&self, staged: &Staged) -> Put {
        let Staged { path, temporary, .. } = staged;
        let Some(temporary) = temporary else {
            return self.unlink(path).map(|()| Vec::new());
        };
        self.through(path, &mut |_, folder| {
            let to = (folder, Path::new(file_name(path)));
            Ok(atomic::rename((self.scratch()?, temporary), to)?)
        })
    }

    /// What is not used is in the way on a full disk.
    fn unstage(&self, staged: &Staged) {
        if let (Ok(scratch), Some(temporary)) = (self.scratch(), &staged.temporary) {
            let _ = atomic::discard(scratch, temporary);
        }
    }

    /// Syncs folders, and those above them that do not know them for sure yet.
    fn sync_folders_of(&self, mut folders: BTreeSet<PathBuf>) -> rustix::io::Result<()> {
        let above: Vec<_> = {
            let unsynced = self.unsynced();
            folders.iter().flat_map(|folder| unsynced.unsynced_above(folder)).collect()
        };
        folders.extend(above);
        if folders.len() > EACH_MAX {
            return self.count(|| syncfs(&self.root));
        }
        self.sync_folders(&folders)?;
        let folders: Vec<_> = folders.into_iter().collect();
        self.unsynced().synced(&folders);
        Ok(())
    }

    fn sync_folders(&self, folders: &BTreeSet<PathBuf>) -> rustix::io::Result<()> {
        let live = self.live()?;
        for folder in folders {
            // One that was removed meanwhile is missing in the one above it.
            for there in folder.ancestors() {
                match atomic::folder(&live, there) {
                    Ok(folder) => {
                        self.count(|| fsync(folder))?;
                        break;
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Is there anything that a power cut could take back?
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.unsynced().is_empty()
    }

    /// Brings everything onto the disk that was put or removed before.
    ///
    /// # Errors
    /// The disk refused; what is on disk is not known then.
    pub fn sync(&self) -> Result<(), StoreError> {
        let (epoch, changed) = self.unsynced().begin();
        if let Err(error) = self.sync_changed(&changed) {
            self.unsynced().failed(&changed);
            return Err(failed(error));
        }
        self.unsynced().done(epoch);
        let needless = self.unsynced().needless(epoch);
        if needless.is_empty() {
            return Ok(());
        }
        let keeping = atomic::folder_made(&self.root, Path::new(KEPT)).map_err(failed)?;
        for path in needless {
            let mut unsynced = self.unsynced();
            if unsynced.let_go(&path, epoch)
                && let Some(name) = kept_name(&path)
            {
                // What is left behind is let go after the next start.
                let _ = atomic::discard(&keeping, &name);
            }
        }
        Ok(())
    }

    fn sync_changed(&self, changed: &Changed) -> rustix::io::Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let mut folders: BTreeSet<_> =
            changed.files.iter().map(|file| parent(file).to_owned()).collect();
        folders.extend(changed.made_in.iter().cloned());
        if changed.many || changed.files.len() + folders.len() > EACH_MAX {
            return self.count(|| syncfs(&self.root));
        }
        if changed.released {
            let keeping = atomic::folder_made(&self.root, Path::new(KEPT))?;
            self.count(|| fsync(keeping))?;
        }
        let live = self.live()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        for file in &changed.files {
            match openat2(&live, file, flags, Mode::empty(), below) {
                Ok(file) => self.count(|| fsync(file))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // removed meanwhile
                Err(error) => return Err(error),
            }
        }
        self.sync_folders(&folders)
    }
}

fn failed(error: Errno) -> StoreError {
    StoreError::Sync { source: error.into() }
}
