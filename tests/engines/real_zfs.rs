//! The engines against OpenZFS, in the machine of `vm-run`. Every test makes the
//! pool or dataset it works on, and none touches a pool it did not make.

use crate::acceptance::accept;
use crate::places::{quiet, skip, wait_until};
use crate::{request, tree};
use meshfs::name::Dataset;
use meshfs::snapshot::{CopyEngine, Engine, Kind, Program, SnapshotError, ZfsEngine, choose};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this is the machine for it.
pub(crate) fn in_vm(test: &str) -> bool {
    if std::env::var_os("MESHFS_IN_VM").is_some() {
        return true;
    }
    skip::<()>(test, "needs OpenZFS; tests/engines/zfs runs it in a virtual machine");
    false
}

/// Runs a line of shell that has to succeed.
pub(crate) fn sh(line: &str) {
    quiet(Command::new("bash").args(["-ec", line]))
        .unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// What a line of shell prints.
pub(crate) fn told(line: &str) -> String {
    let output = Command::new("bash").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A dataset of the test's own and the engine that `choose` gives for it.
async fn chosen(name: &str) -> (PathBuf, std::sync::Arc<dyn Engine>) {
    sh(&format!("zfs create tank/{name}"));
    let root = PathBuf::from(format!("/tank/{name}"));
    let choice = choose(Kind::Auto, &root, None).await.unwrap();
    assert_eq!(choice.engine.name(), "zfs", "{}", choice.why);
    (root, choice.engine)
}

/// `zfs` as another user, and with what a line of shell does after it.
fn zfs_as(user: &str, then: &str) -> (tempfile::TempDir, Program) {
    let bin = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bin.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = bin.path().join("zfs");
    let command =
        format!("setpriv --reuid {user} --regid {user} --init-groups /usr/sbin/zfs \"$@\"");
    std::fs::write(&file, format!("#!/bin/sh\n{command} || exit $?\n{then}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program =
        Program::within("zfs", format!("{}:/usr/bin:/bin:/usr/sbin", bin.path().display()));
    (bin, program)
}

fn dataset(name: &str) -> Dataset {
    Dataset::parse(name).unwrap()
}

#[tokio::test]
async fn the_engine_is_accepted_at_the_mountpoint() {
    if !in_vm("zfs acceptance") {
        return;
    }
    let root = Path::new("/tank/meshfs");
    let choice = choose(Kind::Auto, root, None).await.unwrap();
    assert_eq!(choice.engine.name(), "zfs");
    assert_eq!(choice.why, "/tank/meshfs is the mountpoint of dataset tank/meshfs");
    let look = |name: &str| root.join(".zfs/snapshot").join(name);
    accept(&*choice.engine, root, |taken| look(taken.full.split_once('@').unwrap().1)).await;

    let found = choice.engine.list().await.unwrap();
    let ask = |property| told(&format!("zfs get -Hp -o value {property} tank/meshfs@mesh-2"));
    assert_eq!(found[0].taken.guid, Some(ask("guid")));
    assert_eq!(found[0].taken.txg.map(|txg| txg.to_string()), Some(ask("createtxg")));
    assert_eq!(ask("meshfs:id"), "id-1");
    assert_eq!(ask("meshfs:source"), "crm-api");
    assert_eq!(ask("meshfs:reason"), r#"migrating "schema"\tof\nthe café \\ -"#);
    let as_user = "setpriv --reuid tester --regid tester --init-groups ls /tank/meshfs/.zfs/snapshot/mesh-2/live/nodes";
    assert_eq!(told(as_user).lines().count(), 20, "anybody may look");
}

#[tokio::test]
async fn the_engine_is_accepted_below_the_mountpoint() {
    if !in_vm("zfs acceptance below the mountpoint") {
        return;
    }
    sh("zfs create 'tank/be low'; mkdir '/tank/be low/mesh'");
    let root = Path::new("/tank/be low/mesh");
    let choice = choose(Kind::Zfs, root, Some(dataset("tank/be low"))).await.unwrap();
    assert!(choice.why.contains("lies below /tank/be low"), "{}", choice.why);
    let look = |name: &str| Path::new("/tank/be low/.zfs/snapshot").join(name).join("mesh");
    accept(&*choice.engine, root, |taken| look(taken.full.split_once('@').unwrap().1)).await;
}

#[tokio::test]
async fn a_copy_is_accepted_on_zfs_too() {
    if !in_vm("copy on zfs") {
        return;
    }
    sh("zfs create tank/copy; zfs set snapdir=visible tank/copy");
    let root = Path::new("/tank/copy");
    accept(&CopyEngine::new(root), root, |taken| taken.full.clone().into()).await;
}

#[tokio::test]
async fn a_legacy_mountpoint_is_found_and_labels_of_any_length_are_kept() {
    if !in_vm("legacy mountpoint") {
        return;
    }
    sh(
        "zfs create -o mountpoint=legacy tank/legacy; mkdir -p /tmp/legacy; mount -t zfs tank/legacy /tmp/legacy",
    );
    let choice = choose(Kind::Auto, Path::new("/tmp/legacy"), None).await.unwrap();
    assert_eq!(choice.engine.name(), "zfs", "{}", choice.why);
    let mut long = request("long", "1");
    long.labels.reason = "é".repeat(9000);
    long.labels.ids = (0..300).map(|n| format!("0190c3f2-0000-7000-8000-{n:012}")).collect();
    choice.engine.take(long.clone()).await.unwrap();
    let mut dash = request("dash", "2");
    dash.labels.reason = "-".to_owned();
    dash.labels.source = None;
    choice.engine.take(dash.clone()).await.unwrap();
    let found = choice.engine.list().await.unwrap();
    let kept = found[0].labels.clone().unwrap();
    assert_eq!(kept.reason, "é".repeat(4095), "cut at what ZFS keeps");
    assert!(kept.ids.len() > 200 && long.labels.ids.starts_with(&kept.ids));
    assert_eq!(found[1].labels, Some(dash.labels));
}

#[tokio::test]
async fn a_dataset_that_is_not_there_is_named() {
    if !in_vm("missing dataset") {
        return;
    }
    let error = choose(Kind::Zfs, Path::new("/tmp"), Some(dataset("tank/no"))).await.unwrap_err();
    assert!(matches!(error, SnapshotError::NoSuchDataset { .. }), "{error}");
    let (_, engine) = chosen("gone").await;
    sh("zfs destroy tank/gone");
    let errors = [
        engine.take(request("a", "1")).await.unwrap_err(),
        engine.list().await.unwrap_err(),
        engine.check().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, SnapshotError::NoSuchDataset { .. }), "{error}");
    }
    let error = choose(Kind::Zfs, Path::new("/tmp"), Some(dataset("nopool/x"))).await.unwrap_err();
    assert!(matches!(error, SnapshotError::NoSuchDataset { .. }), "{error}");
}

#[tokio::test]
async fn an_ordinary_user_may_once_it_is_allowed() {
    if !in_vm("permissions") {
        return;
    }
    chosen("allowed").await;
    let uid = told("id -u tester");
    assert!(
        check_as_tester().contains("permission denied to snapshot tank/allowed"),
        "no grant yet"
    );
    let (_bin, program) = zfs_as("tester", "");
    let engine = ZfsEngine::new(dataset("tank/allowed"), "/tank/allowed", program);
    let error = engine.take(request("a", "1")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::PermissionDenied { .. }), "{error}");
    let way_out =
        error.to_string().split_once("run: ").unwrap().1.replace("-u 0", &format!("-u {uid}"));
    sh("zfs allow -u tester snapshot,mount tank/allowed");
    let error = engine.take(request("a", "1")).await.unwrap_err();
    assert!(
        matches!(error, SnapshotError::PermissionDenied { .. }),
        "no labels without userprop: {error}"
    );
    assert!(check_as_tester().contains(&way_out), "the check knows, and says what to type");
    sh(&way_out);
    assert_eq!(check_as_tester(), "well");
    let taken = engine.take(request("a", "1")).await.unwrap();
    assert!(taken.guid.is_some());
    assert_eq!(engine.list().await.unwrap()[0].labels, Some(request("a", "1").labels));
    engine.check().await.unwrap();
    sh("chmod 600 /dev/zfs");
    let errors =
        [engine.take(request("b", "1")).await.unwrap_err(), engine.check().await.unwrap_err()];
    sh("chmod 666 /dev/zfs");
    for error in errors {
        assert!(matches!(error, SnapshotError::PermissionDenied { .. }), "{error}");
        assert!(error.to_string().contains("/dev/zfs"), "{error}");
    }
}

/// What the check says to an ordinary user: this program, run again as one.
fn check_as_tester() -> String {
    let program = std::env::current_exe().unwrap();
    let answer = tempfile::NamedTempFile::new().unwrap();
    sh(&format!(
        "chmod 666 {0}; MESHFS_CHECK_TO={0} setpriv --reuid tester --regid tester --init-groups {1} --exact real_zfs::an_ordinary_user_checks",
        answer.path().display(),
        program.display()
    ));
    std::fs::read_to_string(answer.path()).unwrap()
}

/// The part of [`check_as_tester`] that the ordinary user plays.
#[tokio::test]
async fn an_ordinary_user_checks() {
    let Some(answer) = std::env::var_os("MESHFS_CHECK_TO") else { return };
    let engine = ZfsEngine::new(dataset("tank/allowed"), "/tank/allowed", Program::new("zfs"));
    let text = engine.check().await.map_or_else(|error| error.to_string(), |()| "well".to_owned());
    std::fs::write(answer, text).unwrap();
}

#[tokio::test]
async fn a_full_pool_and_a_full_quota_are_told_apart() {
    if !in_vm("no space") {
        return;
    }
    sh("truncate -s 128M /full.img; zpool create full /full.img; zfs create full/mesh");
    let choice = choose(Kind::Auto, Path::new("/full/mesh"), None).await.unwrap();
    sh(
        "! dd if=/dev/urandom of=/full/mesh/fill bs=1M 2>/dev/null; sync; ! dd if=/dev/urandom of=/full/mesh/more bs=1k 2>/dev/null; sync",
    );
    let error = choice.engine.take(request("a", "1")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::OutOfSpace { .. }), "{error}");
    assert_eq!(choice.engine.list().await.unwrap(), []);
    sh("rm /full/mesh/fill; sync; zpool sync full");
    choice.engine.take(request("b", "1")).await.unwrap();
    sh("zpool destroy full; rm /full.img");

    sh(
        "zfs create -o quota=8M tank/quota; ! dd if=/dev/urandom of=/tank/quota/fill bs=1M 2>/dev/null",
    );
    let choice = choose(Kind::Auto, Path::new("/tank/quota"), None).await.unwrap();
    choice.engine.take(request("a", "1")).await.unwrap();
    choice.engine.check().await.unwrap();
}

#[tokio::test]
async fn what_a_snapshot_would_leave_out_is_noticed() {
    if !in_vm("coverage") {
        return;
    }
    chosen("outer").await;
    sh("zfs create tank/outer/live");
    let root = Path::new("/tank/outer");
    let choice = choose(Kind::Auto, root, None).await.unwrap();
    assert_eq!(choice.engine.name(), "copy", "{}", choice.why);
    assert!(
        choice.why.contains("/tank/outer/live: it is a file system of its own"),
        "{}",
        choice.why
    );
    for (root, name) in [
        (root, "tank/outer"),
        (Path::new("/tank/outer/live"), "tank/outer"),
        (Path::new("/tmp"), "tank/outer"),
    ] {
        let error = choose(Kind::Zfs, root, Some(dataset(name))).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NotCovered { .. }), "{error}");
    }
    let choice = choose(Kind::Zfs, Path::new("/tank/outer/live"), None).await.unwrap();
    assert_eq!(choice.why, "/tank/outer/live is the mountpoint of dataset tank/outer/live");
    let choice = choose(Kind::Auto, Path::new("/tmp"), None).await.unwrap();
    assert_eq!((choice.engine.name(), choice.why.as_str()), ("copy", "/tmp is on tmpfs"));
    let error = choose(Kind::Zfs, Path::new("/tmp"), None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Unsuitable { .. }), "{error}");
}

#[tokio::test]
async fn a_snapshot_whose_command_hangs_is_born_all_the_same_and_explains_itself() {
    if !in_vm("late snapshot") {
        return;
    }
    chosen("late").await;
    let (_bin, program) =
        zfs_as("root", "[ \"$1\" != snapshot ] || { touch /tmp/late-born; sleep 1000; }");
    let engine = ZfsEngine::new(dataset("tank/late"), "/tank/late", program);
    let (error, ()) = tokio::join!(
        async {
            let mut slow = request("a", "id-1");
            slow.deadline = std::time::Duration::from_secs(600);
            engine.take(slow).await.unwrap_err()
        },
        async {
            while !Path::new("/tmp/late-born").exists() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            tokio::time::pause(); // the limit passes now
        }
    );
    assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
    tokio::time::resume();
    let found = engine.list().await.unwrap();
    assert_eq!(found[0].labels.as_ref().unwrap().id, "id-1");
}

#[tokio::test]
async fn commands_that_cannot_be_killed_are_few_and_forgotten_when_they_end() {
    if !in_vm("unkillable commands") {
        return;
    }
    // Whoever writes to a suspended device waits in the kernel, deaf to any signal.
    sh("export DM_DISABLE_UDEV=1; truncate -s 8M /tmp/stuck.img; loop=$(losetup -f --show /tmp/stuck.img)
        echo \"0 $(blockdev --getsz $loop) linear $loop 0\" | dmsetup create stuck; dmsetup suspend stuck");
    let bin = tempfile::tempdir().unwrap();
    let file = bin.path().join("zfs");
    std::fs::write(
        &file,
        "#!/bin/sh\nexec dd if=/dev/zero of=/dev/mapper/stuck bs=4k count=1 oflag=direct\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let engine = ZfsEngine::new(dataset("tank/x"), "/tank/x", Program::within("zfs", path));
    let mut hasty = request("a", "1");
    hasty.deadline = std::time::Duration::from_millis(500);
    for _ in 0..4 {
        let error = engine.take(hasty.clone()).await.unwrap_err();
        assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
    }
    let error = engine.take(hasty.clone()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Stuck { count: 4, .. }), "{error}");
    sh("DM_DISABLE_UDEV=1 dmsetup resume stuck");
    for _ in 0..1000 {
        match engine.take(hasty.clone()).await {
            Err(SnapshotError::Stuck { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            other => return drop(other.unwrap_err()), // started again; this is no zfs
        }
    }
    panic!("still refused after the device came back");
}

/// Last by its name: what a suspended pool holds, it holds until the machine is off.
#[test]
fn zz_a_suspended_pool_is_noticed_before_any_file_is_touched() {
    if !in_vm("suspended pool") {
        return;
    }
    sh("export DM_DISABLE_UDEV=1; truncate -s 128M /bad.img; loop=$(losetup -f --show /bad.img)
        echo \"0 $(blockdev --getsz $loop) linear $loop 0\" | dmsetup create bad
        zpool create -f bad /dev/mapper/bad; zfs create bad/mesh");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let choice = choose(Kind::Auto, Path::new("/bad/mesh"), None).await.unwrap();
        tree::plant(Path::new("/bad/mesh"));
        choice.engine.take(request("good", "1")).await.unwrap();
        sh("export DM_DISABLE_UDEV=1; size=$(blockdev --getsz /dev/mapper/bad); dmsetup suspend --nolockfs bad
            echo \"0 $size error\" | dmsetup load bad; dmsetup resume bad");
        // Somebody's write meets the fault; it hangs, and nobody here must wait for it.
        sh("(echo x >/bad/mesh/x; sync -f /bad/mesh) </dev/null >/dev/null 2>&1 &");
        wait_until("the pool is suspended", || {
            std::fs::read_to_string("/proc/spl/kstat/zfs/bad/state").unwrap().trim() == "SUSPENDED"
        });
        let errors = [
            choose(Kind::Auto, Path::new("/bad/mesh/not/there"), None).await.unwrap_err(),
            choice.engine.check().await.unwrap_err(),
            choice.engine.take(request("a", "2")).await.unwrap_err(),
            choice.engine.list().await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, SnapshotError::PoolSuspended { .. }), "{error}");
            assert!(error.retryable());
        }
        let asked_by_program = ZfsEngine::new(dataset("bad/mesh"), "/bad/mesh", Program::new("zfs"))
            .with_kernel_state("/nowhere");
        let error = asked_by_program.check().await.unwrap_err();
        assert!(matches!(error, SnapshotError::PoolSuspended { .. }), "{error}");
    });
}
