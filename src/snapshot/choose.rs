//! Which engine fits the place the tree is in, and why.

use super::command::Program;
use super::mounts::Mounts;
use super::{CopyEngine, Engine, SnapshotError, ZfsEngine, zfs};
use crate::name::Dataset;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;

/// Limit for a look at the place of the root, which hangs if its device does.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// The engine asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What fits the file system of the root.
    Auto,
    /// A copy below the root; works everywhere.
    Copy,
    /// A snapshot of the ZFS dataset.
    Zfs,
    /// A snapshot of the btrfs subvolume.
    Btrfs,
}

/// The engine chosen.
#[derive(Clone)]
pub struct Choice {
    /// It.
    pub engine: Arc<dyn Engine>,
    /// Why this one, for the log and for people.
    pub why: String,
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.engine.name();
        f.debug_struct("Choice").field("engine", &name).field("why", &self.why).finish()
    }
}

/// Chooses the engine for the tree that is, or will be, at `root`.
///
/// A `zfs` that does not answer now is no reason to refuse: the engine is chosen,
/// `why` says what is wrong, and each snapshot fails until it answers. A suspended
/// pool is one, because whoever touches the tree on it hangs; so call this first.
///
/// # Errors
/// When the engine asked for cannot work there, the dataset would not hold the tree,
/// or its pool is suspended.
pub async fn choose(
    kind: Kind,
    root: &Path,
    dataset: Option<Dataset>,
) -> Result<Choice, SnapshotError> {
    let mounts =
        Mounts::read().map_err(|error| SnapshotError::io("read", "/proc/self/mountinfo", error))?;
    let root = std::path::absolute(root).map_err(|error| SnapshotError::io("find", root, error))?;
    let on_zfs = mounts.holding(&root).filter(|mount| mount.kind == "zfs");
    if let Some(pool) = on_zfs.and_then(|mount| mount.source.split('/').next()) {
        zfs::refuse_if_suspended(pool)?;
    }
    let root = resolve(root).await?;
    decide(kind, root, dataset, Program::new("zfs"), &mounts).await
}

/// The path without symlinks, as far as it is there.
async fn resolve(path: PathBuf) -> Result<PathBuf, SnapshotError> {
    let what = path.display().to_string();
    let look = tokio::task::spawn_blocking(move || {
        let mut there = path.as_path();
        let found = loop {
            match (there.canonicalize(), there.parent()) {
                (Err(error), Some(parent)) if error.kind() == std::io::ErrorKind::NotFound => {
                    there = parent;
                }
                (found, _) => {
                    break found.map_err(|error| SnapshotError::io("find", there, error))?;
                }
            }
        };
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        Ok(found.components().chain(rest.components()).collect())
    });
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(ended)) => Err(SnapshotError::io("find", what, std::io::Error::other(ended))),
        Err(_) => Err(SnapshotError::TimedOut { what, limit: LOOK_LIMIT }),
    }
}

async fn decide(
    kind: Kind,
    root: PathBuf,
    dataset: Option<Dataset>,
    program: Program,
    mounts: &Mounts,
) -> Result<Choice, SnapshotError> {
    let mount = mounts.holding(&root);
    let kind_of_root = mount.map_or("unknown", |mount| mount.kind.as_str()).to_owned();
    let copy = |why: String| Choice { engine: Arc::new(CopyEngine::new(&root)), why };
    let unsuitable = |engine, reason: String| {
        Err(SnapshotError::Unsuitable { engine, root: root.clone(), reason })
    };
    let at_root = mount.filter(|mount| mount.kind == "zfs").map(|mount| mount.source.clone());
    let named = dataset.is_some();
    let dataset = dataset.or_else(|| at_root.as_deref().and_then(|name| Dataset::parse(name).ok()));
    match (kind, dataset) {
        (Kind::Copy, _) => Ok(copy("the configuration says so".to_owned())),
        (Kind::Btrfs, _) => {
            let reason = "it is not in this release; use copy, which shares blocks on btrfs";
            unsuitable("btrfs", reason.to_owned())
        }
        (Kind::Zfs, None) => {
            let reason = format!("it is on {kind_of_root}; move it to a dataset, or use copy");
            unsuitable("zfs", reason)
        }
        (Kind::Auto, None) => Ok(copy(format!("{} is on {kind_of_root}", root.display()))),
        (Kind::Auto, Some(dataset)) if !named => match choose_zfs(&root, dataset.clone(), program)
            .await
        {
            Err(error) if !error.retryable() => {
                debug!(%dataset, error = &error as &dyn std::error::Error, "zfs cannot be used");
                let root = root.display();
                Ok(copy(format!("{root} is on dataset {dataset}, but zfs cannot be used: {error}")))
            }
            other => other,
        },
        (Kind::Auto | Kind::Zfs, Some(dataset)) => choose_zfs(&root, dataset, program).await,
    }
}

async fn choose_zfs(
    root: &Path,
    dataset: Dataset,
    program: Program,
) -> Result<Choice, SnapshotError> {
    let engine = ZfsEngine::new(dataset.clone(), root, program);
    let shown = root.display();
    let why = match engine.covers().await {
        Ok(place) if place == root => {
            format!("{shown} is the mountpoint of dataset {dataset}")
        }
        Ok(place) => {
            format!("{shown} lies below {}, the mountpoint of dataset {dataset}", place.display())
        }
        Err(
            error @ (SnapshotError::TimedOut { .. }
            | SnapshotError::Spawn { .. }
            | SnapshotError::Answer { .. }
            | SnapshotError::Failed { .. }),
        ) => format!("dataset {dataset} is to hold {shown}, but for now: {error}"),
        Err(error) => return Err(error),
    };
    Ok(Choice { engine: Arc::new(engine), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 0:40 / /tank/meshfs rw - zfs tank/meshfs rw
";

    async fn decided(
        kind: Kind,
        root: &str,
        dataset: Option<&str>,
    ) -> Result<Choice, SnapshotError> {
        let program = Program::within("zfs", "/nowhere");
        let dataset = dataset.map(|name| Dataset::parse(name).unwrap());
        decide(kind, root.into(), dataset, program, &Mounts::parse(MOUNTS)).await
    }

    #[tokio::test]
    async fn without_zfs_the_tree_is_copied_and_the_reason_is_told() {
        let choice = decided(Kind::Auto, "/srv/mesh", None).await.unwrap();
        assert_eq!((choice.engine.name(), choice.why.as_str()), ("copy", "/srv/mesh is on ext4"));
        let choice = decided(Kind::Auto, "/tank/meshfs", None).await.unwrap();
        assert_eq!(choice.engine.name(), "copy");
        assert!(
            choice.why.contains("tank/meshfs") && choice.why.contains("not installed"),
            "{}",
            choice.why
        );
    }

    #[tokio::test]
    async fn what_was_asked_for_and_cannot_work_is_an_error() {
        for (kind, dataset) in [(Kind::Zfs, None), (Kind::Btrfs, None)] {
            let error = decided(kind, "/srv/mesh", dataset).await.unwrap_err();
            assert!(matches!(error, SnapshotError::Unsuitable { .. }), "{error}");
        }
        for kind in [Kind::Zfs, Kind::Auto] {
            let error = decided(kind, "/srv/mesh", Some("tank/meshfs")).await.unwrap_err();
            assert!(matches!(error, SnapshotError::NotInstalled { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_root_is_resolved_as_far_as_it_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("target", real.join("link")).unwrap();
        std::fs::create_dir(real.join("target")).unwrap();
        let resolved = |path: &str| resolve(real.join(path));
        assert_eq!(resolved("link/new/mesh").await.unwrap(), real.join("target/new/mesh"));
        assert_eq!(resolved("link").await.unwrap(), real.join("target"));
        std::fs::write(real.join("file"), "").unwrap();
        let error = resolved("file/mesh").await.unwrap_err();
        assert!(error.to_string().starts_with("could not find"), "{error}");
    }
}
