//! Messages from one client to another at every QoS, and what may not be published.

use crate::support::wire::{self, PUBCOMP, PUBREC, PUBREL};
use crate::support::{Publish, Server, VERSIONS, Version};

#[test]
fn a_message_arrives_at_the_lower_of_both_qos_between_all_versions() {
    let server = Server::start();
    for from in VERSIONS {
        for to in VERSIONS {
            for subscribed in 0..=2 {
                let mut reader = server.plain(to, "reader");
                assert_eq!(reader.subscribe("t/+", subscribed), subscribed);
                let mut writer = server.plain(from, "writer");
                for published in 0..=2 {
                    let payload = format!("{from:?} {to:?} {subscribed} {published}");
                    assert_eq!(writer.publish(&Publish::new("t/x", &payload).qos(published)), 0);
                    let message = reader.message();
                    assert_eq!(message.text(), payload);
                    assert_eq!(message.qos, published.min(subscribed), "{payload}");
                    assert!(!message.retain && !message.dup);
                }
            }
        }
    }
}

#[test]
fn every_payload_size_arrives_whole() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "sizes");
    client.subscribe("sizes", 1);
    for size in [0, 1, 127, 128, 16_383, 16_384, 65_535, 65_536, 500_000] {
        let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        client.publish(&Publish::new("sizes", &payload).qos(1));
        let message = client.message();
        assert!(message.payload == payload, "{} bytes instead of {size}", message.payload.len());
    }
}

#[test]
fn a_packet_in_single_bytes_is_still_one_packet() {
    let server = Server::start();
    let mut client = server.plain(Version::V4, "drip");
    client.subscribe("drip", 1);
    for byte in Publish::new("drip", "slowly").qos(1).encode(Version::V4, 77) {
        client.send(&[byte]);
    }
    assert_eq!(client.message().payload, b"slowly");
    client.ack(wire::PUBACK, 77);
}

#[test]
fn order_holds_for_a_publisher_at_every_qos() {
    let server = Server::start();
    for qos in 0..=2 {
        let mut reader = server.plain(Version::V4, "reader");
        reader.subscribe("order/#", 2);
        let mut writer = server.plain(Version::V5, "writer");
        for count in 0..500_u32 {
            let topic = format!("order/{}", count % 7);
            writer.send_publish(&Publish::new(&topic, count.to_string()).qos(qos));
        }
        if qos == 2 {
            for id in 1..=500 {
                writer.ack(PUBREC, id);
                writer.send(&wire::ack(PUBREL, id));
            }
        }
        for count in 0..500_u32 {
            assert_eq!(reader.message().text(), count.to_string(), "qos {qos}");
        }
    }
}

#[test]
fn qos_2_is_delivered_once_however_often_it_is_sent() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "exact");
        client.subscribe("once", 2);
        let publish = Publish::new("once", "1").qos(2);
        let duplicate = publish.clone().duplicate();
        for attempt in [&publish, &duplicate, &duplicate] {
            client.send(&attempt.encode(version, 9));
            client.ack(PUBREC, 9);
        }
        for _ in 0..2 {
            client.send(&wire::ack(PUBREL, 9));
            client.ack(PUBCOMP, 9);
        }
        // The id is free again, so this is another message.
        client.send(&Publish::new("once", "2").qos(2).encode(version, 9));
        client.ack(PUBREC, 9);
        client.send(&wire::ack(PUBREL, 9));
        client.ack(PUBCOMP, 9);
        assert_eq!(client.message().payload, b"1");
        assert_eq!(client.message().payload, b"2");
    }
}

#[test]
fn the_whole_of_the_qos_2_handshake_is_spoken_to_a_reader() {
    let server = Server::start();
    for version in VERSIONS {
        let mut reader = server.plain(version, "reader");
        reader.acknowledges = false;
        reader.subscribe("h", 2);
        server.plain(Version::V4, "writer").publish(&Publish::new("h", "x").qos(2));
        let id = reader.message().id;
        reader.send(&wire::ack(PUBREC, id));
        reader.ack(PUBREL, id);
        reader.send(&wire::ack(PUBCOMP, id));
        reader.ping();
    }
}

#[test]
fn topics_of_every_script_pass_unchanged() {
    let server = Server::start();
    let topics = [
        "é/x",
        "日本/語",
        "\u{1F600}",
        "a b",
        "/",
        "//",
        "..",
        "./a",
        "%41",
        "a/",
        "/a",
        "a\\b",
        "a\"c",
    ];
    for version in VERSIONS {
        let mut client = server.plain(version, "scripts");
        client.subscribe("#", 1);
        for topic in topics {
            assert_eq!(client.publish(&Publish::new(topic, "x").qos(1)), 0, "{topic}");
            assert_eq!(client.message().topic, topic);
        }
        let deep = vec!["l"; 200].join("/");
        client.publish(&Publish::new(&deep, "x").qos(1));
        assert_eq!(client.message().topic, deep);
    }
}

#[test]
fn a_topic_that_is_none_is_not_delivered() {
    let server = Server::start();
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("#", 0);
    let not_utf8 = {
        let mut packet = Publish::new("??", "x").encode(Version::V4, 0);
        packet[4..6].copy_from_slice(&[0xC3, 0x28]);
        packet
    };
    let mut bad: Vec<(Version, Vec<u8>)> = vec![(Version::V4, not_utf8)];
    for version in VERSIONS {
        for topic in ["a/+", "#", "a/#", "a\0b", ""] {
            bad.push((version, Publish::new(topic, "bad").encode(version, 0)));
        }
    }
    for (version, packet) in bad {
        let mut writer = server.plain(version, "bad-writer");
        writer.send_anyway(&packet);
        writer.closed();
    }
    server.plain(Version::V4, "good-writer").publish(&Publish::new("good", "x"));
    assert_eq!(reader.message().topic, "good");
}

#[test]
fn packet_id_zero_is_malformed() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "zero");
        client.send(&Publish::new("t", "x").qos(1).encode(version, 0));
        client.closed();
    }
}

#[test]
fn acknowledgements_for_nothing_do_no_harm() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "confused");
        client.subscribe("t", 2);
        client.send(&wire::ack(wire::PUBACK, 500));
        client.send(&wire::ack(PUBCOMP, 500));
        client.send(&wire::ack(PUBREL, 500));
        client.ack(PUBCOMP, 500);
        client.publish(&Publish::new("t", "x").qos(1));
        assert_eq!(client.message().payload, b"x");
    }
}

#[test]
fn acknowledgements_out_of_order_are_understood() {
    let server = Server::start();
    let mut reader = server.plain(Version::V4, "reader");
    reader.acknowledges = false;
    reader.subscribe("t", 1);
    let mut writer = server.plain(Version::V4, "writer");
    for round in 0..20 {
        for _ in 0..10 {
            writer.publish(&Publish::new("t", "x").qos(1));
        }
        let mut ids: Vec<u16> = (0..10).map(|_| reader.message().id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 10, "ids in flight differ (round {round})");
        for id in ids.iter().rev() {
            reader.send(&wire::ack(wire::PUBACK, *id));
        }
    }
    reader.ping();
}

#[test]
fn overlapping_filters_give_one_copy_at_the_highest_qos() {
    let server = Server::start();
    if !server.is_ours() {
        return; // a copy for each filter is allowed too
    }
    for version in VERSIONS {
        let mut client = server.plain(version, "overlap");
        assert_eq!(client.subscribe_all(&[("a/b", 0), ("a/+", 1), ("#", 2)], &[]), [0, 1, 2]);
        client.publish(&Publish::new("a/b", "one").qos(2));
        let first = client.message();
        assert_eq!((first.text(), first.qos), ("one", 2));
        client.publish(&Publish::new("end", "").qos(1));
        assert!(client.messages_until("end").is_empty());
    }
}
