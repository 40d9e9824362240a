//! The whole hub in one process: real broker on port 0, a temporary tree, a
//! fake engine, the house IRC server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use meshfs::config::Config;
use meshfs::hub::Hub;
use meshfs::message::{Entry, JournalLine, Outcome, State};
use meshfs::snapshot::{FakeEngine, SnapshotError};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// A running hub and what stands around it.
struct Running {
    mqtt: std::net::SocketAddr,
    engine: Arc<FakeEngine>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

fn config(root: &Path, more: &[(&str, &str)]) -> Config {
    let port0 = "127.0.0.1:0".to_owned();
    let mut flags = vec![
        ("root", root.display().to_string()),
        ("bus.listen", port0.clone()),
        ("http.listen", port0.clone()),
        ("irc.embedded.listen", port0),
    ];
    flags.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    Config::load(None, [], &flags).unwrap()
}

async fn start(root: &Path, more: &[(&str, &str)]) -> Running {
    let engine = Arc::new(FakeEngine::new());
    let hub = Hub::start_with(config(root, more), engine.clone(), "a test".into()).await.unwrap();
    let mqtt = hub.addresses().mqtt.unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(hub.run(async move { drop(stopped.await) }));
    Running { mqtt, engine, stop: Some(stop), task }
}

impl Running {
    async fn stop(mut self) {
        drop(self.stop.take());
        within("the hub to stop", self.task).await.unwrap().unwrap();
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Waits for a condition, looking often.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, looking).await;
}

/// An MQTT 5 client.
struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn connect(hub: &Running, id: &str) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", hub.mqtt.port());
        options.set_keep_alive(Duration::from_secs(60));
        let (client, events) = AsyncClient::new(options, 1000);
        let mut client = Self { client, events };
        client.packet(|p| matches!(p, Packet::ConnAck(_)).then_some(())).await;
        client
    }

    /// The first packet of a kind; others are passed over.
    async fn packet<T>(&mut self, pick: impl Fn(Packet) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.unwrap()
                    && let Some(found) = pick(packet)
                {
                    return found;
                }
            }
        };
        within("a packet", waiting).await
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.packet(|p| matches!(p, Packet::SubAck(_)).then_some(())).await;
    }

    async fn message(&mut self) -> Publish {
        self.packet(|p| if let Packet::Publish(p) = p { Some(p) } else { None }).await
    }

    /// Publishes at QoS 1 and gives the reason code and the reason string.
    async fn publish(
        &mut self,
        topic: &str,
        retain: bool,
        payload: &str,
    ) -> (PubAckReason, String) {
        self.publish_with(topic, retain, payload, PublishProperties::default()).await
    }

    async fn publish_with(
        &mut self,
        topic: &str,
        retain: bool,
        payload: &str,
        properties: PublishProperties,
    ) -> (PubAckReason, String) {
        let payload = payload.to_owned();
        let qos = QoS::AtLeastOnce;
        self.client.publish_with_properties(topic, qos, retain, payload, properties).await.unwrap();
        self.packet(|p| match p {
            Packet::PubAck(ack) => {
                let text = ack.properties.and_then(|p| p.reason_string).unwrap_or_default();
                Some((ack.reason, text))
            }
            _ => None,
        })
        .await
    }
}

fn journal(root: &Path) -> Vec<Entry> {
    let mut days: Vec<_> =
        fs::read_dir(root.join("journal")).unwrap().map(|e| e.unwrap().path()).collect();
    days.sort();
    let lines = days.iter().flat_map(|day| {
        let text = fs::read_to_string(day).unwrap();
        text.lines()
            .map(|l| serde_json::from_str::<JournalLine>(l).unwrap().entry)
            .collect::<Vec<_>>()
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_becomes_a_file_with_its_publisher_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut node = Client::connect(&hub, "node-n1").await;
    let properties = PublishProperties {
        content_type: Some("application/json".into()),
        user_properties: vec![("rack".into(), "7".into())],
        ..Default::default()
    };
    let (code, _) =
        node.publish_with("mesh/nodes/n1/heartbeat", false, r#"{"node":"n1"}"#, properties).await;
    assert_eq!(code, PubAckReason::Success);
    let file = dir.path().join("live/nodes/n1/heartbeat.json");
    until("the file", || fs::read(&file).is_ok_and(|text| text == br#"{"node":"n1"}"#)).await;
    hub.stop().await;
    let said: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("live/hub.json")).unwrap()).unwrap();
    assert_eq!(said["state"], "offline", "an orderly stop is on disk");

    let store = meshfs::live::Store::open(dir.path(), jiff::Timestamp::now()).unwrap();
    let loaded = store.load(&|_, _| Ok(())).unwrap();
    let found =
        loaded.messages.iter().find(|m| m.topic.as_str() == "mesh/nodes/n1/heartbeat").unwrap();
    assert_eq!((&*found.meta.by.client, found.meta.qos), ("node-n1", 1));
    assert_eq!(found.meta.content_type.as_deref(), Some("application/json"));
    assert_eq!(found.meta.user_properties, [("rack".to_owned(), "7".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_contract_is_refused_with_its_reason_and_the_last_good_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut node = Client::connect(&hub, "tester").await;
    let mut events = Client::connect(&hub, "events").await;
    events.subscribe("mesh/events").await;
    let good = r#"{"node":"n1","status":"ALIVE"}"#;
    node.publish("mesh/nodes/n1/heartbeat", true, good).await;
    for (topic, payload, code, why) in [
        ("mesh/nodes/n1/heartbeat", "ALIVE", PubAckReason::PayloadFormatInvalid, "JSON"),
        ("mesh/nodes/n1/heartbeat", r#"{"node":"n2"}"#, PubAckReason::PayloadFormatInvalid, "n2"),
        ("mesh/hub", "{}", PubAckReason::NotAuthorized, ""),
        ("mesh/snapshots/x", "{}", PubAckReason::NotAuthorized, ""),
        ("mesh/nosuch", "{}", PubAckReason::TopicNameInvalid, "mesh/app/"),
        ("elsewhere", "{}", PubAckReason::TopicNameInvalid, "below mesh/"),
        (
            "mesh/announce",
            r#"{"reason":"r","flush":true}"#,
            PubAckReason::ImplementationSpecificError,
            "flush",
        ),
        (
            "mesh/announce/a/close",
            "{}",
            PubAckReason::ImplementationSpecificError,
            "not in this release",
        ),
    ] {
        let (found, text) = node.publish(topic, false, payload).await;
        assert_eq!(found, code, "{topic} {payload}");
        assert!(text.contains(why), "{topic}: {text:?}");
        loop {
            let event: JournalLine =
                serde_json::from_slice(&events.message().await.payload).unwrap();
            if let Entry::Refusal { by, topic: refused, why } = event.entry {
                assert_eq!((&*by.client, refused.as_str()), ("tester", topic));
                assert!(!why.is_empty());
                break;
            }
        }
    }
    let mut late = Client::connect(&hub, "late").await;
    late.subscribe("mesh/nodes/n1/heartbeat").await;
    assert_eq!(late.message().await.payload, good);
    assert_eq!(fs::read(dir.path().join("live/nodes/n1/heartbeat.json")).unwrap(), good.as_bytes());
    assert_eq!(hub.engine.started().len(), 0, "a snapshot from a refused announcement");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_is_answered_after_the_snapshot_the_record_and_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    hub.engine.hang();
    let mut caller = Client::connect(&hub, "crm").await;
    caller.subscribe("mesh/app/replies/crm").await;
    let properties = PublishProperties {
        response_topic: Some("mesh/app/replies/crm".into()),
        correlation_data: Some(bytes::Bytes::from_static(b"\x00\x01call")),
        ..Default::default()
    };
    caller.publish("mesh/nodes/n1/heartbeat", false, r#"{"node":"n1"}"#).await;
    let asked = r#"{"reason":"migrating","source":"crm-api","id":"m-1"}"#;
    caller.publish_with("mesh/announce", true, asked, properties).await;
    until("the engine to be asked", || hub.engine.started().len() == 1).await;
    // All that was accepted before is on disk when the engine begins.
    assert!(dir.path().join("live/nodes/n1/heartbeat.json").exists());
    assert!(matches!(journal(dir.path()).last(), Some(Entry::Announcement { .. })));
    hub.engine.release();
    let answer = caller.message().await;
    let properties = answer.properties.unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\x00\x01call"[..]));
    let outcome: Outcome = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!((outcome.state, outcome.id.as_str()), (State::Confirmed, "m-1"));
    assert_eq!(&*outcome.by.client, "crm");
    let snapshot = outcome.snapshot.clone().unwrap();
    assert!(journal(dir.path()).contains(&Entry::Outcome(Box::new(outcome))));

    let mut late = Client::connect(&hub, "late").await;
    late.subscribe("mesh/snapshots/+").await;
    let record = late.message().await;
    assert_eq!(record.topic, format!("mesh/snapshots/{}", snapshot.name));
    late.subscribe("mesh/announce").await;
    late.subscribe("mesh/hub").await;
    assert_eq!(late.message().await.topic, "mesh/hub", "an announcement is never retained");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_engine_is_told_to_the_caller_and_leaves_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    hub.engine.fail_next(|_| SnapshotError::OutOfSpace { what: "tank/meshfs".into() });
    let mut caller = Client::connect(&hub, "crm").await;
    caller.subscribe("mesh/app/r").await;
    caller.publish("mesh/announce", false, r#"{"reason":"r","reply_to":"mesh/app/r"}"#).await;
    let outcome: Outcome = serde_json::from_slice(&caller.message().await.payload).unwrap();
    assert_eq!((outcome.state, outcome.snapshot), (State::Failed, None));
    assert!(outcome.error.unwrap().contains("tank/meshfs"));
    assert!(!dir.path().join("live/snapshots").exists());
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_announcement_is_answered_even_without_an_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut caller = Client::connect(&hub, "crm").await;
    caller.subscribe("mesh/app/r").await;
    let properties =
        PublishProperties { response_topic: Some("mesh/app/r".into()), ..Default::default() };
    let body = r#"{"reason":"r","flush":true}"#;
    let qos = QoS::AtMostOnce;
    caller
        .client
        .publish_with_properties("mesh/announce", qos, false, body, properties)
        .await
        .unwrap();
    let answer: serde_json::Value =
        serde_json::from_slice(&caller.message().await.payload).unwrap();
    assert_eq!(answer["state"], "failed");
    assert!(answer["error"].as_str().unwrap().contains("flush"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_cannot_be_made_to_write_elsewhere_by_a_response_topic() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut caller = Client::connect(&hub, "crm").await;
    for topic in ["mesh/hub", "mesh/nodes/n1/heartbeat", "mesh/announce", "mesh/apple", "x"] {
        let properties =
            PublishProperties { response_topic: Some(topic.into()), ..Default::default() };
        let (code, text) = caller.publish_with("mesh/announce", false, "r", properties).await;
        assert_eq!(code, PubAckReason::PayloadFormatInvalid, "{topic}");
        assert!(text.contains("mesh/"), "{text}");
    }
    assert_eq!(hub.engine.started().len(), 0);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_expiry_and_app_topics_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut client = Client::connect(&hub, "c").await;
    client.publish("mesh/app/kept/é", true, "bytes").await;
    client.publish("mesh/app/passing", false, "gone").await;
    client.publish("mesh/app/cleared", true, "x").await;
    client.publish("mesh/app/cleared", true, "").await;
    let short = PublishProperties { message_expiry_interval: Some(1), ..Default::default() };
    client.publish_with("mesh/app/short", true, "x", short).await;
    hub.stop().await;
    assert!(dir.path().join("live/app/short.raw").exists());
    // Expiry is a moment and not a rest of time: it passes while the hub is away.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let hub = start(dir.path(), &[]).await;
    let mut client = Client::connect(&hub, "c").await;
    client.subscribe("mesh/app/#").await;
    let message = client.message().await;
    assert_eq!(
        (&message.topic[..], &message.payload[..]),
        ("mesh/app/kept/é".as_bytes(), &b"bytes"[..])
    );
    client.subscribe("mesh/hub").await;
    assert_eq!(client.message().await.topic, "mesh/hub", "more than one message below mesh/app/");
    until("the expired file to go", || !dir.path().join("live/app/short.raw").exists()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_under_way_at_a_crash_fails_after_the_restart_and_its_id_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("journal")).unwrap();
    let now = jiff::Timestamp::now();
    let line = format!(
        r#"{{"time":"{now}","kind":"announcement","id":"half","by":{{"door":"mqtt","client":"crm"}},"requested_at":"{now}","request":{{"reason":"r"}},"reply":{{"topic":"mesh/app/r","correlation":"00ff"}}}}"#
    );
    let day = now.strftime("journal/%Y-%m-%d.jsonl").to_string();
    fs::write(dir.path().join(day), line + "\n").unwrap();
    let hub = start(dir.path(), &[]).await;
    until("the outcome", || {
        journal(dir.path()).iter().any(|entry| match entry {
            Entry::Outcome(outcome) => {
                outcome.id.as_str() == "half"
                    && outcome.state == State::Failed
                    && outcome.error.as_ref().unwrap().contains("hub restarted")
            }
            _ => false,
        })
    })
    .await;
    let mut watcher = Client::connect(&hub, "watcher").await;
    watcher.subscribe("mesh/announce/half").await;
    let mut caller = Client::connect(&hub, "crm").await;
    caller.publish("mesh/announce", false, r#"{"reason":"r","id":"half"}"#).await;
    let again: Outcome = serde_json::from_slice(&watcher.message().await.payload).unwrap();
    assert_eq!(again.state, State::Failed);
    assert_eq!(hub.engine.started().len(), 0);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_engine_fails_in_time_and_heartbeats_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[("announce.deadline", "500ms")]).await;
    hub.engine.hang();
    let mut caller = Client::connect(&hub, "crm").await;
    caller.subscribe("mesh/app/r").await;
    for n in 0..3 {
        let body = format!(r#"{{"reason":"r{n}","reply_to":"mesh/app/r"}}"#);
        caller.publish("mesh/announce", false, &body).await;
    }
    caller.publish("mesh/nodes/n1/heartbeat", false, "{}").await;
    let file = dir.path().join("live/nodes/n1/heartbeat.json");
    until("the heartbeat's file", || file.exists()).await;
    for _ in 0..3 {
        let outcome: Outcome = serde_json::from_slice(&caller.message().await.payload).unwrap();
        assert_eq!(outcome.state, State::Failed);
        assert!(outcome.error.unwrap().contains("deadline passed") || outcome.snapshot.is_none());
    }
    hub.engine.release();
    caller.publish("mesh/announce", false, r#"{"reason":"ok","reply_to":"mesh/app/r"}"#).await;
    let outcome: Outcome = serde_json::from_slice(&caller.message().await.payload).unwrap();
    assert_eq!(outcome.state, State::Confirmed);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hub_on_the_same_tree_is_refused_and_told_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path(), &[]).await;
    let engine = Arc::new(FakeEngine::new());
    let error = Hub::start_with(config(dir.path(), &[]), engine, String::new()).await.unwrap_err();
    let pid = format!("pid {}", std::process::id());
    assert!(format!("{error:#}").contains(&pid), "{error:#}");
    hub.stop().await;
    start(dir.path(), &[]).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_tree_are_refused_and_what_they_lead_to_is_left_alone() {
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    for name in [".lock", "live", "journal", "queue"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(&precious, "precious").unwrap();
        let target = if name == ".lock" { precious.as_path() } else { outside.path() };
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        let hub =
            Hub::start_with(config(dir.path(), &[]), Arc::new(FakeEngine::new()), String::new());
        let error = format!("{:#}", hub.await.unwrap_err());
        assert!(error.contains(name), "{error}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_refuses_is_said_and_counted_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = start(dir.path(), &[]).await;
    let mut node = Client::connect(&hub, "n").await;
    // A file stands where the writer makes its new files.
    fs::remove_dir_all(dir.path().join(".tmp")).unwrap();
    fs::write(dir.path().join(".tmp"), "").unwrap();
    node.subscribe("mesh/hub").await;
    node.publish("mesh/app/kept", true, "x").await;
    let troubled = |message: &Publish| {
        let said: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        said["trouble"].as_str().is_some_and(|trouble| trouble.contains("kept"))
    };
    while !troubled(&node.message().await) {}
    drop(hub.stop.take());
    let error = within("the hub to stop", hub.task).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("could not be written before the end"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_its_key() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["bus.listen", "http.listen", "irc.embedded.listen"] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &[(key, &address)]);
        let error = Hub::start_with(config, Arc::new(FakeEngine::new()), String::new()).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(key) && error.contains(&address), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_file_is_set_aside_said_so_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("live/nodes/n9")).unwrap();
    fs::write(dir.path().join("live/nodes/n9/heartbeat.json"), b"{\"node\":").unwrap();
    let hub = start(dir.path(), &[]).await;
    let mut client = Client::connect(&hub, "c").await;
    client.subscribe("mesh/#").await;
    assert_eq!(client.message().await.topic, "mesh/hub");
    until("the journal", || {
        journal(dir.path()).iter().any(|entry| match entry {
            Entry::SetAside { path, to, .. } => {
                path == "live/nodes/n9/heartbeat.json" && dir.path().join(to).is_file()
            }
            _ => false,
        })
    })
    .await;
    hub.stop().await;
}
