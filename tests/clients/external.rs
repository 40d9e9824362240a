//! A hub on another's broker: whose words count, and what is kept of them.

use super::broker::{Kind, Stage};
use super::hub::{Hub, files, installed, until};
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) const CLIENTS: &str = "mosquitto_sub";

/// Publishes at QoS 1.
pub(crate) fn publish(hub: &Hub, topic: &str, payload: &str, retain: bool) {
    let mut client = hub.mosquitto("mosquitto_pub");
    client.args(["-q", "1", "-t", topic]);
    client.args(if payload.is_empty() { vec!["-n"] } else { vec!["-m", payload] });
    client.args(retain.then_some("-r"));
    assert!(client.status().unwrap().success());
}

/// What a broker retains, by topic.
pub(crate) fn retained(hub: &Hub, filter: &str) -> BTreeMap<String, Vec<u8>> {
    let output = hub
        .mosquitto("mosquitto_sub")
        .args(["-t", filter, "-F", "%r %t %p", "-W", "1"])
        .output()
        .unwrap();
    let lines = output.stdout.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"1 "));
    let pairs = lines.map(|line| {
        let at = line.iter().position(|b| *b == b' ').unwrap();
        (String::from_utf8(line[..at].to_vec()).unwrap(), line[at + 1..].to_vec())
    });
    pairs.collect()
}

/// Waits until the broker retains this.
pub(crate) fn until_retained(hub: &Hub, topic: &str, so: impl Fn(Option<&str>) -> bool) {
    until(&format!("{topic} to be retained as it should"), || {
        let found = retained(hub, topic);
        so(found.get(topic).map(|payload| std::str::from_utf8(payload).unwrap()))
    });
}

/// Waits until a topic's file holds this, or is gone.
pub(crate) fn until_file(stage: &Stage, topic: &str, expected: Option<&str>) {
    until(&format!("the file of {topic} to be {expected:?}"), || {
        files(stage.path()).get(topic).map(Vec::as_slice) == expected.map(str::as_bytes)
    });
}

/// The lines of the journal of a kind.
pub(crate) fn journal(stage: &Stage, kind: &str) -> Vec<Value> {
    let days = std::fs::read_dir(stage.path().join("tree/journal")).unwrap();
    let days = days.map(|day| std::fs::read_to_string(day.unwrap().path()).unwrap());
    let lines: Vec<Value> = days
        .flat_map(|d| d.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>())
        .collect();
    lines.into_iter().filter(|line| line["kind"] == kind).collect()
}

pub(crate) fn state(presence: Option<&str>) -> Option<String> {
    let said: Value = serde_json::from_str(presence?).ok()?;
    said["state"].as_str().map(str::to_owned)
}

pub(crate) fn what_breaks_the_contract_is_said_and_not_kept(kind: Kind) {
    if !installed("what_breaks_the_contract", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "what_breaks_the_contract") else { return };
    let hub = stage.hub();
    let (heartbeat, verdict) = ("mesh/nodes/n1/heartbeat", "mesh/nodes/n1/verdict");
    let good = r#"{"node":"n1","status":"GOOD"}"#;
    publish(&hub, heartbeat, good, true);
    until_file(&stage, heartbeat, Some(good));
    until_retained(&hub, verdict, |found| found.is_some());
    let forged = r#"{"node":"n1","verdict":"lost","since":"2026-01-01T00:00:00Z","because":[]}"#;
    let wrong = [
        (heartbeat, r#"{"node":"another"}"#),
        ("mesh/nodes/n2/heartbeat", "no json"),
        ("mesh/nowhere", "{}"),
        (verdict, forged),
    ];
    for (topic, payload) in wrong {
        publish(&hub, topic, payload, true);
        until("the refusal in the journal", || {
            journal(&stage, "refusal").iter().any(|line| {
                line["topic"] == topic && line["by"]["client"] == "external" && line["why"] != ""
            })
        });
    }
    let left = files(stage.path());
    assert_eq!(left[heartbeat], good.as_bytes());
    assert!(!left.contains_key("mesh/nodes/n2/heartbeat") && !left.contains_key("mesh/nowhere"));
    assert_ne!(left[verdict], forged.as_bytes());
    // What only the hub says, it says again.
    let true_one = String::from_utf8(left[verdict].clone()).unwrap();
    until_retained(&hub, verdict, |found| found == Some(&true_one));
    assert_eq!(hub.stop(), Some(0));
}

pub(crate) fn the_retain_flag_is_found_out_and_what_the_contract_keeps_is_kept(kind: Kind) {
    if !installed("the_retain_flag", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "the_retain_flag") else { return };
    let hub = stage.hub();
    publish(&hub, "mesh/app/passing", "1", false);
    publish(&hub, "mesh/app/kept", "1", true);
    until_file(&stage, "mesh/app/kept", Some("1"));
    publish(&hub, "mesh/app/kept", "2", true);
    until_file(&stage, "mesh/app/kept", Some("2"));
    publish(&hub, "mesh/app/kept", "passing by", false);
    publish(&hub, "mesh/app/another", "1", true);
    until_file(&stage, "mesh/app/another", Some("1"));
    let app = |topic: &String| topic.starts_with("mesh/app/");
    let left: Vec<_> = files(stage.path()).into_iter().filter(|(topic, _)| app(topic)).collect();
    let expected = [("mesh/app/another", "1"), ("mesh/app/kept", "2")];
    assert_eq!(left, expected.map(|(t, p)| (t.to_owned(), p.as_bytes().to_vec())));
    publish(&hub, "mesh/app/kept", "", true);
    until_file(&stage, "mesh/app/kept", None);
    // A heartbeat is kept whatever its flag: on disk, and on the broker by the hub.
    for beat in 1..4 {
        let payload = format!(r#"{{"node":"n1","beat":{beat}}}"#);
        publish(&hub, "mesh/nodes/n1/heartbeat", &payload, false);
        until_file(&stage, "mesh/nodes/n1/heartbeat", Some(&payload));
        until_retained(&hub, "mesh/nodes/n1/heartbeat", |found| found == Some(&payload));
    }
    publish(&hub, "mesh/nodes/n1/heartbeat", "", true);
    until_file(&stage, "mesh/nodes/n1/heartbeat", None);
    until_retained(&hub, "mesh/nodes/n1/heartbeat", |found| found.is_none());
    assert_eq!(journal(&stage, "refusal"), Vec::<Value>::new());
}

pub(crate) fn a_retained_announcement_is_no_announcement(kind: Kind) {
    if !installed("a_retained_announcement", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "a_retained_announcement") else { return };
    let hub = stage.hub();
    hub.kill();
    let away = Hub::away(stage.address());
    publish(&away, "mesh/announce", "an old one", true);
    let hub = stage.hub();
    assert_eq!(hub.request("POST", "/v1/announcements", "a new one").0, 201);
    until_retained(&hub, "mesh/announce", |found| found.is_none());
    let asked = journal(&stage, "announcement");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0]["request"]["reason"], "a new one");
}

pub(crate) fn the_hubs_words_are_decided_on_once(kind: Kind) {
    if !installed("the_hubs_words", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "the_hubs_words") else { return };
    let hub = stage.hub();
    let ids = ["a", "b", "c"];
    for id in ids {
        let body = format!(r#"{{"reason":"r","id":"{id}"}}"#);
        assert_eq!(hub.request("POST", "/v1/announcements", &body).0, 201);
    }
    publish(&hub, "mesh/nodes/n1/heartbeat", "{}", true);
    until_retained(&hub, "mesh/nodes/n1/verdict", |found| found.is_some());
    let outcomes = journal(&stage, "outcome");
    let found: Vec<_> = outcomes.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    assert_eq!(journal(&stage, "verdict").len(), 1);
    assert_eq!(journal(&stage, "refusal"), Vec::<Value>::new());
    assert_eq!(hub.stop(), Some(0));
}

pub(crate) fn the_broker_says_when_the_hub_is_gone(kind: Kind) {
    if !installed("the_broker_says", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "the_broker_says") else { return };
    let is =
        |wanted: &'static str| move |found: Option<&str>| state(found).as_deref() == Some(wanted);
    let hub = stage.hub();
    until_retained(&hub, "mesh/hub", is("online"));
    hub.kill();
    let away = Hub::away(stage.address());
    until_retained(&away, "mesh/hub", is("offline"));
    let hub = stage.hub();
    until_retained(&hub, "mesh/hub", is("online"));
    assert_eq!(hub.stop(), Some(0));
    until_retained(&away, "mesh/hub", is("offline"));
}
