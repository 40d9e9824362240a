//! How a client knows that it has all that is retained: by an echo, or by counting.

use std::time::Duration;

use crate::support::properties::{
    MESSAGE_EXPIRY, USER_PROPERTY, Value, find, maximum_packet_size, message_expiry, number,
    receive_maximum, subscription_id, user,
};
use crate::support::wire::{self, PUBACK};
use crate::support::{Client, Connect, Packet, Publish, Server, VERSIONS, Version};

/// Subscribes and returns how many retained messages the broker says will follow.
fn subscribe(client: &mut Client, filters: &[(&str, u8)]) -> Option<usize> {
    let id = client.next_id();
    let with = [user("retained-count", ""), subscription_id(7)];
    client.send(&wire::subscribe(Version::V5, id, filters, &with));
    match client.wait_for("SUBACK", |packet| matches!(packet, Packet::Suback { .. })) {
        Packet::Suback { properties, .. } => find(&properties, USER_PROPERTY).map(|value| {
            let Value::Pair(name, count) = value else { panic!("{value:?}") };
            assert_eq!(name, "retained-count");
            count.parse().expect("a number")
        }),
        other => panic!("{other:?}"),
    }
}

/// The retained messages that come before an echo.
fn retained(client: &mut Client) -> usize {
    client.subscribe("end", 0);
    client.publish(&Publish::new("end", ""));
    let messages = client.messages_until("end");
    assert!(messages.iter().all(|message| message.retain), "{messages:?}");
    messages.len()
}

fn retain(server: &Server, topics: &[&str]) -> Client {
    let mut writer = server.plain(Version::V5, "writer");
    for topic in topics {
        writer.publish(&Publish::new(topic, "x").qos(1).retained());
    }
    writer
}

#[test]
fn the_count_is_exact_for_every_set_of_filters() {
    let server = Server::start();
    let _writer = retain(&server, &["a/1", "a/2", "b/1", "b/2", "c"]);
    let cases: [(&[(&str, u8)], usize); 7] = [
        (&[("#", 1)], 5),
        (&[("a/+", 2), ("b/#", 0)], 4),
        (&[("a/#", 1), ("+/1", 1)], 4), // one of them twice
        (&[("none", 0)], 0),
        (&[("a/#", 0x20), ("a/1", 0x10)], 1), // never, if new
        (&[("$share/g/a/#", 1), ("c", 1)], 1),
        (&[("a/#/b", 1), ("c", 1)], 1), // refused
    ];
    for (filters, expected) in cases {
        let mut reader = server.plain(Version::V5, "reader");
        assert_eq!(subscribe(&mut reader, filters), Some(expected), "{filters:?}");
        assert_eq!(retained(&mut reader), expected, "{filters:?}");
    }
    let mut again = server.plain(Version::V5, "again");
    assert_eq!(subscribe(&mut again, &[("#", 0x10)]), Some(5));
    assert_eq!(subscribe(&mut again, &[("#", 0x10)]), Some(0), "it is not new");
}

#[test]
fn who_does_not_ask_is_not_told() {
    let server = Server::start();
    let mut reader = server.plain(Version::V5, "reader");
    let id = reader.next_id();
    reader.send(&wire::subscribe(Version::V5, id, &[("#", 0)], &[user("other", "x")]));
    match reader.next() {
        Packet::Suback { properties, .. } => assert_eq!(properties, []),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_whose_time_is_over_on_the_way_still_comes() {
    let server = Server::start();
    let mut writer = retain(&server, &["a/1"]);
    let short = Publish::new("a/2", "x").qos(1).retained().with(message_expiry(1));
    writer.publish(&short);
    let narrow = Connect::new(Version::V5, "reader").with(receive_maximum(1));
    let mut reader = server.connect(&narrow);
    reader.acknowledges = false;
    assert_eq!(subscribe(&mut reader, &[("a/#", 1)]), Some(2));
    let first = reader.message();
    // Nothing to wait for: the clock has to pass the second.
    std::thread::sleep(Duration::from_millis(1_200));
    reader.send(&wire::ack(PUBACK, first.id));
    let second = reader.message();
    assert_eq!((&*second.topic, number(&second.properties, MESSAGE_EXPIRY)), ("a/2", Some(0)));
    let mut late = server.plain(Version::V5, "late");
    assert_eq!(subscribe(&mut late, &[("a/#", 1)]), Some(1));
}

#[test]
fn what_is_too_large_for_the_client_is_not_counted() {
    let server = Server::start();
    let mut writer = retain(&server, &["a"]);
    for (topic, bytes) in [("fits", 60), ("large", 200)] {
        writer.publish(&Publish::new(topic, vec![b'x'; bytes]).qos(1).retained());
    }
    let small = Connect::new(Version::V5, "small").with(maximum_packet_size(100));
    let mut reader = server.connect(&small);
    assert_eq!(subscribe(&mut reader, &[("#", 1)]), Some(2));
    assert_eq!(retained(&mut reader), 2);
}

#[test]
fn an_echo_comes_after_a_hundred_thousand_retained_messages() {
    const COUNT: usize = 100_000;
    let server = Server::start();
    let mut writer = server.plain(Version::V4, "writer");
    let mut burst = Vec::new();
    for number in 0..COUNT {
        let message = Publish::new(&format!("t/{number}"), "x").retained();
        let message = if number % 2 == 0 { message } else { message.qos(1) };
        burst.extend(message.encode(Version::V4, (number % 60_000 + 1) as u16));
        if burst.len() > 16 * 1024 {
            writer.send(&std::mem::take(&mut burst));
            writer.ping();
        }
    }
    writer.send(&burst);
    writer.ping();
    for version in VERSIONS {
        for qos in [0, 1] {
            let mut reader = server.plain(version, "reader");
            reader.subscribe("echo", qos);
            reader.subscribe("t/#", qos);
            reader.send_publish(&Publish::new("echo", "").qos(qos));
            assert_eq!(reader.messages_until("echo").len(), COUNT, "{version:?} {qos}");
        }
    }
}
