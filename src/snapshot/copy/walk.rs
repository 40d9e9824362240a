//! Copies a tree, one directory at a time, without ever following a symlink below
//! the root: each directory is opened from the root by a path that the kernel
//! resolves without symlinks, and each file from its directory.

use super::super::SnapshotError;
use super::file::{Copier, Way};
use super::listing::Lister;
use super::{SNAPSHOTS, record};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
use tracing::{debug, info};

/// The lock and the half-written files of the hub, at the top of the tree.
const HUBS_OWN: [&str; 2] = [".lock", ".tmp"];

/// Where files are only ever replaced, so that a hard link keeps the old one.
const REPLACED_ONLY: [&str; 2] = ["live", "archive"];

/// How many of which there were.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    pub(super) linked: u64,
    pub(super) cloned: u64,
    pub(super) copied: u64,
    pub(super) skipped: u64,
}

/// When to give up.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) at: Instant,
}

impl Stop {
    /// An error if it is time to give up; asked between any two steps.
    pub(super) fn ask(&self) -> std::io::Result<()> {
        if self.cancelled.load(Relaxed) || Instant::now() >= self.at {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
        }
        Ok(())
    }
}

/// Whether an error came from [`Stop::ask`].
pub(super) fn is_stop(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

/// Copies everything below `from` into the empty directory `to`.
pub(super) fn copy_tree(from: &Path, to: &Path, stop: &Stop) -> Result<Count, SnapshotError> {
    let open = |path: &Path| {
        rustix::fs::open(path, DIRECTORY - OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| SnapshotError::io("open", path, error))
    };
    let (source, target) = (open(from)?, open(to)?);
    let (lister, copier, count) = (Lister::new(), Copier::default(), Count::default());
    let mut walk = Walk { source, target, stop, lister, copier, count };
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        walk.copy_directory(&directory, &mut waiting)
            .map_err(|(path, error)| SnapshotError::io("copy", from.join(path), error))?;
    }
    Ok(walk.count)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A fault and the path it was met at, from the root.
type At = (PathBuf, std::io::Error);

struct Walk<'a> {
    source: OwnedFd,
    target: OwnedFd,
    stop: &'a Stop,
    lister: Lister,
    copier: Copier,
    count: Count,
}

impl Walk<'_> {
    /// Copies the files of a directory, makes its subdirectories and notes them in `waiting`.
    fn copy_directory(&mut self, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), At> {
        let at = |error: std::io::Error| (path.to_owned(), error);
        let source = match open_below(self.source.as_fd(), path) {
            Err(error) if error == Errno::NOENT && !path.as_os_str().is_empty() => return Ok(()),
            other => other.map_err(|error| at(error.into()))?,
        };
        let target = open_below(self.target.as_fd(), path).map_err(|error| at(error.into()))?;
        let names = self.lister.list(&source).map_err(at)?;
        for (name, kind) in names {
            self.stop.ask().map_err(at)?;
            let inside = path.join(OsStr::from_bytes(name.to_bytes()));
            if is_left_out(&inside) {
                continue;
            }
            match self.copy_entry(&source, &target, &name, kind, &inside) {
                Ok(true) => waiting.push(inside),
                Ok(false) => {}
                // Gone between the listing and now: it is not in the tree any more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    debug!(path = %inside.display(), "file vanished while it was copied");
                }
                Err(error) => return Err((inside, error)),
            }
        }
        self.copier.finish_directory(&source, &target).map_err(at)
    }

    /// Copies one entry; true if it is a directory whose content is still to come.
    fn copy_entry(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        kind: FileType,
        path: &Path,
    ) -> std::io::Result<bool> {
        let kind = if kind == FileType::Unknown {
            let found = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode)
        } else {
            kind
        };
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(target, name, Mode::RWXU)?;
                return Ok(true);
            }
            FileType::Symlink => {
                let content = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&content, target, name)?;
                self.count.copied += 1;
            }
            FileType::RegularFile => {
                let replaced_only = path
                    .iter()
                    .next()
                    .is_some_and(|top| REPLACED_ONLY.iter().any(|&name| top == name));
                match self.copier.copy(source, target, name, replaced_only, self.stop)? {
                    Way::Linked => self.count.linked += 1,
                    Way::Cloned => self.count.cloned += 1,
                    Way::Copied => self.count.copied += 1,
                }
            }
            other => {
                info!(path = %path.display(), kind = ?other, "left out of the copy: not a file");
                self.count.skipped += 1;
            }
        }
        Ok(false)
    }
}

/// What is at the top of the tree and belongs to the hub or the file system, not to the mesh.
fn is_left_out(path: &Path) -> bool {
    let left_out = [SNAPSHOTS, record::FILE, ".zfs"];
    left_out.iter().chain(&HUBS_OWN).any(|&name| path == Path::new(name))
}

/// Opens a directory below another one without following any symlink on the way.
fn open_below(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(top, path, DIRECTORY, Mode::empty(), resolve) {
        // Kernels before 5.6, and containers that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(top, path),
        other => other,
    }
}

fn open_step_by_step(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut directory = rustix::fs::openat(top, ".", DIRECTORY, Mode::empty())?;
    for level in path.iter().filter(|level| *level != ".") {
        directory = rustix::fs::openat(&directory, level, DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_symlink_is_followed_either_way() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", scratch.path().join("link")).unwrap();
        let top = std::fs::File::open(scratch.path()).unwrap();
        for open in [open_below, open_step_by_step] {
            assert!(open(top.as_fd(), Path::new("a/b")).is_ok());
            assert!(open(top.as_fd(), Path::new("link/b")).is_err());
            assert!(open(top.as_fd(), Path::new("link")).is_err());
        }
    }
}
