//! One way to write a file: whole under another name, then renamed.
//!
//! The other name is in a folder of its own outside `live/`, so that not even a
//! half-written file is ever seen there. What a power cut leaves of it is not
//! decided here but by who calls these in which order: see `commit` and `store`.

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps, XattrFlags, fsetxattr, futimens,
    mkdirat, openat, openat2, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

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
    folder_made_in(base, path, &mut |_| {})
}

/// The same, telling in which folders it had to make one: those have to be
/// synced before anything below them is safe.
pub(super) fn folder_made_in(
    base: impl AsFd,
    path: &Path,
    made_in: &mut dyn FnMut(PathBuf),
) -> rustix::io::Result<OwnedFd> {
    match folder(&base, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (mut at, mut above) = (folder(&base, Path::new(""))?, PathBuf::new());
    for name in path.components() {
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => made_in(above.clone()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = folder(&at, Path::new(name))?;
        above.push(name);
    }
    Ok(at)
}

/// What is to be in a file.
pub(super) struct Content<'a> {
    pub(super) payload: &'a [u8],
    pub(super) attribute: (&'a str, &'a [u8]),
    pub(super) modified: jiff::Timestamp,
}

/// Writes a whole file `name` in `folder`, in place of what a killed writer may
/// have left there. It is not synced.
pub(super) fn write(
    folder: impl AsFd,
    name: &Path,
    content: &Content<'_>,
) -> std::io::Result<File> {
    discard(&folder, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o644))?);
    let written = fill(&mut file, content);
    if written.is_err() {
        // Half a file is no use, and on a full disk it is in the way.
        let _ = unlinkat(&folder, name, AtFlags::empty());
    }
    written.map(|()| file)
}

fn fill(file: &mut File, content: &Content<'_>) -> std::io::Result<()> {
    file.write_all(content.payload)?;
    let (attribute, value) = content.attribute;
    fsetxattr(&*file, attribute, value, XattrFlags::empty())?;
    let modified = rustix::fs::Timespec {
        tv_sec: content.modified.as_second(),
        tv_nsec: content.modified.subsec_nanosecond().into(),
    };
    futimens(&*file, &Timestamps { last_access: modified, last_modification: modified })?;
    Ok(())
}

/// Removes a file; one that is not there is a met goal.
pub(super) fn discard(folder: impl AsFd, name: &Path) -> rustix::io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Moves `from` to `to`, replacing what is there.
pub(super) fn rename(
    (from_folder, from): (impl AsFd, &Path),
    (to_folder, to): (impl AsFd, &Path),
) -> rustix::io::Result<()> {
    renameat(from_folder, from, to_folder, to)
}

/// Swaps two files in one step, so that each of the names always has a whole one.
pub(super) fn exchange(
    (a_folder, a): (impl AsFd, &Path),
    (b_folder, b): (impl AsFd, &Path),
) -> rustix::io::Result<()> {
    renameat_with(a_folder, a, b_folder, b, RenameFlags::EXCHANGE)
}
