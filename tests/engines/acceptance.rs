//! What every engine has to do, on every file system.

use crate::{request, tree};
use meshfs::snapshot::{Engine, SnapshotError, Taken};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Takes snapshots of a tree planted in the empty directory `root`; `look` says where
/// the content of one is seen.
pub(crate) async fn accept(engine: &dyn Engine, root: &Path, look: impl Fn(&Taken) -> PathBuf) {
    tree::plant(root);
    engine.check().await.unwrap();
    assert_eq!(engine.list().await.unwrap(), []);

    let first = engine.take(request("mesh-2", "id-1")).await.unwrap();
    assert_eq!(first.engine, engine.name());
    let held = tree::holds(root);
    assert!(held.len() > 50);
    tree::assert_same(&tree::holds(&look(&first)), &held, "the snapshot is the tree");

    change(root);
    assert!(tree::holds(root) != held, "the tree has changed");
    tree::assert_same(&tree::holds(&look(&first)), &held, "and stays as it was");

    // By its name this one comes before the first: only the engine knows better.
    let second = engine.take(request("mesh-1", "id-2")).await.unwrap();
    tree::assert_same(&tree::holds(&look(&second)), &tree::holds(root), "and so does the next");
    let found = engine.list().await.unwrap();
    let taken: Vec<_> = found.iter().map(|found| &found.taken).collect();
    assert_eq!(taken, [&first, &second]);
    assert_eq!(found[0].name, request("mesh-2", "id-1").name);
    assert_eq!(found[0].labels, Some(request("mesh-2", "id-1").labels));

    let again = engine.take(request("mesh-2", "id-1")).await.unwrap();
    assert_eq!(again, first, "the same request is met by what is there");
    let error = engine.take(request("mesh-2", "id-3")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::AlreadyExists { .. }), "{error}");
    assert!(!error.retryable());
    assert_eq!(engine.list().await.unwrap(), found);
    engine.check().await.unwrap();
}

/// Everything that happens to a tree: files replaced, appended to, made and removed.
fn change(root: &Path) {
    tree::write(&root.join("live/nodes/n1/heartbeat.json"), b"new");
    tree::write(&root.join("live/nodes/late/heartbeat.json"), b"late");
    std::fs::remove_file(root.join("live/nodes/n2/heartbeat.json")).unwrap();
    std::fs::remove_dir_all(root.join("live/nodes/n3")).unwrap();
    let mut journal =
        std::fs::File::options().append(true).open(root.join("journal/2026-06-16.jsonl")).unwrap();
    journal.write_all(b"{\"b\":2}\n").unwrap();
    std::fs::write(root.join("specs/nodes/n1.toml"), b"edited in place").unwrap();
    tree::set_mode(&root.join("specs/nodes/n1.toml"), 0o600);
}
