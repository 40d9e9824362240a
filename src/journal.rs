//! The append-only record: `journal/<date>.jsonl`, one JSON object a line.
//!
//! Lines are only ever added. A line that a crash cut short is closed with a
//! line end before the next one is written, and skipped when read back. What is
//! appended may be lost by a power cut until the next [`Journal::sync`].

use crate::message::{Entry, JournalLine};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tracing::warn;

/// How much of a day is read back at start: the newest part counts.
const RECALL_MAX_BYTES: u64 = 64 << 20;

/// The journal of a tree.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    today: Option<(String, File)>,
    /// Something was appended to today's file since it was synced.
    unsynced: bool,
    /// A file was made since the folder was synced.
    made: bool,
}

impl Journal {
    /// The journal below `root`, made if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        let folder = root.join("journal");
        std::fs::create_dir_all(&folder)?;
        // The folder itself is in the root; and a file of today may be another hub's, not synced.
        rustix::fs::fsync(&File::open(root)?)?;
        Ok(Self { folder, today: None, unsynced: false, made: true })
    }

    /// Adds lines in one write.
    ///
    /// # Errors
    /// The disk refused; part of the lines may be there.
    pub fn append(&mut self, lines: &[JournalLine]) -> io::Result<()> {
        let mut rest = lines;
        while let [first, ..] = rest {
            let date = first.time.strftime("%Y-%m-%d").to_string();
            let same = |line: &&JournalLine| line.time.strftime("%Y-%m-%d").to_string() == date;
            let count = rest.iter().take_while(same).count().max(1);
            let (day, later) = rest.split_at(count);
            let mut text = Vec::new();
            for line in day {
                serde_json::to_writer(&mut text, line)?;
                text.push(b'\n');
            }
            let written = self.file(&date).and_then(|file| file.write_all(&text));
            if written.is_err() {
                self.today = None; // the next try opens it afresh and closes a cut line
            }
            written?;
            self.unsynced = true;
            rest = later;
        }
        Ok(())
    }

    /// Brings all lines onto the disk that were appended before.
    ///
    /// # Errors
    /// The disk refused; which of them are there is not known then.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some((_, file)) = self.today.as_ref().filter(|_| self.unsynced) {
            // The lines and the file's length, which is all that reading them back takes.
            file.sync_data()?;
        }
        self.unsynced = false;
        if self.made {
            rustix::fs::fsync(&File::open(&self.folder)?)?;
            self.made = false;
        }
        Ok(())
    }

    fn file(&mut self, date: &str) -> io::Result<&mut File> {
        let path = self.path(date);
        let file = match self.today.take() {
            Some((day, file)) if day == date && is_still(&file, &path) => file,
            other => {
                if let Some((_, file)) = other.filter(|_| self.unsynced) {
                    file.sync_data()?; // a day is over
                }
                self.made = true;
                open_day(&path)?
            }
        };
        Ok(&mut self.today.insert((date.to_owned(), file)).1)
    }

    fn path(&self, date: &str) -> PathBuf {
        self.folder.join(format!("{date}.jsonl"))
    }

    /// What was journalled on the last two days that have a file, oldest first.
    ///
    /// # Errors
    /// A file is there and cannot be read; the error names it.
    pub fn recall(&self) -> io::Result<Vec<Entry>> {
        let mut days = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            days.push(entry?.path());
        }
        days.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        days.sort();
        let mut entries = Vec::new();
        for path in days.iter().rev().take(2).rev() {
            let mut file = open(path, OFlags::RDONLY).map_err(|error| named(path, &error))?;
            let length = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(length.saturating_sub(RECALL_MAX_BYTES)))?;
            let mut text = Vec::new();
            file.take(RECALL_MAX_BYTES).read_to_end(&mut text)?;
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let mut skipped = 0_u64;
            entries.extend(lines.filter_map(|line| {
                let read = serde_json::from_slice::<JournalLine>(line).map(|line| line.entry);
                skipped += u64::from(read.is_err());
                read.ok()
            }));
            if skipped > 0 {
                warn!(path = %path.display(), lines = skipped, "journal lines not understood");
            }
        }
        Ok(entries)
    }
}

/// Opens a file of the journal: an ordinary one, by no link, and never waiting for anybody.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file; move it away"));
    }
    Ok(file)
}

/// Opens a day's file to write, closing a line that a crash cut short.
fn open_day(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
    let mut file = open(path, flags).map_err(|error| named(path, &error))?;
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Whether the path still leads to the open file: somebody may have moved or removed it.
fn is_still(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(time: &str, count: u64) -> JournalLine {
        JournalLine { time: time.parse().unwrap(), entry: Entry::Refusals { count } }
    }

    #[test]
    fn lines_go_to_the_file_of_their_day_and_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let lines = [
            line("2026-06-14T23:00:00Z", 0),
            line("2026-06-15T23:59:59Z", 1),
            line("2026-06-16T00:00:00Z", 2),
        ];
        journal.append(&lines).unwrap();
        journal.append(&[line("2026-06-16T10:00:00Z", 3)]).unwrap();
        assert!(dir.path().join("journal/2026-06-14.jsonl").exists());
        let recalled = journal.recall().unwrap();
        let expected: Vec<_> = (1..=3).map(|count| Entry::Refusals { count }).collect();
        assert_eq!(recalled, expected);
    }

    #[test]
    fn a_line_cut_by_a_crash_spoils_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal/2026-06-16.jsonl");
        Journal::open(dir.path()).unwrap().append(&[line("2026-06-16T00:00:00Z", 1)]).unwrap();
        let mut text = std::fs::read(&file).unwrap();
        text.extend_from_slice(b"{\"time\":\"2026-06-16T00:0");
        std::fs::write(&file, text).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(&[line("2026-06-16T00:00:02Z", 2)]).unwrap();
        let recalled = journal.recall().unwrap();
        assert_eq!(recalled, [Entry::Refusals { count: 1 }, Entry::Refusals { count: 2 }]);
    }

    #[test]
    fn a_file_that_is_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join("journal/2026-06-16.jsonl");
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(&[line("2026-06-16T00:00:00Z", 1)]).unwrap();
        std::fs::rename(&day, dir.path().join("journal/kept")).unwrap();
        journal.append(&[line("2026-06-16T00:00:01Z", 2)]).unwrap();
        assert_eq!(journal.recall().unwrap(), [Entry::Refusals { count: 2 }]);
    }

    #[test]
    fn what_is_no_ordinary_file_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let day = dir.path().join("journal/2026-06-16.jsonl");
        std::os::unix::fs::symlink("/etc/hostname", &day).unwrap();
        assert!(journal.recall().unwrap_err().to_string().contains("2026-06-16.jsonl"));
        assert!(journal.append(&[line("2026-06-16T00:00:00Z", 1)]).is_err());
        std::fs::remove_file(&day).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &day, fifo, mode, 0).unwrap();
        assert!(journal.recall().unwrap_err().to_string().contains("regular"));
    }
}
