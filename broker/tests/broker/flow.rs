//! Windows, sizes and aliases that client and broker agree on.

use std::time::Duration;

use std::collections::HashMap;

use crate::support::properties::{self as property, MAXIMUM_PACKET_SIZE, RECEIVE_MAXIMUM};
use crate::support::wire::{self, PUBACK};
use crate::support::{Client, Connect, Packet, Publish, Server, VERSIONS, Version, wait_until};

#[test]
fn a_reader_never_has_more_in_flight_than_it_asked_for() {
    let server = Server::start();
    let connect = Connect::new(Version::V5, "narrow").with(property::receive_maximum(3));
    let mut reader = server.connect(&connect);
    reader.acknowledges = false;
    reader.subscribe_all(&[("t", 1), ("free", 0)], &[]);
    let mut writer = server.plain(Version::V5, "writer");
    for count in 0..50_u32 {
        writer.publish(&Publish::new("t", count.to_string()).qos(1));
    }
    let mut in_flight = Vec::new();
    for expected in 0..50_u32 {
        let message = reader.message();
        assert_eq!(message.text(), expected.to_string());
        in_flight.push(message.id);
        if in_flight.len() == 3 {
            // A barrier: whatever the broker would send too much is here before the answer.
            reader.send(&[0xC0, 0]);
            let next = reader.next();
            assert_eq!(next, Packet::Pingresp, "more than three in flight");
            for id in in_flight.drain(..) {
                reader.send(&wire::ack(PUBACK, id));
            }
        }
    }
}

#[test]
fn a_message_too_large_for_a_reader_is_left_out_for_it_alone() {
    let server = Server::start();
    let connect = Connect::new(Version::V5, "small").with(property::maximum_packet_size(100));
    let mut small = server.connect(&connect);
    small.subscribe("t/#", 1);
    let mut large = server.plain(Version::V5, "large");
    large.subscribe("t/#", 1);
    let mut writer = server.plain(Version::V5, "writer");
    writer.publish(&Publish::new("t/big", vec![b'x'; 200]).qos(1));
    writer.publish(&Publish::new("t/tiny", "x").qos(1));
    assert_eq!(small.message().topic, "t/tiny");
    assert_eq!(large.message().topic, "t/big");
    assert_eq!(large.message().topic, "t/tiny");
}

#[test]
fn a_window_is_not_used_up_by_messages_that_were_left_out() {
    let server = Server::start();
    let connect = Connect::new(Version::V5, "small")
        .with(property::maximum_packet_size(100))
        .with(property::receive_maximum(2));
    let mut small = server.connect(&connect);
    small.subscribe("t", 1);
    let mut writer = server.plain(Version::V5, "writer");
    for _ in 0..20 {
        writer.publish(&Publish::new("t", vec![b'x'; 200]).qos(1));
    }
    writer.publish(&Publish::new("t", "fits").qos(1));
    assert_eq!(small.message().text(), "fits");
}

#[test]
fn a_topic_alias_stands_for_its_topic_until_it_is_given_another() {
    let server = Server::start();
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t/#", 1);
    let mut writer = server.plain(Version::V5, "writer");
    let allowed = property::number(&writer.connack_properties, property::TOPIC_ALIAS_MAXIMUM);
    assert!(allowed.unwrap_or(0) >= 2, "the broker allows aliases: {allowed:?}");
    let alias = |topic: &str, alias: u16| {
        Publish::new(topic, "x").qos(1).with(property::topic_alias(alias))
    };
    let sent = [("t/one", 1), ("t/two", 2), ("", 1), ("", 2), ("t/three", 1), ("", 1), ("", 2)];
    for (topic, number) in sent {
        assert_eq!(writer.publish(&alias(topic, number)), 0);
    }
    for expected in ["t/one", "t/two", "t/one", "t/two", "t/three", "t/three", "t/two"] {
        let message = reader.message();
        assert_eq!(message.topic, expected);
        assert_eq!(message.properties, [], "the alias is the publisher's alone");
    }
}

#[test]
fn an_alias_that_stands_for_nothing_is_a_protocol_error() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "lost");
    let message = Publish::new("", "x").with(property::topic_alias(1));
    client.send(&message.encode(Version::V5, 0));
    let reason = client.closed();
    assert!(reason.is_none_or(|code| [0x82, 0x94].contains(&code)), "{reason:?}");
    let mut client = server.plain(Version::V5, "nameless");
    client.send(&Publish::new("", "x").encode(Version::V5, 0));
    client.closed();
}

/// The topic a message really is on; aliases are remembered as they come.
fn topic_of(known: &mut HashMap<u32, String>, message: &Publish) -> String {
    let alias = property::number(&message.properties, property::TOPIC_ALIAS);
    match (alias, message.topic.is_empty()) {
        (Some(alias), true) => known.get(&alias).expect("an alias that was said before").clone(),
        (Some(alias), false) => {
            known.insert(alias, message.topic.clone());
            message.topic.clone()
        }
        (None, _) => message.topic.clone(),
    }
}

#[test]
fn a_reader_that_allows_aliases_gets_them_and_the_right_topics() {
    const ALIASES: u16 = 4;
    let server = Server::start();
    let connect =
        Connect::persistent(Version::V5, "aliases").with(property::topic_alias_maximum(ALIASES));
    let mut writer = server.plain(Version::V4, "writer");
    for number in 0..50 {
        writer.publish(&Publish::new(&format!("topic/{number}"), number.to_string()).retained());
    }
    for round in 0..2 {
        // On a new connection nothing is known of what the former one said.
        let mut known = HashMap::new();
        let (mut by_alias, mut reader) = (0, server.connect(&connect));
        reader.subscribe("topic/#", 2);
        for _ in 0..50 {
            let message = reader.message();
            assert_eq!(topic_of(&mut known, &message), format!("topic/{}", message.text()));
        }
        for count in 0..600_u32 {
            // Two topics in three are hot ones, and they change in the middle.
            let number = if count % 3 == 0 { count % 50 } else { count % 3 + 10 * (count / 300) };
            let qos = (count % 3) as u8;
            writer.publish(&Publish::new(&format!("topic/{number}"), number.to_string()).qos(qos));
            let message = reader.message();
            assert_eq!(topic_of(&mut known, &message), format!("topic/{}", message.text()));
            by_alias += u32::from(message.topic.is_empty());
        }
        assert!(known.keys().all(|alias| (1..=u32::from(ALIASES)).contains(alias)), "{known:?}");
        assert!(by_alias > 350, "round {round}: {by_alias} of 600 came by alias");
        reader.disconnect();
        wait_until("it is away", || server.stats().connections == 1);
    }
}

#[test]
fn an_alias_makes_no_message_too_large_and_no_lost_message_defines_one() {
    let server = Server::start();
    // Room for "topic/a" with one byte and no property, and for no more.
    let connect = Connect::new(Version::V5, "small")
        .with(property::topic_alias_maximum(4))
        .with(property::maximum_packet_size(13));
    let mut reader = server.connect(&connect);
    reader.subscribe("topic/a", 0);
    let mut writer = server.plain(Version::V5, "writer");
    for payload in ["1", "too long for it", "2"] {
        writer.publish(&Publish::new("topic/a", payload));
    }
    for payload in ["1", "2"] {
        let message = reader.message();
        assert_eq!((&*message.topic, message.text()), ("topic/a", payload));
    }
}

#[test]
fn a_packet_above_the_brokers_limit_ends_the_connection_by_its_header() {
    let server = Server::limited(|limits| limits.packet_max_bytes = 10_000);
    for version in VERSIONS {
        let mut client = server.plain(version, "large");
        if version == Version::V5 {
            let told = property::number(&client.connack_properties, MAXIMUM_PACKET_SIZE);
            assert!(told.is_some_and(|told| (10_000..=10_005).contains(&told)), "{told:?}");
        }
        client.publish(&Publish::new("t", vec![0; 9_900]).qos(1));
        // The header of 20 MB and not one byte more: the broker need not wait to know.
        client.send(&[0x30, 0x80, 0x80, 0x80, 0x0A]);
        let expected = (version == Version::V5).then_some(0x95);
        assert_eq!(client.closed(), expected);
    }
}

#[test]
fn a_publisher_beyond_the_brokers_receive_maximum_is_sent_away() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "greedy");
    let allowed = property::number(&client.connack_properties, RECEIVE_MAXIMUM).unwrap_or(65_535);
    if !server.is_ours() || allowed == 65_535 {
        return; // nothing can be beyond it
    }
    // QoS 2 without a PUBREL stays in flight for ever.
    for id in 1..=allowed + 1 {
        client.send_anyway(&Publish::new("t", "x").qos(2).encode(Version::V5, id as u16));
    }
    assert_eq!(client.closed(), Some(0x93));
}

#[test]
fn a_reader_that_stops_reading_does_not_delay_the_others() {
    let server = Server::start();
    let mut stuck = server.plain(Version::V4, "stuck");
    stuck.subscribe("t", 0);
    let mut healthy = server.plain(Version::V4, "healthy");
    healthy.subscribe("t", 0);
    let address = server.address;
    let writer = std::thread::spawn(move || {
        let mut writer = Client::plain(address, Version::V4, "writer");
        for count in 0..20_000_u32 {
            let mut payload = vec![b'x'; 1000];
            payload[..6].copy_from_slice(format!("{count:06}").as_bytes());
            writer.publish(&Publish::new("t", payload));
        }
    });
    for count in 0..20_000_u32 {
        let message = healthy.message();
        assert_eq!(&message.payload[..6], format!("{count:06}").as_bytes());
    }
    writer.join().unwrap();
    drop(stuck);
    assert!(healthy.try_next(Duration::ZERO).is_none());
}
