//! One order for everybody: the host, the store, those who are there and those who come late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshfs_broker::{Admitted, Limits, MemoryStore, Retained, RetainedStore};

use crate::support::host::House;
use crate::support::wire::{self, PUBACK};
use crate::support::{Client, Packet, Publish, Server, VERSIONS, Version, wait_until};

/// A store that remembers the order of its calls.
#[derive(Debug, Default)]
struct Diary {
    store: MemoryStore,
    puts: Mutex<Vec<String>>,
}

/// Makes room for another thread where nothing but the broker's own order keeps it out.
fn invite_the_others() {
    std::thread::sleep(Duration::from_micros(20));
}

impl RetainedStore for Diary {
    fn put(&self, message: Arc<Retained>) {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        invite_the_others();
        self.puts.lock().unwrap().push(payload);
        self.store.put(message);
    }

    fn remove(&self, topic: &str) {
        self.store.remove(topic);
    }

    fn matching(&self, filter: &str, found: &mut Vec<Arc<Retained>>) {
        self.store.matching(filter, found);
    }
}

struct Race {
    server: Server,
    diary: Arc<Diary>,
    admitted: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Race {
    fn begin() -> Self {
        let admitted = Arc::new(Mutex::new(Vec::new()));
        let list = admitted.clone();
        let admit = move |message: &meshfs_broker::Incoming<'_>| {
            list.lock().unwrap().push(String::from_utf8_lossy(message.payload).into_owned());
            invite_the_others();
            Admitted::Accepted
        };
        let house = House { admit: Box::new(admit), ..House::default() };
        let diary = Arc::new(Diary::default());
        let server = Server::build(house, Limits::default(), diary.clone());
        Self { server, diary, admitted, over: Arc::new(AtomicBool::new(false)) }
    }

    /// Publishes to one retained topic, a few messages at a time, until the race is over.
    fn publisher(&self, name: &'static str, qos: u8) -> std::thread::JoinHandle<()> {
        let (address, over) = (self.server.address, self.over.clone());
        std::thread::spawn(move || {
            let mut client = Client::plain(address, Version::V4, name);
            let mut count = 0_u32;
            while !over.load(Ordering::SeqCst) {
                for _ in 0..5 {
                    let message = Publish::new("t", format!("{name}-{count}")).qos(qos).retained();
                    client.send_publish(&message);
                    count += 1;
                }
                client.ping();
            }
        })
    }

    /// Subscribes late, reads on for a while, and returns the payloads.
    fn late_reader(&self, version: Version, qos: u8) -> Vec<String> {
        let mut reader = self.server.plain(version, "");
        reader.subscribe("t", qos);
        let messages: Vec<Publish> = (0..40).map(|_| reader.message()).collect();
        assert!(messages[0].retain, "first the retained one");
        assert!(messages[1..].iter().all(|message| !message.retain));
        messages.iter().map(|message| message.text().to_owned()).collect()
    }
}

#[test]
fn no_late_subscriber_ever_sees_a_stale_value() {
    let race = Race::begin();
    let mut always = race.server.plain(Version::V5, "always");
    always.subscribe("t", 1);
    let publishers = [race.publisher("a", 1), race.publisher("b", 0)];
    wait_until("both publish", || {
        let admitted = race.admitted.lock().unwrap();
        ["a-", "b-"].iter().all(|name| admitted.iter().any(|text| text.starts_with(name)))
    });
    let started = Instant::now();
    let mut seen = Vec::new();
    for round in 0..60 {
        for version in VERSIONS {
            seen.push(race.late_reader(version, round % 2));
        }
        if started.elapsed() > Duration::from_secs(8) {
            break;
        }
    }
    race.over.store(true, Ordering::SeqCst);
    for publisher in publishers {
        publisher.join().unwrap();
    }
    let mut last = race.server.plain(Version::V4, "last");
    last.publish(&Publish::new("t", "end").qos(1).retained());
    let admitted = race.admitted.lock().unwrap();
    assert_eq!(*race.diary.puts.lock().unwrap(), *admitted, "the store sees the host's order");
    for (reader, payloads) in seen.iter().enumerate() {
        let first = admitted.iter().position(|text| *text == payloads[0]).expect("was admitted");
        let expected = &admitted[first..first + payloads.len()];
        assert_eq!(payloads, expected, "late subscriber {reader}: all from there on, in order");
    }
    let kept = race.diary.store.get("t").expect("is retained");
    assert_eq!(&*kept.payload, b"end");
    for expected in admitted.iter() {
        assert_eq!(always.message().text(), expected, "the subscriber that was always there");
    }
}

#[test]
fn what_changes_during_a_replay_ends_up_new() {
    let race = Race::begin();
    let server = &race.server;
    const TOPICS: usize = 2_000;
    let mut writer = server.plain(Version::V4, "writer");
    let publish = |writer: &mut Client, number: usize, payload: &str| {
        let message = Publish::new(&format!("many/{number:04}"), payload).qos(1).retained();
        writer.send_publish(&message)
    };
    for number in 0..TOPICS {
        let id = publish(&mut writer, number, "old");
        writer.ack(PUBACK, id);
    }
    let mut reader = server.plain(Version::V5, "reader");
    reader.acknowledges = false;
    reader.subscribe("many/#", 1);
    // The window is full and the rest of the replay waits: now every topic changes or goes.
    for number in 0..TOPICS {
        let id = publish(&mut writer, number, ["new", ""][number % 2]);
        writer.ack(PUBACK, id);
    }
    let mut seen: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    let mut live = 0;
    while live < TOPICS {
        let message = reader.message();
        reader.send(&wire::ack(PUBACK, message.id));
        live += usize::from(!message.retain);
        let entry = (message.text().to_owned(), message.retain);
        seen.entry(message.topic).or_default().push(entry);
    }
    assert_eq!(seen.len(), TOPICS);
    for (number, (topic, values)) in seen.iter().enumerate() {
        let last = [("new".to_owned(), false), (String::new(), false)][number % 2].clone();
        assert_eq!(*values, [("old".to_owned(), true), last], "{topic}");
    }
}

#[test]
fn a_publish_does_not_overtake_the_subscribe_that_was_sent_before_it() {
    let server = Server::start();
    let mut reader = server.plain(Version::V4, "reader");
    let mut writer = server.plain(Version::V4, "writer");
    const ROUNDS: u16 = 500;
    let mut heard = 0;
    for round in 1..=ROUNDS {
        // Both are at rest on the broker's side; without the order half of the rounds are lost.
        std::thread::sleep(Duration::from_millis(1));
        let topic = format!("race/{round}");
        reader.send(&wire::subscribe(Version::V4, round, &[(&topic, 0)], &[]));
        writer.send_publish(&Publish::new(&topic, ""));
        writer.ping();
        reader.ping();
        while let Some(packet) = reader.try_next(Duration::ZERO) {
            heard += u16::from(matches!(packet, Packet::Publish(_)));
        }
        reader.unsubscribe(&[&topic]);
    }
    // It is a courtesy with a time limit, so a machine that stands still may cost a few.
    assert!(heard > ROUNDS * 9 / 10, "{heard} of {ROUNDS}");
}
