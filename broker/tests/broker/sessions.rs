//! Sessions that outlive their connection.

use crate::support::wire::{self, PUBREC, PUBREL};
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, properties, wait_until};

#[test]
fn a_persistent_session_keeps_its_subscriptions_and_its_messages() {
    let server = Server::start();
    for version in VERSIONS {
        let mut away = server.connect(&Connect::persistent(version, "away"));
        assert!(!away.session_present);
        away.subscribe("t/#", 2);
        away.disconnect();
        let mut writer = server.plain(Version::V5, "writer");
        for count in 0..100_u32 {
            let qos = 1 + (count % 2) as u8;
            writer.publish(&Publish::new("t/x", count.to_string()).qos(qos));
        }
        let mut back = server.connect(&Connect::persistent(version, "away"));
        assert!(back.session_present);
        for count in 0..100_u32 {
            let message = back.message();
            assert_eq!(message.text(), count.to_string());
            assert_eq!(message.qos, 1 + (count % 2) as u8);
        }
        writer.publish(&Publish::new("t/live", "x").qos(1));
        assert_eq!(back.message().topic, "t/live");
        server.plain(version, "away").disconnect();
    }
}

#[test]
fn a_clean_connect_forgets_the_session() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.connect(&Connect::persistent(version, "forgets"));
        client.subscribe("t", 1);
        client.disconnect();
        server.plain(version, "forgets").disconnect();
        let mut again = server.connect(&Connect::persistent(version, "forgets"));
        assert!(!again.session_present);
        again.publish(&Publish::new("t", "x").qos(1));
        again.subscribe("end", 1);
        again.publish(&Publish::new("end", "x").qos(1));
        assert!(again.messages_until("end").is_empty());
    }
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let server = Server::start();
    let lasting = Connect { clean: false, ..Connect::new(Version::V5, "brief") };
    server.connect(&lasting).disconnect();
    assert!(!server.connect(&lasting).session_present);
    server.connect(&Connect::new(Version::V4, "brief-4")).disconnect();
    assert!(!server.connect(&Connect::persistent(Version::V4, "brief-4")).session_present);
}

#[test]
fn a_session_expires_when_its_time_is_over() {
    let server = Server::start();
    let connect = Connect { clean: false, ..Connect::new(Version::V5, "expires") }
        .with(properties::session_expiry(1));
    let mut client = server.connect(&connect);
    client.subscribe("t", 1);
    client.disconnect();
    if server.is_ours() {
        wait_until("the session is gone", || server.stats().sessions == 0);
        assert_eq!(server.stats().subscriptions, 0);
        assert!(!server.connect(&connect).session_present);
    }
}

#[test]
fn disconnect_may_change_the_session_expiry() {
    let server = Server::start();
    let client = server.connect(&Connect::persistent(Version::V5, "ends"));
    let mut client = client;
    let mut packet = vec![0xE0, 7, 0];
    packet.extend(properties::encode(&[properties::session_expiry(0)]));
    client.send(&packet);
    client.closed();
    assert!(!server.connect(&Connect::persistent(Version::V5, "ends")).session_present);
}

#[test]
fn what_was_not_acknowledged_comes_again_with_dup() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.connect(&Connect::persistent(version, "redelivery"));
        client.acknowledges = false;
        client.subscribe("t", 2);
        let mut writer = server.plain(version, "writer");
        for payload in ["a", "b", "c"] {
            writer.publish(&Publish::new("t", payload).qos(1));
        }
        writer.publish(&Publish::new("t", "d").qos(2));
        let first: Vec<_> = (0..4).map(|_| client.message()).collect();
        assert!(first.iter().all(|message| !message.dup));
        client.send(&wire::ack(wire::PUBACK, first[1].id));
        client.ping();
        client.vanish();
        let mut back = server.connect(&Connect::persistent(version, "redelivery"));
        assert!(back.session_present);
        for expected in [&first[0], &first[2], &first[3]] {
            let message = back.message();
            assert_eq!(message.payload, expected.payload);
            assert!(message.dup);
            assert_eq!(message.id, expected.id, "same packet id");
        }
        back.ping();
        server.plain(version, "redelivery").disconnect();
    }
}

#[test]
fn a_qos_2_delivery_goes_on_where_it_stopped() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.connect(&Connect::persistent(version, "half"));
        client.acknowledges = false;
        client.subscribe("t", 2);
        server.plain(version, "writer").publish(&Publish::new("t", "x").qos(2));
        let id = client.message().id;
        client.send(&wire::ack(PUBREC, id));
        client.ack(PUBREL, id);
        client.vanish();
        let mut back = server.connect(&Connect::persistent(version, "half"));
        back.acknowledges = false;
        back.ack(PUBREL, id);
        back.send(&wire::ack(wire::PUBCOMP, id));
        back.subscribe("end", 0);
        back.publish(&Publish::new("end", ""));
        assert!(back.messages_until("end").is_empty(), "the message itself is not sent again");
        server.plain(version, "half").disconnect();
    }
}

#[test]
fn a_publishers_qos_2_ids_survive_its_connection() {
    let server = Server::start();
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("t", 2);
    for version in VERSIONS {
        let mut writer = server.connect(&Connect::persistent(version, "half-sent"));
        let publish = Publish::new("t", "once").qos(2);
        writer.send(&publish.encode(version, 3));
        writer.ack(PUBREC, 3);
        writer.vanish();
        let mut back = server.connect(&Connect::persistent(version, "half-sent"));
        back.send(&publish.duplicate().encode(version, 3));
        back.ack(PUBREC, 3);
        back.send(&wire::ack(PUBREL, 3));
        back.ack(wire::PUBCOMP, 3);
        assert_eq!(reader.message().text(), "once");
        back.publish(&Publish::new("t", "end").qos(1));
        assert_eq!(reader.message().text(), "end", "and not the first one again");
        server.plain(version, "half-sent").disconnect();
    }
}

#[test]
fn a_takeover_hands_the_session_on() {
    let server = Server::start();
    for version in VERSIONS {
        let mut first = server.connect(&Connect::persistent(version, "moves"));
        first.acknowledges = false;
        first.subscribe("t", 1);
        let mut writer = server.plain(version, "writer");
        writer.publish(&Publish::new("t", "in flight").qos(1));
        assert_eq!(first.message().text(), "in flight");
        let mut second = server.connect(&Connect::persistent(version, "moves"));
        assert!(second.session_present);
        let again = second.message();
        assert!(again.dup && again.text() == "in flight");
        writer.publish(&Publish::new("t", "new").qos(1));
        assert_eq!(second.message().text(), "new");
        first.closed();
        server.plain(version, "moves").disconnect();
    }
}

#[test]
fn a_session_may_come_back_in_the_other_version() {
    let server = Server::start();
    for (before, after) in [(Version::V4, Version::V5), (Version::V5, Version::V4)] {
        let mut client = server.connect(&Connect::persistent(before, "changes"));
        client.subscribe("t", 1);
        client.disconnect();
        let rich = Publish::new("t", "x").qos(1).with(properties::user("k", "v"));
        server.plain(Version::V5, "writer").publish(&rich);
        let mut back = server.connect(&Connect::persistent(after, "changes"));
        assert!(back.session_present);
        let message = back.message();
        assert_eq!(message.text(), "x");
        if after == Version::V5 && server.is_ours() {
            assert!(message.properties.is_empty() || message.properties == rich.properties);
        }
        server.plain(after, "changes").disconnect();
    }
}

#[test]
fn reconnecting_in_every_way_loses_nothing_and_keeps_the_order() {
    const COUNT: u32 = 2_000;
    let server = Server::start();
    for version in VERSIONS {
        let connect = Connect::persistent(version, "restless");
        let mut reader = server.connect(&connect);
        reader.subscribe("t", 1);
        let address = server.address;
        let writer = std::thread::spawn(move || {
            let mut writer = Client::plain(address, Version::V5, "writer");
            for count in 0..COUNT {
                writer.publish(&Publish::new("t", count.to_string()).qos(1));
            }
        });
        let (mut next, mut lives) = (0, 0_u32);
        while next < COUNT {
            for _ in 0..(lives * 7) % 60 {
                let message = reader.message();
                let number: u32 = message.text().parse().unwrap();
                // Seen before: only as a repetition. New: only the next one.
                assert!(number == next || (number < next && message.dup), "{number}, not {next}");
                next = next.max(number + 1);
                if next == COUNT {
                    break;
                }
            }
            lives += 1;
            match lives % 3 {
                0 => reader.vanish(),
                1 => reader.disconnect(),
                _ => {
                    // The next connection takes over from this one.
                    let next_reader = server.connect(&connect);
                    reader.closed();
                    reader = next_reader;
                    continue;
                }
            }
            reader = server.connect(&connect);
            assert!(reader.session_present);
        }
        writer.join().unwrap();
        server.plain(version, "restless").disconnect();
    }
}
