//! What is mounted where, as this process sees it: `/proc/self/mountinfo`.
//! Reading it touches none of the file systems, so it never hangs with one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) point: PathBuf,
    /// The kind of file system, such as `zfs`.
    pub(super) kind: String,
    /// What is mounted: a device, on ZFS a dataset or snapshot.
    pub(super) source: String,
}

/// All mounts, in the order they were made.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    /// The mounts of this process.
    pub(super) fn read() -> std::io::Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo")?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Reads mountinfo; a line that is none is passed over, as the kernel may add fields.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(parse_line).collect())
    }

    /// The mount a path lies on: the deepest, and of several in one place the last.
    pub(super) fn holding(&self, path: &Path) -> Option<&Mount> {
        let holding = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        holding.max_by_key(|mount| mount.point.components().count())
    }

    /// File systems of their own below a path. The snapshots that ZFS mounts by
    /// itself when somebody looks at them do not count.
    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| {
            let inside = mount.point.starts_with(path) && mount.point != path;
            inside && !(mount.kind == "zfs" && mount.source.contains('@'))
        })
    }

    /// The mounts of a dataset.
    pub(super) fn of<'a>(&'a self, dataset: &'a str) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.kind == "zfs" && mount.source == dataset)
    }
}

/// `36 35 98:0 /root /point options [tags...] - kind source options`.
fn parse_line(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let point = front.split(' ').nth(4)?;
    let mut back = back.split(' ');
    let (kind, source) = (back.next()?, back.next()?);
    let source = String::from_utf8_lossy(&unescape(source)).into_owned();
    Some(Mount { point: OsString::from_vec(unescape(point)).into(), kind: kind.into(), source })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /tank rw,noatime - zfs tank rw,xattr
41 40 0:41 / /tank/my\\040mesh rw,noatime shared:9 - zfs tank/my\\040mesh rw,xattr
42 41 0:42 / /tank/my\\040mesh/.zfs/snapshot/a ro - zfs tank/my\\040mesh@a ro
43 41 0:43 / /tank/my\\040mesh/live rw - tmpfs tmpfs rw
nonsense
44 22 0:44 / /tank/over rw - ext4 /dev/vdb rw
45 22 0:45 / /tank/over rw - xfs /dev/vdc rw
";

    #[test]
    fn a_path_lies_on_the_deepest_and_last_mount() {
        let mounts = Mounts::parse(TEXT);
        let kind = |path: &str| mounts.holding(Path::new(path)).unwrap().kind.clone();
        assert_eq!(kind("/srv"), "ext4");
        assert_eq!(kind("/tankard"), "ext4");
        assert_eq!(kind("/tank/over/x"), "xfs");
        let mesh = mounts.holding(Path::new("/tank/my mesh/specs")).unwrap();
        assert_eq!(
            (mesh.source.as_str(), mesh.point.as_path()),
            ("tank/my mesh", Path::new("/tank/my mesh"))
        );
        assert_eq!(mounts.of("tank/my mesh").count(), 1);
    }

    #[test]
    fn what_is_mounted_below_is_told_but_not_the_snapshots() {
        let mounts = Mounts::parse(TEXT);
        let below: Vec<_> =
            mounts.below(Path::new("/tank/my mesh")).map(|m| m.kind.as_str()).collect();
        assert_eq!(below, ["tmpfs"]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_kernel_prints_is_read(text in "([\\PC\n \\\\0-9-]| - zfs | / ){0,80}") {
            let mounts = Mounts::parse(&text);
            let _ = mounts.holding(Path::new("/tank"));
            let _ = mounts.below(Path::new("/")).count();
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(Mounts::read().unwrap().holding(Path::new("/")).is_some());
    }
}
