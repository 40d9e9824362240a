//! CONNECT, CONNACK, keep-alive and takeover.

use std::time::Duration;

use crate::support::properties::{self, ASSIGNED_CLIENT_ID};
use crate::support::{Client, Connect, Packet, Publish, Server, VERSIONS, Version, wire};

#[test]
fn both_versions_share_one_port() {
    let server = Server::start();
    let mut old = server.plain(Version::V4, "old");
    let mut new = server.plain(Version::V5, "new");
    assert!(!old.session_present && !new.session_present);
    old.subscribe("from/new", 0);
    new.subscribe("from/old", 0);
    old.publish(&Publish::new("from/old", "a"));
    new.publish(&Publish::new("from/new", "b"));
    assert_eq!(new.message().payload, b"a");
    assert_eq!(old.message().payload, b"b");
}

#[test]
fn a_ping_is_answered_in_both_versions() {
    let server = Server::start();
    for version in VERSIONS {
        server.plain(version, "pinger").ping();
    }
}

#[test]
fn a_client_without_an_id_is_given_one() {
    let server = Server::start();
    let first = server.plain(Version::V5, "");
    let second = server.plain(Version::V5, "");
    let id = |client: &Client| {
        let id = properties::text(&client.connack_properties, ASSIGNED_CLIENT_ID);
        id.expect("assigned client id").to_owned()
    };
    assert!(!id(&first).is_empty());
    assert_ne!(id(&first), id(&second));
    // 3.1.1 has no way to tell it, but both must live.
    let mut third = server.plain(Version::V4, "");
    let mut fourth = server.plain(Version::V4, "");
    third.ping();
    fourth.ping();
}

#[test]
fn a_session_that_must_last_needs_an_id() {
    let server = Server::start();
    let (mut client, code) =
        Client::try_connect(server.address, &Connect::persistent(Version::V4, ""));
    assert_eq!(code, 2, "identifier rejected");
    client.closed();
}

#[test]
fn an_unknown_protocol_level_is_refused() {
    let server = Server::start();
    for level in [0, 1, 2, 6, 255] {
        let mut client = Client::dial(server.address, Version::V4);
        let mut packet = Connect::new(Version::V4, "future").encode();
        packet[8] = level;
        client.send(&packet);
        // A CONNACK 1 or 0x84 may come first; what matters is that it is over.
        client.closed();
    }
    server.plain(Version::V4, "present").ping();
}

#[test]
fn a_second_connect_on_one_connection_ends_it() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "twice");
        client.send(&Connect::new(version, "twice").encode());
        let reason = client.closed();
        assert!(matches!(reason, None | Some(0x82)), "{reason:?}");
    }
}

#[test]
fn anything_before_connect_ends_the_connection() {
    let server = Server::start();
    let early = [
        vec![0xC0, 0],
        Publish::new("a", "b").encode(Version::V4, 0),
        wire::subscribe(Version::V4, 1, &[("#", 0)], &[]),
        vec![0xE0, 0],
    ];
    for packet in early {
        let mut client = Client::dial(server.address, Version::V4);
        client.send(&packet);
        client.closed();
    }
    server.plain(Version::V5, "polite").ping();
}

#[test]
fn a_silent_client_is_dropped_after_its_keep_alive() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.connect(&Connect::new(version, "silent").keep_alive(1));
        let reason = client.closed();
        let expected = (version == Version::V5 && server.is_ours()).then_some(0x8D);
        assert!(reason == expected || !server.is_ours(), "{reason:?}");
    }
}

#[test]
fn keep_alive_counts_what_the_client_sends_not_what_it_gets() {
    let server = Server::start();
    let mut silent = server.connect(&Connect::new(Version::V5, "dead").keep_alive(1));
    silent.subscribe("busy", 0);
    let address = server.address;
    let busy = std::thread::spawn(move || {
        let mut publisher = Client::plain(address, Version::V4, "busy");
        for count in 0_u32..600 {
            publisher.publish(&Publish::new("busy", count.to_string()));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(silent.closed().is_none_or(|reason| reason == 0x8D));
    assert!(!busy.is_finished(), "the stream ended before the silent client did");
}

#[test]
fn a_client_that_pings_in_time_lives_on() {
    let server = Server::start();
    let mut client = server.connect(&Connect::new(Version::V4, "alive").keep_alive(1));
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(600));
        client.ping();
    }
}

#[test]
fn the_second_client_of_an_id_takes_over_from_the_first() {
    let server = Server::start();
    for version in VERSIONS {
        let mut first = server.plain(version, "same");
        first.ping();
        let mut second = server.plain(version, "same");
        let expected = (version == Version::V5).then_some(0x8E);
        let reason = first.closed();
        assert!(reason == expected || !server.is_ours(), "{reason:?}");
        second.ping();
    }
}

#[test]
fn quick_takeovers_of_one_id_all_succeed() {
    let server = Server::start();
    for version in VERSIONS {
        let mut last = None;
        for _ in 0..200 {
            last = Some(server.connect(&Connect::persistent(version, "again")));
        }
        last.unwrap().ping();
    }
}

#[test]
fn a_malformed_connect_is_never_greeted() {
    let server = Server::start();
    let good = |id: &str| Connect::new(Version::V4, id).encode();
    let with = |at: usize, byte: u8| {
        let mut packet = good("client");
        packet[at] = byte;
        packet
    };
    let mut cases = vec![
        ("packet flags", with(0, 0x11)),
        ("protocol name", with(4, b'm')),
        ("reserved connect flag", with(9, 0x03)),
        ("will QoS without will", with(9, 0x0A)),
        ("will retain without will", with(9, 0x22)),
        ("will announced and missing", with(9, 0x06)),
        ("user announced and missing", with(9, 0x82)),
        ("password without user in 3.1.1", {
            let mut packet = with(9, 0x42);
            packet.extend(wire::string("x"));
            packet[1] += 3;
            packet
        }),
        ("no UTF-8", with(15, 0xFF)),
        ("NUL in the client id", good("a\0b")),
        ("id longer than the packet", with(13, 200)),
        ("bytes behind the end", {
            let mut packet = with(1, good("client")[1] + 1);
            packet.push(0);
            packet
        }),
        ("nothing at all", vec![0x10, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]),
    ];
    for properties in [
        vec![properties::receive_maximum(0)],
        vec![properties::maximum_packet_size(0)],
        vec![properties::session_expiry(1), properties::session_expiry(1)],
        vec![properties::topic_alias(1)],
        vec![properties::request_problem_information(true), (23, properties::Value::Byte(7))],
    ] {
        let connect = Connect { properties, ..Connect::new(Version::V5, "client") };
        cases.push(("properties", connect.encode()));
    }
    for (what, packet) in cases {
        let version = if what == "properties" { Version::V5 } else { Version::V4 };
        let mut client = Client::dial(server.address, version);
        client.send(&packet);
        client.finish_sending();
        let greeted = client
            .packets_until_closed()
            .iter()
            .any(|packet| matches!(packet, Packet::Connack { code: 0, .. }));
        assert!(!greeted || !server.is_ours(), "{what}: {packet:02x?}");
    }
    server.plain(Version::V5, "fine").ping();
}
