//! Hostile topics, wills and announcements: what each is told, and that nothing but its own file changes.

use super::Hub;
use super::hub::{files, until};
use super::raw::wire::{binary, frame, string};
use super::raw::{Client, Connect, Publish, Version, properties};
use std::collections::BTreeMap;
use std::path::Path;

/// A hub on which somebody healthy goes on working.
pub(super) struct Target {
    pub(super) dir: tempfile::TempDir,
    pub(super) hub: Hub,
}

impl Target {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(super) fn start_with(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("witness"), "untouched").unwrap();
        let hub = Hub::start_with(dir.path(), environment);
        Self { dir, hub }
    }

    pub(super) fn client(&self, id: &str) -> Client {
        Client::plain(self.hub.mqtt, Version::V5, id)
    }

    /// Everything that is kept but the records of snapshots: an announcement is confirmed when
    /// all that came before it is on disk.
    pub(super) fn settled(&self) -> BTreeMap<String, Vec<u8>> {
        let (status, body) = self.hub.request("POST", "/v1/announcements", "settle");
        assert_eq!(status, 201, "{body}");
        let mut kept = files(self.dir.path());
        kept.retain(|topic, _| !topic.starts_with("mesh/snapshots/"));
        kept
    }

    /// The hub serves: on MQTT, on HTTP, and an announcement is answered by a snapshot.
    pub(super) fn is_well(&self) {
        self.is_well_as(&Connect::new(Version::V5, "well"));
        let (status, body) = self.hub.request("POST", "/v1/announcements", "still well?");
        assert_eq!(status, 201, "{body}");
    }

    pub(super) fn is_well_as(&self, connect: &Connect) {
        let mut client = Client::connect(self.hub.mqtt, connect);
        assert_eq!(client.subscribe("mesh/app/well", 1), 1);
        assert_eq!(client.publish(&Publish::new("mesh/app/well", "well").qos(1)), 0);
        assert_eq!(client.message().text(), "well");
        assert_eq!(self.hub.request("GET", "/healthz", "").0, 200);
    }
}

/// The names directly in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn topics_that_look_like_paths_stay_below_live_and_never_share_a_file() {
    let target = Target::start();
    let mut client = target.client("traveller");
    let long = format!("mesh/app/{}", "x".repeat(251));
    let deep = format!("mesh/app{}", "/d".repeat(30));
    let topics = [
        "mesh/app/..",
        "mesh/app/../../witness",
        "mesh/app/a/../../b",
        "mesh/app/%2e%2e/x",
        "mesh/app/..%2F..%2Fwitness",
        "mesh/app/.",
        "mesh/app/.hidden",
        "mesh/app/x",
        "mesh/app/x.raw",
        "mesh/app/x.json",
        "mesh/app/x.raw/y",
        "mesh/app/x/y",
        "mesh/app/X",
        "mesh/app/\u{e9}",
        "mesh/app/e\u{301}",
        "mesh/app/\u{430}", // Cyrillic a
        "mesh/app/a",
        "mesh/app/\u{feff}a",
        "mesh/app/a\u{200b}",
        "mesh/app/a\u{202e}b",
        "mesh/app/a ",
        "mesh/app/a\\b",
        "mesh/app/-rf",
        "mesh/app/~root",
        "mesh/app/$(id)",
        "mesh/app/$SYS",
        "mesh/app/$share/g/x",
        "mesh/app/\u{1f600}",
        "mesh/app/con",
        &long,
        &deep,
    ];
    for topic in topics {
        let code = client.publish(&Publish::new(topic, topic).qos(1).retained());
        assert_eq!(code, 0, "{topic:?}");
    }
    let kept = target.settled();
    for topic in topics {
        assert_eq!(kept.get(topic).map(Vec::as_slice), Some(topic.as_bytes()), "{topic:?}");
    }
    assert_eq!(names(target.dir.path()), ["hub.log", "tree", "witness"]);
    let app = kept.keys().filter(|topic| topic.starts_with("mesh/app/")).count();
    assert_eq!(app, topics.len());
    // And a restart reads the very same back: nothing is foreign to it.
    let Target { dir, hub } = target;
    assert_eq!(hub.stop(), Some(0));
    let hub = Hub::start(dir.path());
    assert!(!dir.path().join("tree/aside").exists());
    let mut reader = Client::plain(hub.mqtt, Version::V5, "reader");
    reader.subscribe("mesh/app/#", 1);
    let read: BTreeMap<_, _> =
        (0..app).map(|_| reader.message()).map(|m| (m.topic, m.payload)).collect();
    for topic in topics {
        assert_eq!(read.get(topic).map(Vec::as_slice), Some(topic.as_bytes()), "{topic:?}");
    }
}

#[test]
fn topics_outside_the_contract_are_refused_and_leave_nothing() {
    let target = Target::start();
    let mut client = target.client("stranger");
    let before = target.settled();
    let long = format!("mesh/app/{}", "x".repeat(252));
    let longer = format!("mesh/app/{}", "x/".repeat(508));
    let deep = format!("mesh/app{}", "/d".repeat(31));
    let spread = format!("mesh/app/{}", " ".repeat(90));
    for topic in [
        "mesh",
        "mesh/",
        "mesh//",
        "mesh/app",
        "mesh/app/",
        "mesh/app//x",
        "mesh/app/x/",
        "/mesh/app/x",
        "/etc/passwd",
        "../x",
        "app/x",
        "MESH/app/x",
        "Mesh/hub",
        "é/x",
        " mesh/app/x",
        "mesh /app/x",
        "\u{feff}mesh/app/x",
        "$SYS/x",
        "$share/g/mesh/app/x",
        "mesh/nodes",
        "mesh/nodes/../heartbeat",
        "mesh/nodes/a%2fb/heartbeat",
        "mesh/nodes//heartbeat",
        "mesh/nodes/é/heartbeat",
        "mesh/services/.x/heartbeat",
        "mesh/nodes/n/heartbeat.json",
        &long,
        &longer,
        &deep,
        &spread,
    ] {
        let code = client.publish(&Publish::new(topic, "{}").qos(1).retained());
        // What begins with '$' no rule covers, so that it is refused even before.
        let expected = if topic.starts_with('$') { 0x87 } else { 0x90 };
        assert_eq!(code, expected, "{topic:?}");
    }
    for topic in [
        "mesh/hub",
        "mesh/events",
        "mesh/capture",
        "mesh/announce/x",
        "mesh/nodes/n/verdict",
        "mesh/snapshots/mesh-20260616T141907.123Z-0190c3f2",
        "mesh/irc/house/mesh/said",
    ] {
        for payload in ["{}", ""] {
            let code = client.publish(&Publish::new(topic, payload).qos(1).retained());
            assert_eq!(code, 0x87, "{topic:?}");
        }
    }
    client.ping();
    let after = target.settled();
    let topics = |kept: &BTreeMap<String, _>| kept.keys().cloned().collect::<Vec<_>>();
    assert_eq!(topics(&after), topics(&before));
    target.is_well();
}

#[test]
fn topics_that_no_client_may_send_end_the_connection_of_who_sends_them() {
    let target = Target::start();
    for version in [Version::V4, Version::V5] {
        let topics: [&[u8]; 9] = [
            b"mesh/app/+",
            b"mesh/app/#",
            b"mesh/#/x",
            b"#",
            b"mesh/app/\0",
            b"mesh/app/\xff",
            b"mesh/app/\xed\xa0\x80",
            b"mesh/app/\xc0\xae\xc0\xae",
            b"",
        ];
        for topic in topics {
            let mut client = Client::plain(target.hub.mqtt, version, "nobody");
            let mut body = binary(topic);
            body.extend([0, 1]);
            body.extend((version == Version::V5).then_some(0));
            body.extend(b"x");
            client.send(&frame(0x33, &body));
            let packets = format!("{:?}", client.packets_until_closed());
            assert!(!packets.contains("code: 0,"), "{topic:?}: {packets}");
        }
    }
    assert!(!target.settled().keys().any(|topic| topic.starts_with("mesh/app/")));
    target.is_well();
}

#[test]
fn no_filter_leads_out_of_the_mesh_or_stops_the_hub() {
    let target = Target::start();
    let mut client = target.client("listener");
    let deep = format!("mesh{}", "/+".repeat(1000));
    for filter in
        ["$SYS/#", "$share/g/$SYS/#", "other/#", "../#", "/#", "$share/g/other", "$share/mesh/x/y"]
    {
        assert!(client.subscribe(filter, 1) >= 0x80, "{filter}");
    }
    for filter in ["mesh//#", "+/#", "$share/g/mesh/#", &deep] {
        client.subscribe(filter, 1);
        client.ping();
    }
    for filter in [
        "",
        "mesh/a#",
        "mesh/#/x",
        "mesh/+x",
        "$share//mesh/#",
        "$share/g",
        "$share/+/mesh/x",
        "mesh/\0",
    ] {
        let mut client = target.client("mistaken");
        let mut body = vec![0, 1, 0];
        body.extend(string(filter));
        body.push(1);
        client.send(&frame(0x82, &body));
        client.send_anyway(&[0xE0, 0]);
        let packets = format!("{:?}", client.packets_until_closed());
        assert!(!packets.contains("codes: [1]"), "{filter}: {packets}");
    }
    target.is_well();
}

/// Connects with a will, dies, and gives the CONNACK's code.
fn die(target: &Target, id: &str, will: Publish) -> u8 {
    let connect = Connect::new(Version::V5, id).will(will);
    let (client, code) = Client::try_connect(target.hub.mqtt, &connect);
    client.vanish();
    code
}

#[test]
fn no_will_forges_what_the_hub_says() {
    let target = Target::start();
    let before = target.settled();
    for topic in ["mesh/hub", "mesh/nodes/n/verdict", "mesh/announce/x", "mesh/events"] {
        assert_eq!(die(&target, "forger", Publish::new(topic, "{}").qos(1).retained()), 0x87);
    }
    for topic in ["other/x", "mesh/", "mesh/nodes/../heartbeat", "$SYS/x"] {
        die(&target, "forger", Publish::new(topic, "{}").qos(1).retained());
    }
    for topic in ["mesh/app/+", "mesh/#", "", "mesh/app/\0"] {
        let connect = Connect::new(Version::V5, "forger").will(Publish::new(topic, "x"));
        let mut client = Client::dial(target.hub.mqtt, Version::V5);
        client.send(&connect.encode());
        let packets = format!("{:?}", client.packets_until_closed());
        assert!(!packets.contains("code: 0,"), "{topic}: {packets}");
    }
    let wrong = Publish::new("mesh/nodes/n/presence", r#"{"node":"other","state":"offline"}"#);
    assert_eq!(die(&target, "liar", wrong.qos(1).retained()), 0);
    let own = Publish::new("mesh/app/will", "died").qos(1).retained();
    assert_eq!(die(&target, "honest", own), 0);
    until("the will", || files(target.dir.path()).contains_key("mesh/app/will"));
    let mut topics: Vec<_> = target.settled().into_keys().collect();
    topics.retain(|topic| topic != "mesh/app/will");
    assert_eq!(topics, before.into_keys().collect::<Vec<_>>());
    target.is_well();
}

#[test]
fn an_announcement_is_answered_only_where_its_sender_could_write() {
    let target = Target::start();
    let mut client = target.client("asker");
    let ask = |topic: &str| {
        Publish::new("mesh/announce", "x").qos(1).with(properties::response_topic(topic))
    };
    for topic in [
        "mesh/hub",
        "mesh/announce",
        "mesh/nodes/n/heartbeat",
        "mesh/events",
        "other/x",
        "mesh/app/",
        "mesh/app",
    ] {
        assert!(client.publish(&ask(topic)) >= 0x80, "{topic}");
    }
    let large = ask("mesh/app/answer").with(properties::correlation_data(&[0; 1025]));
    assert_eq!(client.publish(&large), 0x97);
    for id in ["../x", "a/b", "", "é", "+", "#", "-x", &"x".repeat(200)] {
        let payload = serde_json::json!({ "reason": "x", "id": id }).to_string();
        assert_eq!(client.publish(&Publish::new("mesh/announce", payload).qos(1)), 0x99, "{id}");
    }
    let huge = "x".repeat(17 << 10);
    assert_eq!(client.publish(&Publish::new("mesh/announce", huge).qos(1)), 0x97);
    let (_, listed) = target.hub.request("GET", "/v1/announcements", "");
    assert_eq!(listed, "[]", "a refused announcement is none");
    target.is_well();
}

#[test]
fn ten_thousand_announcements_in_a_burst_each_end_in_one_outcome_and_share_few_snapshots() {
    const COUNT: usize = 10_000;
    let target = Target::start();
    let mut listener = target.client("listener");
    listener.subscribe("mesh/announce/+", 1);
    let mqtt = target.hub.mqtt;
    let crying = std::thread::spawn(move || {
        let mut crier = Client::plain(mqtt, Version::V5, "crier");
        for n in 0..COUNT {
            let payload = format!(r#"{{"reason":"burst","id":"burst-{n}"}}"#);
            crier.send_publish(&Publish::new("mesh/announce", payload));
        }
        crier.ping();
    });
    let mut ended = std::collections::HashMap::new();
    while ended.len() < COUNT {
        let message = listener.message();
        let outcome: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        if matches!(outcome["state"].as_str(), Some("confirmed" | "failed")) {
            assert_eq!(ended.insert(message.topic, outcome.clone()), None, "{outcome}");
        }
    }
    crying.join().unwrap();
    let confirmed = ended.values().filter(|outcome| outcome["state"] == "confirmed");
    let named = confirmed.clone().map(|outcome| outcome["snapshot"]["name"].as_str().unwrap());
    let named: std::collections::BTreeSet<_> = named.collect();
    assert!(confirmed.count() > 0);
    let (_, listed) = target.hub.request("GET", "/v1/snapshots", "");
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let there: std::collections::BTreeSet<_> =
        listed.iter().map(|record| record["name"].as_str().unwrap()).collect();
    assert_eq!(named, there, "no snapshot that nobody was told of, and none only told of");
    target.is_well();
}
