//! Reading a tree without a hub: after a catastrophe, or in a snapshot.
//!
//! Nothing is made, moved or written. What meshfs did not write, or what is torn, is shown with
//! its reason. A hub may be at work on the same tree: a file that goes meanwhile is not there.

use super::load::{DEPTH_MAX, content, entries};
use super::meta::{Distrust, Meta, unseal};
use super::path;
use super::{StoreError, atomic};
use crate::name::Topic;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What is below `live/` in some tree.
#[derive(Debug)]
pub struct Reader {
    live: OwnedFd,
}

/// A file of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its topic.
    pub topic: Topic,
    /// Its bytes, whatever they are worth.
    pub payload: Vec<u8>,
    /// What was kept beside it, if that vouches for the payload; else why not.
    pub meta: Result<Meta, String>,
}

/// Something that is no retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Where it is, below `live/`.
    pub path: PathBuf,
    /// Why it is none.
    pub why: String,
    /// It is a folder, and what is in it was not looked at.
    pub is_folder: bool,
}

impl Reader {
    /// Opens the tree of a hub, or a snapshot of one. The folder may be reached by a link; below
    /// it none is followed.
    ///
    /// # Errors
    /// There is no `live/` in it, or it cannot be opened.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let failed =
            |path: &Path, e: Errno| StoreError::Open { path: path.into(), source: e.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| failed(root, e))?;
        let live = atomic::folder(&base, Path::new("live"));
        Ok(Self { live: live.map_err(|e| failed(&root.join("live"), e))? })
    }

    /// The file of a topic; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or no file can have this topic.
    pub fn get(&self, topic: &Topic) -> Result<Option<Found>, StoreError> {
        let path =
            path::of(topic).map_err(|source| StoreError::Path { topic: topic.clone(), source })?;
        let read = self.read(&path, topic);
        read.map_err(|source| StoreError::Read { path, source })
    }

    fn read(&self, path: &Path, topic: &Topic) -> std::io::Result<Option<Found>> {
        let (above, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        let name = std::ffi::CString::new(name.as_bytes())?;
        let folder = atomic::folder(&self.live, above).map_err(std::io::Error::from);
        let read = folder.and_then(|folder| content(&folder, &name));
        let (payload, attribute) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = match attribute {
            None => Err(Distrust::Foreign.to_string()),
            Some(attribute) => unseal(&attribute, &payload).map_err(|why| why.to_string()),
        };
        Ok(Some(Found { topic: topic.clone(), payload, meta }))
    }

    /// Visits every file, in the order of the paths, one at a time. What cannot be read is told
    /// like what is foreign, so that the rest is still seen.
    pub fn visit(&self, see: &mut dyn FnMut(Result<Found, Foreign>)) {
        self.visit_folder(Path::new(""), see);
    }

    fn visit_folder(&self, path: &Path, see: &mut dyn FnMut(Result<Found, Foreign>)) {
        let found = atomic::folder(&self.live, path).and_then(|folder| entries(&folder));
        let found = match found {
            Ok(found) => found,
            Err(Errno::NOENT) => return, // it has just gone
            Err(error) => return see(Err(folder(path, &unreadable(&error.into())))),
        };
        for (name, kind) in found {
            let at = path.join(OsStr::from_bytes(name.to_bytes()));
            match kind {
                FileType::Directory if at.components().count() < DEPTH_MAX => {
                    self.visit_folder(&at, see);
                }
                FileType::Directory => see(Err(folder(&at, "it is deeper than any topic"))),
                FileType::RegularFile => self.visit_file(&at, see),
                _ => see(Err(foreign(&at, "it is not a regular file"))),
            }
        }
    }

    fn visit_file(&self, path: &Path, see: &mut dyn FnMut(Result<Found, Foreign>)) {
        let Some(topic) = path::topic(path) else {
            return see(Err(foreign(path, "no topic has this path")));
        };
        match self.read(path, &topic) {
            Ok(Some(found)) => see(Ok(found)),
            Ok(None) => {}
            Err(error) => see(Err(foreign(path, &unreadable(&error)))),
        }
    }
}

fn foreign(path: &Path, why: &str) -> Foreign {
    Foreign { path: path.into(), why: why.to_owned(), is_folder: false }
}

fn folder(path: &Path, why: &str) -> Foreign {
    Foreign { is_folder: true, ..foreign(path, why) }
}

fn unreadable(error: &std::io::Error) -> String {
    format!("it cannot be read: {error}")
}
