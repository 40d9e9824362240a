//! What a power cut could still take back: changes that were made and not synced.
//!
//! A file that replaces another one without being synced first could be gone
//! after a power cut, and the other one with it. So the former file is *kept*
//! outside `live/`, under a name made of its path, until a sync has the new one.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Longest file name in bytes.
const NAME_MAX_BYTES: usize = 255;
/// More changed files than these are not counted: they are synced all together.
const CHANGED_MAX: usize = 64;

/// Files and folders below `live/` that changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) files: HashSet<PathBuf>,
    /// Folders in which a folder was made.
    pub(super) made_in: HashSet<PathBuf>,
    /// Former files were let go.
    pub(super) released: bool,
    /// There are more than are worth a list, or nobody knows which.
    pub(super) many: bool,
}

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.made_in.is_empty() && !self.released && !self.many
    }

    fn add(&mut self, file: &Path) {
        if self.files.len() >= CHANGED_MAX {
            self.many = true;
        }
        if !self.many {
            self.files.insert(file.to_owned());
        }
    }
}

/// The changes since the last sync began, and the former files that are kept for them.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// Counts the syncs that were begun.
    epoch: u64,
    changed: Changed,
    /// By path below `live/`: the epoch of the last change there.
    kept: HashMap<PathBuf, u64>,
    /// By folder in which one was made: the epoch of the last one.
    made_in: HashMap<PathBuf, u64>,
    /// Whose former file was let go; a power cut could bring it back.
    released: HashSet<PathBuf>,
}

impl Unsynced {
    /// After a start nobody knows what the hub before had synced.
    pub(super) fn unknown(kept: impl IntoIterator<Item = PathBuf>) -> Self {
        let changed = Changed { many: true, ..Changed::default() };
        let kept = kept.into_iter().map(|path| (path, 0)).collect();
        Self { changed, kept, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.made_in.is_empty() && self.kept.is_empty()
    }

    /// A file was replaced, made or removed.
    pub(super) fn change(&mut self, file: &Path) {
        self.changed.add(file);
        if let Some(epoch) = self.kept.get_mut(file) {
            *epoch = self.epoch;
        }
    }

    /// A folder was made in this one.
    pub(super) fn made_in(&mut self, folder: PathBuf) {
        self.made_in.insert(folder, self.epoch);
    }

    /// Of these folders, those that hold an entry for a folder that is not synced.
    pub(super) fn unsynced_above(&self, folder: &Path) -> Vec<PathBuf> {
        let above = folder.ancestors().filter(|above| self.made_in.contains_key(*above));
        above.map(Path::to_owned).collect()
    }

    /// These folders are synced now.
    pub(super) fn synced(&mut self, folders: &[PathBuf]) {
        for folder in folders {
            self.made_in.remove(folder);
        }
    }

    /// Is a former file kept for this one?
    pub(super) fn keeps(&self, file: &Path) -> bool {
        self.kept.contains_key(file)
    }

    /// The former file is kept from now on.
    pub(super) fn keep(&mut self, file: &Path) {
        self.kept.insert(file.to_owned(), self.epoch);
    }

    /// A sync begins: gives what it is about, and its number.
    pub(super) fn begin(&mut self) -> (u64, Changed) {
        self.epoch += 1;
        let mut changed = std::mem::take(&mut self.changed);
        changed.made_in = self.made_in.keys().cloned().collect();
        changed.released = !self.released.is_empty();
        (self.epoch - 1, changed)
    }

    /// The sync has all that was changed before it began.
    pub(super) fn done(&mut self, epoch: u64) {
        self.made_in.retain(|_, last| *last > epoch);
        self.released.clear(); // nothing is let go while a sync is under way
    }

    /// The sync failed: everything is as unsynced as before.
    pub(super) fn failed(&mut self, changed: &Changed) {
        self.changed.many |= changed.many;
        for file in &changed.files {
            self.changed.add(file);
        }
    }

    /// Those that a sync has made needless, unless they have changed since it began.
    pub(super) fn needless(&self, epoch: u64) -> Vec<PathBuf> {
        let needless = self.kept.iter().filter(|(_, last)| **last <= epoch);
        needless.map(|(path, _)| path.clone()).collect()
    }

    /// The same question about one file, just before it is let go; true: it is.
    pub(super) fn let_go(&mut self, file: &Path, epoch: u64) -> bool {
        let needless = self.kept.get(file).is_some_and(|last| *last <= epoch);
        if needless {
            self.kept.remove(file);
            self.released.insert(file.to_owned());
        }
        needless
    }

    /// Could a power cut bring a former file back that is older than the one let go last?
    pub(super) fn is_released(&self, file: &Path) -> bool {
        self.released.contains(file)
    }

    /// No former file that was let go comes back.
    pub(super) fn all_gone(&mut self) {
        self.released.clear();
    }
}

/// The name under which the former file of a path is kept: `=` stands for the
/// slash, which no path of ours has in a level. `None`: it would be too long.
pub(super) fn kept_name(file: &Path) -> Option<PathBuf> {
    let bytes = file.as_os_str().as_bytes();
    if bytes.len() > NAME_MAX_BYTES {
        return None;
    }
    let name: Vec<u8> = bytes.iter().map(|b| if *b == b'/' { b'=' } else { *b }).collect();
    Some(OsStr::from_bytes(&name).into())
}

/// The path that a name was made of.
pub(super) fn kept_path(name: &[u8]) -> PathBuf {
    let path: Vec<u8> = name.iter().map(|b| if *b == b'=' { b'/' } else { *b }).collect();
    OsStr::from_bytes(&path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_file_is_kept_until_a_sync_that_began_after_the_last_change() {
        let (mut unsynced, file) = (Unsynced::default(), Path::new("app/a.raw"));
        unsynced.change(file);
        unsynced.keep(file);
        let (first, _) = unsynced.begin();
        unsynced.change(file); // while the sync is under way
        assert!(unsynced.needless(first).is_empty());
        assert!(!unsynced.let_go(file, first) && unsynced.keeps(file));
        let (second, changed) = unsynced.begin();
        assert!(changed.files.contains(file));
        assert_eq!(unsynced.needless(second), [file]);
        unsynced.done(second);
        assert!(unsynced.let_go(file, second) && unsynced.is_empty());
        assert!(unsynced.is_released(file));
        let (third, changed) = unsynced.begin();
        unsynced.done(third);
        assert!(changed.released && !unsynced.is_released(file));
    }

    #[test]
    fn a_sync_that_failed_has_synced_nothing() {
        let mut unsynced = Unsynced::default();
        unsynced.change(Path::new("hub.json"));
        unsynced.made_in("nodes".into());
        let (_, changed) = unsynced.begin();
        assert!(unsynced.unsynced_above(Path::new("nodes/n1")) == [Path::new("nodes")]);
        unsynced.failed(&changed);
        let (_, again) = unsynced.begin();
        assert!(again.files.contains(Path::new("hub.json")));
        assert!(again.made_in.contains(Path::new("nodes")));
        unsynced.made_in("app".into()); // while the sync is under way
        unsynced.done(1);
        assert!(unsynced.unsynced_above(Path::new("nodes")).is_empty());
        assert_eq!(unsynced.unsynced_above(Path::new("app/x")), [Path::new("app")]);
    }

    #[test]
    fn a_kept_name_leads_back_to_its_path() {
        for path in ["hub.json", "nodes/n1/presence.json", "app/%3D/käyttäjä.raw"] {
            let name = kept_name(Path::new(path)).unwrap();
            assert_eq!(name.components().count(), 1);
            assert_eq!(kept_path(name.as_os_str().as_bytes()), Path::new(path));
        }
        assert_eq!(kept_name(Path::new(&"x/".repeat(200))), None);
    }
}
