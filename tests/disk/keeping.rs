//! What is kept, how long, and that nobody waits for the disk who must not.

use super::hub::{files, until};
use super::{Client, Hub};

#[test]
fn an_expired_message_goes_with_its_file_and_a_newer_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let mut client = Client::connect(hub.mqtt, "c", true);
    let there = |topic: &str| files(dir.path()).contains_key(topic);
    for topic in ["mesh/app/short", "mesh/app/renewed", "mesh/services/dns/heartbeat"] {
        client.send_with(topic, r#"{"n":1}"#, 1, Some(1));
    }
    assert_eq!(client.publish("mesh/app/renewed", r#"{"n":2}"#, 1).unwrap().0, 0);
    until("the files", || there("mesh/app/short") && there("mesh/services/dns/heartbeat"));
    until("the expired ones to go", || {
        !there("mesh/app/short") && !there("mesh/services/dns/heartbeat")
    });
    assert_eq!(files(dir.path())["mesh/app/renewed"], br#"{"n":2}"#);
    // It can come again, and a subscriber gets what the files say.
    assert_eq!(client.publish("mesh/app/short", "again", 1).unwrap().0, 0);
    let mut reader = Client::connect(hub.mqtt, "reader", false);
    reader.subscribe("mesh/app/#");
    let mut found = [reader.message(), reader.message()];
    found.sort();
    let text = |topic: &str, payload: &str| (topic.to_owned(), payload.to_owned());
    assert_eq!(found, [text("mesh/app/renewed", r#"{"n":2}"#), text("mesh/app/short", "again")]);
    assert_eq!(hub.stop(), Some(0));
    let said: serde_json::Value = serde_json::from_slice(&files(dir.path())["mesh/hub"]).unwrap();
    assert_eq!(said["counters"]["expired"], 2);
    let journal = std::fs::read_dir(dir.path().join("tree/journal")).unwrap();
    let lines: String =
        journal.map(|d| std::fs::read_to_string(d.unwrap().path()).unwrap()).collect();
    assert!(!lines.contains("mesh/app/short"), "journalled: {lines}");
}

#[test]
fn a_hub_whose_own_words_are_durable_too_does_not_wait_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start_with(dir.path(), &[("MESHFS__BUS__DURABLE", "mesh/#")]);
    let mut client = Client::connect(hub.mqtt, "c", true);
    for n in 0..50 {
        // Each one changes the hub's mind about a node, which it says on a durable topic.
        let state = format!(r#"{{"node":"n{n}","state":"online"}}"#);
        let answer = client.publish(&format!("mesh/nodes/n{n}/presence"), &state, 1);
        assert_eq!(answer.unwrap().0, 0);
    }
    for _ in 0..3 {
        let (status, outcome) = hub.request("POST", "/v1/announcements", "why not");
        assert_eq!(status, 201, "{outcome}");
    }
    // The same announcement twice: the second one is on disk with the first.
    for _ in 0..2 {
        let asked = r#"{"reason":"r","id":"twice"}"#;
        assert_eq!(client.publish("mesh/announce", asked, 1).unwrap().0, 0);
    }
    assert_eq!(hub.stop(), Some(0));
    assert_eq!(files(dir.path()).keys().filter(|topic| topic.ends_with("verdict")).count(), 50);
}
