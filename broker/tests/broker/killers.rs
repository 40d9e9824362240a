//! What killed or corrupted other brokers must not hurt this one.
//!
//! Each test does the harm and then asks a witness that was there before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshfs_broker::{Admitted, Limits, MemoryStore};

use crate::support::host::House;
use crate::support::wire::{self, frame};
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, properties};

/// A healthy client in each version, there before the harm is done.
pub struct Witness {
    address: SocketAddr,
    clients: Vec<Client>,
}

impl Witness {
    pub fn of(server: &Server) -> Self {
        let clients = VERSIONS.map(|version| {
            let mut client = server.plain(version, &format!("witness-{version:?}"));
            client.subscribe("witness/#", 1);
            client
        });
        Self { address: server.address, clients: clients.into() }
    }

    /// The witnesses still get messages, and new clients are served.
    pub fn confirm(&mut self) {
        for version in VERSIONS {
            let mut writer = Client::plain(self.address, version, "witness-writer");
            assert_eq!(writer.publish(&Publish::new("witness/x", "well").qos(1)), 0);
            for client in &mut self.clients {
                assert_eq!(client.message().text(), "well");
            }
            let mut reader = Client::plain(self.address, version, "witness-reader");
            reader.subscribe("late", 1);
            reader.publish(&Publish::new("late", "well").qos(1));
            assert_eq!(reader.message().text(), "well");
            reader.disconnect();
            writer.disconnect();
        }
    }
}

#[test]
fn a_topic_or_will_that_begins_with_no_ascii_character() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    for version in VERSIONS {
        for topic in ["é/x", "é", "日", "\u{1F600}/x"] {
            let mut client = server.plain(version, "accent");
            for qos in 0..=2 {
                client.publish(&Publish::new(topic, "x").qos(qos).retained());
            }
            client.publish(&Publish::new(topic, "").qos(1).retained());
            server.connect(&Connect::new(version, "will").will(Publish::new(topic, "x"))).vanish();
        }
    }
    witness.confirm();
}

#[test]
fn subscribers_that_come_and_leave_during_a_flood() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let address = server.address;
    let over = Arc::new(AtomicBool::new(false));
    let flood = |qos: u8| {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut writer = Client::plain(address, Version::V4, &format!("flood-{qos}"));
            while !over.load(Ordering::SeqCst) {
                for _ in 0..100 {
                    writer.send_publish(&Publish::new("flood/x", [b'x'; 64]).qos(qos));
                }
                writer.ping();
            }
        })
    };
    let floods = [flood(0), flood(1)];
    for count in 0..300 {
        let mut leaver = server.plain(VERSIONS[count % 2], &format!("leaver-{}", count % 7));
        leaver.subscribe("flood/#", (count % 3) as u8);
        match count % 3 {
            0 => leaver.vanish(),
            1 => leaver.send(&[0xE0, 0]),
            _ => drop(leaver.message()),
        }
    }
    over.store(true, Ordering::SeqCst);
    for flood in floods {
        flood.join().unwrap();
    }
    witness.confirm();
}

#[test]
fn a_member_of_a_shared_subscription_that_dies_with_a_message_in_flight() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    for version in VERSIONS {
        let mut member = server.connect(&Connect::persistent(version, "member"));
        member.acknowledges = false;
        let granted = member.subscribe("$share/group/work/#", 1);
        let mut writer = server.plain(version, "writer");
        writer.publish(&Publish::new("work/1", "x").qos(1));
        if granted < 0x80 {
            assert_eq!(member.message().topic, "work/1");
        }
        member.vanish();
        writer.publish(&Publish::new("work/2", "x").qos(1));
        server.plain(version, "member").disconnect();
    }
    witness.confirm();
}

#[test]
fn client_ids_with_the_characters_of_topics() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    for id in ["a/b", "+", "#", "$SYS", "é", "a b", "../..", &"x".repeat(1000)] {
        for version in VERSIONS {
            for _ in 0..3 {
                let mut client = Client::dial(server.address, version);
                client.send(&Connect::new(version, id).encode());
                client.next();
            }
        }
    }
    witness.confirm();
}

#[test]
fn one_client_that_retries_while_all_connections_are_taken() {
    let server = Server::limited(|limits| limits.connections_max = 10);
    let mut witness = Witness::of(&server);
    let mut held: Vec<Client> =
        (0..6).map(|at| server.plain(Version::V5, &format!("held-{at}"))).collect();
    for version in VERSIONS {
        for _ in 0..50 {
            let mut client = Client::dial(server.address, version);
            client.send_anyway(&Connect::new(version, "retry").encode());
            drop(client);
        }
    }
    held.iter_mut().for_each(Client::ping);
    drop(held);
    crate::support::wait_until("there is room again", || server.stats().connections <= 2);
    witness.confirm();
}

#[test]
fn a_message_with_properties_for_a_subscriber_that_knows_none() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let mut old = server.connect(&Connect::persistent(Version::V4, "old"));
    old.subscribe("rich/#", 1);
    let mut writer = server.plain(Version::V5, "writer");
    for topic in ["rich/a", "rich/b"] {
        let rich = Publish::new(topic, "x").qos(1).retained();
        writer.publish(&rich.with(properties::user("k", "v")).with(properties::message_expiry(60)));
        assert_eq!(old.message().topic, topic);
        old.ping(); // its acknowledgement has arrived
        old.vanish();
        old = server.connect(&Connect::persistent(Version::V4, "old"));
        old.subscribe("rich/#", 1);
        assert!(old.message().retain);
    }
    witness.confirm();
}

#[test]
fn packets_only_a_broker_may_send_and_packets_nobody_may_send() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let packets = [
        frame(0x20, &[0, 0, 0]),       // CONNACK
        frame(0x20, &[0, 0]),          // CONNACK, 3.1.1
        frame(0x90, &[0, 1, 0, 0]),    // SUBACK
        frame(0xB0, &[0, 1, 0, 0]),    // UNSUBACK
        frame(0xD0, &[]),              // PINGRESP
        frame(0xF0, &[0x18, 0]),       // AUTH
        frame(0x00, &[]),              // reserved
        frame(0x36, b"\0\x01t\0\x01"), // QoS 3
        frame(0x60, &[0, 1]),          // PUBREL without its flags
        frame(0xC1, &[]),              // PINGREQ with a flag
        frame(0x40, &[0]),             // half a packet id
        frame(0x30, &[0, 9, b't']),    // topic longer than the packet
        frame(0x82, &[0, 1, 0, 0, 9, b't', 0]),
        vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], // a length of five bytes
    ];
    for version in VERSIONS {
        for packet in &packets {
            for _ in 0..2 {
                let mut client = server.plain(version, "same-id");
                client.send(packet);
                let reason = client.closed();
                let coded = reason.is_some_and(|code| code >= 0x80);
                assert_eq!(coded, version == Version::V5 && server.is_ours(), "{packet:02x?}");
            }
        }
    }
    witness.confirm();
}

#[test]
fn connections_on_which_nothing_or_half_a_packet_is_said() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let hello = Connect::new(Version::V5, "never-finished").encode();
    let silent: Vec<Client> = (0..100)
        .map(|at| {
            let mut client = Client::dial(server.address, Version::V5);
            client.send(&hello[..at % hello.len()]);
            client
        })
        .collect();
    witness.confirm();
    drop(silent);
    witness.confirm();
}

#[test]
fn a_silent_connection_is_closed_in_the_end() {
    let server = Server::limited(|limits| {
        limits.handshake_limit = std::time::Duration::from_millis(300);
    });
    let mut silent = Client::dial(server.address, Version::V4);
    let mut dripping = Client::dial(server.address, Version::V4);
    dripping.send(&[0x10]);
    silent.closed();
    dripping.closed();
}

#[test]
fn limits_of_next_to_nothing() {
    let limits = Limits {
        packet_max_bytes: 200,
        queue_max_messages: 1,
        queue_max_bytes: 1,
        inflight_max: 1,
        receive_max: 1,
        topic_alias_max: 0,
        subscriptions_per_session_max: 4,
        replays_per_session_max: 1,
        ..Limits::default()
    };
    let server = Server::build(House::default(), limits, Arc::new(MemoryStore::new()));
    let mut witness = Witness::of(&server);
    for version in VERSIONS {
        let mut client = server.plain(version, "small");
        client.subscribe("t", 2);
        for qos in [0, 1, 2, 1, 0] {
            client.publish(&Publish::new("t", "x").qos(qos));
            assert_eq!(client.message().qos, qos);
        }
    }
    witness.confirm();
}

#[test]
fn quick_connects_and_disconnects_cut_off_nobody_else() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let address = server.address;
    let churn: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for count in 0..150 {
                    let version = VERSIONS[count % 2];
                    let id = format!("churn-{thread}-{}", count % 5);
                    let mut client = Client::plain(address, version, &id);
                    client.subscribe("churn", 1);
                    client.publish(&Publish::new("churn", "x").qos(1));
                    if count % 3 == 0 { client.vanish() } else { client.disconnect() }
                }
            })
        })
        .collect();
    let mut innocent: Vec<Client> =
        (0..50).map(|at| server.plain(VERSIONS[at % 2], &format!("innocent-{at}"))).collect();
    churn.into_iter().for_each(|thread| thread.join().unwrap());
    innocent.iter_mut().for_each(Client::ping);
    witness.confirm();
}

#[test]
fn a_host_that_panics_over_a_message() {
    let house = House {
        admit: Box::new(|message| {
            assert_ne!(message.topic, "panic", "on purpose");
            Admitted::Accepted
        }),
        ..House::default()
    };
    let server = Server::with(house);
    let mut witness = Witness::of(&server);
    for version in VERSIONS {
        let mut client = server.plain(version, "unlucky");
        client.send(&Publish::new("panic", "x").qos(1).encode(version, 1));
        client.closed();
    }
    witness.confirm();
    crate::support::wait_until("the unlucky are forgotten", || server.stats().sessions == 2);
}

#[test]
fn a_subscribe_with_thousands_of_filters() {
    let server = Server::limited(|limits| limits.subscriptions_per_session_max = 1000);
    let mut witness = Witness::of(&server);
    for version in VERSIONS {
        let mut client = server.plain(version, "hungry");
        let names: Vec<String> = (0..3000).map(|at| format!("f/{at}/+/#")).collect();
        let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
        let codes = client.subscribe_all(&filters, &[]);
        assert_eq!(codes.iter().filter(|code| **code < 0x80).count(), 1000);
        client.ping();
    }
    let deep = vec!["+"; 30_000].join("/");
    let mut client = server.plain(Version::V4, "deep");
    client.send(&wire::subscribe(Version::V4, 1, &[(&deep, 0)], &[]));
    client.next();
    witness.confirm();
}
