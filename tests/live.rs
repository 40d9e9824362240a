//! The live store against a real file system: what a topic can name, what a
//! file can be, and what is left after a start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use jiff::Timestamp;
use meshfs::live::{Meta, Store, path};
use meshfs::name::{By, Door, Topic};
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path};

fn topic(raw: &str) -> Topic {
    Topic::parse(raw).unwrap()
}

fn meta() -> Meta {
    Meta {
        by: By { door: Door::Mqtt, client: "crm".into(), user: Some("alice".into()) },
        received_at: "2026-06-16T14:19:07.123Z".parse().unwrap(),
        qos: 1,
        content_type: Some("application/json".into()),
        user_properties: vec![("k".into(), "v1".into()), ("k".into(), "é".into())],
        expires_at: Some("2027-01-01T00:00:00Z".parse().unwrap()),
    }
}

fn open(root: &Path) -> Store {
    Store::open(root, Timestamp::UNIX_EPOCH).unwrap()
}

fn any(_: &Topic, _: &[u8]) -> Result<(), String> {
    Ok(())
}

/// Levels as an attacker would write them.
fn hostile_level() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("%2E%2E".to_owned()),
        Just("x.json".to_owned()),
        Just(".raw".to_owned()),
        Just("a\u{202E}\u{300}\u{7f}".to_owned()),
        "[ -~&&[^/+#]]{1,20}",
        "\\PC{1,12}".prop_filter("topic", |s| !s.contains(['/', '+', '#', '\0'])),
        "(\\.|%|json|raw|[a-z]){1,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_topic_has_one_path_inside_the_root_and_comes_back_from_it(
        levels in prop::collection::vec(hostile_level(), 1..6)
    ) {
        let raw = format!("mesh/app/{}", levels.join("/"));
        prop_assume!(Topic::parse(&raw).is_ok());
        let topic = topic(&raw);
        if let Ok(path) = path::of(&topic) {
            prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))), "{path:?}");
            prop_assert_eq!(path.components().count(), levels.len() + 1);
            prop_assert_eq!(path::topic(&path), Some(topic));
        }
    }

    #[test]
    fn a_path_that_decodes_is_the_path_of_its_topic(
        names in prop::collection::vec("(\\.|%2E|%41|%|json|\\.raw|[a-zé]){1,5}", 1..4)
    ) {
        let path = Path::new("app").join(names.join("/"));
        if let Some(topic) = path::topic(&path) {
            prop_assert_eq!(path::of(&topic).unwrap(), path);
        }
    }
}

#[test]
fn ten_thousand_hostile_topics_become_ten_thousand_files_inside_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let parts = ["..", ".", "%", "é", " ", "x.json", "x.raw", "-rf", "~", "$HOME", "\u{1}", "a\nb"];
    let mut written = HashMap::new();
    'all: for a in 0.. {
        for b in parts {
            for c in parts {
                let topic = topic(&format!("mesh/app/{b}/{a}/{c}"));
                store.put(&topic, topic.as_str().as_bytes(), &meta()).unwrap();
                written.insert(topic.clone(), ());
                if written.len() == 10_000 {
                    break 'all;
                }
            }
        }
    }
    let loaded = open(dir.path()).load(&any).unwrap();
    assert_eq!(loaded.aside, []);
    assert_eq!(loaded.messages.len(), 10_000);
    for message in &loaded.messages {
        assert_eq!(message.payload, message.topic.as_str().as_bytes());
        assert!(written.contains_key(&message.topic));
    }
    let mut beside: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, [".tmp", "live"]);
}

#[test]
fn payload_metadata_and_time_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let heartbeat = topic("mesh/nodes/n1/heartbeat");
    open(dir.path()).put(&heartbeat, b"{\"node\": \"n1\"}", &meta()).unwrap();
    let file = dir.path().join("live/nodes/n1/heartbeat.json");
    assert_eq!(fs::read(&file).unwrap(), b"{\"node\": \"n1\"}");
    assert_eq!(fs::metadata(&file).unwrap().mtime(), meta().received_at.as_second());
    let loaded = open(dir.path()).load(&any).unwrap();
    assert_eq!(loaded.messages.len(), 1);
    assert_eq!(loaded.messages[0].meta, meta());
}

#[test]
fn removing_a_topic_removes_its_file_and_the_folders_it_leaves_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (topic("mesh/app/a/b/c"), topic("mesh/app/a/d"));
    store.put(&one, b"1", &meta()).unwrap();
    store.put(&two, b"2", &meta()).unwrap();
    store.remove(&one).unwrap();
    store.remove(&one).unwrap();
    assert!(!dir.path().join("live/app/a/b").exists());
    assert!(dir.path().join("live/app/a/d.raw").exists());
    store.remove(&two).unwrap();
    assert!(!dir.path().join("live/app").exists() && dir.path().join("live").exists());
}

#[test]
fn torn_and_foreign_files_are_set_aside_never_served_never_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in ["good", "short", "edited", "wrong"] {
        store.put(&topic(&format!("mesh/nodes/{n}/heartbeat")), b"{\"a\":12}", &meta()).unwrap();
    }
    let live = dir.path().join("live");
    fs::write(live.join("nodes/short/heartbeat.json"), b"{\"a\"").unwrap();
    fs::write(live.join("nodes/edited/heartbeat.json"), b"{\"a\":13}").unwrap();
    fs::write(live.join("notes.txt"), b"mine").unwrap();
    fs::create_dir_all(live.join("nodes/byhand")).unwrap();
    fs::write(live.join("nodes/byhand/heartbeat.json"), b"{}").unwrap();
    fs::write(dir.path().join("secret"), b"secret").unwrap();
    symlink(dir.path().join("secret"), live.join("hub.json")).unwrap();
    symlink("/etc", live.join("app")).unwrap();

    let loaded = open(dir.path())
        .load(&|topic, _| match topic.as_str() {
            "mesh/nodes/wrong/heartbeat" => Err("breaks its contract".into()),
            _ => Ok(()),
        })
        .unwrap();
    let served: Vec<_> = loaded.messages.iter().map(|m| m.topic.as_str()).collect();
    assert_eq!(served, ["mesh/nodes/good/heartbeat"]);
    let mut reasons: Vec<_> =
        loaded.aside.iter().map(|a| (a.path.to_str().unwrap(), a.why.as_str())).collect();
    reasons.sort_unstable();
    let expected = [
        ("live/app", "regular file"),
        ("live/hub.json", "regular file"),
        ("live/nodes/byhand/heartbeat.json", "did not write it"),
        ("live/nodes/edited/heartbeat.json", "checksum"),
        ("live/nodes/short/heartbeat.json", "torn: 4 bytes where 8"),
        ("live/nodes/wrong/heartbeat.json", "breaks its contract"),
        ("live/notes.txt", "no topic"),
    ];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for ((path, why), (expected_path, expected_why)) in reasons.iter().zip(expected) {
        assert_eq!(*path, expected_path);
        assert!(why.contains(expected_why), "{path}: {why}");
    }
    for aside in &loaded.aside {
        assert!(!dir.path().join(&aside.path).is_symlink(), "still there");
        assert!(dir.path().join(&aside.to).symlink_metadata().is_ok(), "{aside:?} is lost");
    }
    let again = open(dir.path()).load(&any).unwrap();
    assert_eq!((again.messages.len(), again.aside.len()), (1, 0));
}

#[test]
fn what_stands_in_the_way_of_a_topic_is_set_aside_and_the_message_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let live = dir.path().join("live");
    let outside = tempfile::tempdir().unwrap();
    fs::write(live.join("nodes"), b"mine").unwrap();
    symlink(outside.path(), live.join("app")).unwrap();
    fs::create_dir_all(live.join("hub.json/deep")).unwrap();
    for raw in ["mesh/nodes/n1/heartbeat", "mesh/app/x", "mesh/hub"] {
        let aside = store.put(&topic(raw), b"{}", &meta()).unwrap();
        assert_eq!(aside.len(), 1, "{raw}");
        assert!(dir.path().join(&aside[0].to).symlink_metadata().is_ok());
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "written through a link");
    assert_eq!(fs::read(live.join("nodes/n1/heartbeat.json")).unwrap(), b"{}");
    assert_eq!(fs::read(live.join("app/x.raw")).unwrap(), b"{}");
}

#[test]
fn a_failed_write_leaves_the_old_file_and_says_which_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let hub = topic("mesh/hub");
    store.put(&hub, b"old", &meta()).unwrap();
    let too_much = Meta { user_properties: vec![("k".into(), "x".repeat(100_000))], ..meta() };
    let error = store.put(&hub, b"new", &too_much).unwrap_err().to_string();
    assert!(error.contains("hub.json"), "{error}");
    assert_eq!(fs::read(dir.path().join("live/hub.json")).unwrap(), b"old");
    store.put(&hub, b"new", &meta()).unwrap();
    assert_eq!(fs::read(dir.path().join("live/hub.json")).unwrap(), b"new");
}
