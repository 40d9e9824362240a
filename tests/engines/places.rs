//! File systems made for a test, and unmade with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system of its own.
pub(crate) struct Place {
    scratch: tempfile::TempDir,
}

impl Place {
    /// A file system in memory of a few MiB.
    pub(crate) fn tmpfs(test: &str, mebibytes: u32) -> Option<Self> {
        let scratch = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        Self::mounted(test, scratch, &["-t", "tmpfs", "-o", &size, "tmpfs"])
    }

    /// A file system on a file, made by `mkfs.KIND`.
    pub(crate) fn on_file(test: &str, kind: &str, mebibytes: u64) -> Option<Self> {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let make = quiet(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        if let Err(reason) = make {
            return skip(test, &reason);
        }
        let image = image.display().to_string();
        Self::mounted(test, scratch, &["-o", "loop", &image])
    }

    fn mounted(test: &str, scratch: tempfile::TempDir, how: &[&str]) -> Option<Self> {
        let point = scratch.path().join("point");
        std::fs::create_dir(&point).unwrap();
        match quiet(Command::new("mount").args(how).arg(&point)) {
            Ok(()) => Some(Self { scratch }),
            Err(reason) => skip(test, &reason),
        }
    }

    /// An empty directory on it.
    pub(crate) fn root(&self) -> PathBuf {
        let root = self.point().join("mesh");
        std::fs::create_dir_all(&root).unwrap();
        root
    }

    pub(crate) fn point(&self) -> PathBuf {
        self.scratch.path().join("point")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = quiet(Command::new("umount").arg(self.point()));
    }
}

/// Says that a test did not run, and why.
pub(crate) fn skip<T>(test: &str, reason: &str) -> Option<T> {
    eprintln!("SKIP {test}: {reason}");
    None
}

/// Runs a program that has to succeed.
pub(crate) fn quiet(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

/// The names in a directory, in order.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
