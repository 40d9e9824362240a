//! Trees to take snapshots of, and what they hold.

use rustix::fs::{CWD, Mode, Timespec, Timestamps, XattrFlags};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What one file or directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) modified: (i64, i64),
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    File(Vec<u8>),
    Link(PathBuf),
    Directory,
}

/// Entries by their path.
pub(crate) type Tree = BTreeMap<PathBuf, Entry>;

/// Everything below a directory that a snapshot has to hold, by its path from there.
pub(crate) fn holds(root: &Path) -> Tree {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let own = [".snapshots", ".meshfs-snapshot.json", ".lock", ".tmp", ".zfs"];
            if own.iter().any(|&own| name == Path::new(own)) {
                continue;
            }
            let found = path.symlink_metadata().unwrap();
            let content = if found.is_dir() {
                waiting.push(path.clone());
                Content::Directory
            } else if found.is_symlink() {
                Content::Link(std::fs::read_link(&path).unwrap())
            } else if found.is_file() {
                Content::File(std::fs::read(&path).unwrap())
            } else {
                continue; // sockets and pipes are in no copy
            };
            let (attributes, modified, mode) = if found.is_symlink() {
                (BTreeMap::new(), (0, 0), 0) // a link has no mode, and nobody asks when it was made
            } else {
                (attributes(&path), (found.mtime(), found.mtime_nsec()), found.permissions().mode())
            };
            all.insert(name, Entry { content, mode, modified, attributes });
        }
    }
    all
}

/// Fails naming what is different between two trees.
pub(crate) fn assert_same(left: &Tree, right: &Tree, what: &str) {
    let paths: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for path in paths {
        assert_eq!(left.get(path), right.get(path), "{what}: {}", path.display());
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let Ok(len) = rustix::fs::listxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = String::from_utf8(names[..len].to_vec()).unwrap();
    let user = names.split_terminator('\0').filter(|name| name.starts_with("user."));
    user.map(|name| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
        (name.to_owned(), value[..len].to_vec())
    })
    .collect()
}

/// A file with its directories, replaced as the live store does it.
pub(crate) fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, content).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

pub(crate) fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

/// Sets an attribute where the file system has any.
pub(crate) fn set_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).is_ok()
}

/// A small mesh: something of everything that a root may hold.
pub(crate) fn plant(root: &Path) {
    for node in 0..20 {
        let heartbeat = root.join(format!("live/nodes/n{node}/heartbeat.json"));
        write(&heartbeat, format!(r#"{{"node":"n{node}"}}"#).as_bytes());
        set_modified(&heartbeat, 1_781_000_000 + node, 123_456_789);
        set_attribute(&heartbeat, "user.meshfs", b"{\"by\":\"n\"}\0\xff");
    }
    write(&root.join("archive/2026/task.json"), b"done");
    write(&root.join("journal/2026-06-16.jsonl"), b"{\"a\":1}\n");
    write(&root.join("specs/nodes/n1.toml"), b"runs = []\n");
    write(&root.join("aside/live/torn"), b"");
    write(&root.join(".lock"), b"4711");
    write(&root.join(".tmp/live"), b"half");
    set_mode(&root.join("specs/nodes/n1.toml"), 0o640);
    std::fs::create_dir_all(root.join("queue/empty")).unwrap();
    set_mode(&root.join("queue"), 0o2750);
    set_modified(&root.join("queue"), 1_700_000_000, 5);
    std::os::unix::fs::symlink("/etc/passwd", root.join("specs/outside")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("live/dangling")).unwrap();
}
