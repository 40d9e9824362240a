//! Retained messages: set, replaced, cleared, complete, and never stale.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::wire::{self, PUBCOMP, PUBREC, PUBREL};
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version};

/// Subscribes, and returns what is there before anything new is published.
fn retained(client: &mut Client, filter: &str, options: u8) -> Vec<Publish> {
    static ENDS: AtomicU32 = AtomicU32::new(0);
    let end = format!("the/end/{}", ENDS.fetch_add(1, Ordering::Relaxed));
    assert!(client.subscribe(filter, options) <= 2, "{filter}");
    // Published after the subscription, so it comes after all that was retained.
    client.subscribe(&end, 0);
    client.publish(&Publish::new(&end, ""));
    let mut messages = client.messages_until(&end);
    client.unsubscribe(&[&end]);
    messages.retain(|message| !message.topic.starts_with("the/end/"));
    messages
}

fn topics(messages: &[Publish]) -> Vec<&str> {
    messages.iter().map(|message| message.topic.as_str()).collect()
}

#[test]
fn a_retained_message_waits_for_later_subscribers() {
    let server = Server::start();
    for version in VERSIONS {
        for qos in 0..=2 {
            let mut writer = server.plain(version, "writer");
            let topic = format!("kept/{version:?}/{qos}");
            writer.publish(&Publish::new(&topic, "first").qos(qos).retained());
            writer.publish(&Publish::new(&topic, "second").qos(qos).retained());
            writer.publish(&Publish::new(&topic, "passing").qos(qos));
            writer.ping();
            for reader in VERSIONS {
                let mut reader = server.plain(reader, "reader");
                let messages = retained(&mut reader, &topic, 1);
                assert_eq!(messages.len(), 1, "{messages:?}");
                assert_eq!(messages[0].text(), "second");
                assert!(messages[0].retain);
                assert_eq!(messages[0].qos, qos.min(1));
            }
        }
    }
}

#[test]
fn an_empty_retained_payload_clears() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "client");
        client.publish(&Publish::new("a", "x").qos(1).retained());
        client.publish(&Publish::new("b", "x").qos(1).retained());
        client.publish(&Publish::new("a", "").qos(1).retained());
        assert_eq!(topics(&retained(&mut client, "#", 1)), ["b"]);
    }
}

#[test]
fn an_empty_payload_that_is_not_retained_clears_nothing() {
    let server = Server::start();
    let mut client = server.plain(Version::V4, "client");
    client.publish(&Publish::new("a", "x").qos(1).retained());
    client.publish(&Publish::new("a", "").qos(1));
    assert_eq!(topics(&retained(&mut client, "a", 0)), ["a"]);
}

#[test]
fn a_live_subscriber_sees_the_clearing_without_the_flag() {
    let server = Server::start();
    let mut client = server.plain(Version::V4, "client");
    client.subscribe("a", 1);
    client.publish(&Publish::new("a", "x").qos(1).retained());
    client.publish(&Publish::new("a", "").qos(1).retained());
    let (set, cleared) = (client.message(), client.message());
    assert_eq!((set.payload.as_slice(), set.retain), (&b"x"[..], false));
    assert_eq!((cleared.payload.as_slice(), cleared.retain), (&b""[..], false));
}

#[test]
fn wildcards_find_retained_topics_but_not_those_of_the_broker() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "client");
    for topic in ["a", "a/b", "a/b/c", "b/b", "$own/a"] {
        client.publish(&Publish::new(topic, "x").qos(1).retained());
    }
    let mut found = |filter: &str| {
        let messages = retained(&mut client, filter, 0);
        client.unsubscribe(&[filter]);
        let mut found: Vec<String> = topics(&messages).into_iter().map(Into::into).collect();
        found.sort();
        found
    };
    assert_eq!(found("#"), ["a", "a/b", "a/b/c", "b/b"]);
    assert_eq!(found("a/#"), ["a", "a/b", "a/b/c"]);
    assert_eq!(found("+/b"), ["a/b", "b/b"]);
    assert_eq!(found("+/b/#"), ["a/b", "a/b/c", "b/b"]);
    assert_eq!(found("+/a"), [] as [&str; 0]);
    assert_eq!(found("$own/#"), ["$own/a"]);
    assert_eq!(found("a/b"), ["a/b"]);
}

#[test]
fn retain_handling_is_honoured() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "client");
    client.publish(&Publish::new("a", "x").qos(1).retained());
    let (only_new, never) = (0x10, 0x20);
    assert_eq!(retained(&mut client, "a", never).len(), 0);
    assert_eq!(retained(&mut client, "a", only_new).len(), 0, "the subscription was there");
    client.unsubscribe(&["a"]);
    assert_eq!(retained(&mut client, "a", only_new).len(), 1);
    assert_eq!(retained(&mut client, "a", 0).len(), 1, "sent at every subscribe");
}

#[test]
fn ten_thousand_retained_topics_arrive_complete_at_every_subscribe() {
    let server = Server::start();
    fill(&server, 10_000);
    for version in VERSIONS {
        for qos in 0..=2 {
            let mut reader = server.plain(version, "reader");
            for attempt in ["fresh", "again"] {
                let messages = retained(&mut reader, "many/#", qos);
                let all: BTreeMap<&str, &[u8]> = messages
                    .iter()
                    .map(|message| (message.topic.as_str(), message.payload.as_slice()))
                    .collect();
                assert_eq!(all.len(), 10_000, "{version:?} qos {qos} {attempt}");
                assert_eq!(messages.len(), 10_000, "no topic twice");
                assert!(messages.iter().all(|message| message.retain && message.qos == qos));
                assert!(all.iter().all(|(topic, payload)| topic.as_bytes().ends_with(payload)));
            }
        }
    }
}

/// `count` retained topics below `many/` at QoS 2, with their number as payload.
pub fn fill(server: &Server, count: u32) {
    let mut writer = server.plain(Version::V4, "filler");
    let numbers: Vec<u32> = (0..count).collect();
    for window in numbers.chunks(200) {
        let send = |number: &u32| {
            let number = format!("{number:06}");
            let topic = format!("many/{}/{number}", &number[..3]);
            writer.send_publish(&Publish::new(&topic, &number).qos(2).retained())
        };
        let ids: Vec<u16> = window.iter().map(send).collect();
        for id in &ids {
            writer.ack(PUBREC, *id);
        }
        for id in &ids {
            writer.send(&wire::ack(PUBREL, *id));
        }
        for id in &ids {
            writer.ack(PUBCOMP, *id);
        }
    }
}

#[test]
fn live_messages_come_after_the_retained_ones_of_a_subscription() {
    let server = Server::start();
    fill(&server, 3_000);
    let mut writer = server.plain(Version::V4, "writer");
    let mut reader = server.plain(Version::V4, "reader");
    assert_eq!(reader.subscribe("many/#", 1), 1);
    // Subscribed, but most of the replay still waits for the reader's acknowledgements.
    writer.publish(&Publish::new("many/000/000000", "live").qos(1));
    let mut seen = 0;
    loop {
        let message = reader.message();
        if message.payload == b"live" {
            assert!(!message.retain);
            break;
        }
        assert!(message.retain);
        seen += 1;
    }
    assert!(seen == 3_000 || !server.is_ours(), "live message after {seen} of 3000");
}

#[test]
fn a_second_subscribe_in_the_middle_of_a_replay_gets_everything_again() {
    let server = Server::start();
    fill(&server, 2_000);
    for version in VERSIONS {
        let mut reader = server.plain(version, "reader");
        reader.acknowledges = false;
        reader.subscribe("many/#", 1);
        reader.acknowledges = true;
        for message in (0..10).map(|_| reader.message()).collect::<Vec<_>>() {
            reader.send(&wire::ack(wire::PUBACK, message.id));
        }
        reader.subscribe("many/#", 1);
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 10..4_000 {
            *times.entry(reader.message().topic).or_default() += 1;
        }
        assert_eq!(times.len(), 2_000);
        assert_eq!(times.values().filter(|count| **count == 1).count(), 10, "those read before");
    }
}

#[test]
fn a_replay_goes_on_when_its_session_comes_back() {
    let server = Server::start();
    fill(&server, 3_000);
    for version in VERSIONS {
        let mut reader = server.connect(&Connect::persistent(version, "reader"));
        reader.subscribe("many/#", 1);
        let mut topics: BTreeSet<String> = (0..10).map(|_| reader.message().topic).collect();
        reader.vanish();
        let mut back = server.connect(&Connect::persistent(version, "reader"));
        assert!(back.session_present);
        while topics.len() < 3_000 {
            topics.insert(back.message().topic);
        }
        back.ping();
        server.plain(version, "reader").disconnect();
    }
}
