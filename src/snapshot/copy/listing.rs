//! The names in a directory whose files are being replaced meanwhile.
//!
//! A file that is replaced moves to another place in its directory on some file
//! systems, so that one pass may see it twice or not at all. The kernel holds a
//! directory still during one call, so each is read by one call if it fits; a
//! larger one is read again until nothing new turns up.

use rustix::fs::{FileType, RawDir, SeekFrom};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd;

/// Room for some 100,000 names; only what is used costs memory.
const BUFFER_BYTES: usize = 4 << 20;

/// How often a directory that does not fit is read at most.
const PASSES_MAX: usize = 5;

/// Lists directories.
#[derive(Debug)]
pub(super) struct Lister {
    buffer: Vec<u8>,
}

impl Lister {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    /// Every name but `.` and `..`, with its kind where the file system tells.
    pub(super) fn list(
        &mut self,
        directory: impl AsFd,
    ) -> std::io::Result<BTreeMap<CString, FileType>> {
        let mut names = BTreeMap::new();
        for _ in 0..PASSES_MAX {
            let known = names.len();
            let whole = self.pass(&directory, &mut names)?;
            if whole || (known > 0 && names.len() == known) {
                break;
            }
        }
        Ok(names)
    }

    /// Reads the directory once; true if one call gave all of it.
    fn pass(
        &mut self,
        directory: impl AsFd,
        names: &mut BTreeMap<CString, FileType>,
    ) -> std::io::Result<bool> {
        rustix::fs::seek(&directory, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&directory, self.buffer.spare_capacity_mut());
        let mut calls = 0;
        loop {
            calls += usize::from(entries.is_buffer_empty());
            let Some(entry) = entries.next() else { break };
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.insert(entry.file_name().to_owned(), entry.file_type());
            }
        }
        Ok(calls <= 2) // the last call says only that there is no more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_also_where_they_do_not_fit_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        (0..500).for_each(|n| std::fs::write(scratch.path().join(format!("{n}")), "").unwrap());
        std::fs::create_dir(scratch.path().join("inside")).unwrap();
        for bytes in [BUFFER_BYTES, 4096] {
            let directory = std::fs::File::open(scratch.path()).unwrap();
            let mut lister = Lister { buffer: Vec::with_capacity(bytes) };
            let names = lister.list(&directory).unwrap();
            assert_eq!(names.len(), 501);
            assert_eq!(names[c"inside"], FileType::Directory);
            assert_eq!(lister.pass(&directory, &mut BTreeMap::new()).unwrap(), bytes > 4096);
        }
    }
}
