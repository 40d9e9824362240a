//! The files below `live/`.

use super::atomic::{self, Content};
use super::meta::{ATTRIBUTE, Distrust, Meta, seal, unseal};
use super::path;
use crate::name::Topic;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fgetxattr, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The largest file read back: what MQTT could ever have brought.
const FILE_MAX_BYTES: u64 = 256 << 20;
/// Deeper than any topic: a tree that goes on below is not ours.
pub(super) const DEPTH_MAX: usize = 40;
/// Room for the attribute; ext4 keeps at most a block of them.
const ATTRIBUTE_MAX_BYTES: usize = 64 << 10;

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

/// The store. It has one user at a time: the disk worker.
#[derive(Debug)]
pub struct Store {
    root: OwnedFd,
    /// Below the root, where foreign things of this run go.
    aside: PathBuf,
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
        below(".tmp")?;
        let aside = format!("aside/{}", started_at.strftime("%Y%m%dT%H%M%SZ"));
        Ok(Self { root: base, aside: aside.into() })
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
        let scratch = self.scratch()?;
        atomic::replace(&scratch, &scratch, Path::new("probe"), &content)?;
        unlinkat(&scratch, "probe", AtFlags::empty())?;
        Ok(())
    }

    /// Replaces the file of a topic.
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
        let attribute = seal(payload, meta)
            .map_err(|e| StoreError::Write { path: path.clone(), source: e.into() })?;
        let content =
            Content { payload, attribute: (ATTRIBUTE, &attribute), modified: meta.received_at };
        let first = self.replace(&path, &content);
        let Err(error) = first else { return Ok(Vec::new()) };
        // Something foreign may stand where a folder or the file should be.
        let aside = self.clear_way(&path)?;
        if aside.is_empty() {
            return Err(StoreError::Write { path, source: error });
        }
        self.replace(&path, &content).map_err(|source| StoreError::Write { path, source })?;
        Ok(aside)
    }

    fn replace(&self, path: &Path, content: &Content<'_>) -> std::io::Result<()> {
        let folder = atomic::folder_made(self.live()?, parent(path))?;
        atomic::replace(self.scratch()?, &folder, Path::new(file_name(path)), content)
    }

    /// Opened afresh each time: somebody may have removed or replaced it.
    fn live(&self) -> rustix::io::Result<OwnedFd> {
        atomic::folder_made(&self.root, Path::new("live"))
    }

    fn scratch(&self) -> rustix::io::Result<OwnedFd> {
        atomic::folder_made(&self.root, Path::new(".tmp"))
    }

    /// Removes the file of a topic and the folders that it leaves empty. A
    /// file that is not there is a met goal.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(&self, topic: &Topic) -> Result<(), StoreError> {
        let path = path_of(topic)?;
        let failed = |e: Errno| StoreError::Write { path: path.clone(), source: e.into() };
        let live = self.live().map_err(failed)?;
        let folder = match atomic::folder(&live, parent(&path)) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        match unlinkat(&folder, file_name(&path), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        for empty in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let Ok(above) = atomic::folder(&live, parent(empty)) else { break };
            // Refused when it is not empty, which is where to stop.
            if unlinkat(&above, file_name(empty), AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Reads the tree back. `meaning` is asked of every whole file; what it
    /// refuses is set aside with its reason, like what is foreign or torn.
    ///
    /// # Errors
    /// A folder cannot be read or something cannot be set aside: the retained
    /// set would not be what the files say.
    pub fn load(&self, meaning: Meaning<'_>) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        self.load_folder(Path::new(""), meaning, &mut loaded)?;
        Ok(loaded)
    }

    fn load_folder(
        &self,
        path: &Path,
        meaning: Meaning<'_>,
        loaded: &mut Loaded,
    ) -> Result<(), StoreError> {
        let failed = |e: Errno| StoreError::Read { path: path.into(), source: e.into() };
        let folder = self.live().and_then(|live| atomic::folder(live, path)).map_err(failed)?;
        for (name, kind) in entries(&folder).map_err(failed)? {
            let at = path.join(OsStr::from_bytes(name.to_bytes()));
            let refused = match kind {
                FileType::Directory if at.components().count() < DEPTH_MAX => {
                    self.load_folder(&at, meaning, loaded)?;
                    continue;
                }
                FileType::Directory => "it is deeper than any topic".to_owned(),
                FileType::RegularFile => match read(&folder, &name, &at, meaning)? {
                    Ok(message) => {
                        loaded.messages.push(message);
                        continue;
                    }
                    Err(why) => why,
                },
                _ => "it is not a regular file".to_owned(),
            };
            loaded.aside.push(self.set_aside(&at, refused)?);
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

    fn set_aside(&self, path: &Path, why: String) -> Result<Aside, StoreError> {
        let failed = |e: Errno| StoreError::SetAside { path: path.into(), source: e.into() };
        let from =
            self.live().and_then(|live| atomic::folder(live, parent(path))).map_err(failed)?;
        // Two things set aside in one run may have had the same path.
        let mut number = 0;
        loop {
            let part = if number == 0 { "live".into() } else { format!("live.{number}") };
            let to = self.aside.join(part).join(path);
            let folder = atomic::folder_made(&self.root, parent(&to)).map_err(failed)?;
            if statat(&folder, file_name(&to), AtFlags::SYMLINK_NOFOLLOW).is_err() {
                renameat(&from, file_name(path), &folder, file_name(&to)).map_err(failed)?;
                return Ok(Aside { path: Path::new("live").join(path), to, why });
            }
            number += 1;
        }
    }
}

/// Names and kinds in a folder, sorted, so that every start reads alike.
pub(super) fn entries(folder: &OwnedFd) -> rustix::io::Result<Vec<(std::ffi::CString, FileType)>> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        found.push((name.to_owned(), kind));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// A file as a retained message, or why it is none.
fn read(
    folder: &OwnedFd,
    name: &CStr,
    path: &Path,
    meaning: Meaning<'_>,
) -> Result<Result<Retained, String>, StoreError> {
    let Some(topic) = path::topic(path) else {
        return Ok(Err("no topic has this path".into()));
    };
    match content(folder, name) {
        Ok((payload, attribute)) => Ok(unseal_as(topic, payload, attribute, meaning)),
        Err(source) => Err(StoreError::Read { path: path.into(), source }),
    }
}

fn unseal_as(
    topic: Topic,
    payload: Vec<u8>,
    attribute: Option<Vec<u8>>,
    meaning: Meaning<'_>,
) -> Result<Retained, String> {
    let attribute = attribute.ok_or_else(|| Distrust::Foreign.to_string())?;
    let meta = unseal(&attribute, &payload).map_err(|distrust| distrust.to_string())?;
    meaning(&topic, &payload)?;
    Ok(Retained { topic, payload, meta })
}

pub(super) fn content(
    folder: &OwnedFd,
    name: &CStr,
) -> std::io::Result<(Vec<u8>, Option<Vec<u8>>)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(folder.as_fd(), name, flags, Mode::empty())?);
    let mut payload = Vec::new();
    (&file).take(FILE_MAX_BYTES).read_to_end(&mut payload)?;
    let mut attribute = vec![0; ATTRIBUTE_MAX_BYTES];
    match fgetxattr(&file, ATTRIBUTE, attribute.as_mut_slice()) {
        Ok(bytes) => {
            attribute.truncate(bytes);
            Ok((payload, Some(attribute)))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok((payload, None)),
        Err(error) => Err(error.into()),
    }
}

fn path_of(topic: &Topic) -> Result<PathBuf, StoreError> {
    path::of(topic).map_err(|source| StoreError::Path { topic: topic.clone(), source })
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}
