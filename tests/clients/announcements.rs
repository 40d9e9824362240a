//! Announcements through every door of a real hub.

use super::broker::{Kind, Stage};
use super::hub::{Hub, LIMIT, files, installed, meshfs, until};
use meshfs::message::{Outcome, SnapshotRecord, State};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

/// A person on the hub's own IRC server.
struct Person(BufReader<TcpStream>);

impl Person {
    fn join(hub: &Hub, nick: &str) -> Self {
        let stream = TcpStream::connect(hub.irc.unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut person = Self(BufReader::new(stream));
        person.say(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}"));
        person.say("JOIN #mesh");
        person.hear(" 366 ");
        // The bridge has to be there too, or nobody listens.
        loop {
            person.say("NAMES #mesh");
            if person.hear(" 353 ").contains("meshfs") {
                return person;
            }
        }
    }

    fn say(&mut self, line: &str) {
        write!(self.0.get_mut(), "{line}\r\n").unwrap();
    }

    /// The next line that holds all of these.
    fn hear(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the server closed");
            if line.contains(text) {
                return line;
            }
        }
    }
}

pub(crate) fn a_hundred_announcements_at_once_share_few_snapshots(kind: Kind) {
    let Some(stage) = Stage::new(kind, "a_hundred_announcements") else { return };
    let (dir, hub) = (&stage.dir, stage.hub());
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let hub = &hub;
            scope.spawn(move || {
                let body = format!(r#"{{"reason":"r{n}","id":"a{n}"}}"#);
                let (status, answer) = hub.request("POST", "/v1/announcements", &body);
                assert_eq!(status, 201, "{answer}");
                serde_json::from_str(&answer).unwrap()
            })
        };
        let asking: Vec<_> = (0..100).map(ask).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let (_, records) = hub.request("GET", "/v1/snapshots", "");
    let records: Vec<SnapshotRecord> = serde_json::from_str(&records).unwrap();
    // A hundred threads on a busy machine do not ask at once; but as one burst.
    // On another broker each waits for its echo first, which lets one group after the other in.
    let most = if kind == Kind::Embedded { 3 } else { 10 };
    assert!(records.len() <= most, "{} snapshots", records.len());
    let records: BTreeMap<_, _> =
        records.into_iter().map(|r| (r.snapshot.name.clone(), r)).collect();
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!((outcome.id.as_str(), outcome.state), (&*format!("a{n}"), State::Confirmed));
        assert_eq!(outcome.reason, format!("r{n}"));
        let record = &records[&outcome.snapshot.as_ref().unwrap().name];
        assert!(record.began_at >= outcome.requested_at, "begun before its request");
        assert!(record.announcements.iter().any(|a| a.id == outcome.id), "not explained");
        let copy = dir.path().join("tree/.snapshots").join(record.snapshot.name.as_str());
        assert!(copy.join("live").is_dir());
    }
    let explained: usize = records.values().map(|record| record.announcements.len()).sum();
    assert_eq!(explained, 100);
    // The same ids again: the same outcomes, no more snapshots.
    let (status, again) = hub.request("POST", "/v1/announcements", r#"{"reason":"x","id":"a7"}"#);
    assert_eq!(
        (status, serde_json::from_str::<Outcome>(&again).unwrap()),
        (201, outcomes[7].clone())
    );
    let (_, after) = hub.request("GET", "/v1/snapshots", "");
    assert_eq!(serde_json::from_str::<Vec<SnapshotRecord>>(&after).unwrap().len(), records.len());
}

/// Announces by MQTT and waits for the outcome: by response topic, or where the
/// hub does not see such properties by `reply_to`.
fn ask_by_mqtt(hub: &Hub, kind: Kind, reason: &str) -> Outcome {
    let mut rr = hub.mosquitto("mosquitto_rr");
    rr.args(["-t", "mesh/announce", "-e", "mesh/app/r", "-W", &LIMIT.as_secs().to_string()]);
    if kind.has_properties() {
        rr.args(["-V", "5", "-m", reason]);
    } else {
        let body = format!(r#"{{"reason":"{reason}","reply_to":"mesh/app/r"}}"#);
        rr.args(["-V", "mqttv311", "-m", &body]);
    }
    let output = rr.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

pub(crate) fn a_snapshot_holds_what_was_accepted_before_and_is_told_on_every_door(kind: Kind) {
    if !installed("a_snapshot_holds", "mosquitto_rr") {
        return;
    }
    let Some(stage) = Stage::new(kind, "a_snapshot_holds") else { return };
    let (dir, hub) = (&stage.dir, stage.hub());
    let mut person = Person::join(&hub, "alice");
    let publish = |payload: &str| {
        let topic = "mesh/nodes/n1/heartbeat";
        let mut publish = hub.mosquitto("mosquitto_pub");
        assert!(publish.args(["-q", "1", "-t", topic, "-m", payload]).status().unwrap().success());
    };
    publish(r#"{"node":"n1","status":"BEFORE"}"#);
    let outcome = ask_by_mqtt(&hub, kind, "by mqtt");
    publish(r#"{"node":"n1","status":"AFTER"}"#);
    let name = outcome.snapshot.unwrap().name;
    let copy =
        dir.path().join("tree/.snapshots").join(name.as_str()).join("live/nodes/n1/heartbeat.json");
    assert_eq!(std::fs::read_to_string(copy).unwrap(), r#"{"node":"n1","status":"BEFORE"}"#);
    let told = person.hear("by mqtt");
    assert!(told.contains(name.as_str()) && told.contains("mqtt:"), "{told}");

    person.say("PRIVMSG #mesh :!snapshot by irc");
    let told = person.hear("by irc: snapshot mesh-");
    assert!(told.contains("asked by alice on #mesh"), "{told}");

    let hub_url = hub.url();
    let cli = meshfs(&["announce", "--hub", &hub_url, "--json", "by cli"]);
    assert_eq!(cli.status.code(), Some(0));
    let outcome: Outcome = serde_json::from_slice(&cli.stdout).unwrap();
    assert_eq!(outcome.by.door, meshfs::name::Door::Cli);
    let mut reasons = vec!["by mqtt", "by irc", "by cli"];
    if kind.has_properties() {
        let over_mqtt = format!("mqtt://{}", hub.mqtt);
        let cli = meshfs(&["announce", "--hub", &over_mqtt, "by cli over mqtt"]);
        assert_eq!(cli.status.code(), Some(0), "{}", String::from_utf8_lossy(&cli.stderr));
        person.hear("by cli over mqtt");
        reasons.push("by cli over mqtt");
    }

    let listed = meshfs(&["snapshots", "list", "--hub", &hub_url]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    for reason in &reasons {
        assert!(listed.contains(reason), "{listed}");
    }
    let node = || meshfs(&["status", "--hub", &hub_url, "n1"]).stdout;
    until("the last heartbeat", || String::from_utf8(node()).unwrap().contains("AFTER"));
    let records = files(dir.path()).keys().filter(|t| t.starts_with("mesh/snapshots/")).count();
    assert_eq!(records, reasons.len());
    assert_eq!(hub.stop(), Some(0));
}

pub(crate) fn a_zfs_that_hangs_is_a_failure_in_time_on_every_door_and_heartbeats_go_on(kind: Kind) {
    if !installed("a_zfs_that_hangs", "mosquitto_rr") {
        return;
    }
    let Some(stage) = Stage::new(kind, "a_zfs_that_hangs") else { return };
    let dir = &stage.dir;
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["zfs", "zpool"] {
        std::fs::write(bin.join(name), "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let hub = stage.hub_with(&[
        ("PATH", &path),
        ("MESHFS__SNAPSHOT__ENGINE", "zfs"),
        ("MESHFS__SNAPSHOT__DATASET", "tank/meshfs"),
        ("MESHFS__ANNOUNCE__DEADLINE", "2s"),
    ]);
    hub.ready();
    let mut person = Person::join(&hub, "bob");
    let outcome = ask_by_mqtt(&hub, kind, "by mqtt");
    assert_eq!((outcome.state, &outcome.snapshot), (State::Failed, &None), "{outcome:?}");
    let told = person.hear("NO SNAPSHOT");
    assert!(told.contains("by mqtt"), "{told}");
    let (status, answer) = hub.request("POST", "/v1/announcements", "by http");
    assert_eq!(status, 503, "{answer}");
    assert_eq!(serde_json::from_str::<Outcome>(&answer).unwrap().state, State::Failed);
    let cli = meshfs(&["announce", "--hub", &hub.url(), "by cli"]);
    assert_eq!(cli.status.code(), Some(70), "{}", String::from_utf8_lossy(&cli.stderr));
    person.say("PRIVMSG #mesh :!snapshot by irc");
    person.hear("by irc: NO SNAPSHOT");
    let publish = hub
        .mosquitto("mosquitto_pub")
        .args(["-q", "1", "-t", "mesh/nodes/n1/heartbeat", "-m", "{}"])
        .status()
        .unwrap();
    assert!(publish.success());
    until("the heartbeat's file", || files(dir.path()).contains_key("mesh/nodes/n1/heartbeat"));
    assert_eq!(files(dir.path()).keys().filter(|t| t.starts_with("mesh/snapshots/")).count(), 0);
}

pub(crate) fn http_answers_bad_requests_with_problem_details(kind: Kind) {
    let Some(stage) = Stage::new(kind, "http_answers_bad_requests") else { return };
    let hub = stage.hub();
    for (method, path, body, status, named) in [
        ("POST", "/v1/announcements", "", 400, "reason"),
        ("POST", "/v1/announcements", "{", 400, "JSON"),
        ("POST", "/v1/announcements", r#"{"reason":"r","flush":true}"#, 400, "flush"),
        ("GET", "/v1/nodes/nobody", "", 404, "node"),
        ("GET", "/v1/snapshots/none", "", 404, "snapshot"),
        ("GET", "/nowhere", "", 404, "path"),
        ("DELETE", "/v1/nodes", "", 405, "method"),
        ("GET", "/v1/nodes/%ff", "", 400, "UTF-8"),
    ] {
        let (found, answer) = hub.request(method, path, body);
        assert_eq!(found, status, "{method} {path}: {answer}");
        let problem: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{answer}");
    }
    let large = "x".repeat(20_000);
    assert_eq!(hub.request("POST", "/v1/announcements", &large).0, 413);
    assert_eq!(hub.request("GET", "/healthz", "").0, 200);
    assert_eq!(hub.request("GET", "/readyz", "").0, 200);
    assert_eq!(hub.request("GET", "/v1/nodes", "").1, "[]");
}

#[test]
fn http_clients_that_say_nothing_are_sent_away_and_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let silent: Vec<_> = (0..1100).map_while(|_| TcpStream::connect(hub.http).ok()).collect();
    for mut stream in &silent {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ");
    }
    // More than there are places: this one is answered when the first of them have to go.
    assert_eq!(hub.request("GET", "/healthz", "").0, 200);
    silent[0].set_read_timeout(Some(LIMIT)).unwrap();
    let mut end = Vec::new();
    let _ = std::io::Read::read_to_end(&mut &silent[0], &mut end);
    assert!(!String::from_utf8_lossy(&end).contains("200"), "answered half a request");
}
