//! What a power cut leaves of a tree, after any number of a program's system calls.
//!
//! The worst that a file system may do: what was written to a file and not
//! synced vanishes, or not; a name that was made, moved or removed and whose
//! folder was not synced is as before, or not, each by itself. What was synced
//! stays. Only two things are taken for granted, as every journalling file
//! system has them: a call that changes two names changes both or none, and the
//! changes of one name keep their order.

use super::trace::{Argument, Call, Step};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is in a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Counts the changes, because a sync that began early may end late.
    version: u64,
    bytes: Vec<u8>,
    attribute: Option<Vec<u8>>,
}

/// A file, whatever its names.
#[derive(Debug, Default, Clone)]
struct Inode {
    now: Rc<Content>,
    synced: Rc<Content>,
}

/// A change of names: each becomes a file, a folder or nothing, all at once.
#[derive(Debug, Clone)]
struct Naming {
    names: Vec<(PathBuf, Option<Entry>)>,
    synced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder,
}

type Names = BTreeMap<PathBuf, Entry>;

/// The tree as the program sees it, and what is known to be on disk.
#[derive(Debug, Default)]
pub(crate) struct Model {
    root: PathBuf,
    inodes: Vec<Inode>,
    now: Names,
    /// Before all of `namings`.
    base: Names,
    namings: Vec<Naming>,
    /// Syncs under way: what they will have synced, by the number of the call.
    syncs: HashMap<usize, Covered>,
    /// Everything that was ever written to, for the check that nothing else is.
    pub(crate) written: BTreeSet<PathBuf>,
}

/// What a sync covers: namings up to this one, in this folder or all; and contents.
#[derive(Debug)]
struct Covered {
    namings: usize,
    folder: Option<PathBuf>,
    contents: Vec<(usize, Rc<Content>)>,
}

/// How unkind the power cut is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is there that was not synced.
    Nothing,
    /// All names are, and no data.
    NamesOnly,
    /// By lot, name by name and file by file.
    Lots(u64),
}

impl Model {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    /// Follows one step; true if it changed what a power cut could leave.
    pub(crate) fn follow(&mut self, step: &Step) -> bool {
        match step {
            Step::Begun(number, name, arguments) => {
                if let Some(covered) = self.covered(name, arguments) {
                    self.syncs.insert(*number, covered);
                }
                false
            }
            Step::Ended(number, call) => match self.syncs.remove(number) {
                Some(covered) => {
                    self.synced(covered);
                    true
                }
                None => self.changed(call),
            },
        }
    }

    /// The path below the root, if it is one of those that count.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        let ours = ["live", ".tmp", "journal"];
        let counts =
            below.as_os_str().is_empty() || ours.iter().any(|name| below.starts_with(name));
        counts.then(|| below.to_owned())
    }

    fn at(&self, folder: &Argument, name: &Argument) -> Option<PathBuf> {
        self.below(&folder.path().join(name.path()))
    }

    fn file(&self, path: &Path) -> Option<usize> {
        match self.now.get(path)? {
            Entry::File(inode) => Some(*inode),
            Entry::Folder => None,
        }
    }

    fn covered(&self, name: &str, arguments: &[Argument]) -> Option<Covered> {
        let namings = self.namings.len();
        let content = |inode: usize| (inode, self.inodes[inode].now.clone());
        match name {
            "syncfs" => {
                let contents = (0..self.inodes.len()).map(content).collect();
                Some(Covered { namings, folder: None, contents })
            }
            "fsync" | "fdatasync" => {
                let path = self.below(&arguments[0].path())?;
                let contents: Vec<_> = self.file(&path).map(content).into_iter().collect();
                // A file's own sync says nothing of its name.
                let namings = if contents.is_empty() { namings } else { 0 };
                Some(Covered { namings, folder: Some(path), contents })
            }
            _ => None,
        }
    }

    fn synced(&mut self, covered: Covered) {
        for (inode, content) in covered.contents {
            let synced = &mut self.inodes[inode].synced;
            if content.version > synced.version {
                *synced = content;
            }
        }
        let mut folders: Option<BTreeSet<PathBuf>> = covered.folder.map(|folder| [folder].into());
        for naming in self.namings[..covered.namings].iter_mut().rev() {
            let touched = |(path, _): &(PathBuf, Option<Entry>)| {
                folders.as_ref().is_none_or(|synced| synced.contains(path.parent().unwrap()))
            };
            if naming.names.iter().any(touched) {
                naming.synced = true;
                // With a folder that is gone for good all that was in it is.
                let gone = naming.names.iter().filter(|(_, entry)| entry.is_none());
                let gone: Vec<_> = gone.map(|(path, _)| path.clone()).collect();
                if let Some(folders) = &mut folders {
                    folders.extend(gone);
                }
            }
        }
        let all = self.namings.iter().take_while(|naming| naming.synced).count();
        for naming in self.namings.drain(..all) {
            apply(&mut self.base, &naming);
        }
        for covered in self.syncs.values_mut() {
            covered.namings = covered.namings.saturating_sub(all);
        }
    }

    fn name(&mut self, names: Vec<(PathBuf, Option<Entry>)>) -> bool {
        let naming = Naming { names, synced: false };
        apply(&mut self.now, &naming);
        self.namings.push(naming);
        true
    }

    fn changed(&mut self, call: &Call) -> bool {
        let Call { name, arguments: a, .. } = call;
        match name.as_str() {
            "openat" if a[2].has("O_CREAT") => self.created(self.at(&a[0], &a[1])),
            "open" if a[1].has("O_CREAT") => self.created(self.below(&a[0].path())),
            "mkdirat" => self.made(self.at(&a[0], &a[1])),
            "mkdir" => self.made(self.below(&a[0].path())),
            "write" => {
                let bytes = a[1].bytes()[..usize::try_from(call.result).unwrap()].to_vec();
                self.fill(&a[0], |content| content.bytes.extend(bytes))
            }
            "fsetxattr" => {
                let value = a[2].bytes().to_vec();
                self.fill(&a[0], |content| content.attribute = Some(value))
            }
            "renameat" | "renameat2" => self.renamed(a),
            "unlinkat" => match self.at(&a[0], &a[1]) {
                Some(path) => self.name(vec![(path, None)]),
                None => false,
            },
            "linkat" => match (self.at(&a[0], &a[1]), self.at(&a[2], &a[3])) {
                (Some(from), Some(to)) => self.name(vec![(to, self.now.get(&from).copied())]),
                _ => false,
            },
            "writev" | "pwrite64" | "ftruncate" | "truncate" | "rename" | "link" | "unlink"
            | "rmdir" | "setxattr" => {
                let ours = |argument: &Argument| match argument {
                    Argument::Fd(path) => self.below(path).is_some(),
                    _ => false,
                };
                assert!(!a.iter().any(ours), "the model does not know {call:?}");
                false
            }
            _ => false,
        }
    }

    fn created(&mut self, path: Option<PathBuf>) -> bool {
        let Some(path) = path else { return false };
        if self.now.contains_key(&path) {
            return false;
        }
        self.inodes.push(Inode::default());
        self.name(vec![(path, Some(Entry::File(self.inodes.len() - 1)))])
    }

    fn made(&mut self, path: Option<PathBuf>) -> bool {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return false };
        self.name(vec![(path, Some(Entry::Folder))])
    }

    fn fill(&mut self, fd: &Argument, change: impl FnOnce(&mut Content)) -> bool {
        let Argument::Fd(path) = fd else { return false };
        let Some(path) = self.below(path) else { return false };
        let inode = self.file(&path).unwrap_or_else(|| panic!("{} is unknown", path.display()));
        self.written.insert(path);
        let mut content = (*self.inodes[inode].now).clone();
        change(&mut content);
        content.version += 1;
        self.inodes[inode].now = Rc::new(content);
        true
    }

    fn renamed(&mut self, a: &[Argument]) -> bool {
        let (from, to) = (self.at(&a[0], &a[1]), self.at(&a[2], &a[3]));
        let (Some(from), Some(to)) = (from, to) else { return false };
        let (moved, replaced) = (self.now.get(&from).copied(), self.now.get(&to).copied());
        assert!(moved.is_some(), "{} is unknown", from.display());
        let exchange = a.get(4).is_some_and(|flags| flags.has("RENAME_EXCHANGE"));
        let left = if exchange { replaced } else { None };
        self.name(vec![(from, left), (to, moved)])
    }

    /// Has the program let go of the former file of this one, as if it knew it on disk?
    pub(crate) fn is_settled(&self, file: &Path) -> bool {
        let kept = file.to_str().unwrap().replace('/', "=");
        !self.now.contains_key(&Path::new(".tmp/kept").join(kept))
    }

    /// Makes what a power cut would leave, in an empty folder.
    pub(crate) fn leave(&self, fate: Fate, folder: &Path) {
        let mut lots = fastrand::Rng::with_seed(if let Fate::Lots(seed) = fate { seed } else { 0 });
        let mut names = self.base.clone();
        let (mut there, mut later) = (vec![false; self.namings.len()], BTreeSet::new());
        for (at, naming) in self.namings.iter().enumerate().rev() {
            let needed = naming.names.iter().any(|(path, _)| later.contains(path));
            there[at] = match fate {
                _ if naming.synced || needed => true,
                Fate::Nothing => false,
                Fate::NamesOnly => true,
                Fate::Lots(_) => lots.bool(),
            };
            if there[at] {
                later.extend(naming.names.iter().map(|(path, _)| path));
            }
        }
        for (naming, _) in self.namings.iter().zip(there).filter(|(_, there)| *there) {
            apply(&mut names, naming);
        }
        for (path, entry) in names {
            let at = folder.join(&path);
            // A file whose folder is not there is not there either.
            if !at.parent().unwrap().is_dir() {
                continue;
            }
            match entry {
                Entry::Folder => std::fs::create_dir(&at).unwrap(),
                Entry::File(inode) => {
                    let Inode { now, synced } = &self.inodes[inode];
                    let whole = matches!(fate, Fate::Lots(_)) && lots.bool();
                    let content = if whole { now } else { synced };
                    std::fs::write(&at, &content.bytes).unwrap();
                    if let Some(value) = &content.attribute {
                        let flags = rustix::fs::XattrFlags::empty();
                        rustix::fs::setxattr(&at, "user.meshfs", value, flags).unwrap();
                    }
                }
            }
        }
    }
}

fn apply(names: &mut Names, naming: &Naming) {
    for (path, entry) in &naming.names {
        match entry {
            Some(entry) => drop(names.insert(path.clone(), *entry)),
            None => drop(names.remove(path)),
        }
    }
}
