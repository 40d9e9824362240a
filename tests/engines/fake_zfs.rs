//! The zfs engine against a `zfs` that answers what OpenZFS 2.3.2 (and zfs-fuse 0.7)
//! was seen to answer.

use crate::places::names;
use crate::request;
use meshfs::name::Dataset;
use meshfs::snapshot::{Engine, Kind, Program, Request, SnapshotError, ZfsEngine, choose};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const USAGE: &str = "usage:\n\tsnapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...\n\nFor the property list, run: zfs set|get\n";

/// A directory with a `zfs` in it that plays a part.
struct Fake {
    bin: tempfile::TempDir,
    script: String,
}

impl Fake {
    /// One that has the dataset tank/mesh mounted at `/srv` and nothing else.
    fn new() -> Self {
        let mut fake = Self { bin: tempfile::tempdir().unwrap(), script: String::new() };
        fake.answer("list*mounted,mountpoint*", 0, "tank/mesh\tyes\t/srv\n", "");
        fake.answer("list*filesystem*", 0, "tank/mesh\n", "");
        fake
    }

    /// How it answers when its arguments look like the shell pattern.
    fn answer(&mut self, pattern: &str, status: i32, stdout: &str, stderr: &str) {
        let file = |name: &str, text: &str| {
            let path = self.bin.path().join(format!("{}.{name}", self.script.len()));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (out, err) = (file("out", stdout), file("err", stderr));
        let body = format!("cat '{out}'; cat '{err}' >&2; exit {status}");
        self.play(pattern, &body);
    }

    /// What it does when its arguments look like the shell pattern.
    fn play(&mut self, pattern: &str, body: &str) {
        let pattern = pattern.replace(' ', "\\ ");
        self.script.push_str(&format!("case \"$*\" in {pattern}) {body} ;; esac\n"));
    }

    fn engine(&self) -> ZfsEngine {
        let asked = self.bin.path().join("asked");
        let head = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{}'\n", asked.display());
        for name in ["zfs", "zpool"] {
            let file = self.bin.path().join(name);
            std::fs::write(&file, format!("{head}{}\necho unexpected >&2; exit 99\n", self.script))
                .unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", self.bin.path().display());
        let dataset = Dataset::parse("tank/mesh").unwrap();
        ZfsEngine::new(dataset, "/srv/mesh", Program::within("zfs", path))
            .with_kernel_state(self.bin.path().join("kstat"))
    }

    /// Every argument it was given.
    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.bin.path().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A line of the list for a snapshot of [`request`].
fn listed(name: &str, txg: u64, id: &str) -> String {
    format!("tank/mesh@{name}\t90{txg}\t{txg}\t{id}\treason\t-\tfalse\t{id}\n")
}

#[tokio::test]
async fn every_answer_to_a_snapshot_has_its_meaning() {
    type Meaning = fn(&SnapshotError) -> bool;
    let suspended = format!("cannot open 'tank/mesh': pool I/O is currently suspended\n{USAGE}");
    let missing = format!("cannot open 'tank/mesh': dataset does not exist\n{USAGE}");
    let rows: [(i32, &str, Meaning); 15] = [
        (2, &missing, |e| matches!(e, SnapshotError::NoSuchDataset { .. })),
        (1, "cannot open 'tank/mesh': dataset does not exist\n", |e| {
            matches!(e, SnapshotError::NoSuchDataset { .. })
        }),
        (1, "cannot create snapshots : permission denied\n", |e| {
            matches!(e, SnapshotError::PermissionDenied { .. })
        }),
        (
            1,
            "connect: Permission denied\nPlease make sure that the zfs-fuse daemon is running.\n",
            |e| matches!(e, SnapshotError::PermissionDenied { .. }),
        ),
        (1, "Permission denied the ZFS utilities must be run as root.\n", |e| {
            matches!(e, SnapshotError::PermissionDenied { .. })
        }),
        (1, "/dev/zfs and /proc/self/mounts are required.\n", |e| {
            matches!(e, SnapshotError::NoModule)
        }),
        (
            1,
            "The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.\n",
            |e| matches!(e, SnapshotError::NoModule),
        ),
        (1, "cannot create snapshots : out of space\n", |e| {
            matches!(e, SnapshotError::OutOfSpace { .. })
        }),
        (1, "cannot create snapshot 'tank/mesh@a': out of space\n", |e| {
            matches!(e, SnapshotError::OutOfSpace { .. })
        }),
        (2, &suspended, |e| matches!(e, SnapshotError::PoolSuspended { .. })),
        (1, "cannot open 'tank/mesh': pool I/O is currently suspended\n", |e| {
            matches!(e, SnapshotError::PoolSuspended { .. })
        }),
        (1, "cannot create snapshot 'tank/mesh@a': name is too long\n", |e| {
            matches!(e, SnapshotError::Failed { .. })
        }),
        (255, "cannot set property for 'tank/mesh': permission denied\n", |e| {
            matches!(e, SnapshotError::PermissionDenied { .. })
        }),
        (2, USAGE, |e| matches!(e, SnapshotError::Failed { .. })),
        (1, "", |e| matches!(e, SnapshotError::Failed { .. })),
    ];
    for (status, stderr, means) in rows {
        let mut fake = Fake::new();
        fake.answer("snapshot*", status, "", stderr);
        let error = fake.engine().take(request("a", "1")).await.unwrap_err();
        assert!(means(&error), "{status} {stderr:?} became {error:?}");
        assert!(!error.to_string().contains("snapshot [-r]"), "{error}");
    }
}

#[tokio::test]
async fn every_answer_to_a_question_has_its_meaning() {
    type Meaning = fn(&SnapshotError) -> bool;
    let rows: [(&str, Meaning); 4] = [
        ("cannot open 'tank/mesh': dataset does not exist\n", |e| {
            matches!(e, SnapshotError::NoSuchDataset { .. })
        }),
        ("cannot open 'tank/mesh': pool I/O is currently suspended\n", |e| {
            matches!(e, SnapshotError::PoolSuspended { .. })
        }),
        ("Permission denied the ZFS utilities must be run as root.\n", |e| {
            matches!(e, SnapshotError::PermissionDenied { .. })
        }),
        ("/dev/zfs and /proc/self/mounts are required.\n", |e| {
            matches!(e, SnapshotError::NoModule)
        }),
    ];
    for (stderr, means) in rows {
        let mut fake = Fake { bin: tempfile::tempdir().unwrap(), script: String::new() };
        fake.answer("list*health*", 0, "ONLINE\n", "");
        fake.answer("list*", 1, "", stderr);
        let engine = fake.engine();
        for error in [engine.list().await.unwrap_err(), engine.check().await.unwrap_err()] {
            assert!(means(&error), "{stderr:?} became {error:?}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_asked_for_with_its_labels_and_known_by_its_identity() {
    let mut fake = Fake::new();
    fake.answer("snapshot*", 0, "", "");
    fake.answer("list*@a", 0, &listed("a", 7, "id-1"), "");
    let taken = fake.engine().take(request("a", "id-1")).await.unwrap();
    assert_eq!((taken.engine, taken.full.as_str()), ("zfs", "tank/mesh@a"));
    assert_eq!((taken.guid.as_deref(), taken.txg), (Some("907"), Some(7)));
    let asked = fake.asked();
    let from = asked.iter().position(|argument| argument == "snapshot").unwrap();
    assert_eq!(
        asked[from..from + 12],
        [
            "snapshot",
            "-o",
            "meshfs:id=id-1",
            "-o",
            r#"meshfs:reason=migrating "schema"\tof\nthe café \\ -"#,
            "-o",
            "meshfs:source=crm-api",
            "-o",
            "meshfs:flush=true",
            "-o",
            "meshfs:ids=id-1,other-1",
            "tank/mesh@a",
        ]
    );
}

#[tokio::test]
async fn a_snapshot_that_is_there_is_a_met_goal_only_for_who_made_it() {
    let mut fake = Fake::new();
    fake.answer(
        "snapshot*",
        1,
        "",
        "cannot create snapshot 'tank/mesh@a': dataset already exists\n",
    );
    fake.answer("list*@a", 0, &listed("a", 7, "id-1"), "");
    let engine = fake.engine();
    assert_eq!(engine.take(request("a", "id-1")).await.unwrap().txg, Some(7));
    let error = engine.take(request("a", "id-2")).await.unwrap_err();
    assert!(matches!(error, SnapshotError::AlreadyExists { .. }), "{error}");
}

#[tokio::test]
async fn the_order_of_a_list_is_that_of_the_transaction_groups() {
    let mut fake = Fake::new();
    let text = [listed("c", 9, "3"), listed("a", 10, "4"), listed("b", 2, "1")].concat();
    fake.answer("list*snapshot*", 0, &format!("{text}tank/mesh@-odd\t1\t1\t-\t-\t-\t-\t-\n"), "");
    let found = fake.engine().list().await.unwrap();
    let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
}

#[tokio::test]
async fn an_answer_with_a_surplus_column_is_refused() {
    let mut fake = Fake::new();
    fake.answer("snapshot*", 0, "", "");
    fake.answer("list*snapshot*", 0, "tank/mesh@a\t1\t2\t-\t-\t-\t-\t-\tmore\n", "");
    let engine = fake.engine();
    for error in
        [engine.list().await.unwrap_err(), engine.take(request("a", "1")).await.unwrap_err()]
    {
        assert!(matches!(error, SnapshotError::Answer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_that_would_not_hold_the_tree_is_not_taken() {
    for (answer, reason) in [
        ("tank/mesh\tyes\t/elsewhere\n", "mounted at /elsewhere"),
        ("tank/mesh\tno\t/srv\n", "not mounted"),
        ("tank/mesh\tyes\tnone\n", "mounted at none"),
    ] {
        let mut fake = Fake { bin: tempfile::tempdir().unwrap(), script: String::new() };
        fake.answer("list*mounted,mountpoint*", 0, answer, "");
        let error = fake.engine().take(request("a", "1")).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NotCovered { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!fake.asked().contains(&"snapshot".to_owned()));
    }
}

#[tokio::test]
async fn the_state_of_the_pool_is_known_before_anything_is_touched() {
    for (state, well) in
        [("ONLINE", true), ("DEGRADED", true), ("SUSPENDED", false), ("FAULTED", false)]
    {
        let mut fake = Fake::new();
        fake.answer("list*health*", 0, &format!("{state}\n"), "");
        let by_program = fake.engine().check().await;
        assert_eq!(by_program.is_ok(), well, "{state}: {by_program:?}");
        let kstat = fake.bin.path().join("kstat/tank");
        std::fs::create_dir_all(&kstat).unwrap();
        std::fs::write(kstat.join("state"), format!("{state}\n")).unwrap();
        let by_kernel = fake.engine().check().await;
        assert_eq!(by_kernel.is_ok(), well, "{state}: {by_kernel:?}");
        if let Err(error) = by_kernel {
            assert!(matches!(error, SnapshotError::PoolSuspended { .. }), "{error:?}");
        }
    }
}

/// Lets a take reach its limit as soon as the program has done what it does before it
/// hangs; gives the number of its process.
async fn take_until_hanging(fake: &Fake, request: Request) -> (SnapshotError, String) {
    let engine = fake.engine();
    let taking = tokio::spawn(async move { engine.take(request).await });
    let file = fake.bin.path().join("pid");
    while !std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')) {
        assert!(!taking.is_finished(), "ended before its limit");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::pause(); // with nothing else to do, the limit is reached at once
    let error = taking.await.unwrap().unwrap_err();
    tokio::time::resume();
    (error, std::fs::read_to_string(file).unwrap().trim().to_owned())
}

#[tokio::test]
async fn a_zfs_that_hangs_is_ended_at_the_limit() {
    let mut fake = Fake::new();
    let pid = fake.bin.path().join("pid");
    fake.play("snapshot*", &format!("echo $$ >'{}'; sleep 1000", pid.display()));
    let (error, pid) = take_until_hanging(&fake, request("a", "1")).await;
    assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
    assert!(error.retryable());
    assert!(error.to_string().starts_with("zfs snapshot did not answer within"), "{error}");
    crate::places::wait_until("the process is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    });
}

#[tokio::test]
async fn a_snapshot_born_after_the_limit_is_found_by_its_labels() {
    let mut fake = Fake::new();
    let pid = fake.bin.path().join("pid");
    let born = fake.bin.path().join("born");
    let body = format!("touch '{}'; echo $$ >'{}'; sleep 1000", born.display(), pid.display());
    fake.play("snapshot*", &body);
    fake.play(
        "list*",
        &format!("[ -e '{}' ] && printf '{}'; exit 0", born.display(), listed("a", 3, "id-1")),
    );
    let (error, _) = take_until_hanging(&fake, request("a", "id-1")).await;
    assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
    let found = fake.engine().list().await.unwrap();
    assert_eq!(found[0].labels.as_ref().map(|labels| labels.id.as_str()), Some("id-1"));
}

#[tokio::test]
async fn the_machine_of_the_tests_gets_a_copy_with_a_reason() {
    let scratch = tempfile::tempdir().unwrap();
    if std::env::var_os("MESHFS_IN_VM").is_some() {
        return; // there the real file systems are chosen from
    }
    let choice = choose(Kind::Auto, scratch.path(), None).await.unwrap();
    assert_eq!(choice.engine.name(), "copy", "{}", choice.why);
    assert!(choice.why.contains(" is on "), "{}", choice.why);
    assert_eq!(names(Path::new(scratch.path())), [""; 0], "choosing leaves nothing behind");
}
