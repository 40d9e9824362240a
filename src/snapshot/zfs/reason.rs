//! What zfs means. The one place that reads its standard error; the texts are
//! those of OpenZFS 2.3 in the C locale, and the real program proves them.

use super::super::SnapshotError;
use super::super::error::full_name;
use crate::name::{Dataset, SnapshotName};
use std::process::ExitStatus;

/// What the command was about. Some messages of zfs leave the name out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A dataset or its snapshots.
    Dataset(&'a Dataset),
    /// One snapshot.
    Snapshot(&'a Dataset, &'a SnapshotName),
}

/// What of standard error goes into an error of ours.
const QUOTED_MAX_CHARS: usize = 400;

/// Turns a failed command into what it means.
///
/// The exit status says only that it failed: 2 is not always a bad argument, and
/// the usage text that then follows says nothing. The meaning is the end of the first line.
pub(super) fn reason(
    verb: &'static str,
    status: ExitStatus,
    stderr: &str,
    subject: Subject<'_>,
) -> SnapshotError {
    let line = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let (Subject::Dataset(dataset) | Subject::Snapshot(dataset, _)) = subject;
    let what = dataset.to_string();
    let denied = |way_out: String| SnapshotError::PermissionDenied { what: what.clone(), way_out };
    let allow = || denied(way_out_of_permissions(dataset));
    if line.starts_with("Permission denied the ZFS utilities must be run as root") {
        return denied("give the hub's user read and write access to /dev/zfs".to_owned());
    }
    if line == "/dev/zfs and /proc/self/mounts are required."
        || line.starts_with("The ZFS modules are not loaded")
        || line.starts_with("The ZFS modules cannot be auto-loaded")
    {
        return SnapshotError::NoModule;
    }
    match line.rsplit_once(": ").map(|(_, meaning)| meaning.to_ascii_lowercase()).as_deref() {
        Some("dataset does not exist" | "no such pool") => {
            SnapshotError::NoSuchDataset { dataset: dataset.clone() }
        }
        Some("dataset already exists") => SnapshotError::AlreadyExists {
            full: match subject {
                Subject::Dataset(_) => what,
                Subject::Snapshot(_, name) => full_name(dataset, name),
            },
        },
        Some("permission denied") => allow(),
        Some("out of space" | "no space left on device") => SnapshotError::OutOfSpace { what },
        Some("pool i/o is currently suspended") => {
            SnapshotError::PoolSuspended { pool: dataset.pool().to_owned() }
        }
        _ => SnapshotError::Failed { verb, status, stderr: quoted(line) },
    }
}

/// What an administrator has to type. Without `userprop` a snapshot could be taken,
/// but not say why it is there.
pub(super) fn way_out_of_permissions(dataset: &Dataset) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!("as root run: zfs allow -u {uid} snapshot,mount,userprop {dataset}")
}

fn quoted(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(QUOTED_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn meaning(code: i32, stderr: &str) -> SnapshotError {
        let dataset = Dataset::parse("tank/x").unwrap();
        let name = SnapshotName::parse("s").unwrap();
        let status = ExitStatus::from_raw(code << 8);
        reason("zfs snapshot", status, stderr, Subject::Snapshot(&dataset, &name))
    }

    #[test]
    fn what_is_not_known_is_quoted_without_control_characters_or_usage() {
        let stderr = "cannot create snapshot 'tank/x@s': the moon\x1b[31m\nusage:\n\tsnapshot";
        let text = meaning(1, stderr).to_string();
        assert_eq!(
            text,
            "zfs snapshot ended with exit status: 1: cannot create snapshot 'tank/x@s': the moon[31m"
        );
        assert!(meaning(1, &"x".repeat(9000)).to_string().len() < 500);
        assert!(matches!(meaning(1, ""), SnapshotError::Failed { .. }));
    }

    #[test]
    fn a_known_text_counts_only_as_the_end_of_the_first_line() {
        let elsewhere =
            "cannot open 'permission denied: out of space: x'\ny: dataset does not exist";
        assert!(matches!(meaning(1, elsewhere), SnapshotError::Failed { .. }));
    }

    #[test]
    fn a_refusal_says_what_to_type() {
        let text = meaning(1, "cannot create snapshots : permission denied\n").to_string();
        assert!(
            text.contains("zfs allow -u ") && text.ends_with("snapshot,mount,userprop tank/x"),
            "{text}"
        );
    }
}
