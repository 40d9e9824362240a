//! One way to write a file: whole under another name, then renamed.
//!
//! The other name is in a folder of its own outside `live/`, so that not even a
//! half-written file is ever seen there.

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timestamps, XattrFlags, fsetxattr, futimens, mkdirat,
    openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

/// Opens a folder below `base`, following no symbolic link and never leaving `base`.
pub(super) fn folder(base: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(
        base,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The same, making the folders that are missing.
pub(crate) fn folder_made(base: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    match folder(&base, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut at = folder(&base, Path::new(""))?;
    for name in path.components() {
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = folder(&at, Path::new(name))?;
    }
    Ok(at)
}

/// What is to be in a file.
pub(super) struct Content<'a> {
    pub(super) payload: &'a [u8],
    pub(super) attribute: (&'a str, &'a [u8]),
    pub(super) modified: jiff::Timestamp,
}

/// Replaces `name` in `folder` by way of a file in `scratch`, which has to be
/// on the same file system. A failure leaves the old file as it was.
pub(super) fn replace(
    scratch: impl AsFd,
    folder: impl AsFd,
    name: &Path,
    content: &Content<'_>,
) -> std::io::Result<()> {
    const TEMPORARY: &str = "live";
    // One writer, so a file of this name is what a killed one left behind.
    match unlinkat(&scratch, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&scratch, TEMPORARY, flags, Mode::from_raw_mode(0o644))?;
    let mut file = File::from(file);
    file.write_all(content.payload)?;
    let (attribute, value) = content.attribute;
    fsetxattr(&file, attribute, value, XattrFlags::empty())?;
    let modified = rustix::fs::Timespec {
        tv_sec: content.modified.as_second(),
        tv_nsec: content.modified.subsec_nanosecond().into(),
    };
    futimens(&file, &Timestamps { last_access: modified, last_modification: modified })?;
    renameat(&scratch, TEMPORARY, &folder, name)?;
    Ok(())
}
