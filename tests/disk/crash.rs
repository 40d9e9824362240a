//! `kill -9` at random moments under load: what was acknowledged as durable is
//! there, nothing is torn or older than it was, and a new subscriber gets what
//! the files say.

use super::hub::{files, until};
use super::{Client, Hub};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long it goes on where nobody asks for a number.
const TIME: Duration = Duration::from_secs(60);
/// And no longer than until so many crashes.
const CRASHES: usize = 300;
/// Fewer would say nothing.
const CRASHES_MIN: usize = 20;
const CLIENTS: usize = 4;
const NODES: usize = 5;
/// Messages of a client that are not acknowledged.
const WINDOW: usize = 8;

/// By topic, the number in a payload.
type Numbers = BTreeMap<String, u64>;

/// What clients know of the time before a crash.
#[derive(Debug, Default)]
struct Known {
    /// The newest that was acknowledged, of durable topics.
    acknowledged: Numbers,
    sent: Numbers,
    /// Announcements that were acknowledged.
    announced: BTreeSet<String>,
}

impl Known {
    fn add(&mut self, more: Self) {
        self.acknowledged.extend(more.acknowledged);
        self.sent.extend(more.sent);
        self.announced.extend(more.announced);
    }
}

/// Publishes until the hub is gone; `number` only grows. Each acknowledgement is counted.
fn load(hub: SocketAddr, client: usize, number: &mut u64, acks: &AtomicUsize) -> Known {
    let mut known = Known::default();
    let id = format!("load-{client}");
    let Some(mut connection) = Client::try_connect(hub, &id, client.is_multiple_of(2)) else {
        return known;
    };
    let mut waiting = BTreeMap::new();
    loop {
        *number += 1;
        let node = format!("n{client}-{}", *number % NODES as u64);
        let (topic, payload) = match *number % 16 {
            0 => (
                "mesh/announce".to_owned(),
                format!(r#"{{"reason":"r","id":"a{client}-{number}"}}"#),
            ),
            1..=7 => (
                format!("mesh/nodes/{node}/presence"),
                format!(r#"{{"node":"{node}","state":"online","boot_id":"{number}"}}"#),
            ),
            _ => (
                format!("mesh/nodes/{node}/heartbeat"),
                format!(r#"{{"node":"{node}","beat":{number},"p":"{}"}}"#, "x".repeat(300)),
            ),
        };
        known.sent.insert(topic.clone(), *number);
        let (id, sent) = connection.send(&topic, &payload, 1);
        if !sent {
            return known;
        }
        waiting.insert(id, (topic, *number));
        while waiting.len() >= WINDOW {
            let Some(super::client::Packet::Ack { id, code, .. }) = connection.next() else {
                return known;
            };
            assert_eq!(code, 0, "nothing is wrong with the disk");
            acks.fetch_add(1, Relaxed);
            let (topic, number) = waiting.remove(&id).expect("acknowledged once");
            if topic == "mesh/announce" {
                known.announced.insert(format!("a{client}-{number}"));
            } else if topic.ends_with("presence") {
                known.acknowledged.insert(topic, number);
            }
        }
    }
}

/// The number in a payload of ours.
fn number(payload: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(payload).expect("a whole file");
    let beat = value["beat"].as_u64();
    beat.or_else(|| value["boot_id"].as_str()?.parse().ok())
}

/// Compares the files, before anything is published, with what is known; gives their numbers.
fn look(root: &Path, known: &Known, before: &Numbers) -> Numbers {
    let mut now = Numbers::new();
    for (topic, payload) in files(root) {
        now.extend(number(&payload).map(|number| (topic, number)));
    }
    for (topic, number) in &known.acknowledged {
        let found = now.get(topic).copied();
        assert!(found >= Some(*number), "{topic}: {number} was acknowledged, {found:?} is there");
    }
    for (topic, number) in before {
        assert!(now.get(topic) >= Some(number), "{topic}: older than before");
    }
    for (topic, number) in &now {
        assert!(known.sent.get(topic) >= Some(number), "{topic}: {number} was never sent");
    }
    let journal = std::fs::read_dir(root.join("tree/journal")).unwrap();
    let text: String =
        journal.map(|day| std::fs::read_to_string(day.unwrap().path()).unwrap()).collect();
    for id in &known.announced {
        let line = format!(r#""kind":"announcement","id":"{id}""#);
        assert!(text.contains(&line), "{id} was acknowledged and is not in the journal");
    }
    now
}

/// What a new subscriber gets for the topics that have a file.
fn subscribed(hub: &Hub, left: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for kind in ["presence", "heartbeat"] {
        let mut reader = Client::connect(hub.mqtt, "reader", false);
        reader.subscribe(&format!("mesh/nodes/+/{kind}"));
        for _ in left.keys().filter(|topic| topic.ends_with(kind)) {
            let (topic, payload) = reader.message();
            found.insert(topic, payload.into_bytes());
        }
    }
    found
}

#[test]
fn after_hundreds_of_kill_9_nothing_that_was_acknowledged_as_durable_is_missing() {
    let wanted = std::env::var("MESHFS_CRASHES").ok().and_then(|count| count.parse().ok());
    let dir = tempfile::tempdir().unwrap();
    let (mut known, mut before) = (Known::default(), Numbers::new());
    let mut numbers = [0; CLIENTS];
    let (began, mut crashes) = (Instant::now(), 0);
    let goes_on = |crashes: usize| match wanted {
        Some(wanted) => crashes < wanted,
        None => crashes < CRASHES_MIN || (crashes < CRASHES && began.elapsed() < TIME),
    };
    while goes_on(crashes) {
        let hub = Hub::start_with(dir.path(), &[("MESHFS_LOG", "error")]);
        let (mqtt, acks) = (hub.mqtt, &AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let loads: Vec<_> = numbers
                .iter_mut()
                .enumerate()
                .map(|(client, number)| scope.spawn(move || load(mqtt, client, number, acks)))
                .collect();
            let enough = fastrand::usize(0..150);
            until("acknowledgements", || acks.load(Relaxed) >= enough);
            std::thread::park_timeout(Duration::from_micros(fastrand::u64(0..20_000)));
            hub.kill();
            loads.into_iter().for_each(|load| known.add(load.join().unwrap()));
        });
        crashes += 1;
        before = look(dir.path(), &known, &before);
        std::fs::remove_dir_all(dir.path().join("tree/.snapshots")).ok();
        if crashes % 10 == 0 {
            let hub = Hub::start(dir.path());
            let mut left = files(dir.path());
            left.retain(|topic, _| topic.ends_with("/presence") || topic.ends_with("/heartbeat"));
            assert!(subscribed(&hub, &left) == left, "a subscriber gets something else");
            assert!(!dir.path().join("tree/aside").exists(), "something was set aside");
            hub.kill();
        }
    }
    let (durable, announced) = (known.acknowledged.len(), known.announced.len());
    assert!(durable == CLIENTS * NODES && announced > 0, "{durable} topics, {announced}");
    eprintln!(
        "{crashes} crashes, {} messages, {announced} announcements",
        numbers.iter().sum::<u64>()
    );
}
