//! Whether a snapshot of the dataset holds the tree. One that does not would be
//! reported, looked for after a crash, and be empty.

use super::super::mounts::Mounts;
use super::super::{Program, SnapshotError};
use super::reason::Subject;
use super::{first_line, run};
use crate::name::Dataset;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Finds the mountpoint below which `root` lies, or says why the dataset does not hold it.
pub(super) async fn mountpoint_of(
    root: &Path,
    dataset: &Dataset,
    program: &Program,
    limit: Duration,
) -> Result<PathBuf, SnapshotError> {
    let arguments =
        ["list", "-Hp", "-t", "filesystem", "-o", "name,mounted,mountpoint", dataset.as_str()]
            .map(str::to_owned);
    let text = run(program, "zfs list", &arguments, Subject::Dataset(dataset), limit).await?;
    let mounts =
        Mounts::read().map_err(|error| SnapshotError::io("read", "/proc/self/mountinfo", error))?;
    let answer = || SnapshotError::Answer { verb: "zfs list", line: first_line(&text) };
    match text.trim_end_matches('\n').split('\t').collect::<Vec<_>>()[..] {
        [name, mounted, mountpoint] if name == dataset.as_str() => {
            judge(root, dataset, mounted == "yes", mountpoint, &mounts)
        }
        _ => Err(answer()),
    }
}

/// The rule, on what zfs and the kernel said.
///
/// The kernel's word counts where it knows the dataset: a mount in a container may
/// be elsewhere than the property says, and another file system may lie over it.
fn judge(
    root: &Path,
    dataset: &Dataset,
    mounted: bool,
    mountpoint: &str,
    mounts: &Mounts,
) -> Result<PathBuf, SnapshotError> {
    let not = |root: &Path, reason: String| {
        let (dataset, root) = (dataset.clone(), root.to_owned());
        Err(SnapshotError::NotCovered { dataset, root, reason })
    };
    if !mounted {
        return not(root, format!("the dataset is not mounted (`zfs mount {dataset}`)"));
    }
    if let Some(mount) = mounts.below(root).next() {
        return not(&mount.point, format!("it is a file system of its own ({})", mount.source));
    }
    let holding = mounts.holding(root);
    if mounts.of(dataset.as_str()).next().is_some() {
        return match holding {
            Some(mount) if mount.source == dataset.as_str() => Ok(mount.point.clone()),
            Some(mount) => not(root, format!("that is on {}", mount.source)),
            None => not(root, "it is on no known file system".to_owned()),
        };
    }
    let point = Path::new(mountpoint);
    if point.is_absolute() && root.starts_with(point) {
        return Ok(point.to_owned());
    }
    not(root, format!("the dataset is mounted at {mountpoint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 0:40 / /tank rw - zfs tank rw
41 40 0:41 / /tank/meshfs rw - zfs tank/meshfs rw
42 41 0:42 / /tank/meshfs/nested rw - zfs tank/meshfs/nested rw
43 41 0:43 / /tank/meshfs/mesh/.zfs/snapshot/a ro - zfs tank/meshfs@a ro
";

    fn judged(
        root: &str,
        dataset: &str,
        mounted: bool,
        mountpoint: &str,
    ) -> Result<PathBuf, String> {
        let dataset = Dataset::parse(dataset).unwrap();
        judge(Path::new(root), &dataset, mounted, mountpoint, &Mounts::parse(MOUNTS))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_root_is_the_mountpoint_or_below_it() {
        let nested =
            judged("/tank/meshfs/nested", "tank/meshfs/nested", true, "/tank/meshfs/nested");
        assert_eq!(nested.unwrap(), Path::new("/tank/meshfs/nested"));
        let below = judged("/tank/meshfs/mesh", "tank/meshfs", true, "/tank/meshfs");
        assert_eq!(below.unwrap(), Path::new("/tank/meshfs"));
        let legacy = judged("/tank/meshfs/mesh", "tank/meshfs", true, "legacy");
        assert_eq!(legacy.unwrap(), Path::new("/tank/meshfs"));
        let unknown_to_the_kernel = judged("/srv/mesh", "pool/x", true, "/srv");
        assert_eq!(unknown_to_the_kernel.unwrap(), Path::new("/srv"));
    }

    #[test]
    fn what_a_snapshot_would_leave_out_is_told() {
        let fault = |root, dataset, mounted, at| judged(root, dataset, mounted, at).unwrap_err();
        assert!(
            fault("/tank/meshfs", "tank/meshfs", true, "/tank/meshfs")
                .contains("/tank/meshfs/nested: it is a file system of its own")
        );
        assert!(
            fault("/tank/meshfs/nested", "tank/meshfs", true, "/tank/meshfs")
                .contains("that is on tank/meshfs/nested")
        );
        assert!(
            fault("/srv", "tank/meshfs", true, "/tank/meshfs")
                .contains("would not hold /srv: that is on /dev/vda")
        );
        assert!(fault("/srv", "pool/x", true, "/srvother").contains("mounted at /srvother"));
        assert!(fault("/srv", "pool/x", true, "none").contains("mounted at none"));
        assert!(
            fault("/tank/meshfs/mesh", "tank/meshfs", false, "/tank/meshfs")
                .contains("not mounted")
        );
    }
}
