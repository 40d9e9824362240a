//! The copy engine, for real.

use crate::acceptance::accept;
use crate::places::{Place, names, wait_until};
use crate::{request, tree};
use meshfs::snapshot::{CopyEngine, Engine, SnapshotError};
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

async fn accept_copy(root: &Path) {
    accept(&CopyEngine::new(root), root, |taken| taken.full.clone().into()).await;
}

#[tokio::test]
async fn the_engine_is_accepted_on_the_file_system_of_this_machine() {
    let scratch = tempfile::tempdir().unwrap();
    accept_copy(scratch.path()).await;
}

#[tokio::test]
async fn the_engine_is_accepted_in_memory() {
    let Some(place) = Place::tmpfs("copy in memory", 64) else { return };
    accept_copy(&place.root()).await;
}

#[tokio::test]
async fn the_engine_is_accepted_on_ext4() {
    let Some(place) = Place::on_file("copy on ext4", "ext4", 64) else { return };
    let root = place.root();
    accept_copy(&root).await;
    let inode = |path: PathBuf| path.metadata().unwrap().ino();
    let copy = root.join(".snapshots/mesh-1");
    for (path, linked) in [
        ("live/nodes/n1/heartbeat.json", true),
        ("archive/2026/task.json", true),
        ("journal/2026-06-16.jsonl", false),
    ] {
        assert_eq!(inode(root.join(path)) == inode(copy.join(path)), linked, "{path}");
    }
}

#[tokio::test]
async fn the_engine_is_accepted_on_btrfs_and_shares_blocks_there() {
    let Some(place) = Place::on_file("copy on btrfs", "btrfs", 256) else { return };
    let root = place.root();
    accept_copy(&root).await;
    // 10 copies of 40 MiB are more than the 256 MiB there are.
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(40 << 20).collect();
    std::fs::write(root.join("journal/large"), bytes).unwrap();
    let engine = CopyEngine::new(&root);
    for n in 0..10 {
        engine.take(request(&format!("large-{n}"), "id")).await.unwrap();
    }
    let copy = root.join(".snapshots/large-9/live/nodes/n1/heartbeat.json");
    let source = root.join("live/nodes/n1/heartbeat.json");
    assert_ne!(copy.metadata().unwrap().ino(), source.metadata().unwrap().ino());
}

/// Copies a tree again and again while its files are replaced all the time.
fn copy_while_files_are_replaced(root: &Path) {
    let file = |n: u32| root.join(format!("live/app/{n}.raw"));
    (0..1200).for_each(|n| tree::write(&file(n), b"first"));
    let taken: Vec<_> = std::thread::scope(|scope| {
        // Dropped when the copies are made, or when one could not be.
        let (_copying, stop) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let order = (0..1200).cycle().map(|n: u32| n * 7919 % 1200);
            for n in order {
                tree::write(&file(n), b"then");
                if stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    return;
                }
            }
        });
        let engine = CopyEngine::new(root);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let take = |n| runtime.block_on(engine.take(request(&format!("c{n}"), "1")));
        (0..5).map(|n| take(n).unwrap()).collect()
    });
    for taken in taken {
        let copied = names(&Path::new(&taken.full).join("live/app"));
        let missing = (0..1200).filter(|n| !copied.contains(&format!("{n}.raw"))).count();
        assert_eq!(missing, 0, "in {}", taken.full);
    }
}

#[test]
fn a_file_that_is_replaced_while_the_tree_is_copied_is_never_missed() {
    let scratch = tempfile::tempdir().unwrap();
    copy_while_files_are_replaced(scratch.path());
    let places = [
        Place::tmpfs("files replaced in memory", 256),
        Place::on_file("files replaced on btrfs", "btrfs", 512),
    ];
    for place in places.into_iter().flatten() {
        copy_while_files_are_replaced(&place.root());
    }
}

#[tokio::test]
async fn what_is_no_file_is_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    tree::plant(scratch.path());
    let pipe = scratch.path().join("live/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scratch.path().join("socket")).unwrap();
    let taken = CopyEngine::new(scratch.path()).take(request("a", "1")).await.unwrap();
    let copy = Path::new(&taken.full);
    for name in ["live/pipe", "socket", ".lock", ".tmp", ".snapshots"] {
        assert!(copy.join(name).symlink_metadata().is_err(), "{name}");
    }
    assert_eq!(std::fs::read_link(copy.join("specs/outside")).unwrap(), Path::new("/etc/passwd"));
}

#[tokio::test]
async fn a_copy_that_does_not_fit_fails_and_leaves_nothing() {
    let Some(place) = Place::tmpfs("copy into a full file system", 2) else { return };
    let root = place.root();
    std::fs::create_dir_all(root.join("journal")).unwrap();
    std::fs::write(root.join("journal/large"), vec![7; 1_200_000]).unwrap();
    let engine = CopyEngine::new(&root);
    let error = engine.take(request("a", "1")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::OutOfSpace { .. }), "{error}");
    assert!(error.retryable());
    assert_eq!(names(&root.join(".snapshots")), [""; 0]);
    std::fs::write(root.join("journal/large"), b"small").unwrap();
    engine.take(request("a", "1")).await.unwrap();
    std::fs::write(root.join("more"), vec![7; 4_000_000]).unwrap_err();
    let error = engine.check().await.unwrap_err();
    assert!(matches!(error, SnapshotError::OutOfSpace { .. }), "{error}");
}

#[tokio::test]
async fn a_copy_past_its_limit_stops_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    tree::plant(scratch.path());
    let engine = CopyEngine::new(scratch.path());
    let mut late = request("late", "1");
    late.deadline = Duration::ZERO;
    let error = engine.take(late).await.unwrap_err();
    assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
    engine.take(request("good", "2")).await.unwrap();
    let snapshots = scratch.path().join(".snapshots");
    wait_until("nothing but the good copy is left", || names(&snapshots) == ["good"]);
}

#[tokio::test]
async fn what_a_crash_left_behind_is_removed_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    tree::plant(scratch.path());
    let snapshots = scratch.path().join(".snapshots");
    for name in [".incomplete-mesh-1/live", ".incomplete--odd", "mine", ".hidden"] {
        std::fs::create_dir_all(snapshots.join(name)).unwrap();
    }
    let engine = CopyEngine::new(scratch.path());
    engine.take(request("mesh-2", "1")).await.unwrap();
    assert_eq!(names(&snapshots), [".hidden", ".incomplete--odd", "mesh-2", "mine"]);
    assert_eq!(engine.list().await.unwrap().len(), 1, "a directory without labels is no snapshot");
}

#[tokio::test]
async fn copies_made_at_once_do_not_disturb_each_other_and_are_in_order_after_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    tree::plant(scratch.path());
    let engine = CopyEngine::new(scratch.path());
    let (a, b) = tokio::join!(engine.take(request("z", "1")), engine.take(request("y", "2")));
    assert_eq!((a.is_ok(), b.is_ok()), (true, true));
    let restarted = CopyEngine::new(scratch.path());
    restarted.take(request("x", "3")).await.unwrap();
    let found = restarted.list().await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].name.as_str(), "x");
}

#[test]
fn more_calls_than_can_be_useful_are_refused_while_they_hang() {
    let scratch = tempfile::tempdir().unwrap();
    tree::plant(scratch.path());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        // The only thread for such work hangs, as on a device that does not answer.
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let hanging = tokio::task::spawn_blocking(move || hangs.recv());
        let engine = CopyEngine::new(scratch.path());
        let mut takes = tokio::task::JoinSet::new();
        for n in 0..8 {
            let engine = engine.clone();
            takes.spawn(async move { engine.take(request(&format!("c{n}"), "1")).await });
        }
        tokio::task::yield_now().await;
        let error = engine.take(request("more", "2")).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Stuck { count: 8, .. }), "{error}");
        assert!(error.retryable());
        release.send(()).unwrap();
        hanging.await.unwrap().unwrap();
        assert!(takes.join_all().await.iter().all(Result::is_ok));
        engine.take(request("more", "2")).await.unwrap();
    });
}

#[tokio::test]
async fn a_snapshots_directory_that_is_a_symlink_is_not_written_to() {
    let scratch = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), scratch.path().join(".snapshots")).unwrap();
    let error = CopyEngine::new(scratch.path()).take(request("a", "1")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
    assert_eq!(names(elsewhere.path()), [""; 0]);
}

/// A file somewhere in a tree: its path, bytes, mode, time, attribute.
type File = (Vec<String>, Vec<u8>, u32, (i64, i64), Option<Vec<u8>>);

fn file() -> impl Strategy<Value = File> {
    let level = prop_oneof![
        Just("live".to_owned()),
        Just("archive".to_owned()),
        Just(".snapshots".to_owned()),
        Just(".incomplete-x".to_owned()),
        "[^/\0]{1,20}".prop_filter("a name", |name| name != "." && name != ".."),
    ];
    (
        prop::collection::vec(level, 1..6),
        prop::collection::vec(any::<u8>(), 0..2000),
        (0o400_u32..0o1000).prop_map(|mode| mode | 0o600),
        (0_i64..4_000_000_000, 0_i64..1_000_000_000),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
    )
}

/// Writes a file unless another one is in its way.
fn put(root: &Path, (path, bytes, mode, (seconds, nanoseconds), attribute): &File) {
    let path = root.join(path.join("/"));
    if std::fs::create_dir_all(path.parent().unwrap()).is_err()
        || std::fs::write(&path, bytes).is_err()
    {
        return;
    }
    tree::set_mode(&path, *mode);
    if let Some(value) = attribute {
        tree::set_attribute(&path, "user.meshfs.test", value);
    }
    tree::set_modified(&path, *seconds, *nanoseconds);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn what_the_copy_holds_is_the_tree(files in prop::collection::vec(file(), 0..30)) {
        let scratch = tempfile::tempdir().unwrap();
        let top = |file: &File| file.0[0] == ".snapshots";
        files.iter().filter(|file| !top(file)).for_each(|file| put(scratch.path(), file));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let taken = runtime.block_on(CopyEngine::new(scratch.path()).take(request("a", "1"))).unwrap();
        prop_assert_eq!(tree::holds(Path::new(&taken.full)), tree::holds(scratch.path()));
    }
}
