//! The whole program on OpenZFS, in the machine of `vm-run`.

use crate::places::wait_until;
use crate::program::{Program, meshfs};
use crate::real_zfs::{in_vm, sh, told};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The program as the ordinary user of the machine.
fn as_tester() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "tester", "--regid", "tester", "--init-groups"]).arg(meshfs());
    command
}

/// The name of the snapshot in an outcome.
fn name_of(outcome: &Value) -> String {
    outcome["snapshot"]["name"]
        .as_str()
        .unwrap_or_else(|| panic!("no snapshot: {outcome}"))
        .to_owned()
}

fn heartbeat(node: u32, n: u32) -> String {
    format!(r#"{{"node": "n{node}", "status": "ALIVE", "uptime": "{n}"}}"#)
}

#[test]
fn an_announcement_becomes_a_snapshot_on_zfs_that_holds_what_was_said_before() {
    if !in_vm("the hub on zfs") {
        return;
    }
    sh(
        "zfs create tank/hub; chown tester: /tank/hub; zfs allow -u tester snapshot,mount,userprop tank/hub",
    );
    let root = Path::new("/tank/hub");
    let hub = Program::serve(as_tester(), root, &[]);
    let mut bus = hub.connect("nodes");
    for node in 0..50 {
        bus.publish(&format!("mesh/nodes/n{node}/heartbeat"), heartbeat(node, 1).as_bytes());
    }
    let migration = json!({ "reason": "migrating \"schema\"", "source": "crm-api", "id": "mig-1" });
    let (status, outcome) = hub.announce(&migration);
    assert_eq!((status, &outcome["state"]), (201, &json!("confirmed")), "{outcome}");
    let name = name_of(&outcome);
    let ask = |property: &str| told(&format!("zfs get -Hp -o value {property} tank/hub@{name}"));
    assert_eq!(outcome["snapshot"]["engine"], "zfs");
    assert_eq!(outcome["snapshot"]["full"], format!("tank/hub@{name}"));
    assert_eq!(outcome["snapshot"]["guid"], ask("guid"));
    assert_eq!(outcome["snapshot"]["txg"].to_string(), ask("createtxg"));
    assert_eq!(ask("meshfs:reason"), "migrating \"schema\"");
    assert_eq!(ask("meshfs:source"), "crm-api");
    assert_eq!(ask("meshfs:ids"), "mig-1");

    for node in 0..50 {
        bus.publish(&format!("mesh/nodes/n{node}/heartbeat"), heartbeat(node, 2).as_bytes());
        let held = format!("/tank/hub/.zfs/snapshot/{name}/live/nodes/n{node}/heartbeat.json");
        assert_eq!(std::fs::read_to_string(held).unwrap(), heartbeat(node, 1));
    }
    let journal = told(&format!("cat /tank/hub/.zfs/snapshot/{name}/journal/*.jsonl"));
    assert!(journal.contains("mig-1"), "the request is in its own snapshot: {journal}");

    let (_, again) = hub.announce(&migration);
    assert_eq!(name_of(&again), name, "the same id has the same outcome");
    assert_eq!(hub.announce_by_command("by hand"), Some(0));
    assert_eq!(told("zfs list -H -t snapshot tank/hub").lines().count(), 2);
    hub.kill();

    let hub = Program::serve(as_tester(), root, &[]);
    let kept = hub.get("/v1/snapshots").to_string();
    assert!(kept.contains(&name), "known after a crash: {kept}");
    let (status, outcome) = hub.announce(&json!("after the crash"));
    assert_eq!(status, 201, "{outcome}");
    let held =
        format!("/tank/hub/.zfs/snapshot/{}/live/nodes/n7/heartbeat.json", name_of(&outcome));
    assert_eq!(std::fs::read_to_string(held).unwrap(), heartbeat(7, 2));
}

#[test]
fn forty_announcements_at_once_share_few_snapshots() {
    if !in_vm("announcements at once on zfs") {
        return;
    }
    sh("zfs create tank/many");
    let hub = Program::serve(Command::new(meshfs()), Path::new("/tank/many"), &[]);
    let names: BTreeSet<String> = std::thread::scope(|scope| {
        let ask =
            |n: u32| hub.announce(&json!({ "reason": format!("act {n}"), "id": format!("a-{n}") }));
        let asking: Vec<_> = (0..40).map(|n| scope.spawn(move || ask(n))).collect();
        let answers = asking.into_iter().map(|asking| asking.join().unwrap());
        answers
            .map(|(status, outcome)| {
                assert_eq!(status, 201, "{outcome}");
                name_of(&outcome)
            })
            .collect()
    });
    assert!(names.len() <= 3, "{names:?}");
    let there = told("zfs list -H -o name -t snapshot tank/many");
    assert_eq!(there.lines().count(), names.len());
    let mut ids = BTreeSet::new();
    for name in &names {
        let labels = told(&format!("zfs get -Hp -o value meshfs:ids tank/many@{name}"));
        ids.extend(labels.split(',').map(str::to_owned));
    }
    assert_eq!(ids.len(), 40, "every announcement is named by its snapshot");
}

#[test]
fn a_full_pool_is_said_and_the_hub_recovers() {
    if !in_vm("the hub on a full pool") {
        return;
    }
    sh("truncate -s 128M /fullhub.img; zpool create fullhub /fullhub.img; zfs create fullhub/mesh");
    let hub = Program::serve(
        Command::new(meshfs()),
        Path::new("/fullhub/mesh"),
        &[("MESHFS__ANNOUNCE__DEADLINE", "10s")],
    );
    sh(
        "! dd if=/dev/urandom of=/fullhub/fill bs=1M 2>/dev/null; sync; ! dd if=/dev/urandom of=/fullhub/more bs=1k 2>/dev/null; sync",
    );
    let (status, outcome) = hub.announce(&json!({ "reason": "while full", "id": "full-1" }));
    // It cannot even be journalled, or its snapshot fails: either way there is none, and why.
    assert_eq!(status, 503, "{outcome}");
    assert!(outcome.to_string().contains("space"), "{outcome}");
    sh("rm -f /fullhub/fill /fullhub/more; zpool sync fullhub");
    let mut bus = hub.connect("n1");
    bus.publish("mesh/nodes/n1/heartbeat", heartbeat(1, 1).as_bytes());
    let (status, outcome) = hub.announce(&json!("after it was emptied"));
    assert_eq!(status, 201, "{outcome}");
    let held =
        format!("/fullhub/mesh/.zfs/snapshot/{}/live/nodes/n1/heartbeat.json", name_of(&outcome));
    assert_eq!(std::fs::read_to_string(held).unwrap(), heartbeat(1, 1));
}

/// Near the end by its name: its pool is lost to the machine.
#[test]
fn z_a_pool_that_is_suspended_under_the_hub_fails_announcements_and_nothing_else() {
    if !in_vm("the hub on a suspended pool") {
        return;
    }
    sh("export DM_DISABLE_UDEV=1; truncate -s 128M /badhub.img; loop=$(losetup -f --show /badhub.img)
        echo \"0 $(blockdev --getsz $loop) linear $loop 0\" | dmsetup create badhub
        zpool create -f badhub /dev/mapper/badhub; zfs create badhub/mesh");
    let root = Path::new("/badhub/mesh");
    let hub = Program::serve(Command::new(meshfs()), root, &[("MESHFS__ANNOUNCE__DEADLINE", "8s")]);
    let mut bus = hub.connect("watcher");
    bus.subscribe("mesh/nodes/n1/heartbeat");
    let mut node = hub.connect("n1");
    node.publish("mesh/nodes/n1/heartbeat", heartbeat(1, 1).as_bytes());
    assert_eq!(bus.receive("mesh/nodes/n1/heartbeat"), heartbeat(1, 1).as_bytes());
    assert_eq!(hub.announce(&json!("while well")).0, 201);

    sh("export DM_DISABLE_UDEV=1; size=$(blockdev --getsz /dev/mapper/badhub)
        dmsetup suspend --nolockfs badhub; echo \"0 $size error\" | dmsetup load badhub; dmsetup resume badhub
        (echo x >/badhub/mesh/x; sync -f /badhub/mesh) </dev/null >/dev/null 2>&1 &");
    wait_until("the pool is suspended", || {
        std::fs::read_to_string("/proc/spl/kstat/zfs/badhub/state").unwrap().trim() == "SUSPENDED"
    });
    let (status, outcome) = hub.announce(&json!({ "reason": "while suspended", "id": "bad-1" }));
    assert_eq!(status, 503, "{outcome}");
    node.publish("mesh/nodes/n1/heartbeat", heartbeat(1, 2).as_bytes());
    assert_eq!(
        bus.receive("mesh/nodes/n1/heartbeat"),
        heartbeat(1, 2).as_bytes(),
        "the bus goes on"
    );
    assert_eq!(hub.announce(&json!("once more")).0, 503);
    // The kernel does not let go of its threads, so nobody waits for it.
    hub.leave();
}
