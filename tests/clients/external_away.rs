//! A hub and a broker that lose each other.

use super::broker::{Kind, Stage};
use super::external::{CLIENTS, publish, retained, state, until_file, until_retained};
use super::hub::{Hub, files, installed, until};
use super::retained::{heartbeat, publish as publish_all};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Waits until the broker retains what the tree has, less the hub's own
/// presence, which changes, and topics that the broker cannot have.
fn until_the_same(stage: &Stage, hub: &Hub) {
    let comparable =
        |topic: &String| topic != "mesh/hub" && !(stage.kind == Kind::Nats && topic.contains('.'));
    let mut differs = String::new();
    let end = std::time::Instant::now() + super::hub::LIMIT;
    loop {
        let mut left = files(stage.path());
        let mut found = retained(hub, "mesh/#");
        left.retain(|topic, _| comparable(topic));
        found.retain(|topic, _| comparable(topic));
        if left == found {
            return;
        }
        for topic in left.keys().chain(found.keys()) {
            if left.get(topic) != found.get(topic) {
                differs = topic.clone();
            }
        }
        assert!(std::time::Instant::now() < end, "tree and broker differ, such as at {differs}");
    }
}

pub(crate) fn a_hub_that_finds_no_broker_works_and_catches_up(kind: Kind) {
    if !installed("a_hub_that_finds_no_broker", CLIENTS) {
        return;
    }
    let Some(mut stage) = Stage::prepare(kind, "a_hub_that_finds_no_broker", "") else { return };
    let hub = stage.hub_with(&[]);
    let (status, body) = hub.request("GET", "/readyz", "");
    assert_eq!(status, 503);
    assert!(body.contains(&stage.address().port().to_string()), "{body}");
    let (status, outcome) = hub.request("POST", "/v1/announcements", "without a broker");
    assert_eq!(status, 201, "{outcome}");
    stage.start_broker();
    hub.ready();
    until_retained(&hub, "mesh/hub", |found| state(found).as_deref() == Some("online"));
    until_the_same(&stage, &hub);
    publish(&hub, "mesh/nodes/n1/heartbeat", "{}", true);
    until_file(&stage, "mesh/nodes/n1/heartbeat", Some("{}"));
    assert_eq!(hub.stop(), Some(0));
}

pub(crate) fn what_happened_while_the_hub_was_away_is_taken_over(kind: Kind) {
    if !installed("what_happened", CLIENTS) {
        return;
    }
    let Some(stage) = Stage::new(kind, "what_happened") else { return };
    let hub = stage.hub();
    let topic = |n: usize| format!("mesh/nodes/n{n}/heartbeat");
    for n in 1..4 {
        publish(&hub, &topic(n), &format!(r#"{{"node":"n{n}"}}"#), true);
        until_retained(&hub, &format!("mesh/nodes/n{n}/verdict"), |found| found.is_some());
    }
    publish(&hub, "mesh/app/x", "1", true);
    until_file(&stage, "mesh/app/x", Some("1"));
    assert_eq!(hub.stop(), Some(0));
    for ended in [Hub::stop as fn(Hub) -> Option<i32>, |hub| {
        hub.kill();
        None
    }] {
        let hub = stage.hub();
        publish(&hub, &topic(2), "{}", true);
        until_file(&stage, &topic(2), Some("{}"));
        let verdict = files(stage.path())["mesh/nodes/n3/verdict"].clone();
        let verdict = String::from_utf8(verdict).unwrap();
        ended(hub);
        let away = Hub::away(stage.address());
        publish(&away, &topic(1), r#"{"status":"CHANGED"}"#, true);
        publish(&away, &topic(2), "", true);
        publish(&away, "mesh/app/y", "new", true);
        publish(&away, "mesh/nodes/n3/verdict", r#"{"node":"n3","verdict":"lost"}"#, true);
        publish(&away, "mesh/snapshots/mesh-orphan", "{}", true);
        let hub = stage.hub();
        until_file(&stage, &topic(1), Some(r#"{"status":"CHANGED"}"#));
        until_file(&stage, &topic(2), None);
        until_file(&stage, "mesh/app/y", Some("new"));
        assert_eq!(files(stage.path())["mesh/app/x"], b"1", "what is there still was taken away");
        until_retained(&hub, "mesh/nodes/n3/verdict", |found| found == Some(&verdict));
        until_the_same(&stage, &hub);
        publish(&hub, &topic(1), r#"{"node":"n1"}"#, true);
        publish(&hub, "mesh/app/y", "", true);
        until_file(&stage, "mesh/app/y", None);
        assert_eq!(hub.stop(), Some(0));
    }
}

pub(crate) fn a_broker_that_was_killed_ends_with_what_the_tree_has(kind: Kind) {
    if !installed("a_broker_that_was_killed", CLIENTS) {
        return;
    }
    // mosquitto forgets all, nats-server forgets nothing.
    let Some(mut stage) = Stage::new(kind, "a_broker_that_was_killed") else { return };
    let hub = stage.hub();
    for n in 0..20 {
        publish(
            &hub,
            &format!("mesh/nodes/n{n}/heartbeat"),
            &format!(r#"{{"node":"n{n}"}}"#),
            true,
        );
    }
    publish(&hub, "mesh/app/kept", "1", true);
    until_file(&stage, "mesh/app/kept", Some("1"));
    let nodes = |stage: &Stage| {
        let all = files(stage.path());
        all.keys().filter(|t| t.ends_with("/heartbeat")).count()
    };
    until("all files", || nodes(&stage) == 20);
    stage.kill_broker();
    until("the hub to say so", || hub.request("GET", "/readyz", "").0 == 503);
    let (status, outcome) = hub.request("POST", "/v1/announcements", "no broker");
    assert_eq!(status, 201, "{outcome}");
    stage.start_broker();
    hub.ready();
    until_the_same(&stage, &hub);
    assert_eq!(nodes(&stage), 20, "the tree lost what the broker had forgotten");
    assert_eq!(files(stage.path())["mesh/app/kept"], b"1");
}

pub(crate) fn a_broker_killed_under_load_leaves_nothing_stale(kind: Kind) {
    if !installed("a_broker_killed_under_load", CLIENTS) {
        return;
    }
    const NODES: usize = 50;
    let Some(mut stage) = Stage::new(kind, "a_broker_killed_under_load") else { return };
    let hub = stage.hub();
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (hub, stop, acknowledged) = (&hub, &stop, &acknowledged);
            scope.spawn(move || {
                let mut beat = 0;
                while !stop.load(Relaxed) {
                    let from = beat;
                    beat += 500;
                    let round = (from..beat).map(move |b| heartbeat(half * 25 + b % 25, b));
                    acknowledged.fetch_add(publish_all(hub, round), Relaxed);
                }
            });
        }
        for _ in 0..2 {
            let so_far = acknowledged.load(Relaxed);
            until("load", || acknowledged.load(Relaxed) > so_far + 2000);
            stage.kill_broker();
            until("the hub to say so", || hub.request("GET", "/readyz", "").0 == 503);
            stage.start_broker();
            hub.ready();
        }
        let so_far = acknowledged.load(Relaxed);
        until("load after the last restart", || acknowledged.load(Relaxed) > so_far + 2000);
        stop.store(true, Relaxed);
    });
    // A broker may drop what comes for a hub that is far behind, so the hub catches up first.
    let mut marks = 0;
    until("the hub to keep up", || {
        marks += 1;
        let (topic, payload) = heartbeat(NODES, marks);
        publish_all(&hub, std::iter::once((topic.clone(), payload.clone())));
        files(stage.path()).get(&topic).is_some_and(|kept| kept == payload.as_bytes())
    });
    // The last word of every node, acknowledged by the broker.
    let last = 10_000_000;
    assert_eq!(publish_all(&hub, (0..NODES).map(move |n| heartbeat(n, last + n))), NODES);
    for n in 0..NODES {
        let (topic, payload) = heartbeat(n, last + n);
        until_file(&stage, &topic, Some(&payload));
    }
    until_the_same(&stage, &hub);
    for n in 0..NODES {
        let (topic, payload) = heartbeat(n, last + n);
        assert_eq!(files(stage.path())[&topic], payload.as_bytes(), "an older value came over it");
    }
}

#[test]
fn a_broker_that_went_back_to_an_earlier_state_is_brought_forward() {
    let test = "a_broker_that_went_back";
    let kind = Kind::Mosquitto5;
    if !installed(test, CLIENTS) {
        return;
    }
    let more =
        "allow_anonymous true\npersistence true\npersistence_location ./\nautosave_interval 0";
    let Some(mut stage) = Stage::prepare(kind, test, more) else { return };
    stage.start_broker();
    let hub = stage.hub();
    publish(&hub, "mesh/nodes/n1/heartbeat", r#"{"beat":1}"#, true);
    until_file(&stage, "mesh/nodes/n1/heartbeat", Some(r#"{"beat":1}"#));
    let number = |found: Option<&str>| -> Option<u64> {
        serde_json::from_str::<serde_json::Value>(found?).ok()?["number"].as_u64()
    };
    stage.stop_broker(); // it saves what it has
    let saved = retained_presence(&stage);
    stage.start_broker();
    hub.ready();
    until_retained(&hub, "mesh/hub", |found| number(found) > saved);
    publish(&hub, "mesh/nodes/n1/heartbeat", r#"{"beat":2}"#, true);
    publish(&hub, "mesh/nodes/n2/heartbeat", r#"{"beat":2}"#, true);
    until_file(&stage, "mesh/nodes/n2/heartbeat", Some(r#"{"beat":2}"#));
    stage.kill_broker(); // and now it does not
    stage.start_broker();
    hub.ready();
    for node in ["n1", "n2"] {
        let topic = format!("mesh/nodes/{node}/heartbeat");
        until_retained(&hub, &topic, |found| found == Some(r#"{"beat":2}"#));
        until_file(&stage, &topic, Some(r#"{"beat":2}"#));
    }
}

/// The number of the hub's presence in the tree.
fn retained_presence(stage: &Stage) -> Option<u64> {
    let presence = files(stage.path()).remove("mesh/hub")?;
    serde_json::from_slice::<serde_json::Value>(&presence).ok()?["number"].as_u64()
}
