//! Reading the tree back at start.

use super::atomic;
use super::error::StoreError;
use super::meta::{ATTRIBUTE, Distrust, unseal};
use super::path;
use super::store::{Aside, KEPT, Loaded, Meaning, Retained, Store, file_name, parent};
use super::unsynced::kept_path;
use crate::name::Topic;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fgetxattr, openat, statat};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The largest file read back: what MQTT could ever have brought.
const FILE_MAX_BYTES: u64 = 256 << 20;
/// Deeper than any topic: a tree that goes on below is not ours.
pub(super) const DEPTH_MAX: usize = 40;
/// Room for the attribute; ext4 keeps at most a block of them.
const ATTRIBUTE_MAX_BYTES: usize = 64 << 10;

impl Store {
    /// Reads the tree back. `meaning` is asked of every whole file; what it
    /// refuses is set aside with its reason, like what is foreign or torn.
    ///
    /// # Errors
    /// A folder cannot be read or something cannot be set aside: the retained
    /// set would not be what the files say.
    pub fn load(&self, meaning: Meaning<'_>) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        loaded.aside.extend(self.bring_back(meaning)?);
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

    /// Puts former files back where a power cut left nothing whole in their place.
    fn bring_back(&self, meaning: Meaning<'_>) -> Result<Vec<Aside>, StoreError> {
        let failed = |e: Errno| StoreError::Read { path: KEPT.into(), source: e.into() };
        let keeping = atomic::folder_made(&self.root, Path::new(KEPT)).map_err(failed)?;
        let mut aside = Vec::new();
        for (kept, kind) in entries(&keeping).map_err(failed)? {
            let path = kept_path(kept.to_bytes());
            if kind != FileType::RegularFile || read(&keeping, &kept, &path, meaning)?.is_err() {
                continue; // not ours, or never finished
            }
            let folder = self.live().and_then(|live| atomic::folder(live, parent(&path)));
            let Ok(folder) = folder else { continue };
            let Ok(name) = CString::new(file_name(&path).as_bytes()) else { continue };
            let there = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW);
            // A topic that was cleared has none, and stays so.
            if !there.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file()) {
                continue;
            }
            if let Err(why) = read(&folder, &name, &path, meaning)? {
                aside.push(self.restore((&keeping, &kept), (&folder, &name), &path, why)?);
            }
        }
        Ok(aside)
    }

    /// Swaps a file that is not whole for the former one, and sets it aside.
    fn restore(
        &self,
        (keeping, kept): (&OwnedFd, &CStr),
        (folder, name): (&OwnedFd, &CStr),
        path: &Path,
        why: String,
    ) -> Result<Aside, StoreError> {
        let failed = |e: Errno| StoreError::Write { path: path.into(), source: e.into() };
        let (kept, name) = (OsStr::from_bytes(kept.to_bytes()), OsStr::from_bytes(name.to_bytes()));
        let mut unsynced = self.unsynced();
        unsynced.change(path);
        let why = format!("{why}; the value before it is served");
        match atomic::exchange((keeping, kept.as_ref()), (folder, name.as_ref())) {
            Ok(()) => self.move_aside((keeping, kept), path, why),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let aside = self.move_aside((folder, name), path, why)?;
                atomic::rename((keeping, kept.as_ref()), (folder, name.as_ref()))
                    .map_err(failed)?;
                Ok(aside)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Names and kinds in a folder, sorted, so that every start reads alike.
pub(super) fn entries(folder: &OwnedFd) -> rustix::io::Result<Vec<(CString, FileType)>> {
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
