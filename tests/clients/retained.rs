//! Retained messages: complete, whole, and the same on disk and on the bus.

use super::broker::{Kind, Stage};
use super::hub::{Hub, LIMIT, files, installed, until};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A publisher of the crate rumqttc, on a runtime of its own.
pub(crate) fn publish(
    hub: &Hub,
    messages: impl Iterator<Item = (String, String)> + Send + 'static,
) -> usize {
    let mut options = MqttOptions::new("publisher", "127.0.0.1", hub.mqtt.port());
    options.set_inflight(500).set_keep_alive(Duration::from_secs(60));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, mut events) = AsyncClient::new(options, 1000);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            for (topic, payload) in messages {
                if client.publish(topic, QoS::AtLeastOnce, true, payload).await.is_err() {
                    break;
                }
                sent += 1;
            }
            (client, sent)
        });
        let (mut acknowledged, mut sent) = (0, usize::MAX);
        let mut sending = Some(sending);
        let mut client = None; // kept: without it the event loop ends
        while acknowledged < sent {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
                Ok(_) => {}
                Err(_) => break, // the hub was killed
            }
            if let Some(done) = sending.take_if(|sending| sending.is_finished()) {
                let (kept, count) = done.await.unwrap();
                (client, sent) = (Some(kept), count);
            }
        }
        drop(client);
        acknowledged
    })
}

/// What a new `mosquitto_sub` is given for a filter, by topic.
fn subscribe(hub: &Hub, filter: &str, count: usize, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let output = hub
        .mosquitto("mosquitto_sub")
        .args(["-t", filter, "-F", "%t %p", "-C", &count.to_string()])
        .args(["-W", &LIMIT.as_secs().to_string()])
        .args(more)
        .output()
        .unwrap();
    let lines = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let pairs = lines.map(|line| {
        let at = line.iter().position(|b| *b == b' ').unwrap();
        (String::from_utf8(line[..at].to_vec()).unwrap(), line[at + 1..].to_vec())
    });
    pairs.collect()
}

pub(crate) fn heartbeat(node: usize, beat: usize) -> (String, String) {
    let padding = "x".repeat(beat % 700);
    let payload =
        format!(r#"{{"node":"n{node}","status":"ALIVE","beat":{beat},"padding":"{padding}"}}"#);
    (format!("mesh/nodes/n{node}/heartbeat"), payload)
}

pub(crate) fn ten_thousand_heartbeats_are_ten_thousand_files_and_all_delivered_again(kind: Kind) {
    if !installed("ten_thousand_heartbeats", "mosquitto_sub") {
        return;
    }
    // More than mosquitto's queue for a client holds; ten thousand take their minutes.
    let nodes = if kind == Kind::Embedded { 10_000 } else { 2_500 };
    let Some(stage) = Stage::new(kind, "ten_thousand_heartbeats") else { return };
    let (dir, hub) = (&stage.dir, stage.hub());
    assert_eq!(publish(&hub, (0..nodes).map(|n| heartbeat(n, n))), nodes);
    let expected: BTreeMap<_, _> =
        (0..nodes).map(|n| heartbeat(n, n)).map(|(t, p)| (t, p.into_bytes())).collect();
    let heartbeats = |root: &Path| -> BTreeMap<_, _> {
        files(root).into_iter().filter(|(topic, _)| topic.ends_with("/heartbeat")).collect()
    };
    let file = |n| dir.path().join(format!("tree/live/nodes/n{n}/heartbeat.json"));
    until("the files", || (0..nodes).all(|n| file(n).exists()));
    assert!(heartbeats(dir.path()) == expected, "the files are not what was published");
    // How much of it another broker gives at QoS 1 is that broker's affair.
    for qos in ["0", "1"].into_iter().take(if kind == Kind::Embedded { 2 } else { 1 }) {
        // A new client, and one that has a session and subscribes again to the same filter.
        let again = ["-q", qos, "-c", "-i", "dashboard"];
        for more in [&["-q", qos][..], &again, &again] {
            let found = subscribe(&hub, "mesh/nodes/+/heartbeat", nodes, more);
            assert!(found == expected, "{} of {nodes} with {more:?}", found.len());
        }
    }
    // And again after a restart, from the files.
    assert_eq!(hub.stop(), Some(0));
    let hub = stage.hub();
    let qos = if kind == Kind::Embedded { "1" } else { "0" };
    let found = subscribe(&hub, "mesh/nodes/+/heartbeat", nodes, &["-q", qos]);
    assert!(found == expected, "{} of {nodes} after a restart", found.len());
    assert!(heartbeats(dir.path()) == expected, "the files are not what they were");
}

pub(crate) fn a_snapshot_waits_for_every_file_that_was_accepted_before_it(kind: Kind) {
    const NODES: usize = 3000;
    let Some(stage) = Stage::new(kind, "a_snapshot_waits") else { return };
    let hub = stage.hub();
    assert_eq!(publish(&hub, (0..NODES).map(|n| heartbeat(n, n))), NODES);
    let (status, outcome) = hub.request("POST", "/v1/announcements", "right behind them");
    assert_eq!(status, 201, "{outcome}");
    let outcome: meshfs::message::Outcome = serde_json::from_str(&outcome).unwrap();
    let copy = std::path::PathBuf::from(outcome.snapshot.unwrap().full);
    for (n, expected) in (0..NODES).map(|n| (n, heartbeat(n, n).1)) {
        let file = copy.join(format!("live/nodes/n{n}/heartbeat.json"));
        assert_eq!(std::fs::read_to_string(file).ok().as_ref(), Some(&expected), "n{n}");
    }
}

#[test]
fn after_kill_9_every_file_is_whole_and_a_new_subscriber_gets_what_the_files_say() {
    if !installed("after_kill_9", "mosquitto_sub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let hub = Hub::start(dir.path());
        let port = hub.mqtt.port();
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| {
                publish(&hub, (0..).map(move |n| heartbeat(n % 50, n + round * 1_000_000)))
            });
            // Every topic has been written in this round, and more is under way.
            let first = round * 1_000_000 + 50;
            until("files under way", || (0..50).all(|n| beat(dir.path(), n) >= Some(first)));
            kill_by_port(port, dir.path());
            assert!(publishing.join().unwrap() > 0);
        });
        drop(hub);
        for (topic, payload) in files(dir.path()) {
            let whole = serde_json::from_slice::<serde_json::Value>(&payload);
            assert!(whole.is_ok(), "{topic} is torn: {}", String::from_utf8_lossy(&payload));
        }
        let mut left = files(dir.path());
        let hub = Hub::start(dir.path());
        let mut found = subscribe(&hub, "mesh/#", left.len(), &["-q", "1"]);
        // What the hub says of itself has changed with the restart.
        assert!(left.remove("mesh/hub").is_some() && found.remove("mesh/hub").is_some());
        assert!(found == left, "{} retained, {} files", found.len(), left.len());
        assert!(!dir.path().join("tree/aside").exists(), "something was set aside");
        hub.kill();
    }
}

/// The number in the file of a node.
fn beat(root: &Path, node: usize) -> Option<usize> {
    let file = root.join(format!("tree/live/nodes/n{node}/heartbeat.json"));
    let payload: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    payload["beat"].as_u64()?.try_into().ok()
}

/// `kill -9` from outside, while the hub is being used.
fn kill_by_port(port: u16, root: &Path) {
    let lock = std::fs::read_to_string(root.join("tree/.lock")).unwrap();
    let pid: i32 = lock.split_whitespace().nth(1).unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("the port to close", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
