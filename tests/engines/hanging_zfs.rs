//! The whole program with a `zfs` that never answers.

use crate::places::wait_until;
use crate::program::{Program, meshfs};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_hub_whose_zfs_hangs_answers_failed_at_every_door_and_goes_on_serving() {
    let scratch = tempfile::tempdir().unwrap();
    let bin = scratch.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let pids = scratch.path().join("pids");
    let zfs = bin.join("zfs");
    std::fs::write(&zfs, format!("#!/bin/sh\necho $$ >>'{}'\nsleep 1000\n", pids.display()))
        .unwrap();
    std::fs::set_permissions(&zfs, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let root = scratch.path().join("mesh");
    let settings = [
        ("PATH", path.as_str()),
        ("MESHFS__SNAPSHOT__ENGINE", "zfs"),
        ("MESHFS__SNAPSHOT__DATASET", "tank/meshfs"),
        ("MESHFS__ANNOUNCE__DEADLINE", "2s"),
    ];
    let hub = Program::serve(Command::new(meshfs()), &root, &settings);

    let (status, outcome) = hub.announce(&json!({ "reason": "migrating schema", "id": "by-http" }));
    assert_eq!(status, 503, "{outcome}");
    assert_eq!((&outcome["state"], &outcome["id"]), (&json!("failed"), &json!("by-http")));
    assert!(outcome["error"].as_str().unwrap().contains("did not answer"), "{outcome}");

    let mut bus = hub.connect("service");
    bus.subscribe("mesh/nodes/+/heartbeat");
    bus.subscribe("mesh/app/answer");
    let heartbeat = br#"{"node": "n1", "status": "ALIVE"}"#;
    bus.publish("mesh/announce", br#"{"reason": "migrating", "reply_to": "mesh/app/answer"}"#);
    hub.connect("n1").publish("mesh/nodes/n1/heartbeat", heartbeat);
    assert_eq!(bus.receive("mesh/nodes/n1/heartbeat"), heartbeat, "while the snapshot hangs");
    let answer: serde_json::Value =
        serde_json::from_slice(&bus.receive("mesh/app/answer")).unwrap();
    assert_eq!(answer["state"], "failed", "{answer}");
    assert_eq!(hub.announce_by_command("migrating"), Some(70));

    let file = root.join("live/nodes/n1/heartbeat.json");
    wait_until("the heartbeat is a file", || {
        std::fs::read(&file).is_ok_and(|found| found == heartbeat)
    });
    hub.kill();
    let pids = std::fs::read_to_string(&pids).unwrap();
    assert!(pids.lines().count() >= 4, "asked at start and for each announcement: {pids}");
    for pid in pids.lines() {
        wait_until("no zfs is left", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
        });
    }
}
