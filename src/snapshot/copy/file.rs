//! One file of the copy: shared blocks, a hard link, or bytes.

use super::walk::Stop;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use tracing::debug;

/// Between two questions whether to go on.
const CHUNK_BYTES: u64 = 16 << 20;

/// What Linux allows for the names, and for the value, of extended attributes.
const XATTR_MAX_BYTES: usize = 64 << 10;

/// How a file came into the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Shares its blocks.
    Cloned,
    /// Is the same file.
    Linked,
    /// Has its own bytes.
    Copied,
}

/// Copies files, and remembers what the file system cannot do.
#[derive(Debug, Default)]
pub(super) struct Copier {
    cannot_clone: bool,
}

impl Copier {
    /// Copies one file with its mode, time and attributes. `replaced_only` says that
    /// nobody ever changes it in place.
    pub(super) fn copy(
        &mut self,
        source: impl AsFd,
        target: impl AsFd,
        name: &CStr,
        replaced_only: bool,
        stop: &Stop,
    ) -> std::io::Result<Way> {
        let (source, target) = (source.as_fd(), target.as_fd());
        if self.cannot_clone
            && replaced_only
            && rustix::fs::linkat(source, name, target, name, AtFlags::empty()).is_ok()
        {
            // A link may be refused (too many, another file system, somebody else's
            // file); a copy is then as good.
            return Ok(Way::Linked);
        }
        // Should it be a pipe by now, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&from)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
        if !self.cannot_clone {
            match rustix::fs::ioctl_ficlone(&to, &from) {
                Ok(()) => return self.finish_file(&from, &to, &found).map(|()| Way::Cloned),
                Err(error) if is_out_of_space(error) => return Err(error.into()),
                Err(error) => {
                    debug!(%error, "the file system shares no blocks");
                    self.cannot_clone = true;
                }
            }
            if replaced_only {
                rustix::fs::unlinkat(target, name, AtFlags::empty())?;
                return self.copy(source, target, name, replaced_only, stop);
            }
        }
        let (from, mut to) = (File::from(from), File::from(to));
        copy_bytes(&from, &mut to, u64::try_from(found.st_size).unwrap_or(0), stop)?;
        self.finish_file(&from, &to, &found).map(|()| Way::Copied)
    }

    fn finish_file(&self, from: impl AsFd, to: impl AsFd, found: &Stat) -> std::io::Result<()> {
        copy_attributes(&from, &to)?;
        finish(&to, found, Mode::empty())
    }

    /// Gives a directory whose entries are all there the mode, time and attributes of its source.
    pub(super) fn finish_directory(&self, from: impl AsFd, to: impl AsFd) -> std::io::Result<()> {
        let found = rustix::fs::fstat(&from)?;
        copy_attributes(&from, &to)?;
        // Always ours to write, or an incomplete copy could not be removed.
        finish(&to, &found, Mode::RWXU)
    }
}

fn is_out_of_space(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT)
}

/// Copies what the file held when it was opened, though somebody may be writing to it.
fn copy_bytes(from: &File, to: &mut File, size: u64, stop: &Stop) -> std::io::Result<()> {
    let mut left = size;
    while left > 0 {
        stop.ask()?;
        let copied = std::io::copy(&mut from.take(left.min(CHUNK_BYTES)), to)?;
        if copied == 0 {
            break; // cut short meanwhile
        }
        left -= copied;
    }
    Ok(())
}

/// Owner (where that is allowed), mode and time of change.
fn finish(to: impl AsFd, found: &Stat, at_least: Mode) -> std::io::Result<()> {
    let (uid, gid) =
        (rustix::fs::Uid::from_raw(found.st_uid), rustix::fs::Gid::from_raw(found.st_gid));
    let now = rustix::fs::fstat(&to)?;
    let owned = (now.st_uid == found.st_uid && now.st_gid == found.st_gid)
        || rustix::fs::fchown(&to, Some(uid), Some(gid)).is_ok();
    let mut mode = Mode::from_raw_mode(found.st_mode & 0o7777) | at_least;
    if !owned {
        mode -= Mode::SUID | Mode::SGID; // would lend the wrong owner's rights
    }
    rustix::fs::fchmod(&to, mode)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: found.st_mtime,
            tv_nsec: i64::try_from(found.st_mtime_nsec).unwrap_or(0),
        },
    };
    Ok(rustix::fs::futimens(&to, &times)?)
}

/// Copies the attributes that users set. Those of the system follow from the file.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> std::io::Result<()> {
    let mut names = vec![0_u8; 1024];
    let count = loop {
        match rustix::fs::flistxattr(&from, &mut names[..]) {
            Err(Errno::RANGE) if names.len() < XATTR_MAX_BYTES => names.resize(XATTR_MAX_BYTES, 0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            other => break other?,
        }
    };
    if count == 0 {
        return Ok(());
    }
    let mut value = vec![0_u8; XATTR_MAX_BYTES];
    for name in names[..count].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !name.to_bytes().starts_with(b"user.") {
            continue;
        }
        let size = match rustix::fs::fgetxattr(&from, name, &mut value[..]) {
            Err(Errno::NODATA) => continue, // removed meanwhile
            other => other?,
        };
        rustix::fs::fsetxattr(&to, name, &value[..size], XattrFlags::empty())?;
    }
    Ok(())
}
